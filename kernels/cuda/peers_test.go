package cuda

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// meetAll opens as many GPUs as there are and has them meet, or skips loudly.
func meetAll(t *testing.T) (devices []*Device, all []kernels.Peers) {
	t.Helper()
	n, err := Count()
	if err != nil || n < 2 {
		t.Skipf("NOTHING WAS EXCHANGED BETWEEN GPUs: %d of them, %v", n, err)
	}
	for i := range n {
		devices = append(devices, open(t, Options{Ordinal: i}))
	}
	key, err := devices[0].PeerKey()
	if err != nil {
		t.Fatal(err)
	}
	all = make([]kernels.Peers, n)
	onEach(t, n, func(r int) (err error) { all[r], err = devices[r].Meet(key, r, n); return err })
	return devices, all
}

// onEach runs a goroutine a rank.
func onEach(t *testing.T, n int, f func(rank int) error) {
	t.Helper()
	var ranks sync.WaitGroup
	for r := range n {
		ranks.Go(func() {
			if err := f(r); err != nil {
				t.Errorf("rank %d: %v", r, err)
			}
		})
	}
	ranks.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// TestPeers sends uneven numbers of rows, none among them, between ops that make and use them.
func TestPeers(t *testing.T) {
	devices, all := meetAll(t)
	n := len(devices)
	const cols = 24
	rows := func(round, from, to int) int { return (7*round + 3*from + 5*to) % 11 }
	row := func(round, from, to, i int) []byte {
		return bytes.Repeat([]byte{byte(1 + round*31 + from*17 + to*5 + i)}, 2*cols)
	}
	onEach(t, n, func(me int) error {
		s, err := devices[me].newStream()
		if err != nil {
			return err
		}
		for round := range 8 {
			var to, from []int
			var send, want []byte
			for r := range n {
				to, from = append(to, rows(round, me, r)), append(from, rows(round, r, me))
				for i := range to[r] {
					send = append(send, row(round, me, r, i)...)
				}
				for i := range from[r] {
					want = append(want, row(round, r, me, i)...)
				}
			}
			tensor := func(bytes int) kernels.Tensor {
				x, err := devices[me].Alloc("rows", kernels.F16, bytes/(2*cols), cols)
				if err != nil {
					s.err = err
				}
				return x
			}
			staged, source, target, result := tensor(len(send)), tensor(len(send)), tensor(len(want)), tensor(len(want))
			got := make([]byte, len(want))
			s.Write(staged, send)
			s.Copy(source, staged)
			all[me].Exchange(s, target, source, from, to)
			s.Copy(result, target)
			s.Read(got, result)
			if err := s.Sync(); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("round %d: other rows came than were sent", round)
			}
		}
		return s.Close()
	})
	onEach(t, n, func(me int) error { return all[me].Close() })
}

// TestLostPeer: where a rank does not come to an exchange, the others are told, and their GPUs are free again.
func TestLostPeer(t *testing.T) {
	devices, all := meetAll(t)
	n := len(devices)
	onEach(t, n-1, func(me int) error {
		s, err := devices[me].newStream()
		if err != nil {
			return err
		}
		x, err := devices[me].Alloc("rows", kernels.F32, 2*n, 1<<18)
		if err != nil {
			return err
		}
		one := make([]int, n)
		for r := range one {
			one[r] = 1
		}
		all[me].Exchange(s, x.RowRange(0, n), x.RowRange(n, 2*n), one, one)
		if err := s.Sync(); err == nil || !strings.Contains(err.Error(), "took no part") {
			return fmt.Errorf("a peer is missing, and Sync does not say so: %w", err)
		}
		return devices[me].now(func(s *Stream) { s.Copy(x.RowRange(0, n), x.RowRange(n, 2*n)) })
	})
	all[n-1].(*peers).abort()
}
