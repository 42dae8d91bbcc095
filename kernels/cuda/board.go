package cuda

import (
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// board is memory in which the kernels of all ranks of a group meet. It implements kernels.Board.
type board struct {
	reachable
	spec kernels.BoardSpec
}

var _ kernels.BoardDevice = (*Device)(nil)

const (
	boardRanks   = 16   // most, as gather.cu has it
	boardSegment = 2048 // elements of a row that a block moves at a time, as board.cuh has it
	boardThreads = 256
	doingsBytes  = 16 // the size of struct doings
)

// NewBoard implements kernels.BoardDevice.
func (d *Device) NewBoard(s kernels.BoardSpec) (kernels.Board, error) {
	if s.Ranks < 1 || s.Ranks > boardRanks || s.Rank < 0 || s.Rank >= s.Ranks || s.Room < 16 || s.Room%16 != 0 || len(s.Names) != s.Ranks {
		return nil, fmt.Errorf("boards of %d ranks, with room for %d bytes: there can be 1 to %d of them, and multiples of 16", s.Ranks, s.Room, boardRanks)
	}
	r, err := d.newReachable("board for partial results of other ranks", s.Bytes(), s.HeaderBytes(), doingsBytes, s.Names)
	if err != nil {
		return nil, err
	}
	b := &board{reachable: r, spec: s}
	for _, k := range []kernelKey{gatherKernel(2), gatherKernel(4), sumKernel(s.DType)} {
		if err == nil { // as windows do
			_, err = d.programs.kernel(d.ctx, k)
		}
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.name = d.fault.tellOf(b)
	return b, nil
}

func gatherKernel(element int) kernelKey {
	return kernelKey{program{file: "gather.cu"}, fmt.Sprint("gather", element)}
}

func sumKernel(y kernels.DType) kernelKey { return kernelKey{program{file: "sum.cu", a: y}, "sum"} }

// lost is the error of an op to which a rank did not come.
func (b *board) lost(rank int) error {
	return fmt.Errorf("%s took no part in putting slices together for %v: its process has ended or hangs", b.names[rank], b.spec.Patience)
}

// boardArgs is struct board.
type boardArgs struct {
	peers, own, fault     handle
	room, notes, patience int64
	rank, ranks, name, op int32
}

func (b *board) args(op opNumber) boardArgs {
	s := b.spec
	return boardArgs{peers: address(b.peers), own: address(b.state), fault: b.dev.fault.address, room: int64(s.Room), notes: int64(s.HeaderBytes()),
		patience: int64(s.Patience), rank: int32(s.Rank), ranks: int32(s.Ranks), name: b.name, op: int32(op)}
}

// blocks is how many a kernel has for so many rows of so many columns.
func blocks(rows, cols int) int { return min(rows*ceilDiv(cols, boardSegment), kernels.BoardBlocks) }

// rowsAtOnce is how many rows of so many bytes go in one piece; 0: none does.
func (b *board) rowsAtOnce(bytes int) int { return b.spec.Room / (16 * max(ceilDiv(bytes, 16), 1)) }

type sumArgs struct {
	boardArgs
	y, own              mat
	rows, cols, addsToY int32
	_                   int32
}

// Sum implements kernels.Team; it needs no room but the boards'.
func (b *board) Sum(stream kernels.Stream, y, own, _ kernels.Tensor, add bool) {
	const op = opSum
	s := b.on(stream, "board", op)
	if s == nil {
		return
	}
	s.note(rules.Float(op.String(), "y", y, operands.Any, operands.Any))
	s.note(rules.Tensor(op.String(), "own", own, kernels.F32, y.Rows, y.Cols))
	atOnce := b.rowsAtOnce(4 * y.Cols)
	if s.err == nil && atOnce == 0 {
		s.fail("%s: rows of %d columns on boards with room for %d bytes", op, y.Cols, b.spec.Room)
	}
	if s.err != nil || y.Cols == 0 {
		return
	}
	for from := 0; from < y.Rows; from += atOnce {
		to := min(from+atOnce, y.Rows)
		enqueue(s, op, sumKernel(y.DType), grid{x: blocks(to-from, y.Cols), threads: boardThreads}, &sumArgs{boardArgs: b.args(op),
			y: matOf(y.RowRange(from, to)), own: matOf(own.RowRange(from, to)), rows: int32(to - from), cols: int32(y.Cols), addsToY: truth(add)})
	}
}

// message is struct message.
type message struct {
	x          mat
	rows, cols int32
}

type gatherArgs struct {
	boardArgs
	send, recv [boardRanks]message
}

// Gather implements kernels.Team.
func (b *board) Gather(stream kernels.Stream, parts []kernels.Tensor, own kernels.Tensor) {
	const op = opGather
	s := b.on(stream, "board", op)
	if s == nil {
		return
	}
	if len(parts) != b.spec.Ranks {
		s.fail("%s: %d parts of %d ranks", op, len(parts), b.spec.Ranks)
		return
	}
	mine := parts[b.spec.Rank]
	s.note(rules.Tensor(op.String(), "own", own, own.DType, mine.Rows, mine.Cols))
	send := make([]kernels.Tensor, len(parts))
	for r, p := range parts {
		s.note(rules.Tensor(op.String(), "part", p, own.DType, operands.Any, operands.Any))
		send[r] = own
	}
	b.move(s, op, send, parts)
}

// Scatter implements kernels.Team.
func (b *board) Scatter(stream kernels.Stream, recv, send kernels.Tensor, rows []int) {
	const op = opScatter
	s := b.on(stream, "board", op)
	if s == nil {
		return
	}
	if len(rows) != b.spec.Ranks {
		s.fail("%s: rows of %d ranks among %d", op, len(rows), b.spec.Ranks)
		return
	}
	sum, mine := 0, rows[b.spec.Rank]
	for _, n := range rows {
		sum += n
	}
	s.note(rules.Tensor(op.String(), "send", send, send.DType, sum, operands.Any))
	s.note(rules.Tensor(op.String(), "recv", recv, send.DType, len(rows)*mine, send.Cols))
	if s.err != nil {
		return
	}
	from, to := make([]kernels.Tensor, len(rows)), make([]kernels.Tensor, len(rows))
	at := 0
	for r, n := range rows {
		to[r], from[r] = send.RowRange(at, at+n), recv.RowRange(r*mine, (r+1)*mine)
		at += n
	}
	b.move(s, op, to, from)
}

// move sends a tensor to each rank, and gets one from each, as many rows at a time as there is room for. The longest message is as
// long on all ranks: of a scatter the one that all ranks send to one of them, which sends none longer.
func (b *board) move(s *Stream, op opNumber, send, recv []kernels.Tensor) {
	rows, cols := 0, 0
	for _, t := range append(append([]kernels.Tensor(nil), send...), recv...) {
		rows, cols = max(rows, t.Rows), max(cols, t.Cols)
	}
	size := send[0].DType.Size()
	atOnce := b.rowsAtOnce(cols * size)
	if s.err == nil && (size != 2 && size != 4 || atOnce == 0) {
		s.fail("%s: %v on boards with room for %d bytes", op, send[0], b.spec.Room)
	}
	if s.err != nil || cols == 0 {
		return
	}
	for from := 0; from < rows; from += atOnce {
		a := gatherArgs{boardArgs: b.args(op)}
		for r := range send {
			a.send[r], a.recv[r] = piece(send[r], from, atOnce), piece(recv[r], from, atOnce)
		}
		enqueue(s, op, gatherKernel(size), grid{x: blocks(min(rows-from, atOnce), cols), threads: boardThreads}, &a)
	}
}

// piece is the rows of t of those from on.
func piece(t kernels.Tensor, from, rows int) message {
	t = t.RowRange(min(from, t.Rows), min(from+rows, t.Rows))
	return message{matOf(t), int32(t.Rows), int32(t.Cols)}
}
