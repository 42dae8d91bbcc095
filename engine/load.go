package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/tokenizer"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/shard"
)

// prepare opens device, checkpoint and tokenizer, forms the groups of ranks and plans the memory: all that can be refused
// is refused here, before the first weight is read. All ranks call it; an error of one is an error of all.
func (e *Engine) prepare(ctx context.Context) error {
	if err := together(ctx, e.world, e.inspect()); err != nil {
		return err
	}
	if err := e.sameModel(ctx); err != nil {
		return err
	}
	if e.injected != nil && e.world.Rank() == 0 {
		for _, part := range e.injected.Understood {
			slog.Info("a block that no policy is for was understood so", "part", part)
		}
		slog.Warn("what its files do not tell is taken to be as in most families that are known", "assumed", strings.Join(e.injected.Assumed, "; "))
	}
	if n := e.shape.Predictors; n > 0 && e.world.Rank() == 0 {
		slog.Info("layers that predict further tokens (num_nextn_predict_layers) are not run, and not read", "layers", n, "from", e.shape.Layers)
	}
	if err := e.lay(ctx, e.wayOfRows); err != nil {
		return err
	}
	return together(ctx, e.world, e.planSaving(ctx))
}

// lay lays the job out over the ranks: device, groups, exchanges by way, and the memory that it would take.
func (e *Engine) lay(ctx context.Context, way func(context.Context) (comm.AllToAllOptions, error)) error {
	if err := e.openDevice(ctx); err != nil {
		return err
	}
	if err := together(ctx, e.world, errors.Join(e.inferenceFits(), e.groupsFit(ctx))); err != nil {
		return err
	}
	var err error
	if e.groups, err = comm.Form(ctx, e.world, e.layout); err != nil {
		return err
	}
	if e.place, err = newPlace(ctx, e.world, e.groups, e.foreseen); err != nil {
		return err
	}
	rows, err := way(ctx)
	if err != nil {
		return err
	}
	if err := e.connect(rows); err != nil {
		return err
	}
	if e.connected != nil {
		e.connected(e)
	}
	if err := together(ctx, e.world, e.survey(ctx)); err != nil {
		return err
	}
	if err := together(ctx, e.world, e.fit(ctx)); err != nil {
		return err
	}
	return together(ctx, e.world, e.hostHolds(ctx))
}

// inspect settles what follows from the job and the checkpoint alone, without asking another rank.
func (e *Engine) inspect() (err error) {
	if e.checkpoint == nil {
		if e.checkpoint, err = openModel(e.job); err != nil {
			return err
		}
	}
	if e.policy, e.shape, e.injected, err = describe(e.checkpoint, e.job); err != nil {
		return err
	}
	if e.job.Output != "" { // a caller in Go may have any of them done, and is told then
		if err := e.taskFits(e.job); err != nil {
			return err
		}
	}
	e.dtype = weightType(e.checkpoint, e.job)
	if err := e.readTokenizer(); err != nil {
		return err
	}
	if err := errors.Join(e.limits(), e.expertsAreMeant(), e.findMask()); err != nil {
		return err
	}
	if e.layout, err = e.ranks(); err != nil {
		return err
	}
	return e.placeExperts()
}

// openModel opens the checkpoint that a job names or describes.
func openModel(job *config.Job) (*ckpt.Checkpoint, error) {
	in := &job.Inference
	o := ckpt.Options{Tag: job.Tag, BaseDir: in.BaseDir, ModuleKey: in.ModuleKey}
	if in.Checkpoint.Description == nil {
		return ckpt.Open(job.Model, o)
	}
	text, err := json.Marshal(in.Checkpoint.Description)
	if err != nil {
		return nil, fmt.Errorf("%w: checkpoint: %w", ErrRefused, err)
	}
	return ckpt.OpenDescription(text, o)
}

// survey checks every tensor's name and shape.
func (e *Engine) survey(ctx context.Context) (err error) {
	e.model, err = model.Survey(ctx, e.checkpoint, e.policy, e.shape, e.device, e.loadOptions())
	if errors.Is(err, model.ErrSlices) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", e.job.Model, err)
	}
	e.identity.dtype, e.identity.arch = e.dtype.String(), e.device.Arch()
	return e.headFits()
}

