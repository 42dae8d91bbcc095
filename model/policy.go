package model

import (
	"fmt"
	"strconv"
	"strings"
)

// Policy maps one model family onto the canonical transformer: what it is and where each tensor comes from.
type Policy struct {
	Architectures []string // as config.json's architectures or model.json's architecture name the family
	Configure     func(Facts) (Config, error)
	Tensors       Names
	QKV           QKVOrder
	Transposed    bool // linear weights are stored [in, out]
	// Prefix is what the names of the base model's tensors begin with in files of a model with a head. Those of the base
	// model alone leave it out.
	Prefix string
	// Ignored are endings of tensor names that hold nothing the model needs (masks, rotary tables).
	Ignored []string
}

// QKVOrder is how a checkpoint holds the three projections.
type QKVOrder uint8

// The orders: three tensors; one, q over k over v; one, the three of each head together ([heads, 3, head_dim] rows).
const (
	QKVApart QKVOrder = iota
	QKVStacked
	QKVByHead
)

// Names maps the canonical name of a tensor to a checkpoint's, with {layer} and {expert} in it. A bias has its
// weight's name with .weight replaced by .bias. Canonical names:
//
//	embed positions types embed.in embed.norm norm embed.out head
//	head.dense head.norm head.bias pool classifier, see Head
//	attn.norm attn.q attn.k attn.v (or attn.qkv) attn.out attn.qnorm attn.knorm attn.sinks
//	attn.q.down attn.q.norm attn.q.up attn.kv.down attn.kv.norm attn.kv.up, see Latent
//	mlp.norm mlp.gate mlp.up mlp.down
//	moe.gate moe.bias expert.gate expert.up expert.down residual.gate residual.up residual.down residual.mix
type Names map[string]string

// predicts tells whether a tensor is of one of the layers after the model's that predict further tokens.
func (n Names) predicts(c *Config, name string) bool {
	before, _, _ := strings.Cut(n["attn.norm"], "{layer}")
	rest, ok := strings.CutPrefix(name, before)
	number, _, dot := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	return ok && dot && err == nil && layer >= c.Layers && layer < c.Layers+c.Predictors
}

// name fills a template in.
func (n Names) name(canonical string, layer, expert int) string {
	t := strings.ReplaceAll(n[canonical], "{layer}", strconv.Itoa(layer))
	return strings.ReplaceAll(t, "{expert}", strconv.Itoa(expert))
}

// Facts are a checkpoint's config: the keys of config.json or model.json, and the name of the file for messages.
type Facts struct {
	Source string
	Values map[string]any
	err    *error
	asked  map[string]bool // the keys that a getter was asked for
}

// NewFacts wraps a parsed config. Its getters note the first wrong value, which Err returns.
func NewFacts(source string, values map[string]any) Facts {
	return Facts{Source: source, Values: values, err: new(error), asked: map[string]bool{}}
}

// Asked tells whether a getter was asked for the key: whether its value matters.
func (f Facts) Asked(key string) bool { return f.asked[key] }

// Value is what stands under a key, whatever it is; nil where it is absent.
func (f Facts) Value(key string) any { return f.value(key) }

func (f Facts) value(key string) any {
	if f.asked != nil { // the zero Facts know nothing
		f.asked[key] = true
	}
	return f.Values[key]
}

// Err is the first value that had a wrong type or was missing.
func (f Facts) Err() error { return *f.err }

func (f Facts) wrong(key, want string) {
	if *f.err != nil {
		return
	}
	v, ok := f.Values[key]
	if s, word := v.(string); word {
		v = strconv.Quote(s)
	}
	if ok {
		*f.err = fmt.Errorf("%w: %s: %s is %v, want %s", ErrConfig, f.Source, key, v, want)
	} else {
		*f.err = fmt.Errorf("%w: %s has no %s, want %s", ErrConfig, f.Source, key, want)
	}
}

// Has tells whether the key is there and not null.
func (f Facts) Has(key string) bool { return f.value(key) != nil }

// Int is a required integer.
func (f Facts) Int(key string) int {
	if n, ok := number(f.value(key)); ok && n == float64(int(n)) {
		return int(n)
	}
	f.wrong(key, "an integer")
	return 0
}

// IntOr is an integer, or a default where the key is absent or null.
func (f Facts) IntOr(key string, absent int) int {
	if !f.Has(key) {
		return absent
	}
	return f.Int(key)
}

// FloatOr is a number, or a default where the key is absent or null.
func (f Facts) FloatOr(key string, absent float64) float64 {
	if !f.Has(key) {
		return absent
	}
	n, ok := number(f.value(key))
	if !ok {
		f.wrong(key, "a number")
	}
	return n
}

// BoolOr is a boolean, or a default where the key is absent or null.
func (f Facts) BoolOr(key string, absent bool) bool {
	if !f.Has(key) {
		return absent
	}
	b, ok := f.value(key).(bool)
	if !ok {
		f.wrong(key, "true or false")
	}
	return b
}

// StringOr is a string, or a default where the key is absent or null.
func (f Facts) StringOr(key, absent string) string {
	if !f.Has(key) {
		return absent
	}
	s, ok := f.value(key).(string)
	if !ok {
		f.wrong(key, "a string")
	}
	return s
}

// Ints is a list of integers; a lone integer is a list of one; absent or null: nil.
func (f Facts) Ints(key string) []int {
	if !f.Has(key) {
		return nil
	}
	list, ok := f.value(key).([]any)
	if !ok {
		return []int{f.Int(key)}
	}
	ints := make([]int, len(list))
	for i, v := range list {
		n, ok := number(v)
		if !ok || n != float64(int(n)) {
			f.wrong(key, "a list of integers")
			return nil
		}
		ints[i] = int(n)
	}
	return ints
}

// Strings is a list of strings; absent or null: nil.
func (f Facts) Strings(key string) []string {
	list, _ := f.value(key).([]any)
	var out []string
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// Under is the facts of a nested object; absent or null: none.
func (f Facts) Under(key string) Facts {
	nested, ok := f.value(key).(map[string]any)
	if !ok && f.Has(key) {
		f.wrong(key, "an object")
	}
	return Facts{Source: f.Source + ": " + key, Values: nested, err: f.err, asked: map[string]bool{}}
}

// number takes what JSON decoders and pickles make of numbers.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	case interface{ Float64() (float64, error) }: // json.Number
		f, err := n.Float64()
		return f, err == nil
	}
	return 0, false
}

// IDs are token ids under a key: one, a list, or none.
func (f Facts) IDs(key string) []int32 {
	var ids []int32
	for _, n := range f.Ints(key) {
		ids = append(ids, int32(n))
	}
	return ids
}
