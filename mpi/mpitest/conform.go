package mpitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
)

// poison is what every buffer holds before a call, and the bytes around it hold always.
const poison = 0xA5

// Conform makes every call of a world with random and awkward sizes and returns the first result that isn't what World
// promises. All its ranks call it, with the same seed. What the bytes should be is computed from sender, receiver and
// place alone.
func Conform(ctx context.Context, w mpi.World, seed uint64) error {
	if w.Rank() < 0 || w.Rank() >= w.Size() || w.Host() == "" {
		return fmt.Errorf("rank %d of %d on host %q", w.Rank(), w.Size(), w.Host())
	}
	cases := []struct {
		name string
		run  func(context.Context, mpi.World, *rand.Rand) error
	}{
		{"Barrier", func(ctx context.Context, w mpi.World, _ *rand.Rand) error { return w.Barrier(ctx) }},
		{"Bcast", conformBcast},
		{"AllGather", conformAllGather},
		{"AllGatherV", conformAllGatherV},
		{"AllReduceInt64", conformAllReduce},
		{"AllToAll", conformAllToAll},
		{"AllToAllV", conformAllToAllV},
		{"BeginAllToAllV", conformBeginAllToAllV},
		{"Send and Recv", conformMessages},
		{"Recv and a context", conformDeadline},
		{"Split", conformSplit},
		{"Node", conformNode},
		{"arguments", conformArguments},
	}
	for i, c := range cases {
		for round := range uint64(6) {
			all := rand.New(rand.NewPCG(seed, uint64(i)<<8|round)) // alike on all ranks
			if err := c.run(ctx, w, all); err != nil {
				return fmt.Errorf("%s, seed %d, round %d, rank %d of %d: %w", c.name, seed, round, w.Rank(), w.Size(), err)
			}
		}
	}
	return nil
}

// length draws a buffer's length: often nothing, one, or odd.
func length(r *rand.Rand) int {
	switch r.IntN(5) {
	case 0:
		return 0
	case 1:
		return 1
	case 2:
		return 8 * r.IntN(9)
	case 3:
		return r.IntN(300)
	}
	return r.IntN(70_000)
}

// at is the i-th byte that rank from sends to rank to.
func at(salt, from, to, i int) byte {
	x := uint32(salt)*2654435761 + uint32(from)*40503 + uint32(to)*2246822519 + uint32(i)*3266489917
	x ^= x >> 15
	x *= 2246822519
	return byte(x >> 13)
}

func message(salt, from, to, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = at(salt, from, to, i)
	}
	return b
}

// guarded is a poisoned buffer of n bytes inside a larger one.
type guarded struct{ whole, b []byte }

func guard(n int) guarded {
	const margin = 16
	whole := bytes.Repeat([]byte{poison}, n+2*margin)
	return guarded{whole, whole[margin : margin+n : margin+n]}
}

// is tells whether the buffer holds want, and nothing was written beside it.
func (g guarded) is(want []byte) error {
	const margin = 16
	for i := range margin {
		if g.whole[i] != poison || g.whole[len(g.whole)-1-i] != poison {
			return fmt.Errorf("bytes beside a buffer of %d were written", len(g.b))
		}
	}
	if i := mismatch(g.b, want); i >= 0 {
		return fmt.Errorf("byte %d of %d is %#x, want %#x", i, len(want), g.b[i], want[i])
	}
	return nil
}

