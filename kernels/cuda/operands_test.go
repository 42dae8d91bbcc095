package cuda

import (
	"errors"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// TestOpsRefuseMissingOperands: an op checks what it is given before it asks for a kernel, so that no GPU is needed to be
// told, and the first error stays.
func TestOpsRefuseMissingOperands(t *testing.T) {
	var none kernels.Tensor
	kv := &cache{spec: kernels.CacheSpec{DType: kernels.F32, Layers: 1, Blocks: 1, BlockTokens: 16, KVHeads: 1, HeadDim: 8}}
	spec := kernels.AttentionSpec{Heads: 1, KVHeads: 1, HeadDim: 8, Causal: true}
	routing := kernels.Routing{K: 1, Experts: 1}
	for op, run := range map[opNumber]func(s *Stream){
		opWrite:     func(s *Stream) { s.Write(none, nil) },
		opRead:      func(s *Stream) { s.Read(nil, none) },
		opCopy:      func(s *Stream) { s.Copy(none, none) },
		opEmbed:     func(s *Stream) { s.Embed(none, none, none, none, none) },
		opNorm:      func(s *Stream) { s.Norm(none, none, none, kernels.Norm{}) },
		opLinear:    func(s *Stream) { s.Linear(none, none, &weights{}, kernels.Epilogue{}) },
		opGrouped:   func(s *Stream) { s.Grouped(none, none, &weights{}, none, none, 0, kernels.Epilogue{}) },
		opStore:     func(s *Stream) { s.Store(kv, 0, none, none, none, kernels.Batch{}, kernels.StoreSpec{}) },
		opAttention: func(s *Stream) { s.Attention(none, none, kv, 0, kernels.Batch{}, spec) },
		opGate:      func(s *Stream) { s.Gate(routing, none, kernels.Gate{K: 1, Experts: 1}) },
		opDrop:      func(s *Stream) { s.Drop(routing, kernels.Capacity{}) },
		opTable:     func(s *Stream) { s.Table(routing) },
		opCombine:   func(s *Stream) { s.Combine(none, none, routing) },
		opMix:       func(s *Stream) { s.Mix(none, none, none, none) },
		opAdd:       func(s *Stream) { s.Add(none, none) },
		opTanh:      func(s *Stream) { s.Tanh(none) },
		opReduce:    func(s *Stream) { s.Reduce(none, none, 1, false) },
		opSelect:    func(s *Stream) { s.Select(none, none, none, 1) },
		opScore:     func(s *Stream) { s.Score(none, none, none, none, 1) },
		opSample:    func(s *Stream) { s.Sample(none, kernels.Sampling{Vocab: 1}) },
	} {
		s := &Stream{}
		run(s)
		first := s.err
		if first == nil || !strings.HasPrefix(first.Error(), op.String()+": ") || len(s.queue) > 0 {
			t.Errorf("%v: %v, %d bytes queued", op, first, len(s.queue))
		}
		if s.Add(none, none); !errors.Is(s.err, first) {
			t.Errorf("%v: %v, and after it %v", op, first, s.err)
		}
	}
}
