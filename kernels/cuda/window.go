package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// window is memory that the kernels of other GPUs write, in other processes by the driver's inter-process handles. It implements
// kernels.Window.
type window struct {
	reachable
	spec kernels.WindowSpec
}

var _ kernels.WindowDevice = (*Device)(nil)

// exchangesBytes is the size of struct exchanges.
const exchangesBytes = 24

// NewWindow implements kernels.WindowDevice.
func (d *Device) NewWindow(s kernels.WindowSpec) (kernels.Window, error) {
	if s.Ranks < 1 || s.Rank < 0 || s.Rank >= s.Ranks || s.Experts < 1 || s.Rows < 0 || s.Cols < 1 || len(s.Names) != s.Ranks ||
		int64(s.Ranks)*int64(s.Rows) > math.MaxInt32 || s.DType.Size() < 2 || 4*s.Experts*s.Ranks > d.card.shared/2 {
		return nil, fmt.Errorf("windows of %d ranks, %d experts, %d rows of %d columns are none", s.Ranks, s.Experts, s.Rows, s.Cols)
	}
	r, err := d.newReachable("window for rows of other ranks", s.Bytes(), s.Ranks*s.HeaderBytes(), exchangesBytes, s.Names)
	if err != nil {
		return nil, err
	}
	w := &window{reachable: r, spec: s}
	for _, name := range []string{w.sized("send"), "arrive", w.sized("return"), "collect"} {
		if err == nil { // a kernel that is loaded while others wait for this rank may wait for them
			_, err = d.programs.kernel(d.ctx, kernelKey{program{file: windowFile}, name})
		}
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.name = d.fault.tellOf(w)
	return w, nil
}

const windowFile = "window.cu"

// sized is the name of a kernel that moves elements as they are.
func (w *window) sized(name string) string { return fmt.Sprint(name, w.spec.DType.Size()) }

// lost is the error of an exchange to which a rank did not come.
func (w *window) lost(rank int) error {
	return fmt.Errorf("%s took no part in an exchange of rows for %v: its process has ended or hangs", w.spec.Names[rank], w.spec.Patience)
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
	s := w.on(stream, "window", op)
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
	s := w.on(stream, "window", op)
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
	s := w.on(stream, "window", op)
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
	if s := w.on(stream, "window", op); s != nil {
		enqueue(s, op, kernelKey{program{file: windowFile}, "collect"}, grid{threads: 128}, &collectArgs{
			windowArgs: w.args(), patience: int64(w.spec.Patience), op: int32(op)})
	}
	return out
}
