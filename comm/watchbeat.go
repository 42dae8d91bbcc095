package comm

import (
	"encoding/binary"
	"time"
)

// beat is what a rank tells its successor.
type beat struct {
	bye    bool // the last one
	ending bool
	idle   time.Duration // since any rank was last known to work
	task   TaskState     // the main one's, without its times
}

// A beat has one size; of long words only the beginning goes along.
const (
	beatBytes = 96
	beatHead  = 24
	wordBytes = (beatBytes - beatHead) / 2
)

// beat is this rank's.
func (x *Watcher) beat() beat {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if x.waits == 0 || len(x.beside) > 0 {
		x.busy = now
	}
	b := beat{bye: x.closed, ending: x.ending, idle: now.Sub(x.busy), task: x.main.state}
	b.task.Begun, b.task.Moved = time.Time{}, time.Time{}
	return b
}

func (b beat) encode() []byte {
	out := make([]byte, beatBytes)
	if b.bye {
		out[0] |= 1
	}
	if b.ending {
		out[0] |= 2
	}
	binary.LittleEndian.PutUint64(out[8:], uint64(b.idle))
	binary.LittleEndian.PutUint32(out[16:], uint32(b.task.N))
	binary.LittleEndian.PutUint32(out[20:], uint32(b.task.Of))
	out[1] = byte(copy(out[beatHead:beatHead+wordBytes], b.task.Phase))
	out[2] = byte(copy(out[beatHead+wordBytes:], b.task.Unit))
	return out
}

func decodeBeat(in []byte) beat {
	word := func(at, length int) string { return string(in[at : at+min(length, wordBytes)]) }
	return beat{
		bye: in[0]&1 != 0, ending: in[0]&2 != 0, idle: time.Duration(binary.LittleEndian.Uint64(in[8:])),
		task: TaskState{
			Phase: word(beatHead, int(in[1])), Unit: word(beatHead+wordBytes, int(in[2])),
			N: int(binary.LittleEndian.Uint32(in[16:])), Of: int(binary.LittleEndian.Uint32(in[20:])),
		},
	}
}
