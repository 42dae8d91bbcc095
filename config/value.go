package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What a field of inference: makes of a value. Errors are sentences without the field's name.

func (n node) boolean() (bool, error) {
	if n.kind != boolean && (n.kind != text || n.text != "true" && n.text != "false") {
		return false, fmt.Errorf("%s is neither true nor false", compact(n))
	}
	return n.text == "true", nil
}

func (n node) optional(p **bool) error {
	b, err := n.boolean()
	if err == nil {
		*p = &b
	}
	return err
}

func (n node) string(p *string) error {
	if n.kind != text {
		return fmt.Errorf("is %s; write a text", n.kind)
	}
	*p = n.text
	return nil
}

func (n node) oneOf(p *string, words ...string) error {
	if !slices.Contains(words, n.text) {
		return fmt.Errorf("%s is not one of %s; %s", compact(n), strings.Join(words, ", "), didYouMean(n.text, words, "use one of these"))
	}
	*p = n.text
	return nil
}

// lower is a word in small letters, as DeepSpeed's documentation writes some both ways.
func (n node) lower() node {
	n.text = strings.ToLower(n.text)
	return n
}

func (n node) atLeast(least int, p *int) error {
	i, err := strconv.Atoi(n.text)
	if err != nil || n.kind == boolean || i < least {
		return fmt.Errorf("%s is not a whole number of %d or more", compact(n), least)
	}
	*p = i
	return nil
}

