package engine

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dsbatch/dsbatch/config"
)

// sizing is how large steps and KV cache are on a kind of device, where the job does not say.
type sizing struct {
	tokens, seqs int     // of a step: enough that weights are read once for many tokens and rows
	ahead        int     // rows that wait before another chunk is asked for, at most: what is open is lost by a kill
	logits       int     // rows of logits at a time, at least
	logitBytes   int     // and as many as fit into so much
	cacheShare   float64 // of what is free beside weights and workspace, the most that the KV cache takes
}

var (
	// As many rows as tokens on a CPU: with fewer, steps are as uneven as the prompts that take the place of finished rows,
	// differently on each rank, and ranks that step together wait for the one with the most.
	cpuSizing = sizing{tokens: 512, seqs: 512, ahead: 128, logits: 64, cacheShare: 0.25} // other programs need memory too
	gpuSizing = sizing{tokens: 8192, seqs: 1024, ahead: 1024, logits: 64, logitBytes: 256 << 20, cacheShare: 0.92}
	// Where weights come over the bus a step takes as long for few rows as for many.
	offloadSizing = sizing{tokens: 32768, seqs: 8192, ahead: 4096, logits: 64, logitBytes: 256 << 20, cacheShare: 0.92}
)

// onGPU tells whether the device is one.
func (e *Engine) onGPU() bool { return strings.HasPrefix(e.device.Arch(), "cuda/") }

// limits settles how long a row may be: max_out_tokens counts prompt and output together, the model's window bounds it.
func (e *Engine) limits() error {
	in := &e.job.Inference
	if e.shape.ALiBi { // no table ends and no angle comes again: memory alone bounds a row
		e.shape.Window = max(e.shape.Window, in.MaxOutTokens)
	}
	e.window, e.minOut = e.shape.Window, max(in.MinOutTokens, 1)
	if in.MaxOutTokens > 0 {
		e.window = min(in.MaxOutTokens, e.shape.Window)
		if in.MaxOutTokens > e.shape.Window && e.world.Rank() == 0 {
			slog.Warn("max_out_tokens is more than the model's window, which counts", "max_out_tokens", in.MaxOutTokens, "window", e.shape.Window)
		}
	}
	if e.minOut >= e.window {
		return fmt.Errorf("%w: min_out_tokens %d leaves no room for a prompt in the window of %d tokens", ErrRefused, e.minOut, e.window)
	}
	if err := e.piecesFit(); err != nil {
		return err
	}
	if e.job.Logprobs > e.shape.Tokens {
		return fmt.Errorf("%w: --logprobs %d, and the model's vocabulary has %d tokens; ask for fewer", ErrRefused, e.job.Logprobs, e.shape.Tokens)
	}
	return nil
}

// piecesFit refuses steps too small for the pieces into which the job may cut a text.
func (e *Engine) piecesFit() error {
	least, what := 1, ""
	switch {
	case e.shape.Bidirectional:
		least, what = e.window, fmt.Sprintf("a %s model reads a text in one step, and its window has %d tokens", e.shape.Family, e.window)
	case e.reading().of == readSums:
		least, what = blockTokens, fmt.Sprintf("hidden states are added up by blocks of %d tokens", blockTokens)
	}
	if most := e.job.MaxBatchTokens; most > 0 && most < least {
		return fmt.Errorf("%w: --max-batch-tokens %d: %s; use %d or more, or leave it out", ErrRefused, most, what, least)
	}
	return nil
}

// reported is how many likeliest tokens the steps of the job report.
func (e *Engine) reported() int {
	if e.job.Task == config.FillMask {
		return e.candidates()
	}
	return e.job.Logprobs
}

// plan sizes steps and KV cache for what memory is left beside the weights, and refuses a plan that cannot work, with
// the arithmetic. Before the weights are read it goes by their sizes in the checkpoint, and settles which of them wait in the host's
// memory; afterwards by what they take.
func (e *Engine) plan() (z stepSize, err error) {
	if e.offloads() && !e.inMemory {
		z, e.offloaded, err = e.chooseOffload()
		return z, err
	}
	if z, err = e.planFor(e.offloaded); err == nil || e.inMemory || !e.onGPU() {
		return z, err
	}
	other, job := *e, *e.job // would it fit so?
	other.job, job.Offload = &job, "cpu"
	if _, layers, failed := other.chooseOffload(); failed == nil {
		err = fmt.Errorf("%w; with the weights of %d of %d layers in the host's memory until their turn it fits: --offload cpu", err, layers, e.layersHere())
	}
	return z, err
}

