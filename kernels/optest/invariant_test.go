package optest

import (
	"math"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
)

// splitter is a back end whose sums are cut into as many parts as there are rows: as a kernel does that spreads a small
// batch over all cores of a device. Each part, and each result, is as exact as float32 allows.
type splitter struct{ kernels.Device }

type splitterStream struct{ kernels.Stream }

func (d splitter) NewStream() (kernels.Stream, error) {
	s, err := d.Device.NewStream()
	return splitterStream{s}, err
}

// splitSum is Σ f(i) for i below n, in parts.
func splitSum(n, parts int, f func(int) float32) float32 {
	var sum float32
	for p := range parts {
		var part float32
		for i := p * n / parts; i < (p+1)*n/parts; i++ {
			part += f(i)
		}
		sum += part
	}
	return sum
}

func (s splitterStream) read(t kernels.Tensor) []float64 {
	b := make([]byte, t.Bytes())
	s.Read(b, t)
	return decode(t.DType, b)
}

// Norm is RMSNorm.
func (s splitterStream) Norm(y, x, delta kernels.Tensor, n kernels.Norm) {
	s.Add(x, delta)
	values, weight := s.read(x), s.read(n.Weight)
	for at := 0; at < len(values); at += x.Cols {
		row := values[at : at+x.Cols]
		sum := splitSum(len(row), x.Rows, func(i int) float32 { return float32(row[i]) * float32(row[i]) })
		scale := 1 / math.Sqrt(float64(sum)/float64(len(row))+float64(n.Eps))
		for i := range row {
			row[i] = float64(float32(row[i] * scale * weight[i]))
		}
	}
	s.Write(y, encode(y.DType, values))
}

func (s splitterStream) Score(logprob, greedy, logits, target kernels.Tensor, vocab int) {
	s.Stream.Score(logprob, greedy, logits, target, vocab)
	x, at := s.read(logits), s.read(target)
	result := make([]float64, logits.Rows)
	for r := range result {
		row := x[r*logits.Cols:][:vocab]
		top := row[bestByDefinition(row)]
		sum := splitSum(vocab, logits.Rows, func(i int) float32 { return float32(math.Exp(row[i] - top)) })
		result[r] = roundTo(kernels.F32, row[int(at[r])]-top-math.Log(float64(sum)))
	}
	s.Write(logprob, encode(kernels.F32, result))
}

// TestOrderDependentSumsAreFound shows that the invariance cases fail a back end whose sums depend on the number of
// rows, and pass the one below it.
func TestOrderDependentSumsAreFound(t *testing.T) {
	dev, err := cpu.New(cpu.Options{Level: "reference", Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for name, check := range map[string]func(*kit) error{"norm": invariantNorm, "score": invariantScore} {
		if err := check(newKit(t, dev, Tolerances{}, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		err := check(newKit(t, splitter{dev}, Tolerances{}, name))
		if err == nil || !strings.Contains(err.Error(), "has other bits") {
			t.Errorf("%s: sums that depend on the number of rows pass: %v", name, err)
		}
	}
}
