package cuda

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

type gemmArgs struct {
	x, y                            mat
	w, bias, scale                  handle
	offsets, index, fault           handle
	experts, rows, tokens, div      int32
	in, out, paddedIn, paddedRows   int32
	gated, act, add, group, aligned int32
	yF32, op, most                  int32
}

// Linear implements kernels.Stream.
func (s *Stream) Linear(y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) {
	const op = opLinear
	p := s.checkGemm(op, y, x, w, e)
	if s.err == nil && p.experts != 1 {
		s.fail("%s: weights of %d matrices; Grouped takes them", op, p.experts)
	}
	if s.err == nil && x.Rows != y.Rows {
		s.fail("%s: x has %d rows and y %d", op, x.Rows, y.Rows)
	}
	if s.err == nil {
		s.gemm(op, p, y, x, e, gemmArgs{div: 1})
	}
}

// Grouped implements kernels.Stream. Offsets and index are read on the device; slots of rows outside of x are left
// as they are, and Sync tells.
func (s *Stream) Grouped(y, x kernels.Tensor, w kernels.Weights, offsets, index kernels.Tensor, div int, e kernels.Epilogue) {
	const op = opGrouped
	p := s.checkGemm(op, y, x, w, e)
	if s.err != nil {
		return
	}
	s.note(rules.Vector(op.String(), "offsets", offsets, p.experts+1))
	a := gemmArgs{offsets: address(offsets), div: 1}
	if !index.None() {
		if div < 1 {
			s.fail("%s: div is %d, want at least 1", op, div)
		}
		s.note(rules.Vector(op.String(), "index", index, 0))
		a.index, a.div = address(index), int32(div)
	}
	if s.err == nil {
		s.gemm(op, p, y, x, e, a)
	}
}

// checkGemm checks what Linear and Grouped have in common.
func (s *Stream) checkGemm(op opNumber, y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) *weights {
	p, ok := w.(*weights)
	switch {
	case s.err != nil:
		return p
	case !ok || p == nil || p.data == nil:
		s.fail("%s: weights %T are not of this device, or freed", op, w)
		return nil
	case p.ring != nil && p.ring.current != p.held:
		s.fail("%s: weights of group %d, while their ring is in group %d", op, p.held, p.ring.current)
		return nil
	case p.dtype == kernels.F32, p.dtype == kernels.I8 && x.DType != kernels.F32, p.dtype == kernels.MXFP4 && x.DType == kernels.BF16:
	case x.DType != p.dtype:
		s.fail("%s: x is %v, for weights of %v", op, x, p.dtype)
	}
	if s.err == nil && y.DType != x.DType && y.DType != kernels.F32 {
		s.fail("%s: y is %v where x is %v", op, y, x)
	}
	s.note(rules.Epilogue(op.String(), e, p.gated))
	s.note(rules.Float(op.String(), "x", x, operands.Any, p.in))
	s.note(rules.Float(op.String(), "y", y, operands.Any, p.out))
	return p
}

// Where Hopper's kernels are: of 16-bit weights, of these for many rows, and of others.
const (
	sm90File        = "sm90_gemm.cu"
	sm90StayingFile = "sm90_gemm_tiles.cu"
	sm90NarrowFile  = "sm90_gemm_narrow.cu"
)

// tiling is one of the kernels of gemm.cu, sm90_gemm.cu or sm90_gemm_narrow.cu.
type tiling struct {
	name         string
	rows, tokens int // packed rows and tokens of a block
	threads      int
	shared       int // bytes, for weights of 2 bytes
}

// stage is the bytes of a row or a token in a stage.
const stage = 64 * 2

var tilings = [...]tiling{
	{"gemm_16", 64, 16, 128, 6 * (64 + 16) * stage},
	{"gemm_32", 64, 32, 128, 5 * (64 + 32) * stage},
	{"gemm_64", 64, 64, 128, 4 * (64 + 64) * stage},
	{"gemm_128", 128, 128, 128, 3 * (128 + 128) * stage},
}

// Those of sm90_gemm.cu have barriers beside their stages. gemm_64 takes all rows that are not aligned to 16 bytes, which no
// model of common sizes has.
var sm90Tilings = [...]tiling{
	{"gemm_16", 64, 16, 128, 7 * ((64+16)*stage + 8)},
	{"gemm_32", 64, 32, 128, 6 * ((64+32)*stage + 8)},
	{"gemm_64", 64, 64, 128, 6 * ((64+64)*stage + 8)},
}

// The one of sm90_gemm_tiles.cu, whose blocks take tile after tile, each of at most so many tokens or of 64 or 128; beside
// stages and barriers there is room for sums on their way.
var stayingTiling = tiling{"gemm_256", 256, 192, 384, 3*((256+192)*stage+32) + 2*29952 + 16}

// expected is how many rows of y a kernel is chosen for, where y has room for so many: of rows that came through a window a
// rank's even share.
func (s *Stream) expected(offsets handle, rows int) int {
	return ceilDiv(rows, max(1, s.shares[offsets]))
}

