package ckpt

import "context"

// partBytes is how much of a tensor is in memory at a time where it is only passed through.
const partBytes = 8 << 20

// Parts hands a tensor's bytes to f in order, some megabytes at a time, each good until f returns. Its memory does not
// grow with the tensor. An error of f ends it, and so does ctx.
func (t Tensor) Parts(ctx context.Context, f func([]byte) error) error { return t.parts(ctx, 0, f) }

// parts cuts along the axes from axis on; those before have one element.
func (t Tensor) parts(ctx context.Context, axis int, f func([]byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	size := t.Size()
	if size <= partBytes || axis == len(t.Shape) {
		b, err := t.Bytes()
		if err == nil {
			err = f(b)
		}
		t.Release()
		return err
	}
	n := t.Shape[axis]
	step := max(partBytes/(size/n), 1)
	for from := int64(0); from < n; from += step {
		p, err := t.Slice(axis, from, min(from+step, n))
		if err == nil {
			err = p.parts(ctx, axis+1, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
