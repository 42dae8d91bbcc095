package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// A trial multiplies random numbers by our own kernels and by the algorithms that cuBLASLt thinks fastest without cutting the
// inputs, for every number of rows in counts. What has other bits is out. The rest and our own kernel are timed as a job would
// run them: in a graph, by weights that come from memory, between other kernels of ours. The latter matters for few rows, where
// each of ours is set up, and its first weights come, while the one before still runs.
const (
	mostResult     = 256 << 20 // bytes of y; larger numbers of rows take the choice of the largest that fits
	mostCandidates = 2         // for a number of rows; each has a kernel that the driver takes 5 ms to load
	gain           = 0.03      // that cuBLASLt must bring
	mostCopies     = 12
	fewRows        = 256 // up to which weights bound the time, and are the next ones each time
)

const (
	grain = 512 // bytes that a job's tensors are aligned to
	lead  = 16  // bytes from there that those lie whose bits are compared: no more than they must be aligned to
)

// trial is the memory and the queue of one.
type trial struct {
	blas      *blas
	shape     shape
	stream    *Stream
	arena     handle
	size      int64
	weights   []*weights // the same shape again and again, so that no cache holds all
	x         kernels.Tensor
	want, got kernels.Tensor
	counters  handle // one a candidate
	host      []byte // pinned, as large
	events    [2]handle
}

// candidate is an algorithm for a number of rows.
type candidate struct {
	count int // place in counts
	words [8]uint64
	err   error
}

// triedCounts is how many of counts a trial looks at.
func triedCounts(k shape) int {
	n := len(counts)
	for n > 1 && counts[n-1]*k.out*k.y.Size() > mostResult {
		n--
	}
	return n
}

// trialPrograms is what a trial of weights of a type runs.
func trialPrograms(w kernels.DType) []program {
	return []program{{file: "trial.cu", a: w}, {file: sm90File, a: w, b: w, rows: true}, {file: sm90StayingFile, a: w, b: w, rows: true}}
}

// try runs a trial.
func (b *blas) try(k shape) (choices []choice, err error) {
	if b.isClosed() {
		return nil, errClosed
	}
	for _, g := range trialPrograms(k.w) {
		if err := b.dev.programs.ready(g); err != nil {
			return nil, err
		}
	}
	t, err := b.newTrial(k)
	if err == nil {
		choices, err = t.run()
	}
	if err = errors.Join(err, t.close()); err != nil {
		return nil, fmt.Errorf("trial of products %d ← %d: %w", k.out, k.in, err)
	}
	return choices, nil
}

func (b *blas) newTrial(k shape) (*trial, error) {
	t := &trial{blas: b, shape: k}
	d := b.dev
	most := counts[triedCounts(k)-1]
	w := &weights{dtype: k.w, experts: 1, out: k.out, in: k.in, inRows: true}
	w.pad(k.out)
	copies := min(max(1, ceilDiv(2*d.card.l2, int(w.matrixBytes()))), mostCopies)
	var size int64
	take := func(n int64) (at int64) {
		at, size = size, size+(n+grain-1)/grain*grain
		return at
	}
	var ws []int64
	for range copies {
		ws = append(ws, take(w.matrixBytes()))
	}
	xBytes, yBytes := int64(most*k.in*k.w.Size()), int64(most*k.out*k.y.Size())
	x, want, got := take(lead+xBytes), take(lead+yBytes), take(lead+yBytes)
	room, tasks, counters := take(int64(b.room)), take(8), take(4*mostCandidates*int64(len(counts)))
	var err error
	if t.stream, err = d.newStream(); err != nil {
		return t, err
	}
	if t.host, _, err = hostAlloc(d.ctx, size-counters); err != nil {
		return t, err
	}
	if t.arena, err = b.take(size); err != nil {
		return t, err
	}
	t.size = size
	place := func(at int64) *memory { return &memory{address: t.arena + handle(at), size: size - at} } // of no pool
	for _, at := range ws {
		c := *w
		c.data = place(at)
		if c.boxes, err = boxesOf(d.ctx, c.data.address, w.paddedIn, w.paddedRows, w.paddedIn*k.w.Size(), 64); err != nil {
			return t, err
		}
		t.weights = append(t.weights, &c)
	}
	tensor := func(at int64, dt kernels.DType, cols int) kernels.Tensor {
		return kernels.Tensor{Mem: place(at), Offset: lead, DType: dt, Rows: most, Cols: cols, Stride: cols}
	}
	t.x, t.want, t.got = tensor(x, k.w, k.in), tensor(want, k.y, k.out), tensor(got, k.y, k.out)
	t.counters, t.stream.room, t.stream.tasks = t.arena+handle(counters), place(room), place(tasks)
	for i := range t.events {
		if t.events[i], err = eventNew(d.ctx); err != nil {
			return t, err
		}
	}
	return t, zero(d.ctx, t.arena, size)
}