func mismatch(a, b []byte) int {
	for i := range b {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func conformBcast(ctx context.Context, w mpi.World, r *rand.Rand) error {
	n, root := length(r), r.IntN(w.Size())
	want := message(1, root, 0, n)
	g := guard(n)
	if w.Rank() == root {
		copy(g.b, want)
	}
	if err := w.Bcast(ctx, root, g.b); err != nil {
		return err
	}
	return g.is(want)
}

func conformAllGather(ctx context.Context, w mpi.World, r *rand.Rand) error {
	n := length(r)
	g := guard(n * w.Size())
	var want []byte
	for from := range w.Size() {
		want = append(want, message(2, from, 0, n)...)
	}
	if err := w.AllGather(ctx, message(2, w.Rank(), 0, n), g.b); err != nil {
		return err
	}
	return g.is(want)
}

func conformAllGatherV(ctx context.Context, w mpi.World, r *rand.Rand) error {
	counts := make([]int64, w.Size())
	var want []byte
	for from := range counts {
		n := length(r)
		counts[from] = int64(n)
		want = append(want, message(3, from, 0, n)...)
	}
	g := guard(len(want))
	if err := w.AllGatherV(ctx, message(3, w.Rank(), 0, int(counts[w.Rank()])), g.b, counts); err != nil {
		return err
	}
	return g.is(want)
}

func conformAllReduce(ctx context.Context, w mpi.World, r *rand.Rand) error {
	n := length(r) % 1000
	for _, op := range []mpi.Op{mpi.Sum, mpi.Max, mpi.Min} {
		var mine, want []int64
		for range n {
			var x [3]int64 // by op
			for from := range w.Size() {
				v := int64(r.Uint64()) >> r.IntN(60)
				if from == w.Rank() {
					mine = append(mine, v)
				}
				if from == 0 {
					x = [3]int64{v, v, v}
					continue
				}
				x = [3]int64{x[0] + v, max(x[1], v), min(x[2], v)}
			}
			want = append(want, x[op])
		}
		if err := w.AllReduceInt64(ctx, op, mine); err != nil {
			return err
		}
		for i := range want {
			if mine[i] != want[i] {
				return fmt.Errorf("%v of element %d is %d, want %d", op, i, mine[i], want[i])
			}
		}
	}
	return nil
}

func conformAllToAll(ctx context.Context, w mpi.World, r *rand.Rand) error {
	n := length(r)
	var send, want []byte
	for other := range w.Size() {
		send = append(send, message(4, w.Rank(), other, n)...)
		want = append(want, message(4, other, w.Rank(), n)...)
	}
	g := guard(len(want))
	if err := w.AllToAll(ctx, send, g.b); err != nil {
		return err
	}
	return g.is(want)
}

func conformAllToAllV(ctx context.Context, w mpi.World, r *rand.Rand) error {
	return allToAllV(w, r, func(send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
		return w.AllToAllV(ctx, send, sendCounts, recv, recvCounts)
	})
}

// conformBeginAllToAllV makes calls of another world while bytes are on their way, in one that refuses any.
func conformBeginAllToAllV(ctx context.Context, w mpi.World, r *rand.Rand) error {
	other, err := w.Split(ctx, 0, -w.Rank())
	if err != nil {
		return err
	}
	tested := r.IntN(2) == 0 // to its end, or not at all
	err = allToAllV(w, r, func(send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
		if err := w.BeginAllToAllV(ctx, send, sendCounts, recv, recvCounts); err != nil {
			return err
		}
		if err := w.Barrier(ctx); err == nil {
			return errors.New("a barrier passes while an all-to-all of its world is under way")
		}
		if err := conformAllToAll(ctx, other, r); err != nil {
			return err
		}
		for tested && !w.TestAllToAllV() {
			runtime.Gosched()
		}
		if tested && !w.TestAllToAllV() {
			return errors.New("an all-to-all that was through is not")
		}
		return w.EndAllToAllV(ctx)
	})
	if err != nil {
		return err
	}
	if err := w.EndAllToAllV(ctx); err == nil {
		return errors.New("an all-to-all ends that has not begun")
	}
	return other.Close()
}

// allToAllV runs one exchange of unequal pieces.
func allToAllV(w mpi.World, r *rand.Rand, exchange func(send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error) error {
	p := w.Size()
	matrix := make([]int64, p*p) // [from][to]
	shape := r.IntN(6)
	hot := r.IntN(p)
	for i := range matrix {
		switch from, to := i/p, i%p; {
		case shape == 0: // nothing at all
		case shape == 1 && to != hot: // one rank gets everything
		case shape == 2 && from != hot: // one rank sends everything
		case shape == 3 && r.IntN(2) == 0: // holes
		default:
			matrix[i] = int64(length(r))
		}
	}
	var send, want []byte
	sendCounts, recvCounts := make([]int64, p), make([]int64, p)
	for other := range p {
		sendCounts[other], recvCounts[other] = matrix[w.Rank()*p+other], matrix[other*p+w.Rank()]
		send = append(send, message(5, w.Rank(), other, int(sendCounts[other]))...)
		want = append(want, message(5, other, w.Rank(), int(recvCounts[other]))...)
	}
	g := guard(len(want))
	if err := exchange(send, sendCounts, g.b, recvCounts); err != nil {
		return err
	}
	return g.is(want)
}

// conformMessages sends around the ring, both ways under two tags, from two goroutines: a Send may wait for its Recv.
func conformMessages(ctx context.Context, w mpi.World, r *rand.Rand) error {
	p := w.Size()
	if p == 1 {
		return nil
	}
	for _, step := range []int{1, p - 1} {
		n, tag := length(r), r.IntN(mpi.MaxTag)
		to, from := (w.Rank()+step)%p, (w.Rank()+p-step)%p
		sent := make(chan error, 1)
		go func() {
			sent <- errors.Join(
				w.Send(ctx, to, tag+1, message(6, w.Rank(), to, n)),
				w.Send(ctx, to, tag, message(7, w.Rank(), to, n/2)))
		}()
		long, short := guard(n), guard(n/2)
		err := errors.Join(w.Recv(ctx, from, tag+1, long.b), w.Recv(ctx, from, tag, short.b), <-sent)
		if err != nil {
			return err
		}
		if err := errors.Join(long.is(message(6, from, w.Rank(), n)), short.is(message(7, from, w.Rank(), n/2))); err != nil {
			return err
		}
	}
	return nil
}

// conformDeadline leaves a Recv for which nothing comes, and sees that the world goes on.
func conformDeadline(ctx context.Context, w mpi.World, _ *rand.Rand) error {
	if w.Size() > 1 {
		brief, cancel := context.WithTimeout(ctx, 3*time.Millisecond)
		defer cancel()
		g := guard(9)
		if err := w.Recv(brief, (w.Rank()+1)%w.Size(), 5, g.b); !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("a Recv without a Send returned %w after its deadline", err)
		}
		if err := g.is(bytes.Repeat([]byte{poison}, 9)); err != nil {
			return err
		}
	}
	return w.Barrier(ctx)
}

func conformSplit(ctx context.Context, w mpi.World, r *rand.Rand) error {
	p := w.Size()
	colors, keys := make([]int, p), make([]int, p)
	for i := range colors {
		colors[i], keys[i] = r.IntN(3)-1, r.IntN(5)-2
	}
	child, err := w.Split(ctx, colors[w.Rank()], keys[w.Rank()])
	if err != nil {
		return err
	}
	if colors[w.Rank()] < 0 {
		if child != nil {
			return errors.New("a rank without a color got a world")
		}
		return nil
	}
	place, size := 0, 0
	for i := range p {
		if colors[i] != colors[w.Rank()] {
			continue
		}
		size++
		if keys[i] < keys[w.Rank()] || keys[i] == keys[w.Rank()] && i < w.Rank() {
			place++
		}
	}
	if child.Rank() != place || child.Size() != size {
		return fmt.Errorf("rank %d of %d in the child, want %d of %d", child.Rank(), child.Size(), place, size)
	}
	// the child works beside its siblings and its parent
	if err := conformAllToAllV(ctx, child, rand.New(rand.NewPCG(uint64(colors[w.Rank()]), 7))); err != nil {
		return fmt.Errorf("in a child: %w", err)
	}
	grandchild, err := child.Split(ctx, child.Rank()%2, -child.Rank())
	if err != nil {
		return err
	}
	if want := (child.Size() - child.Rank()%2 + 1) / 2; grandchild.Size() != want || grandchild.Rank() != want-1-child.Rank()/2 {
		return fmt.Errorf("rank %d of %d in the grandchild of %d", grandchild.Rank(), grandchild.Size(), child.Size())
	}
	if err := conformAllGather(ctx, grandchild, rand.New(rand.NewPCG(1, 1))); err != nil {
		return fmt.Errorf("in a grandchild: %w", err)
	}
	return errors.Join(grandchild.Close(), child.Close(), child.Close())
}

func conformNode(ctx context.Context, w mpi.World, _ *rand.Rand) error {
	node, err := w.Node(ctx)
	if err != nil {
		return err
	}
	if node.Size() > w.Size() || node.Host() != w.Host() {
		return fmt.Errorf("%d of %d ranks on a node, host %s and %s", node.Size(), w.Size(), node.Host(), w.Host())
	}
	if err := conformAllToAll(ctx, node, rand.New(rand.NewPCG(3, 1))); err != nil {
		return err
	}
	return node.Close()
}

// conformArguments makes calls that one rank alone can tell to be wrong, and sees that the world goes on.
func conformArguments(ctx context.Context, w mpi.World, _ *rand.Rand) error {
	p := w.Size()
	one := make([]int64, p)
	one[0] = 1
	gone, cancel := context.WithCancel(ctx)
	cancel()
	for what, err := range map[string]error{
		"root too large":        w.Bcast(ctx, p, nil),
		"root below 0":          w.Bcast(ctx, -1, nil),
		"recv too short":        w.AllGather(ctx, []byte{1}, make([]byte, p-1)),
		"count missing":         w.AllGatherV(ctx, nil, nil, one[1:]),
		"no such operation":     w.AllReduceInt64(ctx, 3, nil),
		"unequal buffers":       w.AllToAll(ctx, make([]byte, p), make([]byte, 2*p)),
		"counts beyond send":    w.AllToAllV(ctx, nil, one, make([]byte, 1), one),
		"negative counts":       w.AllToAllV(ctx, nil, make([]int64, p), nil, append([]int64{-1}, one[1:]...)),
		"message to itself":     w.Send(ctx, w.Rank(), 0, []byte{1}),
		"message from nowhere":  w.Recv(ctx, p, 0, []byte{1}),
		"tag too large":         w.Send(ctx, (w.Rank()+1)%p, mpi.MaxTag+1, []byte{1}),
		"context already over":  w.Barrier(gone),
		"context over, message": w.Recv(gone, (w.Rank()+1)%p, 0, []byte{1}),
	} {
		var e *mpi.Error
		if !errors.As(err, &e) || e.Host == "" || e.Op == "" || e.Err == nil {
			return fmt.Errorf("%s: error %w", what, err)
		}
	}
	return w.Barrier(ctx)
}
