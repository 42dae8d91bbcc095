package policies

import "github.com/dsbatch/dsbatch/model"

// LLaMA and what keeps its layout. Golden: llama, llama-rope-scaled.
func llama() model.Policy {
	return model.Policy{
		Architectures: []string{"LlamaForCausalLM"},
		Configure:     func(f model.Facts) (model.Config, error) { return llamaLike(f, "llama") },
		Tensors:       llamaNames(nil),
		Ignored:       []string{".rotary_emb.inv_freq"},
	}
}