// counts reads one positive number or a list of them.
func (n node) counts() ([]int, error) {
	items := n.items
	if n.kind != list {
		items = []node{n}
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("is empty; give a number for all MoE layers, or one for each")
	}
	out := make([]int, len(items))
	for i, item := range items {
		if err := item.atLeast(1, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// groups reads lists of ranks, or one list for a single group. All groups are of one size, and no rank is in two.
func (n node) groups() ([][]int, error) {
	if n.kind != list || len(n.items) == 0 {
		return nil, fmt.Errorf("is %s; write lists of ranks, as [[0, 1], [2, 3]]", n.kind)
	}
	lists := n.items
	if lists[0].kind != list {
		lists = []node{n}
	}
	seen, out := map[int]bool{}, make([][]int, len(lists))
	for i, group := range lists {
		if group.kind != list || len(group.items) == 0 {
			return nil, fmt.Errorf("has %s where a list of ranks belongs, as [[0, 1], [2, 3]]", group.kind)
		}
		out[i] = make([]int, len(group.items))
		for k, item := range group.items {
			if err := item.atLeast(0, &out[i][k]); err != nil {
				return nil, err
			}
			if seen[out[i][k]] {
				return nil, fmt.Errorf("has rank %d twice; a rank belongs to one group", out[i][k])
			}
			seen[out[i][k]] = true
		}
		if len(out[i]) != len(out[0]) {
			return nil, fmt.Errorf("has groups of %d and of %d ranks; make them equal", len(out[0]), len(out[i]))
		}
	}
	return out, nil
}

// shortMoE reads moe: true or false.
func shortMoE(n node) (map[string]node, error) {
	if _, err := n.boolean(); err != nil {
		return nil, fmt.Errorf("is %s; write true, false or a dictionary", n.kind)
	}
	return map[string]node{"moe.enabled": n}, nil
}

// shortQuant reads quant: 8 and quant: [true, 8].
func shortQuant(n node) (map[string]node, error) {
	switch {
	case n.kind == number:
		return map[string]node{"quant.weight.q_groups": n}, nil
	case n.kind == boolean:
		return map[string]node{"quant.enabled": n}, nil
	case n.kind == list && len(n.items) == 2 && n.items[0].kind == boolean && n.items[1].kind == number:
		return map[string]node{"quant.extra_mlp_grouping": n.items[0], "quant.weight.q_groups": n.items[1]}, nil
	case n.kind == list && len(n.items) == 2 && n.items[0].kind == number && n.items[1].kind == boolean:
		return nil, fmt.Errorf("%s is the wrong way round; write [%s, %s]: extra grouping for the MLP, then the number of groups",
			compact(n), n.items[1].text, n.items[0].text)
	}
	return nil, fmt.Errorf("%s is not understood; write a number of groups, [true, groups] or a dictionary", compact(n))
}

// descriptionKeys are those of DeepSpeed's checkpoint JSON.
var descriptionKeys = []string{"type", "version", "checkpoints", "base_dir", "parallelization", "mp_size", "tp_size", "dtype"}

func setCheckpoint(in *Inference, n node) error {
	switch n.kind {
	case text:
		in.Checkpoint.Path = n.text
		return nil
	case table:
		for _, e := range n.keys {
			if !slices.Contains(descriptionKeys, e.key) {
				return fmt.Errorf("%s: unknown key; %s", e.key,
					didYouMean(e.key, descriptionKeys, "use "+strings.Join(descriptionKeys, ", ")))
			}
		}
		in.Checkpoint.Description = n.plain().(map[string]any) // what a table gives
		return nil
	}
	return fmt.Errorf("is %s; write a path, or a dictionary with type, version and checkpoints", n.kind)
}

// policies are DeepSpeed's, with the model family that each is for as Hugging Face calls it.
var policies = map[string]string{
	"HFBertLayerPolicy": "bert", "HFDistilBertLayerPolicy": "distilbert", "HFGPT2LayerPolicy": "gpt2", "HFGPTNEOLayerPolicy": "gpt_neo",
	"HFGPTJLayerPolicy": "gptj", "GPTNEOXLayerPolicy": "gpt_neox", "HFOPTLayerPolicy": "opt", "BLOOMLayerPolicy": "bloom",
	"LLAMALayerPolicy": "llama", "LLAMA2LayerPolicy": "llama", "MegatronLayerPolicy": "megatron", "MegatronMoELayerPolicy": "megatron",
}

// Family is the model family that a named policy is for: gpt2, gpt_neo, gptj, gpt_neox, opt, bloom, bert, distilbert,
// llama or megatron; "" where Linears are given.
func (i Injection) Family() string { return policies[i.Policy] }

func setInjection(in *Inference, n node) error {
	if n.kind != table || len(n.keys) == 0 {
		return fmt.Errorf("is %s; write a dictionary of module class: names", n.kind)
	}
	for _, e := range n.keys {
		x, err := injection(e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.key, err)
		}
		in.InjectionPolicy = append(in.InjectionPolicy, x)
	}
	return nil
}

// injection reads one class and its policy's name, or the names of linears.
func injection(e entry) (Injection, error) {
	x := Injection{Class: e.key}
	name := e.value.text[strings.LastIndex(e.value.text, ".")+1:] // without the Python module
	if e.value.kind == text && strings.HasSuffix(name, "Policy") {
		if policies[name] == "" {
			var known []string
			for p := range policies {
				known = append(known, p)
			}
			slices.Sort(known)
			return x, fmt.Errorf("%s is no policy that dsbatch has; %s", name, didYouMean(name, known, "it has "+strings.Join(known, ", ")))
		}
		x.Policy = name
		return x, nil
	}
	var err error
	x.Linears, err = e.value.names()
	return x, err
}

// names reads one text, or a list of them.
func (n node) names() ([]string, error) {
	if n.kind == text && n.text != "" {
		return []string{n.text}, nil
	}
	if n.kind != list || len(n.items) == 0 {
		return nil, fmt.Errorf("is %s; write the names of linears, as [attention.dense, mlp.dense_4h_to_h]", n.kind)
	}
	var out []string
	for _, item := range n.items {
		if item.kind != text || item.text == "" {
			return nil, fmt.Errorf("has %s in its list; write names of linears", item.kind)
		}
		out = append(out, item.text)
	}
	return out, nil
}

func setInjectionTuple(in *Inference, n node) error {
	linears, err := n.names()
	if err == nil {
		in.InjectionPolicy = append(in.InjectionPolicy, Injection{Linears: linears})
	}
	return err
}
