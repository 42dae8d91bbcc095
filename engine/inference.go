package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/mpi"
)

// InitInference loads a model for this process alone, as deepspeed.init_inference does. model is a folder or a
// checkpoint JSON, or "" where the field checkpoint tells; config is nil, the path of a JSON file, or a map[string]any with the fields of
// DeepSpeedInferenceConfig; kwargs are further fields, which win over config's. All four combinations of the two are
// valid. Deprecated names are taken with a warning in the log.
func InitInference(ctx context.Context, model string, inference any, kwargs map[string]any) (*Engine, error) {
	return InitInferenceOver(ctx, mpi.Alone(), model, inference, kwargs)
}

// InitInferenceOver is InitInference over a world of ranks, all of which call it together with the same arguments:
// tensor_parallel, moe.ep_size and the groups of ranks lay the model out over them. The world stays the caller's. What the
// fields of DeepSpeed have no name for, such as stages of layers, Open takes.
func InitInferenceOver(ctx context.Context, world mpi.World, model string, inference any, kwargs map[string]any) (*Engine, error) {
	in, warnings, err := config.ParseInference(inference, kwargs)
	for _, w := range warnings {
		slog.Warn(w.String())
	}
	if err != nil {
		return nil, err
	}
	if c := in.Model(); c != "" && model != "" && model != in.Checkpoint.Path {
		return nil, fmt.Errorf("%w: checkpoint: it stands for the model (in %s), and another one is given, %s; give one of them", ErrRefused, c, model)
	}
	job := config.New()
	job.Model, job.Inference = cmp.Or(model, in.Model()), in
	job.DType, job.Offload = in.DType, cmp.Or(in.Offload.Device, job.Offload)
	job.TP, job.EP = max(in.TensorParallel.Size, 1), in.MoE.EPSize
	return Open(ctx, world, job)
}

// inferenceFits holds the section inference: against the model that was found.
func (e *Engine) inferenceFits() error {
	in, c := &e.job.Inference, &e.shape
	var errs []error
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...)))
	}
	if in.CUDAGraph != nil && *in.CUDAGraph && !e.onGPU() {
		refuse("enable_cuda_graph: %s has no graphs; leave it out, or use --device cuda", e.device.Name())
	}
	if e.onGPU() {
		errs = append(errs, e.fusedOnGPU())
	}
	if p := in.Offload.Pinned; e.offloads() && p != nil && !*p {
		refuse("zero.offload_param.pin_memory false: a GPU reads the weights of later layers while it computes, which it can from pinned memory only; leave it out, or write true")
	}
	if in.TriangularMask != nil && *in.TriangularMask == c.Bidirectional {
		sees := map[bool]string{false: "earlier tokens only", true: "later tokens, too"}[c.Bidirectional]
		refuse("triangular_masking %v: a token of %s sees %s; leave it out", *in.TriangularMask, c.Family, sees)
	}
	experts, residual := expertCounts(c)
	if want := in.MoE.Enabled; want != nil && *want != (len(experts) > 0) {
		refuse("moe.enabled %v: the checkpoint has %d MoE layers; leave it out", *want, len(experts))
	}
	if want := in.MoE.Experts; len(want) > 0 && !slices.Equal(want, experts) && !(len(want) == 1 && allEqual(experts, want[0])) {
		refuse("moe.moe_experts %v: the checkpoint's MoE layers have %v experts; write that, or leave it out", want, experts)
	}
	if want := in.MoE.Type; want != "" && (want == "residual") != residual {
		refuse("moe.type %s: the checkpoint's MoE layers are not of that type; leave it out", want)
	}
	have := 1.0 // a Hugging Face model is whole
	if n, cut := e.checkpoint.Config().Values["tensor_model_parallel_size"].(float64); cut {
		have = n
	}
	if want := in.TrainingMPSize; want > 0 && float64(want) != have {
		refuse("training_mp_size %d: the checkpoint's tensors are in %v slices; write that, or leave it out", want, have)
	}
	return errors.Join(errs...)
}

// expertCounts are the experts of each MoE layer, and whether these are residual ones.
func expertCounts(c *model.Config) (experts []int, residual bool) {
	for _, m := range c.MoE {
		if m.Gate.Experts > 0 {
			experts = append(experts, m.Gate.Experts)
			residual = residual || m.Residual
		}
	}
	return experts, residual
}

// expertsAreMeant refuses settings of experts that a model without any would pass over unseen; sizes of ep and es are refused
// by comm.Ranks.
func (e *Engine) expertsAreMeant() error {
	if experts, _ := expertCounts(&e.shape); len(experts) > 0 {
		return nil
	}
	switch j := e.job; {
	case j.DropTokens:
		return fmt.Errorf("%w: --drop-tokens: the model has no experts, so there is no token to drop; leave it out", ErrRefused)
	case j.ExpertPlacement != "":
		return fmt.Errorf("%w: --expert-placement %s: the model has no experts to place; leave it out", ErrRefused, j.ExpertPlacement)
	case j.ExpertOutputBias != "" && j.ExpertOutputBias != "auto":
		return fmt.Errorf("%w: --expert-output-bias %s: the model has no experts; leave it out", ErrRefused, j.ExpertOutputBias)
	}
	return nil
}

func allEqual(list []int, v int) bool {
	return !slices.ContainsFunc(list, func(x int) bool { return x != v }) && len(list) > 0
}
