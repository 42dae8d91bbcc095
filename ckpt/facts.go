package ckpt

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// factsFile gives the facts of a DeepSpeed or Megatron checkpoint in plain JSON; it lies beside latest and wins over
// the saved arguments.
const factsFile = "model.json"

// facts are Config's values while they are gathered, each source filling in what those before it left open.
type facts struct {
	sources []string
	values  map[string]any
	from    map[string]string // key → the source it was taken from
}

// readFacts takes model.json of the first folder that has one, then Megatron's arguments, of which mf nil has none.
func readFacts(mf *megatronFile, folders ...string) (*facts, error) {
	f := &facts{values: map[string]any{}, from: map[string]string{}}
	for _, folder := range folders {
		path := filepath.Join(folder, factsFile)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		var values map[string]any
		if err := readJSON(path, &values); err != nil {
			return nil, err
		}
		f.add(path, values)
		break
	}
	if mf != nil {
		f.add("args of "+mf.path, fromArgs(mf.args()))
	}
	return f, nil
}

// add takes the values of a lesser source that are not known yet.
func (f *facts) add(source string, values map[string]any) {
	used := false
	for k, v := range values {
		if _, known := f.values[k]; !known && v != nil {
			f.values[k], f.from[k] = v, source
			used = true
		}
	}
	if used {
		f.sources = append(f.sources, source)
	}
}

// integer is a fact that counts something, 0 where it is not known.
func (f *facts) integer(key string) int64 {
	n, _ := number(f.values[key])
	return int64(n)
}

// fromArgs translates Megatron's arguments into the keys of model.json. An argument that says nothing is left out.
func fromArgs(args *dict) map[string]any {
	values := map[string]any{}
	if args == nil {
		return values
	}
	for _, key := range []string{
		"num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "max_position_embeddings", "kv_channels",
		"vocab_size", "padded_vocab_size", "expert_interval", "topk", "layernorm_epsilon",
	} {
		if n, ok := number(args.get(key)); ok {
			values[key] = n
		}
	}
	if s, ok := args.get("mlp_type").(string); ok {
		values["mlp_type"] = s
	}
	if experts := numbers(args.get("num_experts")); experts != nil {
		values["num_experts"] = experts
	}
	fused, hasFused := args.get("bias_gelu_fusion").(bool)
	switch {
	case args.get("openai_gelu") == true, hasFused && fused && args.get("onnx_safe") != true:
		values["activation"] = "gelu_tanh"
	case hasFused || args.get("onnx_safe") == true:
		values["activation"] = "gelu_erf"
	}
	if untied, ok := args.get("untie_embeddings_and_output_weights").(bool); ok {
		values["tied_output_embedding"] = !untied
	}
	return values
}

