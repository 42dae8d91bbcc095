// Package optest is the cases that every back end of package kernels must pass.
//
// Each op is compared with its definition, computed naively in float64 from what the device's types can hold. Tensors
// are strided views into poisoned memory: a value read from outside a view is a NaN, a byte written there is noticed.
// Shapes are odd, some are empty. Rows must have the same bits alone, among others and in another order (promise 1).
package optest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// Tolerances bound the errors of a back end by type: of results that are sums, relative to the sum of the terms'
// magnitudes; of others, relative to the largest magnitude that the op passes through.
type Tolerances struct {
	F32  float64 // float32 activations and float32 weights, caches and tables
	BF16 float64 // where activations or weights are bfloat16, or weights mxfp4
	F16  float64 // where activations or weights are float16
	I8   float64 // int8 weights, activations quantised if the back end does so
}

func (t Tolerances) of(d kernels.DType) float64 {
	switch d {
	case kernels.BF16, kernels.MXFP4:
		return t.BF16
	case kernels.F16:
		return t.F16
	case kernels.I8:
		return t.I8
	}
	return t.F32
}

// Run runs the cases of some ops on dev, or of all. Subtests have the names of the ops.
func Run(t *testing.T, dev kernels.Device, tol Tolerances, ops ...string) {
	wanted := func(op string) bool { return len(ops) == 0 || slices.Contains(ops, op) }
	for _, c := range []struct {
		name string
		test func(*kit)
	}{
		{"Copy", testCopy},
		{"Add", testAdd},
		{"Tanh", testTanh},
		{"Submit", testSubmit},
		{"Reduce", testReduce},
		{"Select", testSelect},
		{"Embed", testEmbed},
		{"Norm", testNorm},
		{"Linear", testLinear},
		{"Grouped", testGrouped},
		{"MXFP4", testMXFP4},
		{"Store", testStore},
		{"Attention", testAttention},
		{"Gate", testGate},
		{"LimitedGate", testLimitedGate},
		{"Drop", testDrop},
		{"Table", testTable},
		{"Gating", testGating},
		{"Combine", testCombine},
		{"Mix", testMix},
		{"Score", testScore},
		{"Sample", testSample},
		{"Errors", testErrors},
	} {
		if wanted(c.name) {
			t.Run(c.name, func(t *testing.T) { c.test(newKit(t, dev, tol, c.name)) })
		}
	}
	for _, c := range invariants {
		if !wanted(c.name) {
			continue
		}
		t.Run("Invariant/"+c.name, func(t *testing.T) {
			if err := c.check(newKit(t, dev, tol, c.name)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Invariant runs the case of an op that finds results that depend on the rows beside them, and tells what it found: for
// tests of the case itself.
func Invariant(t *testing.T, dev kernels.Device, op string) error {
	for _, c := range invariants {
		if c.name == op {
			return c.check(newKit(t, dev, Tolerances{}, op))
		}
	}
	return fmt.Errorf("no case of %s", op)
}

// activations are the types that the device computes in, each once.
func (k *kit) activations() (types []kernels.DType) {
	seen := map[kernels.DType]bool{}
	for _, w := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16} {
		if d := k.dev.Activations(w); !seen[d] {
			seen[d] = true
			types = append(types, d)
		}
	}
	return types
}