// stays tells whether stayingTiling is faster than the others for so many rows of y, as an H100 and an H200 have shown. All
// give the same bits.
func (s *Stream) stays(w *weights, rows, experts int) bool {
	t := stayingTiling
	if f := s.dev.forced.tiling; f != "" {
		return f == t.name
	}
	if experts == 1 && rows <= 64 || rows < 32*experts {
		return false
	}
	return ceilDiv(w.paddedRows, t.rows)*tiles(rows, narrowest, experts) >= s.dev.card.processors/2
}

// Tokens of the tiles of stayingTiling are multiples of narrowest; where more is done to sums than to gate them, at most
// widestSums.
const narrowest, widestSums = 64, 128

// width is how many tokens a tile of stayingTiling has, at most widest: of experts that many, and of one matrix so many that
// the last turn of the multiprocessors is not a short one.
func (s *Stream) width(w *weights, rows, experts, widest int) (tokens int) {
	if n := s.dev.forced.width; n > 0 {
		return min(n, widest)
	}
	if experts > 1 {
		return widest
	}
	least := math.MaxInt
	for n := narrowest; n <= widest; n += narrowest {
		t := stayingTiling
		turns := ceilDiv(ceilDiv(w.paddedRows, t.rows)*ceilDiv(rows, n), s.dev.card.processors)
		if cost := turns * (t.rows + n); cost <= least { // by the bytes of a stage
			least, tokens = cost, n
		}
	}
	return tokens
}

// tilesArgs are those of sm90_gemm_tiles.cu.
type tilesArgs struct {
	x [16]uint64
	gemmArgs
	tasks    handle
	plain, _ int32
	_        [4]uint64 // x makes the whole a multiple of 64 bytes
}

// rowsArgs and rowsTilesArgs are those of sm90_gemm.cu and sm90_gemm_tiles.cu where weights lie in rows.
type rowsArgs struct {
	w [16]uint64
	gemmArgs
	_ [6]uint64 // w makes the whole a multiple of 64 bytes
}

type rowsTilesArgs struct {
	w [16]uint64
	tilesArgs
}

// gemmStays enqueues stayingTiling.
func (s *Stream) gemmStays(op opNumber, p program, w *weights, y, x kernels.Tensor, e kernels.Epilogue, experts int, a tilesArgs) {
	const (
		width   = 16 // bytes of a copy
		boxRows = 64
	)
	t := stayingTiling
	widest := widestSums
	if y.DType == x.DType && w.bias == nil && !e.Add && (w.gated && e.Act == kernels.SiLU || !w.gated && e.Act == kernels.Identity) &&
		alignedRows(y, width) && w.out*y.DType.Size()%width == 0 {
		a.plain, widest = 1, t.tokens
	}
	a.most = int32(s.width(w, s.expected(a.offsets, y.Rows), experts, widest))
	if a.tasks = s.takeTasks(op); s.err != nil {
		return
	}
	bytes := x.Stride * x.DType.Size()
	if x.Rows == 1 {
		bytes = ceilDiv(x.Cols*x.DType.Size(), width) * width
	}
	var err error
	if a.x, err = boxesOf(s.dev.ctx, address(x), x.Cols, x.Rows, bytes, boxRows); err != nil {
		s.fail("%s: %w", op, err)
		return
	}
	p.file = sm90StayingFile
	n := ceilDiv(w.paddedRows, t.rows) * tiles(y.Rows, int(a.most), experts)
	g := grid{x: min(n, s.dev.card.processors), threads: t.threads, shared: t.shared}
	if w.inRows {
		enqueue(s, op, kernelKey{p, t.name}, g, &rowsTilesArgs{w.boxes, a})
		return
	}
	enqueue(s, op, kernelKey{p, t.name}, g, &a)
}

// alignedRows tells whether all rows of x begin at multiples of so many bytes.
func alignedRows(x kernels.Tensor, bytes int) bool {
	return int(address(x))%bytes == 0 && (x.Stride*x.DType.Size()%bytes == 0 || x.Rows == 1)
}

// tilingFor is the kernel for so many rows of y, spread over experts: the tile that an expert's share fills, unless
// its blocks are then too few to keep the GPU busy. All give the same bits.
func (s *Stream) tilingFor(tilings []tiling, w *weights, rows int) tiling {
	for _, t := range tilings {
		if t.name == s.dev.forced.tiling {
			return t
		}
	}
	last := len(tilings) - 1
	if w.group > 0 {
		last-- // sums by group take twice the registers
	}
	i := 0
	for i < last && ceilDiv(rows, w.experts) > tilings[i].tokens {
		i++
	}
	for ; i > 1; i-- {
		t := tilings[i]
		if ceilDiv(w.paddedRows, t.rows)*tiles(rows, t.tokens, w.experts) >= s.dev.card.processors {
			break
		}
	}
	return tilings[i]
}

// tiles bounds the tiles of so many tokens that rows, spread over experts, make.
func tiles(rows, tokens, experts int) int {
	if experts == 1 {
		return ceilDiv(rows, tokens)
	}
	return rows/tokens + min(rows, experts)
}

