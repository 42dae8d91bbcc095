package cuda

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// The records of a queue, as driver.h declares them.
type record struct {
	kind, size uint32
	op, beside uint32
}

type launchRecord struct {
	record
	function handle
	grid     [3]uint32
	block    uint32
	shared   uint32
	args     uint32
}

type copyRecord struct {
	record
	dst, src, width, height, dstPitch, srcPitch uint64
	dstHost, srcHost                            uint32
}

// productRecord is y [rows, out] = x [rows, in] · wᵀ by cuBLASLt.
type productRecord struct {
	record
	library                   handle
	algorithm                 [8]uint64
	y, x, w, room             handle
	yStride, xStride, wStride int64 // elements
	roomBytes                 uint64
	rows, out, in             int32
	dtype, yType              int32 // as blasType tells
	_                         int32
}

const (
	kindLaunch  = 1
	kindCopy    = 2
	kindProduct = 3
)

// bytesOf is the memory of a struct without pointers.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// grid is the number of blocks, and the size of each.
type grid struct {
	x, y, z int
	threads int
	shared  int // bytes of dynamic shared memory
}

// enqueue records the launch of a kernel with one struct of arguments, a multiple of 8 bytes long.
func enqueue[T any](s *Stream, op opNumber, k kernelKey, g grid, args *T) {
	g.x, g.y, g.z = max(g.x, 1), max(g.y, 1), max(g.z, 1)
	f, err := s.dev.programs.kernel(s.dev.ctx, k)
	if err != nil {
		s.fail("%s: %w", op, err)
		return
	}
	if uint64(g.x) >= 1<<31 || g.y >= 1<<16 || g.z >= 1<<16 {
		s.fail("%s: %d × %d × %d blocks are more than a launch can have", op, g.x, g.y, g.z)
		return
	}
	a := bytesOf(args)
	l := launchRecord{record: record{kind: kindLaunch, op: uint32(op), beside: uint32(truth(s.dev.card.major >= 9))}, function: f,
		grid: [3]uint32{uint32(g.x), uint32(g.y), uint32(g.z)}, block: uint32(g.threads), shared: uint32(g.shared),
		args: uint32(len(a))}
	if n := len(s.cuts); n > 0 && s.cuts[n-1].at == len(s.queue) { // it reads weights before it looks at what comes before it
		l.beside = 0
	}
	l.size = uint32(unsafe.Sizeof(l)) + uint32(len(a))
	s.queue = append(append(s.queue, bytesOf(&l)...), a...)
}

// copyRows records a copy of rows of width bytes.
func (s *Stream) copyRows(op opNumber, c copyRecord) {
	if c.dstPitch == c.width && c.srcPitch == c.width { // one long row
		c.width, c.height = c.width*c.height, 1
	}
	c.kind, c.op, c.size = kindCopy, uint32(op), uint32(unsafe.Sizeof(c))
	s.queue = append(s.queue, bytesOf(&c)...)
}

// flush hands the recorded ops to the driver.
func (s *Stream) flush() {
	defer func() { s.queue, s.cuts = s.queue[:0], s.cuts[:0] }()
	if len(s.queue)+len(s.cuts) == 0 || s.err != nil {
		return
	}
	if err := s.dev.uploads.settle(); err != nil {
		s.fail("%s: %w", opPack, err)
		return
	}
	s.flushes++
	from := 0
	for _, c := range append(s.cuts, cut{at: len(s.queue)}) {
		op, err := uint32(opRing), error(nil)
		if from < c.at {
			op, err = s.submit(s.queue[from:c.at])
		}
		if from = c.at; err == nil && c.then != nil {
			op, err = uint32(opRing), c.then()
		}
		if err != nil {
			s.fail("%s: %w", opNumber(op), err)
			return
		}
	}
}

// cut is where a queue is handed over in two parts, and what is done between them.
type cut struct {
	at   int // bytes of the queue
	then func() error
}