func (t *trial) close() error {
	d := t.blas.dev
	var errs []error
	if t.stream != nil {
		t.stream.room, t.stream.tasks = nil, nil // of the arena
		errs = append(errs, t.stream.Close())
	}
	for _, e := range t.events {
		if e != 0 {
			errs = append(errs, eventFree(d.ctx, e))
		}
	}
	if t.arena != 0 {
		errs = append(errs, t.blas.give(t.arena, t.size))
	}
	if t.host != nil {
		errs = append(errs, hostFree(d.ctx, t.host))
	}
	return errors.Join(errs...)
}

func (t *trial) run() ([]choice, error) {
	for i, w := range t.weights {
		t.fill(w.data.address, int64(w.paddedIn)*int64(w.out), w.paddedIn, uint32(2*i+1))
	}
	t.fill(address(t.x), int64(t.x.Rows)*int64(t.x.Cols), t.x.Cols, 2)
	t.stream.gemmOwn(opLinear, t.weights[0], t.want, t.x, kernels.Epilogue{}, gemmArgs{div: 1})
	if err := t.flush(); err != nil {
		return nil, err
	}
	var all []candidate
	for i := range triedCounts(t.shape) {
		if t.blas.isClosed() {
			return nil, errClosed
		}
		some, err := t.candidates(i)
		if err != nil {
			return nil, err
		}
		for _, c := range some {
			c.err = t.compare(c, len(all))
			all = append(all, c)
		}
	}
	differ, err := t.differing(len(all))
	if err != nil {
		return nil, err
	}
	choices := make([]choice, triedCounts(t.shape))
	for i := range choices {
		if t.blas.isClosed() {
			return nil, errClosed
		}
		var same []candidate
		for j, c := range all {
			if c.count == i && c.err == nil && differ[j] == 0 {
				same = append(same, c)
			}
		}
		if choices[i], err = t.choose(i, same); err != nil {
			return nil, err
		}
	}
	return choices, nil
}

// rows are so many rows of x and results, the last ones.
func (t *trial) rows(n int) (got, want, x kernels.Tensor) {
	from, to := t.x.Rows-n, t.x.Rows
	return t.got.RowRange(from, to), t.want.RowRange(from, to), t.x.RowRange(from, to)
}

// candidates are the algorithms to look at for counts[i] rows.
func (t *trial) candidates(i int) (some []candidate, err error) {
	got, _, x := t.rows(counts[i])
	p := t.blas.product(t.shape, got, x, t.weights[0].data.address)
	all, err := blasChoose(t.blas.dev.ctx, &p, false, mostCandidates)
	for _, a := range all {
		if a.parts <= 1 && a.sums == 0 && a.room <= p.roomBytes {
			some = append(some, candidate{count: i, words: a.words})
		}
	}
	return some, err
}

// compare enqueues products by a candidate, of the number of rows that it is meant for and of a smaller, odd one, and counts
// where they differ from those of our own kernels.
func (t *trial) compare(c candidate, number int) error {
	const poison = 0xfff5fff5 // a NaN of every type
	for _, rows := range []int{counts[c.count], counts[c.count]*3/4 - 1} {
		got, want, x := t.rows(rows)
		words := got.Bytes() / 4
		t.fillWith(address(got), words, poison)
		if err := t.product(got, x, t.weights[0], c.words); err != nil {
			return err
		}
		launchOver(t.stream, t.shape.w, "differ", words, &differArgs{address(got), address(want), words, t.counters + handle(4*number)})
	}
	return t.flush()
}

// product enqueues y = x·wᵀ by an algorithm, if that can do it.
func (t *trial) product(y, x kernels.Tensor, w *weights, words [8]uint64) error {
	p := t.blas.product(t.shape, y, x, w.data.address)
	p.op, p.algorithm, p.room = uint32(opLinear), words, t.stream.room.address
	if err := blasCheck(t.blas.dev.ctx, &p); err != nil {
		t.stream.queue = t.stream.queue[:0]
		return err
	}
	t.stream.queue = append(t.stream.queue, bytesOf(&p)...)
	return nil
}