// numbers is a number, or a list of them, as a list.
func numbers(x any) []any {
	var items []any
	switch v := x.(type) {
	case *list:
		items = v.items
	case tuple:
		items = v
	default:
		items = []any{x}
	}
	out := make([]any, 0, len(items))
	for _, i := range items {
		n, ok := number(i)
		if !ok {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// derive reads from names and shapes what they tell. Layers must be numbered through and experts too.
func derive(file string, tensors map[string]Tensor) (map[string]any, error) {
	values := map[string]any{}
	layers, moe := map[int]bool{}, map[int]int64{}
	experts := map[int]map[string]bool{} // the expert numbers met, by layer
	bytes := map[DType]int64{}
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		bytes[t.DType] += t.Size()
		switch {
		case strings.HasSuffix(name, ".word_embeddings.weight") && len(t.Shape) == 2:
			values["padded_vocab_size"], values["hidden_size"] = t.Shape[0], t.Shape[1]
		case strings.HasSuffix(name, ".position_embeddings.weight") && len(t.Shape) == 2:
			values["max_position_embeddings"] = t.Shape[0]
		case strings.HasSuffix(name, ".coefficient.weight"):
			values["mlp_type"] = "residual"
		case strings.HasSuffix(name, "output_layer.weight"):
			values["tied_output_embedding"] = false
		}
		layer, rest, ok := layerOf(name)
		if !ok {
			continue
		}
		layers[layer] = true
		if rest == gateName && len(t.Shape) == 2 {
			moe[layer] = t.Shape[0]
		}
		if strings.HasSuffix(rest, ".dense_4h_to_h.weight") && len(t.Shape) == 2 {
			if known, ok := values["ffn_hidden_size"]; ok && known != t.Shape[1] {
				return nil, mismatch(file, name, "has an inner size of %d where other layers have %d; such a model is not supported", t.Shape[1], known)
			}
			values["ffn_hidden_size"] = t.Shape[1]
		}
		if m := expertName.FindStringSubmatch(name); m != nil {
			if experts[layer] == nil {
				experts[layer] = map[string]bool{}
			}
			experts[layer][m[2]] = true
		}
	}
	for l := range len(layers) {
		if !layers[l] {
			return nil, mismatch(file, "", "has %d layers but none of number %d: a file is missing, or belongs to another checkpoint", len(layers), l)
		}
	}
	moeLayers, counts := []int{}, []int64{}
	for _, l := range slices.Sorted(maps.Keys(layers)) {
		n, gated := moe[l]
		if !gated && experts[l] != nil {
			return nil, mismatch(file, inLayer(l, gateName), "is missing, though the layer has experts; copy the checkpoint again")
		}
		if !gated {
			continue
		}
		moeLayers, counts = append(moeLayers, l), append(counts, n)
		for e := range n {
			if !experts[l][fmt.Sprint(e)] {
				return nil, mismatch(file, inLayer(l, gateName), "chooses among %d experts, but there is no file or tensor of expert %d; copy the checkpoint again", n, e)
			}
		}
		if int64(len(experts[l])) != n {
			return nil, mismatch(file, inLayer(l, gateName), "chooses among %d experts, but there are %d; remove the files that belong to another checkpoint", n, len(experts[l]))
		}
	}
	values["num_layers"], values["moe_layers"], values["experts_per_moe_layer"] = len(layers), moeLayers, counts
	if most := slices.MaxFunc(append([]DType{F32}, slices.Sorted(maps.Keys(bytes))...), func(a, b DType) int {
		return int(min(max(bytes[a]-bytes[b], -1), 1))
	}); most.Float() {
		values["dtype"] = dtypes[most].torch
	}
	return values, nil
}

// checked are the facts that tensors prove: where both speak they must agree.
var checked = []string{
	"num_layers", "hidden_size", "ffn_hidden_size", "max_position_embeddings", "padded_vocab_size", "moe_layers", "experts_per_moe_layer",
}

// settle completes the facts with what the tensors tell and Megatron's defaults, and refuses contradictions. ranks is how
// many tensor-parallel ranks have a file.
func (f *facts) settle(c *Checkpoint, version float64, ranks int) error {
	derived, err := derive(c.Path, c.tensors)
	if err != nil {
		return err
	}
	if derived, err = plain(derived); err != nil {
		return err
	}
	for _, key := range checked {
		said, known := f.values[key]
		if is, ok := derived[key]; known && ok && !reflect.DeepEqual(said, is) {
			return mismatch(c.Path, "", "%s: %s is %v, but the tensors make it %v; correct the one, or copy the other again", f.from[key], key, said, is)
		}
	}
	f.add("names and shapes of tensors", derived)
	f.add("the defaults of Megatron-DeepSpeed", map[string]any{
		"architecture": "megatron-deepspeed-gpt-moe", "mlp_type": "standard", "topk": 1.0, "activation": "gelu_tanh",
		"layernorm_epsilon": 1e-5, "tied_output_embedding": true, "checkpoint_version": version,
	})
	f.values["qkv_order"], f.values["attention_name"] = qkvOrder(2), "attention" // as presented here
	f.values["tensor_model_parallel_size"] = ranks                               // whatever was copied beside the files
	c.config.Source = strings.Join(f.sources, "; ")
	c.config.Values, err = plain(f.values)
	return err
}

// plain gives values the types of encoding/json, so that every source looks alike.
func plain(values map[string]any) (map[string]any, error) {
	b, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("facts of the checkpoint: %w", err)
	}
	out := map[string]any{}
	return out, json.Unmarshal(b, &out)
}
