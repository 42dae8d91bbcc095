package comm

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"
)

// A rank's seat is where it runs, as the ranks tell each other when they begin to watch: the name of its host, how many
// cores it may run on, and a digest of which.
const (
	nameBytes = 96 // of a host's name are kept
	seatBytes = nameBytes + 16
)

func seat(host string, cores []int) []byte {
	s := make([]byte, seatBytes)
	copy(s[:nameBytes], host)
	binary.LittleEndian.PutUint64(s[nameBytes:], uint64(len(cores)))
	which := fnv.New64a()
	for _, c := range cores {
		_ = binary.Write(which, binary.LittleEndian, int64(c)) // a digest takes all
	}
	binary.LittleEndian.PutUint64(s[nameBytes+8:], which.Sum64())
	return s
}

// crowd is how many ranks may share a core before they are given more time.
const crowd = 4

// sharers is how many ranks share a core where they are most: those of a host that may run on the same cores, over the
// number of these; 0 where no rank knows its cores.
func sharers(seats []byte) (most float64) {
	alike := map[string]int{}
	for s := range slices.Chunk(seats, seatBytes) {
		alike[string(s)]++
	}
	for s, ranks := range alike {
		if cores := binary.LittleEndian.Uint64([]byte(s[nameBytes:])); cores > 0 {
			most = max(most, float64(ranks)/float64(cores))
		}
	}
	return most
}

// Crowded tells whether so many ranks share a core that they were given more time: how many do, and how long the job may
// now outlive a rank that has fallen silent or is stuck.
func (x *Watcher) Crowded() (ranks int, timeout time.Duration, crowded bool) {
	return int(x.sharers), x.options.Timeout, x.sharers > crowd
}
