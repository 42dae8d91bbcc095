package engine

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/dsbatch/dsbatch/config"
)

// sizing is how large steps and KV cache are on a kind of device, where the job does not say.
type sizing struct {
	tokens, seqs int     // of a step: enough that weights are read once for many tokens and rows
	cacheShare   float64 // of what is free beside weights and workspace, the most that the KV cache takes
}

var (
	cpuSizing = sizing{tokens: 512, seqs: 128, cacheShare: 0.25} // other programs need memory too
	gpuSizing = sizing{tokens: 8192, seqs: 1024, cacheShare: 0.92}
)

// onGPU tells whether the device is one.
func (e *Engine) onGPU() bool { return strings.HasPrefix(e.device.Arch(), "cuda/") }

// limits settles how long a row may be: max_out_tokens counts prompt and output together, the model's window bounds it.
func (e *Engine) limits() error {
	in := &e.job.Inference
	e.window, e.minOut = e.shape.Window, max(in.MinOutTokens, 1)
	if in.MaxOutTokens > 0 {
		e.window = min(in.MaxOutTokens, e.shape.Window)
	}
	if e.minOut >= e.window {
		return fmt.Errorf("%w: min_out_tokens %d leaves no room for a prompt in the window of %d tokens", ErrRefused, e.minOut, e.window)
	}
	return nil
}

// plan sizes steps and KV cache for what memory is left beside the loaded weights, and refuses a plan that cannot
// work, with the arithmetic.
func (e *Engine) plan() (stepSize, error) {
	c := &e.model.Config
	size := cpuSizing
	if e.onGPU() {
		size = gpuSizing
	}
	z := stepSize{seqs: cmp.Or(e.job.MaxSeqs, size.seqs), top: e.job.Logprobs}
	z.tokens = max(cmp.Or(e.job.MaxBatchTokens, size.tokens), z.seqs)
	if e.job.MaxBatchTokens > 0 {
		z.tokens, z.seqs = e.job.MaxBatchTokens, min(z.seqs, e.job.MaxBatchTokens)
	}
	free, _ := e.device.Memory()
	block := e.model.CacheSpec(1, blockTokens).Bytes()
	beside := e.model.WorkspaceBytes(z.tokens) + z.bytes(c)
	all := int64(z.seqs) * int64(blocksFor(e.window))
	budget := int64(e.job.KVMemory)
	if budget == 0 {
		budget = min(all*block, int64(size.cacheShare*float64(free/int64(e.sharers)-beside)))
	}
	z.blocks = int(min(budget/block, all))
	if least := blocksFor(e.window); z.blocks < least && (e.job.KVMemory > 0 || z.blocks < blocksFor(e.minOut+1)) {
		return z, fmt.Errorf("%w: the KV cache gets %v, which holds %d tokens of %v each; one row of %d tokens needs %v (weights %v, workspace %v, free %v); raise --kv-memory or lower max_out_tokens",
			ErrRefused, about(budget), z.blocks*blockTokens, about(block/blockTokens), e.window,
			about(int64(least)*block), about(e.model.Bytes()), about(beside), about(free))
	}
	return z, nil
}

func about(bytes int64) string { return config.Bytes(bytes).About() }