// Those of sm90_gemm_narrow.cu for int8: a row is 64 bytes of a stage.
var sm90Int8Tilings = [...]tiling{
	{"gemm_16", 64, 16, 128, 16 * (64*64 + 16*stage + 8)},
	{"gemm_32", 64, 32, 128, 12 * (64*64 + 32*stage + 8)},
	{"gemm_64", 64, 64, 128, 8 * (64*64 + 64*stage + 8)},
	{"gemm_128", 256, 128, 256, 6 * (256*64 + 128*stage + 8)},
}

// And for MXFP4, of which 64 rows are 2176 bytes, and what comes before tokens whole KiB.
var sm90MXFP4Tilings = [...]tiling{
	{"gemm_16", 64, 16, 128, 10 * (3<<10 + 16*stage + 8)},
	{"gemm_32", 64, 32, 128, 7 * (3<<10 + 32*stage + 8)},
	{"gemm_64", 64, 64, 128, 6 * (3<<10 + 64*stage + 8)},
	{"gemm_128", 256, 128, 256, 6 * (9<<10 + 128*stage + 8)},
}

func (s *Stream) gemm(op opNumber, w *weights, y, x kernels.Tensor, e kernels.Epilogue, a gemmArgs) {
	switch {
	case y.Rows == 0 || w.out == 0:
	case w.inRows && op == opLinear && s.multiplied(op, w, y, x, e):
	default:
		s.gemmOwn(op, w, y, x, e, a)
	}
}

// gemmOwn is gemm by our own kernels, of rows of y of which there are some.
func (s *Stream) gemmOwn(op opNumber, w *weights, y, x kernels.Tensor, e kernels.Epilogue, a gemmArgs) {
	a.x, a.y, a.w, a.fault = matOf(x), matOf(y), w.data.address, s.dev.fault.address
	if w.bias != nil {
		a.bias = w.bias.address
	}
	if w.scale != nil {
		a.scale = w.scale.address
	}
	a.experts, a.rows, a.tokens = int32(w.experts), int32(y.Rows), int32(x.Rows)
	a.in, a.out, a.paddedIn, a.paddedRows = int32(w.in), int32(w.out), int32(w.paddedIn), int32(w.paddedRows)
	a.gated, a.act, a.add, a.group = truth(w.gated), int32(e.Act), truth(e.Add), int32(w.group)
	a.yF32, a.op = truth(y.DType == kernels.F32), int32(op)
	const width = 16 // bytes of a copy
	a.aligned = truth(alignedRows(x, width))
	experts := w.experts
	if a.offsets == 0 {
		experts = 1
	}
	if w.dtype == kernels.F32 {
		const tokens, rows, most = 8, 4, 4 // of a warp; warps of a block
		g := grid{x: ceilDiv(w.paddedRows, rows), y: tiles(y.Rows, tokens, experts), threads: 32}
		if g.x*g.y > 2*most*s.dev.card.processors { // else a multiprocessor for each warp
			g.x, g.threads = ceilDiv(g.x, most), 32*most
		}
		enqueue(s, op, kernelKey{program{file: "gemm_f32.cu", a: x.DType, b: y.DType, limit: limitOf(e)}, "gemm_f32"}, g, &a)
		return
	}
	p, choice := s.dev.gemmFor(x.DType, w.dtype, w.group)
	p.limit = limitOf(e)
	p.rows = w.inRows
	if p.file == sm90File && a.aligned == 1 && s.stays(w, s.expected(a.offsets, y.Rows), experts) {
		s.gemmStays(op, p, w, y, x, e, experts, tilesArgs{gemmArgs: a})
		return
	}
	t := s.tilingFor(choice, w, s.expected(a.offsets, y.Rows))
	g := grid{x: ceilDiv(w.paddedRows, t.rows), y: tiles(y.Rows, t.tokens, experts), threads: t.threads, shared: t.shared}
	if w.inRows {
		enqueue(s, op, kernelKey{p, t.name}, g, &rowsArgs{w: w.boxes, gemmArgs: a})
		return
	}
	enqueue(s, op, kernelKey{p, t.name}, g, &a)
}

// limitOf is a clamped SwiGLU's limit, which products have compiled in; 0: they end otherwise.
func limitOf(e kernels.Epilogue) float32 {
	if e.Act == kernels.ClampedSwiGLU {
		return e.Limit
	}
	return 0
}

// gemmFor is the program for weights of 2 bytes or less, for any number of tokens alike, and its kernels.
func (d *Device) gemmFor(x, w kernels.DType, group int) (program, []tiling) {
	p := program{file: "gemm.cu", a: x, b: w, groups: group > 0}
	switch {
	case d.card.arch() != "sm_90a":
	case w == kernels.MXFP4:
		p.file = sm90NarrowFile
		return p, sm90MXFP4Tilings[:]
	case w != kernels.I8:
		p.file = sm90File
		return p, sm90Tilings[:]
	case group%32 == 0:
		p.file = sm90NarrowFile
		return p, sm90Int8Tilings[:]
	}
	return p, tilings[:]
}
