package cuda

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// window is memory that the kernels of other GPUs write, in other processes by the driver's inter-process handles. It implements
// kernels.Window.
type window struct {
	dev    *Device
	spec   kernels.WindowSpec
	own    *memory // what the others write
	state  kernels.Tensor
	peers  kernels.Tensor // where their windows lie
	opened []handle       // by handles of other processes
	name   int32          // in faults, from 1
}

var _ kernels.WindowDevice = (*Device)(nil)

// exchangesBytes is the size of struct exchanges.
const exchangesBytes = 24

// A ticket is which process made it, its context, the window's address there, and the driver's handle for other processes.
const (
	ticketProcess = 16
	ticketHandle  = ticketProcess + 16
	ticketBytes   = ticketHandle + ipcBytes
	ipcBytes      = 64
)

// process tells this process from all others.
var process = sync.OnceValue(func() []byte {
	b := make([]byte, ticketProcess)
	_, _ = rand.Read(b) // never fails
	return b
})

// NewWindow implements kernels.WindowDevice.
func (d *Device) NewWindow(s kernels.WindowSpec) (kernels.Window, error) {
	if s.Ranks < 1 || s.Rank < 0 || s.Rank >= s.Ranks || s.Experts < 1 || s.Rows < 0 || s.Cols < 1 || len(s.Names) != s.Ranks ||
		int64(s.Ranks)*int64(s.Rows) > math.MaxInt32 || s.DType.Size() < 2 || 4*s.Experts*s.Ranks > d.card.shared/2 {
		return nil, fmt.Errorf("windows of %d ranks, %d experts, %d rows of %d columns are none", s.Ranks, s.Experts, s.Rows, s.Cols)
	}
	const what = "window for rows of other ranks"
	w := &window{dev: d, spec: s}
	// Its own allocation, and not beside others' in a page of the driver's: that is what a handle opens to another process.
	a, err := memAlloc(d.ctx, max(s.Bytes(), 2<<20))
	if err != nil {
		return nil, d.memory.explain(what, s.Bytes(), err)
	}
	w.own = &memory{pool: d.memory, address: a, size: s.Bytes(), class: -1}
	err = zero(d.ctx, a, int64(s.Ranks*s.HeaderBytes()))
	if err == nil {
		w.state, err = d.Alloc(what, kernels.I32, 1, exchangesBytes/4)
	}
	if err == nil {
		err = zero(d.ctx, address(w.state), exchangesBytes)
	}
	if err == nil {
		w.peers, err = d.Alloc(what, kernels.I32, s.Ranks, 2)
	}
	for _, name := range []string{w.sized("send"), "arrive", w.sized("return"), "collect"} {
		if err == nil { // a kernel that is loaded while others wait for this rank may wait for them
			_, err = d.programs.kernel(d.ctx, kernelKey{program{file: windowFile}, name})
		}
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	d.fault.windows = append(d.fault.windows, w)
	w.name = int32(len(d.fault.windows))
	return w, nil
}

const windowFile = "window.cu"

// sized is the name of a kernel that moves elements as they are.
func (w *window) sized(name string) string { return fmt.Sprint(name, w.spec.DType.Size()) }

// Ticket implements kernels.Window.
func (w *window) Ticket() []byte {
	t := bytes.Clone(process())
	t = binary.LittleEndian.AppendUint64(t, uint64(w.dev.ctx))
	t = binary.LittleEndian.AppendUint64(t, uint64(w.own.address))
	h, err := ipcHandle(w.dev.ctx, w.own.address)
	if err != nil {
		h = make([]byte, ipcBytes) // those who need it tell
	}
	return append(t, h...)
}

// Join implements kernels.Window.
func (w *window) Join(tickets [][]byte) error {
	if len(tickets) != w.spec.Ranks {
		return fmt.Errorf("%d tickets for windows of %d ranks", len(tickets), w.spec.Ranks)
	}
	var table []byte
	for r, t := range tickets {
		a, err := w.reach(t)
		if err != nil {
			return fmt.Errorf("memory of %s cannot be written from here: %w", w.spec.Names[r], err)
		}
		table = binary.LittleEndian.AppendUint64(table, uint64(a))
	}
	return w.dev.now(func(s *Stream) { s.Write(w.peers, table) })
}

// reach is where a ticket's window lies for this GPU.
func (w *window) reach(ticket []byte) (handle, error) {
	if len(ticket) != ticketBytes {
		return 0, fmt.Errorf("a ticket of %d bytes", len(ticket))
	}
	ctx := handle(binary.LittleEndian.Uint64(ticket[ticketProcess:]))
	at := handle(binary.LittleEndian.Uint64(ticket[ticketProcess+8:]))
	if bytes.Equal(ticket[:ticketProcess], process()) {
		if ctx == w.dev.ctx {
			return at, nil
		}
		return at, peerAccess(w.dev.ctx, ctx)
	}
	h := ticket[ticketHandle:]
	if bytes.Equal(h, make([]byte, ipcBytes)) {
		return 0, errors.New("its driver gives memory to no other process")
	}
	at, err := ipcOpen(w.dev.ctx, h)
	if err == nil {
		w.opened = append(w.opened, at)
	}
	return at, err
}

// lost is the error of an exchange to which a rank did not come.
func (w *window) lost(rank int) error {
	return fmt.Errorf("%s took no part in an exchange of rows for %v: its process has ended or hangs", w.spec.Names[rank], w.spec.Patience)
}

// Close implements kernels.Window.
func (w *window) Close() error {
	var errs []error
	for _, a := range w.opened {
		errs = append(errs, ipcClose(w.dev.ctx, a))
	}
	w.opened = nil
	for _, t := range []*kernels.Tensor{&w.state, &w.peers} {
		if !t.None() {
			t.Mem.Free()
			*t = kernels.Tensor{}
		}
	}
	if w.own != nil {
		w.own.Free()
		w.own = nil
	}
	return errors.Join(errs...)
}

// windowArgs is struct window.
type windowArgs struct {
	peers, own, fault       handle
	rows, back              int64
	headers, pitch          int32
	rank, ranks, room, name int32
}

func (w *window) args() windowArgs {
	s := w.spec
	rows := int64(s.Ranks) * int64(s.HeaderBytes())
	return windowArgs{peers: address(w.peers), own: address(w.state), fault: w.dev.fault.address,
		rows: rows, back: rows + int64(s.Ranks)*int64(s.Rows)*int64(s.Pitch()),
		headers: int32(s.HeaderBytes()), pitch: int32(s.Pitch()),
		rank: int32(s.Rank), ranks: int32(s.Ranks), room: int32(s.Rows), name: w.name}
}

// part is rows of the window.
func (w *window) part(offset int64, rows int) kernels.Tensor {
	return kernels.Tensor{Mem: w.own, Offset: offset, DType: w.spec.DType, Rows: rows, Cols: w.spec.Cols,
		Stride: w.spec.Pitch() / w.spec.DType.Size()}
}

// on is the stream of an op, or nil where it has failed before.
func (w *window) on(stream kernels.Stream, op opNumber) *Stream {
	s, ok := stream.(*Stream)
	if !ok || s.dev != w.dev {
		panic(fmt.Sprintf("cuda: a window of %s on a stream of another device", w.dev.Name()))
	}
	if s.err == nil && w.own == nil {
		s.fail("%s: the window is closed", op)
	}
	if s.err != nil {
		return nil
	}
	return s
}

// rowsGrid has a block for each of so many rows, up to what keeps the GPU busy.
func (w *window) rowsGrid(rows int) grid {
	const busy = 8 // blocks of a multiprocessor
	return grid{x: min(rows, busy*w.dev.card.processors), threads: min(256, 32*ceilDiv(w.spec.Cols, 8*32))}
}

type sendArgs struct {
	windowArgs
	x                          mat
	offsets, choices           handle
	tokens, k, local, cols, op int32
	_                          int32
}

// Send implements kernels.Window.
func (w *window) Send(stream kernels.Stream, x kernels.Tensor, r kernels.Routing) {
	const op = opSend
	s := w.on(stream, op)
	if s == nil {
		return
	}
	slots := x.Rows * r.K
	s.note(rules.Tensor(op.String(), "x", x, w.spec.DType, operands.Any, w.spec.Cols))
	s.note(rules.Tensor(op.String(), "offsets", r.Offsets, kernels.I32, 1, r.Experts+1))
	s.note(rules.Vector(op.String(), "choices", r.Choices, slots))
	local := r.Experts / w.spec.Ranks
	if s.err == nil && (slots > w.spec.Rows || local*w.spec.Ranks != r.Experts || local > w.spec.Experts || r.K < 1) {
		s.fail("%s: %d tokens with %d choices of %d experts, in windows of %d ranks for %d rows and %d experts each",
			op, x.Rows, r.K, r.Experts, w.spec.Ranks, w.spec.Rows, w.spec.Experts)
	}
	if s.err != nil {
		return
	}
	enqueue(s, op, kernelKey{program{file: windowFile}, w.sized("send")}, w.rowsGrid(slots), &sendArgs{windowArgs: w.args(),
		x: matOf(x), offsets: address(r.Offsets), choices: address(r.Choices),
		tokens: int32(x.Rows), k: int32(r.K), local: int32(local), cols: int32(x.Cols), op: int32(op)})
}

type arriveArgs struct {
	windowArgs
	offsets, index  handle
	patience        int64
	local, most, op int32
	_               int32
}

// Arrive implements kernels.Window.
func (w *window) Arrive(stream kernels.Stream, offsets, index kernels.Tensor, rows int) kernels.Tensor {
	const op = opArrive
	x := w.part(w.args().rows, w.spec.Ranks*w.spec.Rows)
	s := w.on(stream, op)
	if s == nil {
		return x
	}
	s.note(rules.Tensor(op.String(), "offsets", offsets, kernels.I32, 1, operands.Any))
	s.note(rules.Vector(op.String(), "index", index, rows))
	local := offsets.Cols - 1
	if s.err == nil && (local < 1 || local > w.spec.Experts) {
		s.fail("%s: offsets of %d experts, in a window for %d", op, local, w.spec.Experts)
	}
	if s.err != nil {
		return x
	}
	s.shares[address(offsets)] = w.spec.Ranks
	enqueue(s, op, kernelKey{program{file: windowFile}, "arrive"}, grid{threads: 1024, shared: 4 * local * w.spec.Ranks}, &arriveArgs{
		windowArgs: w.args(), offsets: address(offsets), index: address(index), patience: int64(w.spec.Patience),
		local: int32(local), most: int32(rows), op: int32(op)})
	return x
}

type returnArgs struct {
	windowArgs
	y              mat
	offsets, index handle
	local, cols    int32
}

// Return implements kernels.Window.
func (w *window) Return(stream kernels.Stream, y, offsets, index kernels.Tensor) {
	const op = opReturn
	s := w.on(stream, op)
	if s == nil {
		return
	}
	s.note(rules.Tensor(op.String(), "y", y, w.spec.DType, operands.Any, w.spec.Cols))
	s.note(rules.Tensor(op.String(), "offsets", offsets, kernels.I32, 1, operands.Any))
	s.note(rules.Vector(op.String(), "index", index, y.Rows))
	if s.err != nil {
		return
	}
	enqueue(s, op, kernelKey{program{file: windowFile}, w.sized("return")}, w.rowsGrid(y.Rows), &returnArgs{windowArgs: w.args(),
		y: matOf(y), offsets: address(offsets), index: address(index), local: int32(offsets.Cols - 1), cols: int32(y.Cols)})
}

type collectArgs struct {
	windowArgs
	patience int64
	op       int32
	_        int32
}

// Collect implements kernels.Window.
func (w *window) Collect(stream kernels.Stream) kernels.Tensor {
	const op = opCollect
	out := w.part(w.args().back, w.spec.Rows)
	if s := w.on(stream, op); s != nil {
		enqueue(s, op, kernelKey{program{file: windowFile}, "collect"}, grid{threads: 128}, &collectArgs{
			windowArgs: w.args(), patience: int64(w.spec.Patience), op: int32(op)})
	}
	return out
}