// describe finds the family and shape of a checkpoint, with what the job changes in it.
func describe(c *ckpt.Checkpoint, job *config.Job) (model.Policy, model.Config, *policies.Injected, error) {
	values := map[string]any{}
	maps.Copy(values, c.Config().Values)
	maps.Copy(values, job.Inference.ModelConfig)
	if bias := job.ExpertOutputBias; bias != "" && bias != "auto" {
		values["expert_output_bias"] = bias
	}
	facts := model.NewFacts(cmp.Or(c.Config().Source, c.Path), values)
	policy, injected, err := findPolicy(c, facts, &job.Inference)
	if err != nil {
		return policy, model.Config{}, nil, err
	}
	shape, err := policy.Configure(facts)
	if err == nil && injected == nil {
		err = errors.Join(configMatters(c, facts, &job.Inference), injectionFits(c, policy, &shape, &job.Inference))
	}
	if err != nil {
		return policy, shape, nil, err
	}
	for layer := range shape.MoE {
		shape.MoE[layer].Gate.Scale = cmp.Or(shape.MoE[layer].Gate.Scale, 1)
	}
	return policy, shape, injected, nil
}

// configMatters refuses a value of inference: config: that no part of the model asks for, as a misspelt one is. One that
// merely stands in the model's own config, too, may.
func configMatters(c *ckpt.Checkpoint, facts model.Facts, in *config.Inference) error {
	for _, key := range slices.Sorted(maps.Keys(in.ModelConfig)) {
		if _, there := c.Config().Values[key]; !there && !facts.Asked(key) {
			return fmt.Errorf("%w: config: %s: neither %s has it nor does dsbatch ask for it; is it misspelt? leave it out", ErrRefused, key, c.Config().Source)
		}
	}
	return nil
}

// weightType is the type of the weights: what the job asks for, else the checkpoint's own. On a CPU fp16 weights are
// computed in float32 like all others.
func weightType(c *ckpt.Checkpoint, job *config.Job) kernels.DType {
	switch job.DType {
	case config.FP32:
		return kernels.F32
	case config.BF16:
		return kernels.BF16
	case config.FP16:
		return kernels.F16
	case config.INT8:
		return kernels.I8
	}
	return storedType(c)
}

// storedType is the type of most of a checkpoint's weights; of one that was quantized, int8. FP8 is computed in bfloat16.
func storedType(c *ckpt.Checkpoint) kernels.DType {
	var most int64
	dtype := kernels.F32
	bytes := map[ckpt.DType]int64{}
	for _, name := range c.Names() {
		t, _ := c.Tensor(name)
		if t.Quantized() {
			values, _ := t.Stored()
			if values.DType == ckpt.I8 {
				return kernels.I8
			}
			t.DType = ckpt.BF16
		}
		n := t.DType.Size()
		for _, d := range t.Shape {
			n *= d
		}
		bytes[t.DType] += n
		if bytes[t.DType] <= most {
			continue
		}
		switch t.DType {
		case ckpt.F32:
			dtype = kernels.F32
		case ckpt.BF16:
			dtype = kernels.BF16
		case ckpt.F16:
			dtype = kernels.F16
		default:
			continue
		}
		most = bytes[t.DType]
	}
	return dtype
}

// readTokenizer reads the model folder's tokenizer, if it has one, and settles the end tokens: generation_config.json
// before config.json before the tokenizer's own.
func (e *Engine) readTokenizer() error {
	folder, shape := e.checkpoint.Path, &e.shape
	if st, err := os.Stat(folder); err == nil && !st.IsDir() {
		folder = filepath.Dir(folder)
	}
	t, err := (*tokenizer.Tokenizer)(nil), tokenizer.ErrMissing
	if e.checkpoint.Format != ckpt.Memory {
		t, err = tokenizer.Load(folder)
	}
	switch {
	case errors.Is(err, tokenizer.ErrMissing):
		if e.job.IDsColumn == "" && e.job.Output != "" { // a caller in Go may only look
			return fmt.Errorf("%w: %s has no tokenizer (tokenizer.json, vocab.txt, tokenizer.model, or vocab.json and merges.txt); put one there, or give token ids with --ids-column", ErrRefused, folder)
		}
		if len(e.job.Stop) > 0 {
			return fmt.Errorf("%w: --stop: %s has no tokenizer that would turn tokens into texts; put one there, or leave --stop out", ErrRefused, folder)
		}
	case err != nil:
		return fmt.Errorf("%w: the tokenizer cannot be used: %w", ErrRefused, err)
	default:
		if t.Size() > shape.Vocab {
			return fmt.Errorf("%w: the tokenizer in %s has ids up to %d, but the model's embedding has %d rows; is it another model's tokenizer?", ErrRefused, folder, t.Size()-1, shape.Vocab)
		}
		e.tokenizer = t
	}
	if err := e.readChats(folder); err != nil {
		return err
	}
	if err := e.tellPooling(folder); err != nil {
		return err
	}
	generation, err := readJSON(filepath.Join(folder, "generation_config.json"))
	if err != nil {
		return err
	}
	facts := model.NewFacts("generation_config.json", generation)
	if ids := facts.IDs("eos_token_id"); len(ids) > 0 {
		shape.EOS = ids
	}
	if err := facts.Err(); err != nil {
		return err
	}
	if len(shape.EOS) == 0 && e.tokenizer != nil {
		if id, known := e.tokenizer.EOS(); known {
			shape.EOS = []int32{id}
		}
	}
	e.eos = shape.EOS
	return nil
}