// differing are the candidates' counters.
func (t *trial) differing(n int) ([]uint32, error) {
	size := uint64(4 * n)
	if n == 0 {
		return nil, nil
	}
	t.stream.copyRows(opRead, copyRecord{dst: hostAddress(t.host), dstHost: 1, src: uint64(t.counters), width: size, height: 1, dstPitch: size, srcPitch: size})
	if err := t.flush(); err != nil {
		return nil, err
	}
	if err := streamWait(t.blas.dev.ctx, t.stream.handle); err != nil {
		return nil, err
	}
	differ := make([]uint32, n)
	for i := range differ {
		differ[i] = binary.NativeEndian.Uint32(t.host[4*i:])
	}
	return differ, nil
}

// choose takes one of the candidates that have our bits, and tells whether it is faster than our own kernel.
func (t *trial) choose(i int, same []candidate) (choice, error) {
	if len(same) == 0 {
		return choice{}, nil
	}
	y, _, x := t.rows(counts[i])
	y.Offset, x.Offset = y.Offset-lead, x.Offset-lead // as a job's tensors lie
	own, err := t.time(x, func(w *weights) error {
		t.stream.gemmOwn(opLinear, w, y, x, kernels.Epilogue{}, gemmArgs{div: 1})
		return t.stream.err
	})
	best, least := choice{same: true}, math.Inf(1)
	for _, c := range same {
		if err != nil {
			return choice{}, err
		}
		var took float64
		if took, err = t.time(x, func(w *weights) error { return t.product(y, x, w, c.words) }); took < least {
			best.algorithm, least = c.words, took
		}
	}
	best.faster = least < own*(1-gain)
	return best, err
}

// time is the milliseconds that a product takes, and a kernel that makes its x, of some in a graph, by weights in turn.
func (t *trial) time(x kernels.Tensor, enqueue func(*weights) error) (ms float64, err error) {
	d, n := t.blas.dev, 2
	if x.Rows <= fewRows {
		n = max(4, len(t.weights))
	}
	for i := range n {
		t.fill(address(x), int64(x.Rows)*int64(x.Cols), x.Cols, 2)
		if err := enqueue(t.weights[i%len(t.weights)]); err != nil {
			return 0, err
		}
	}
	g, _, err := newGraph(d.ctx, t.stream.handle, t.stream.queue)
	t.stream.queue = t.stream.queue[:0]
	if err != nil {
		return 0, err
	}
	ms = math.Inf(1)
	for range 2 {
		err := errors.Join(eventRecord(d.ctx, t.events[0], t.stream.handle), runGraph(d.ctx, t.stream.handle, g),
			eventRecord(d.ctx, t.events[1], t.stream.handle))
		if err != nil {
			return 0, errors.Join(err, graphFree(d.ctx, g))
		}
		took, err := eventElapsed(d.ctx, t.events[0], t.events[1])
		if err != nil {
			return 0, errors.Join(err, graphFree(d.ctx, g))
		}
		ms = min(ms, took/float64(n))
	}
	return ms, graphFree(d.ctx, g)
}

type fillArgs struct {
	to          handle
	words, row  int64
	seed, every uint32
}

type differArgs struct {
	one, other handle
	words      int64
	count      handle
}

// fill enqueues random values.
func (t *trial) fill(to handle, values int64, row int, seed uint32) {
	launchOver(t.stream, t.shape.w, "fill", values/2, &fillArgs{to: to, words: values / 2, row: int64(row), seed: seed})
}

func (t *trial) fillWith(to handle, words int64, every uint32) {
	launchOver(t.stream, t.shape.w, "fill", words, &fillArgs{to: to, words: words, row: 1, every: every})
}

// launchOver enqueues a kernel of trial.cu over so many words.
func launchOver[T any](s *Stream, w kernels.DType, kernel string, words int64, args *T) {
	const threads = 256
	blocks := min((words+threads-1)/threads, int64(16*s.dev.card.processors))
	enqueue(s, opLinear, kernelKey{program{file: "trial.cu", a: w}, kernel}, grid{x: int(blocks), threads: threads}, args)
}

// flush enqueues what was recorded. Stream.flush is not for other goroutines: it waits for weights on their way.
func (t *trial) flush() error {
	if t.stream.err != nil {
		return t.stream.err
	}
	_, err := runQueue(t.blas.dev.ctx, t.stream.handle, t.stream.queue)
	t.stream.queue = t.stream.queue[:0]
	return err
}
