// Package operands says what an op asks of its tensors before anything is computed: element types, shapes, and that each
// lies inside memory of the device. Back ends ask it, so that a caller's mistake is refused, in the same words, by all.
//
// Errors name the op, the operand, what it is and what it should be. What only values tell (an id outside a table), and
// what only a back end knows (how its weights are packed), is checked there.
package operands

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// Any as rows or columns lets any number pass.
const Any = -1

// Rules is what a back end says of itself.
type Rules struct {
	AnyFloat bool // activations may be of any float type, all of an op of the same; else they are float32
	// Extent is the bytes of memory of this back end, 0 once it was freed; ok is false of another's.
	Extent func(kernels.Memory) (bytes int64, ok bool)
}

// Tensor is an error unless t is a tensor [rows, cols] of type d inside memory of the back end. op and name tell whose
// operand it is.
func (r *Rules) Tensor(op, name string, t kernels.Tensor, d kernels.DType, rows, cols int) error {
	c := check{rules: r, op: op}
	c.tensor(name, t, d, rows, cols)
	return c.err
}

// Float is Tensor for any of the float types.
func (r *Rules) Float(op, name string, t kernels.Tensor, rows, cols int) error {
	c := check{rules: r, op: op}
	c.float(name, t, rows, cols)
	return c.err
}

// Vector is Tensor for I32 vectors [1, at least n], the ids and tables that a caller keeps longer than a step.
func (r *Rules) Vector(op, name string, t kernels.Tensor, n int) error {
	c := check{rules: r, op: op}
	c.vector(name, t, n)
	return c.err
}

// Bytes is an error unless t, of any type and shape, takes n bytes when its rows are adjacent.
func (r *Rules) Bytes(op string, t kernels.Tensor, n int) error {
	c := check{rules: r, op: op}
	if int64(n) != t.Bytes() {
		c.fail("%d bytes for %v, want %d", n, t, t.Bytes())
	}
	c.tensor("tensor", t, t.DType, Any, Any)
	return c.err
}

// Cache is k as the back end's own type C, for an op on one of its layers.
func Cache[C kernels.Cache](op string, k kernels.Cache, layer int) (C, error) {
	c, ok := k.(C)
	if !ok {
		return c, fmt.Errorf("%s: the cache is %T, which is none of this device", op, k)
	}
	if n := c.Spec().Layers; layer < 0 || layer >= n {
		return c, fmt.Errorf("%s: layer %d of a cache of %d", op, layer, n)
	}
	return c, nil
}

// Size is the bytes of a new tensor; what names it in errors.
func Size(what string, d kernels.DType, rows, cols int) (int64, error) {
	if rows < 0 || cols < 0 || d.Size() == 0 || (rows > 0 && cols > math.MaxInt/8/rows) {
		return 0, fmt.Errorf("%s: %v [%d, %d] is no tensor", what, d, rows, cols)
	}
	return int64(rows) * int64(cols) * int64(d.Size()), nil
}

// check is the checks of one op, up to the first that fails.
type check struct {
	rules *Rules
	op    string
	err   error
}

// fail notes the first error. Call it in the branch that found it: arguments that are made ready for an error that is not
// there cost every op an allocation each.
func (c *check) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%s: "+format, append([]any{c.op}, args...)...)
	}
}

func (c *check) tensor(name string, t kernels.Tensor, d kernels.DType, rows, cols int) {
	switch {
	case c.err != nil:
	case t.None():
		c.fail("%s is missing", name)
	case t.DType != d, rows != Any && t.Rows != rows, cols != Any && t.Cols != cols:
		c.fail("%s is %v, want %v [%s, %s]", name, t, d, sizeText(rows), sizeText(cols))
	default:
		c.memory(name, t)
	}
}

func sizeText(n int) string {
	if n == Any {
		return "any"
	}
	return fmt.Sprint(n)
}

func (c *check) memory(name string, t kernels.Tensor) {
	all, ours := c.rules.Extent(t.Mem)
	if !ours {
		c.fail("%s lies in %T, which is no memory of this device", name, t.Mem)
		return
	}
	if t.Rows <= 0 || t.Cols <= 0 {
		return
	}
	size := int64(t.DType.Size())
	end := t.Offset + (int64(t.Rows-1)*int64(t.Stride)+int64(t.Cols))*size
	if t.Offset < 0 || t.Offset%size != 0 || t.Stride < t.Cols && t.Rows > 1 || end > all {
		c.fail("%s %v, stride %d, at byte %d leaves its memory of %d bytes", name, t, t.Stride, t.Offset, all)
	}
}

// float is tensor for any of the float types.
func (c *check) float(name string, t kernels.Tensor, rows, cols int) {
	if c.err == nil && !t.None() && !t.DType.IsFloat() {
		c.fail("%s is %v, want a float type", name, t)
	}
	c.tensor(name, t, t.DType, rows, cols)
}

// activation is tensor for the types that activations may have.
func (c *check) activation(name string, t kernels.Tensor, rows, cols int) {
	if c.rules.AnyFloat {
		c.float(name, t, rows, cols)
		return
	}
	c.tensor(name, t, kernels.F32, rows, cols)
}

// vector is tensor for I32 vectors [1, at least n].
func (c *check) vector(name string, t kernels.Tensor, n int) {
	if c.err == nil && !t.None() && t.Cols < n {
		c.fail("%s is %v, want at least %d columns", name, t, n)
	}
	c.tensor(name, t, kernels.I32, 1, Any)
}
