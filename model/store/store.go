// Package store is what is done to stored models without running them: Verify reads one whole, Convert writes any as
// safetensors, Quantize so in 8 bits, Reshard as the slices that ranks hold. Tensors pass through a few megabytes at a time.
package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
)

// errUnknownFamily marks a checkpoint whose config names no family that has a policy.
var errUnknownFamily = errors.New("no policy")

// look tells what a checkpoint holds by its own config, for tp ranks.
func look(ctx context.Context, c *ckpt.Checkpoint, tp int) (*model.Contents, error) {
	facts := model.NewFacts(c.Config().Source, c.Config().Values)
	policy, err := policies.Find(facts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnknownFamily, err)
	}
	shape, err := policy.Configure(facts)
	if err != nil {
		return nil, err
	}
	return model.Look(ctx, c, policy, shape, tp)
}

// fitting is look for what is to be rewritten: contradictions between config and tensors are errors.
func fitting(ctx context.Context, c *ckpt.Checkpoint, tp int) (*model.Contents, error) {
	held, err := look(ctx, c, tp)
	if err == nil {
		err = errors.Join(held.Faults...)
	}
	return held, err
}

// Convert writes a checkpoint as safetensors at to (ckpt.Convert). dtype 0 keeps every bit; F32, BF16 and F16 round what a
// run's --dtype rounds, the weights of linear operations, so that the outputs of such a run have the same bits from
// either checkpoint.
func Convert(ctx context.Context, c *ckpt.Checkpoint, to string, dtype kernels.DType) error {
	o := ckpt.ConvertOptions{DType: stored[dtype]}
	if dtype != 0 {
		held, err := fitting(ctx, c, 1)
		if err != nil {
			return err
		}
		o.Narrow = func(name string) bool { return held.Linear[name] }
	}
	return ckpt.Convert(ctx, c, to, o)
}

// Quantize writes a checkpoint as safetensors at to, the weights of linear operations in 8 bits, with a scale for each output:
// what a run with --dtype int8 would make of them at its start. Gates, norms, biases and embeddings stay as they are.
func Quantize(ctx context.Context, c *ckpt.Checkpoint, to string) error {
	held, err := fitting(ctx, c, 1)
	if err != nil {
		return err
	}
	axis := 0
	if held.Transposed {
		axis = 1
	}
	return ckpt.Quantize(ctx, c, to, func(name string) bool { return held.Linear[name] }, axis)
}

// stored is how a checkpoint calls the types that weights are computed in.
var stored = map[kernels.DType]ckpt.DType{kernels.F32: ckpt.F32, kernels.BF16: ckpt.BF16, kernels.F16: ckpt.F16}
