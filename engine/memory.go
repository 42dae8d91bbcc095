package engine

import (
	"cmp"
	"fmt"

	"github.com/dsbatch/dsbatch/config"
)

// Defaults of a step's size on a CPU: enough tokens that weights are read once for many of them, enough rows that
// decoding is not bound by reading the weights alone.
const (
	cpuStepTokens = 512
	cpuSeqs       = 128
	// cpuCacheShare of the free memory is the most that the KV cache takes unless --kv-memory says otherwise.
	cpuCacheShare = 4
)

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
	z := stepSize{seqs: cmp.Or(e.job.MaxSeqs, cpuSeqs), top: e.job.Logprobs}
	z.tokens = max(cmp.Or(e.job.MaxBatchTokens, cpuStepTokens), z.seqs)
	if e.job.MaxBatchTokens > 0 {
		z.tokens, z.seqs = e.job.MaxBatchTokens, min(z.seqs, e.job.MaxBatchTokens)
	}
	free, _ := e.device.Memory()
	block := e.model.CacheSpec(1, blockTokens).Bytes()
	beside := e.model.WorkspaceBytes(z.tokens) + z.bytes(c)
	all := int64(z.seqs) * int64(blocksFor(e.window))
	budget := int64(e.job.KVMemory)
	if budget == 0 {
		node := int64(max(1, e.nodeRanks))
		budget = min(all*block, (free/node-beside)/cpuCacheShare)
	}
	z.blocks = int(min(budget/block, all))
	if least := blocksFor(e.window); z.blocks < least && (e.job.KVMemory > 0 || z.blocks < blocksFor(e.minOut+1)) {
		return z, fmt.Errorf("%w: the KV cache gets %v, which holds %d tokens of %v each; one row of %d tokens needs %v (weights %v, workspace %v, free %v); raise --kv-memory or lower max_out_tokens",
			ErrRefused, config.Bytes(budget), z.blocks*blockTokens, config.Bytes(block/blockTokens), e.window,
			config.Bytes(int64(least)*block), config.Bytes(e.model.Bytes()), config.Bytes(beside), config.Bytes(free))
	}
	return z, nil
}
