package engine

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/model"
)

// groupsFit holds MoQ's groups against what int8 is here, a scale for each output of a weight. MoQ cuts the elements of a
// weight [out, in], row by row, into groups of out·in/groups: a scale an output where groups = out. Any other number is
// refused: fewer groups give several outputs one scale, the largest of theirs, so that each output's steps are as coarse
// as the coarsest's, and more cut the inputs, over which a product is summed up.
func (e *Engine) groupsFit(ctx context.Context) error {
	in := &e.job.Inference
	if in.Quant.Groups == 0 {
		return nil
	}
	held, err := model.Look(ctx, e.checkpoint, e.policy, e.shape, 1)
	if err != nil {
		return err
	}
	for _, name := range e.checkpoint.Names() {
		t, _ := e.checkpoint.Tensor(name)
		if !held.Linear[name] || len(t.Shape) != 2 {
			continue
		}
		rows, cols := t.Shape[0], t.Shape[1]
		if held.Transposed {
			rows, cols = cols, rows
		}
		groups := int64(in.Quant.Groups)
		if in.Quant.ExtraMLPGrouping && (rows == 4*cols || cols == 4*rows) { // by which DeepSpeed knows an MLP's
			groups *= 2
		}
		if groups != rows {
			return fmt.Errorf("%w: quant: %d groups of %s [%d, %d] would be %.4g of its elements each; int8 has a scale for each of its %d outputs, %d elements, which is finer wherever there are fewer groups; leave the groups out",
				ErrRefused, groups, name, rows, cols, float64(rows*cols)/float64(groups), rows, cols)
		}
	}
	return nil
}
