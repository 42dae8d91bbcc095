package cuda

import (
	_ "embed"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/optest"
)

//go:embed testdata/splitk.cu
var splitSource string

// splitDevice is a GPU whose products of one matrix are made by testdata/splitk.cu: the first part of the weights, no more.
type splitDevice struct {
	*Device
	slices func(rows, out, in int) int
	sums   kernels.Tensor
}

type splitStream struct {
	*Stream
	of *splitDevice
}

// splitWeights are [out, in] in float32, whatever they pass for.
type splitWeights struct {
	w     kernels.Tensor
	dtype kernels.DType
}

func (w splitWeights) DType() kernels.DType { return w.dtype }
func (w splitWeights) Experts() int         { return 1 }
func (w splitWeights) Out() int             { return w.w.Rows }
func (w splitWeights) In() int              { return w.w.Cols }
func (w splitWeights) Bytes() int64         { return w.w.Bytes() }
func (w splitWeights) Free()                { w.w.Mem.Free() }

type splitArgs struct {
	y, x, w               mat
	sums                  handle
	rows, out, in, slices int32
}

func (d *splitDevice) NewStream() (kernels.Stream, error) {
	s, err := d.newStream()
	return splitStream{s, d}, err
}

func (d *splitDevice) Pack(what string, s kernels.WeightSpec) (kernels.Weights, error) {
	w, err := d.Upload(what, kernels.F32, s.Experts[0].Parts[0])
	return splitWeights{w, s.DType}, err
}

func (s splitStream) Linear(y, x kernels.Tensor, w kernels.Weights, _ kernels.Epilogue) {
	if y.Rows == 0 {
		return
	}
	m := w.(splitWeights).w
	a := splitArgs{y: matOf(y), x: matOf(x), w: matOf(m), sums: address(s.of.sums), rows: int32(y.Rows), out: int32(y.Cols), in: int32(x.Cols)}
	n := s.of.slices(y.Rows, y.Cols, x.Cols)
	a.slices = int32(n)
	p := program{file: "splitk.cu", a: x.DType}
	enqueue(s.Stream, opLinear, kernelKey{p, "multiply"}, grid{x: y.Cols, y: y.Rows, z: n, threads: 32}, &a)
	enqueue(s.Stream, opLinear, kernelKey{p, "add"}, grid{x: ceilDiv(y.Cols, 32), y: y.Rows, threads: 32}, &a)
}

// TestSplitKIsFound: the invariance cases fail an ordinary split-K product on the card, and pass the same one when its slices
// are always as many.
func TestSplitKIsFound(t *testing.T) {
	types := []kernels.DType{kernels.F32, kernels.BF16, kernels.F16}
	compile := func(arch string, p program) []byte {
		_, headers, err := (program{file: "copy.cu"}).source()
		if err != nil {
			t.Fatal(err)
		}
		image, log, err := compileProgram(p.file, splitSource, headers, p.options(arch))
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		return image
	}
	if err := openCompiler(findCompiler(t)); err != nil {
		t.Skipf("NOTHING WAS COMPILED: %v", err)
	}
	if _, err := Count(); err != nil {
		compile("sm_80", program{file: "splitk.cu", a: kernels.BF16}) // so that it is known to be right before there is a card
	}
	d := open(t, Options{NoGraphs: true})
	for _, dt := range types {
		p := program{file: "splitk.cu", a: dt}
		module, err := moduleLoad(d.ctx, compile(d.card.arch(), p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := moduleFree(d.ctx, module); err != nil {
				t.Error(err)
			}
		})
		for _, name := range []string{"multiply", "add"} {
			f, err := moduleFunction(d.ctx, module, name, d.card.shared)
			if err != nil {
				t.Fatal(err)
			}
			d.programs.kernels[kernelKey{p, name}] = f
		}
	}
	const most = 16 // slices
	sums, err := d.Alloc("sums of slices", kernels.F32, most, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	defer sums.Mem.Free()
	always := &splitDevice{d, func(int, int, int) int { return 4 }, sums}
	if err := optest.Invariant(t, always, "Linear"); err != nil {
		t.Errorf("slices that are always as many: %v", err)
	}
	ordinary := &splitDevice{d, func(rows, out, _ int) int { // tiles of 16 rows by 64 outputs fill the card once
		return min(max(d.card.processors/(ceilDiv(rows, 16)*ceilDiv(out, 64)), 1), most)
	}, sums}
	if err := optest.Invariant(t, ordinary, "Linear"); err == nil || !strings.Contains(err.Error(), "has other bits") {
		t.Errorf("split-K, whose slices follow from the number of rows, passes: %v", err)
	}
}
