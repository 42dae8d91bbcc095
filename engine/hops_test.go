package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
)

// randomMoE writes a tiny Mixtral of random weights with so many experts.
func randomMoE(t *testing.T, experts int) string {
	t.Helper()
	const hidden, heads, ffn, vocab, layers = 16, 4, 16, 64, 1
	config := map[string]any{"architectures": []string{"MixtralForCausalLM"}, "model_type": "mixtral", "hidden_size": hidden,
		"intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
		"num_local_experts": experts, "num_experts_per_tok": 2, "vocab_size": vocab, "max_position_embeddings": 64,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "eos_token_id": 2}
	type tensor struct {
		DType string `json:"dtype"`
		Shape []int  `json:"shape"`
		Span  [2]int `json:"data_offsets"`
	}
	all, body := map[string]tensor{}, []byte(nil)
	random := rand.New(rand.NewPCG(3, 5))
	put := func(name string, shape ...int) {
		n, begin := 1, len(body)
		for _, d := range shape {
			n *= d
		}
		for range n {
			v := float32(random.NormFloat64() * 0.5)
			if len(shape) == 1 {
				v = 1
			}
			body = binary.LittleEndian.AppendUint32(body, math.Float32bits(v))
		}
		all[name] = tensor{"F32", shape, [2]int{begin, len(body)}}
	}
	put("model.embed_tokens.weight", vocab, hidden)
	put("model.norm.weight", hidden)
	put("lm_head.weight", vocab, hidden)
	for i := range layers {
		layer := fmt.Sprintf("model.layers.%d.", i)
		put(layer+"input_layernorm.weight", hidden)
		put(layer+"post_attention_layernorm.weight", hidden)
		for _, name := range []string{"q_proj", "k_proj", "v_proj", "o_proj"} {
			put(layer+"self_attn."+name+".weight", hidden, hidden)
		}
		put(layer+"block_sparse_moe.gate.weight", experts, hidden)
		for e := range experts {
			expert := fmt.Sprintf("%sblock_sparse_moe.experts.%d.", layer, e)
			put(expert+"w1.weight", ffn, hidden)
			put(expert+"w3.weight", ffn, hidden)
			put(expert+"w2.weight", hidden, ffn)
		}
	}
	dir := t.TempDir()
	header, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": text, "model.safetensors": append(file, body...)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// hops counts the messages of each dispatch and combine of a rank.
type hops struct {
	comm.AllToAll
	before int64
	note   func(messages int64)
}

func (h *hops) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	h.before = h.Traffic().Messages
	return h.AllToAll.Dispatch(ctx, recv, send, rowBytes)
}

func (h *hops) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	h.before = h.Traffic().Messages
	return h.AllToAll.Combine(ctx, recv, send, rowBytes)
}

func (h *hops) Finish(ctx context.Context) error {
	defer func() { h.note(h.Traffic().Messages - h.before) }()
	return h.AllToAll.Finish(ctx)
}

// TestSixtyFourRanks runs a model of 128 experts on 8 nodes of 8 ranks, tp 2, with the three all-to-alls, and looks at the
// messages that a rank sends in one exchange.
func TestSixtyFourRanks(t *testing.T) {
	const nodes, node, tp = 8, 8, 2
	model := randomMoE(t, 128)
	lengths := make([]int, 40)
	for i := range lengths {
		lengths[i] = 3 + i%9
	}
	input := layoutRows(t, 60, lengths...)
	want := map[int]map[string]string{} // by es
	for _, es := range []int{1, 2} {
		j := layoutJob(t, model, input)
		j.TP, j.EP, j.ES = tp, 1, es
		got, err := runRanks(t, 2*es, j, RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want[es] = got.Digests
	}
	for _, c := range []struct {
		how    string
		ep, es int
		most   int64
	}{
		{"flat", 32, 2, 32 - 1},
		{"hierarchical", 32, 2, node/tp + 32/(node/tp)}, // 4 ranks of each node are in an ep group
		{"coordinated", 64, 1, 64/tp + tp},
	} {
		j := layoutJob(t, model, input)
		j.TP, j.EP, j.ES, j.AllToAll, j.FakeNodes = tp, c.ep, c.es, c.how, nodes
		var mu sync.Mutex
		var most int64
		got, err := runRanks(t, nodes*node, j, RunOptions{connected: func(e *Engine) {
			for _, x := range e.exchanges {
				x.Rows = &hops{AllToAll: x.Rows, note: func(n int64) {
					mu.Lock()
					most = max(most, n)
					mu.Unlock()
				}}
			}
		}})
		if err != nil {
			t.Errorf("%s: %v", c.how, err)
			continue
		}
		if !maps.Equal(got.Digests, want[c.es]) {
			t.Errorf("%s: digests %v, of a replica alone %v", c.how, got.Digests, want[c.es])
		}
		if most > c.most || most == 0 { // a rank with few tokens has nothing for some of the others
			t.Errorf("%s: a rank sends %d messages in an exchange, want at most %d", c.how, most, c.most)
		}
	}
}