// cut has something done when all that was recorded so far was handed over, and nothing that comes.
func (s *Stream) cut(then func() error) {
	if s.err == nil {
		s.cuts = append(s.cuts, cut{len(s.queue), then})
	}
}

// Graphs are kept for the queues that came twice, so many at most, or for so many times the parts of one.
const (
	mostGraphs = 64
	fewRecords = 1 << 10 // bytes of a queue that is not worth a graph
)

// replay is a queue that was seen, and its graph once it was seen again.
type replay struct {
	queue []byte
	graph handle
	used  int // the stream's count of flushes when it last came
}

// submit hands a part of the queue to the driver: by itself the first time, as a graph from the second time on.
func (s *Stream) submit(q []byte) (uint32, error) {
	ctx := s.dev.ctx
	if s.dev.trace != nil {
		return s.dev.trace.run(s.handle, q)
	}
	if !s.dev.graphs || len(q) < fewRecords {
		return runQueue(ctx, s.handle, q)
	}
	if s.frees != s.dev.memory.frees {
		s.frees = s.dev.memory.frees
		s.forget()
	}
	key := maphash.Bytes(s.seed, q)
	r := s.replays[key]
	switch {
	case r == nil || !bytes.Equal(r.queue, q):
		if r != nil && r.graph != 0 { // another queue of the same hash, which never happens
			return runQueue(ctx, s.handle, q)
		}
		if len(s.replays) >= mostGraphs*(1+len(s.cuts)) {
			s.forgetOldest()
		}
		s.replays[key] = &replay{queue: bytes.Clone(q), used: s.flushes}
		return runQueue(ctx, s.handle, q)
	case r.graph == 0:
		r.used = s.flushes
		g, op, err := newGraph(ctx, s.handle, q)
		r.graph = g
		return op, err
	}
	r.used = s.flushes
	return 0, runGraph(ctx, s.handle, r.graph)
}

// forget drops all queues. A graph's copies hold on to the memory that they were made for: where other memory lies at its
// address later, the same queue comes again, and its graph fails (CUDA_ERROR_LAUNCH_FAILED).
func (s *Stream) forget() {
	for _, r := range s.replays {
		if r.graph != 0 {
			_ = graphFree(s.dev.ctx, r.graph)
		}
	}
	clear(s.replays)
}

// forgetOldest drops the queue that has not come for the longest time. Its graph may still be running; the driver
// waits for that.
func (s *Stream) forgetOldest() {
	var oldest uint64
	first := true
	for key, r := range s.replays {
		if first || r.used < s.replays[oldest].used {
			oldest, first = key, false
		}
	}
	if g := s.replays[oldest].graph; g != 0 {
		_ = graphFree(s.dev.ctx, g)
	}
	delete(s.replays, oldest)
}

// opNumber names an op in records and faults.
type opNumber uint32

const (
	opNone opNumber = iota
	opWrite
	opRead
	opCopy
	opEmbed
	opNorm
	opLinear
	opGrouped
	opStore
	opAttention
	opGate
	opDrop
	opTable
	opCombine
	opMix
	opAdd
	opReduce
	opSelect
	opScore
	opSample
	opPack
	opExchange
	opSend
	opArrive
	opReturn
	opCollect
	opPeak
	opTanh
	opGather
	opScatter
	opSum
	opRing
)

var opNames = [...]string{"", "write", "read", "copy", "embed", "norm", "linear", "grouped", "store", "attention",
	"gate", "drop", "table", "combine", "mix", "add", "reduce", "select", "score", "sample", "pack", "exchange", "send",
	"arrive", "return", "collect", "peak", "tanh", "gather", "scatter", "sum", "weights from the host"}

func (o opNumber) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", uint32(o))
}

func opName(o uint32) string { return opNumber(o).String() }

// mat is a tensor as kernels see it: struct mat of common.cuh.
type mat struct {
	address handle
	stride  int64 // elements
}

func matOf(t kernels.Tensor) mat { return mat{address(t), int64(t.Stride)} }
