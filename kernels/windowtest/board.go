package windowtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// board is what its rank has pinned for each of the others, under a mutex of the house.
type board struct {
	*Device
	kernels.BoardSpec
	number int
	peers  []*board
	op     int
	pinned map[[2]int][]byte // by the op and the rank that it is for
	lost   error
	closed bool
}

// NewBoard implements kernels.BoardDevice.
func (d *Device) NewBoard(s kernels.BoardSpec) (kernels.Board, error) {
	b := &board{Device: d, BoardSpec: s, pinned: map[[2]int][]byte{}}
	h := d.house
	h.mu.Lock()
	defer h.mu.Unlock()
	b.number = len(h.boards)
	h.boards = append(h.boards, b)
	return b, nil
}

func (b *board) Ticket() []byte { return binary.LittleEndian.AppendUint32(nil, uint32(b.number)) }

func (b *board) Join(tickets [][]byte) error {
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	for _, t := range tickets {
		b.peers = append(b.peers, b.house.boards[binary.LittleEndian.Uint32(t)])
	}
	return nil
}

func (b *board) Close() error {
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	if b.closed {
		return errors.New("a board was closed twice")
	}
	b.closed = true
	return nil
}

// exchange pins a message for each rank, what get is given then are theirs for this one.
func (b *board) exchange(s kernels.Stream, to func(rank int) []byte, get func(rank int, message []byte)) {
	if err := s.(*stream).Stream.Sync(); err != nil || b.lost != nil {
		return
	}
	h := b.house
	h.mu.Lock()
	defer h.mu.Unlock()
	b.op++
	h.ops++
	for r := range b.Ranks {
		b.pinned[[2]int{b.op, r}] = append([]byte(nil), to(r)...)
	}
	h.changed.Broadcast()
	late := false
	timer := time.AfterFunc(b.Patience, func() {
		h.mu.Lock()
		late = true
		h.changed.Broadcast()
		h.mu.Unlock()
	})
	defer timer.Stop()
	for r, p := range b.peers {
		at := [2]int{b.op, b.Rank}
		for p.op < b.op && !late {
			h.changed.Wait()
		}
		if p.op < b.op {
			b.lost = fmt.Errorf("%s took no part in putting slices together for %v", b.Names[r], b.Patience)
			s.(*stream).err = b.lost
			return
		}
		get(r, p.pinned[at])
		delete(p.pinned, at)
	}
}

// rowsOf are a tensor's, one after the other.
func rowsOf(t kernels.Tensor) (all []byte) {
	for i := range t.Rows {
		all = append(all, row(t, i)...)
	}
	return all
}

func fill(t kernels.Tensor, rows []byte) {
	size := t.Cols * t.DType.Size()
	if len(rows) != t.Rows*size {
		panic(fmt.Sprintf("windowtest: %d bytes for %v", len(rows), t))
	}
	for i := range t.Rows {
		copy(row(t, i), rows[i*size:])
	}
}

func (b *board) Gather(s kernels.Stream, parts []kernels.Tensor, own kernels.Tensor) {
	var mine []byte
	b.exchange(s, func(int) []byte {
		if mine == nil {
			mine = rowsOf(own)
			for r, p := range parts {
				if r != b.Rank || p.Offset != own.Offset || p.Mem != own.Mem {
					fill(p, poisoned(p)) // columns that overlap own's part come from others too
				}
			}
		}
		return mine
	}, func(r int, message []byte) { fill(parts[r], message) })
}

func poisoned(t kernels.Tensor) []byte {
	b := make([]byte, t.Bytes())
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func (b *board) Scatter(s kernels.Stream, recv, send kernels.Tensor, rows []int) {
	at, mine := make([]int, b.Ranks+1), rows[b.Rank]
	for r, n := range rows {
		at[r+1] = at[r] + n
	}
	if send.Rows != at[b.Ranks] || recv.Rows != b.Ranks*mine {
		panic(fmt.Sprintf("windowtest: %v to %v, rows %v", send, recv, rows))
	}
	fill(recv, poisoned(recv))
	b.exchange(s, func(r int) []byte { return rowsOf(send.RowRange(at[r], at[r+1])) },
		func(r int, message []byte) { fill(recv.RowRange(r*mine, (r+1)*mine), message) })
}

// Sum has each rank's in room, beside which there is nothing for the op.
func (b *board) Sum(s kernels.Stream, y, own, room kernels.Tensor, add bool) {
	parts := make([]kernels.Tensor, b.Ranks)
	for r := range parts {
		parts[r] = room.RowRange(r*y.Rows, (r+1)*y.Rows)
	}
	b.Gather(s, parts, own)
	s.Reduce(y, room.RowRange(0, b.Ranks*y.Rows), b.Ranks, add)
}

// Waits is how often hosts waited for what they had not submitted before: inside of steps.
func (h *House) Waits() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waits
}

// Ops is how many ops of boards ranks have done.
func (h *House) Ops() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ops
}