// planFor is plan with so many layers offloaded.
func (e *Engine) planFor(offloaded int) (stepSize, error) {
	c := &e.model.Config
	size := cpuSizing
	switch {
	case e.offloads():
		size = offloadSizing
	case e.onGPU():
		size = gpuSizing
	}
	z := stepSize{seqs: cmp.Or(e.job.MaxSeqs, size.seqs), top: e.reported(), read: e.reading()}
	z.tokens = max(cmp.Or(e.job.MaxBatchTokens, size.tokens), z.seqs)
	if e.job.MaxBatchTokens > 0 {
		z.tokens, z.seqs = e.job.MaxBatchTokens, min(z.seqs, e.job.MaxBatchTokens)
	}
	if e.shape.Bidirectional {
		z.tokens = max(z.tokens, e.window) // a text is in one step; limits has seen that it may be
	}
	z.ahead = min(size.ahead, z.seqs)
	z.logits = max(size.logits, min(z.tokens, size.logitBytes/(4*c.Vocab)))
	arriving := 0 // bytes of a token from the stage before
	if !e.place.first() {
		arriving = c.Hidden * e.device.Activations(e.dtype).Size()
	}
	block := e.model.CacheSpec(1, blockTokens).Bytes()
	weights, waiting := e.model.Offloaded(offloaded, e.job.Inference.Offload.Buffers)
	workspace, exchange := e.model.WorkspaceBytes(z.tokens)+z.bytes(c, arriving), e.exchangeBytes(z.tokens)
	left := e.room - weights - workspace - exchange
	least := blocksFor(e.window) // whether a row has room must not depend on what memory the machine has free
	all := int64(z.seqs) * int64(least)
	if e.shape.Bidirectional { // texts are gone after their step: there are those of it, and some that wait for the next
		all = min(all, int64(e.place.stages)*int64(blocksFor(z.tokens+e.window)+z.seqs))
	}
	budget := int64(e.job.KVMemory)
	if budget == 0 {
		share := int64(size.cacheShare * float64(left))
		budget = min(all*block, max(share, int64(least)*block), left)
	}
	z.blocks = int(max(min(budget/block, all), 0))
	arithmetic := fmt.Sprintf("weights %v, workspace of %d tokens %v, tokens of other ranks %v, of %v that the rank may take",
		about(weights), z.tokens, about(workspace), about(exchange), about(e.room))
	if waiting > 0 {
		arithmetic = fmt.Sprintf("%d of %d layers, %v, wait in the host's memory; %s", offloaded, e.layersHere(), about(waiting), arithmetic)
	}
	if z.blocks < least {
		return z, fmt.Errorf("%w: the KV cache gets %v, which holds %d tokens of %v each; one row of %d tokens needs %v (%s); raise --kv-memory, lower max_out_tokens, --max-seqs or --max-batch-tokens, or spread the model over more GPUs or hosts",
			ErrRefused, about(max(budget, 0)), z.blocks*blockTokens, about(block/blockTokens), e.window,
			about(int64(least)*block), arithmetic)
	}
	if kv := int64(z.blocks) * block; kv > max(left, 0) {
		return z, fmt.Errorf("%w: --kv-memory %v is more than is left (%s); lower it or --max-batch-tokens, or spread the model over more GPUs or hosts",
			ErrRefused, about(budget), arithmetic)
	}
	return z, nil
}

// arrivals is how many times its own choices a rank's memory is planned for, of choices that other ranks send to its
// experts: more than four is a routing that no gate keeps up, and then grows into what the KV cache leaves.
const arrivals = 4

// exchangeBytes bounds the memory of rows that other ranks send to this one's experts in a step of so many tokens each;
// of experts in slices a rank computes the rows of all that hold one.
func (e *Engine) exchangeBytes(tokens int) (most int64) {
	act, hidden := int64(e.device.Activations(e.dtype).Size()), int64(e.shape.Hidden)
	for layer, m := range e.shape.MoE {
		x := e.exchanges[m.Gate.Experts]
		if x == nil || e.throughWindow(m.Gate.Experts) {
			continue
		}
		rows := int64(tokens) * int64(min(x.Ranks*min(m.Gate.K, e.held(layer, x.Ranks)), arrivals*m.Gate.K))
		rows += rows / 4 // as the buffers grow
		slices, ffn := int64(1), int64(m.FFN)
		if x.Slice != nil {
			slices = int64(x.Slice.Size())
		}
		bytes := rows * (2*act*hidden + act*ffn + 8)
		if slices > 1 { // rows once more in the order of experts, those of all slices, and three times their partial results
			bytes += rows * (act*hidden + slices*(act*hidden+8) + 3*slices*4*hidden)
		}
		most = max(most, bytes)
	}
	return most + e.windowBytes(tokens)
}

func about(bytes int64) string { return config.Bytes(bytes).About() }