// readJSON is an object in a file, nil where there is no file.
func readJSON(path string) (map[string]any, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// ranks is the layout of the ranks that the job asks for.
func (e *Engine) ranks() (*comm.Layout, error) {
	experts, _ := expertCounts(&e.shape)
	in := &e.job.Inference
	tp := e.job.TP
	if in.TensorParallel.Group != nil && in.TensorParallel.Size == 0 && tp == 1 {
		tp = 0 // the groups tell
	}
	sizes := comm.Sizes{World: e.world.Size(), TP: tp, PP: e.job.PP, EP: e.job.EP, ES: cmp.Or(e.job.ES, comm.AutoES), Experts: experts,
		TPGroups: in.TensorParallel.Group, EPGroups: in.MoE.Group, ESGroups: in.MoE.SliceWith}
	layout, err := comm.Ranks(sizes)
	switch {
	case err != nil && sizes.World == 1 && (len(experts) > 0 || tp > 1 || sizes.PP > 1):
		return nil, fmt.Errorf("%w: %w, or start more ranks: with mpirun -n N, srun, or --ranks N", ErrRefused, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if dp := e.job.DP; dp > 0 && dp != layout.DP {
		return nil, fmt.Errorf("%w: dp %d: ranks %d with tp %d and pp %d give dp %d; leave --dp out, or give as many ranks as dp times tp times pp",
			ErrRefused, dp, e.world.Size(), layout.TP, layout.PP, layout.DP)
	}
	return layout, nil
}

func (e *Engine) loadOptions() model.LoadOptions {
	o := model.LoadOptions{DType: e.dtype, Stage: e.place.stage, Stages: e.place.stages, Progress: e.loaded, Experts: e.exchange,
		Offload: e.offloaded, Buffers: e.job.Inference.Offload.Buffers,
		Widened: func(what, why string) {
			slog.Info("weights in MXFP4 take the memory of bf16", "first", what, "because", why)
		},
		Placement: func(layer int) []shard.Place { return e.places[layer] }}
	if e.place.ranks > 1 {
		o.TP = e.groups.TP
	}
	if e.job.TPInvariant {
		o.Slices = invariantSlices(&e.shape)
	}
	if e.job.DropTokens {
		o.Capacity = &moe.Capacity{Factor: e.job.CapacityFactor, Min: e.job.MinCapacity}
		if e.job.DropPolicy == "probs" {
			o.Capacity.Policy = kernels.DropByProbs
		}
	}
	return o
}

// mostSlices is the most ranks that tp and es may have under --tp-invariant, where the model's sizes can be cut so often.
const mostSlices = 8

// invariantSlices is how many partial results are added up under --tp-invariant: as many for every tp and es, so that the
// model alone says it.
func invariantSlices(c *model.Config) int {
	sizes := []int{c.Heads * c.OutDim()}
	for _, m := range c.MoE {
		if m.Gate.Experts == 0 {
			sizes = append(sizes, c.FFN)
		} else {
			sizes = append(sizes, m.FFN)
		}
	}
	slices := mostSlices
	for _, size := range sizes {
		for size%slices != 0 {
			slices /= 2
		}
	}
	return slices
}
