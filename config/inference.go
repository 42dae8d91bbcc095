package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Inference is the DeepSpeedInferenceConfig as dsbatch obeys it: what a model is made with. The zero value leaves
// everything automatic. Fields that dsbatch refuses have no place here; the table in field.go tells them all.
type Inference struct {
	KernelInject    *bool // fused kernels (true) or plain sliced operations; nil: see Fused
	DType           DType
	TensorParallel  TensorParallel
	CUDAGraph       *bool // nil: where the device has them
	Offload         Offload
	TriangularMask  *bool // nil: as the model's family has it; another value is to be refused
	MoE             MoE
	Quant           Quant
	Checkpoint      Checkpoint
	BaseDir         string // in front of the checkpoint's relative file names
	SavePath        string // where the model's slices are saved as the ranks hold them; "": nowhere
	TrainingMPSize  int    // slices that the checkpoint must have; 0: any
	InjectionPolicy []Injection
	ModelConfig     map[string]any // values that win over the model's config.json
	MaxOutTokens    int            // prompt and output together; 0: the model's window
	MinOutTokens    int            // must fit into memory, or the job is refused; 0: 1
	ModuleKey       string         // the key that holds the weights in a DeepSpeed or Megatron file: module or model; "": by content
	given           map[string]written
}

// written is a field as the user wrote it.
type written struct {
	text string // on one line
	key  string // the name used, with its section
	at   place
}

// TensorParallel is the section tensor_parallel.
type TensorParallel struct {
	Size  int     // 0: not given
	Group [][]int // ranks of the groups; nil: by the rank tables
}

// Offload is the section zero.offload_param: where weights wait for their turn.
type Offload struct {
	Device  string // none or cpu; "": not given
	Pinned  *bool  // nil: as is needed
	Buffers int    // on the GPU, of a layer each; 0: the least
}

// MoE is the section moe.
type MoE struct {
	Enabled   *bool   // what the checkpoint must be; nil: either
	EPSize    int     // 0: automatic
	Experts   []int   // expert counts that the checkpoint's MoE layers must have, one for all or one each; nil: any
	Type      string  // standard or residual, which the checkpoint must have; "": either
	Group     [][]int // ranks of the expert-parallel groups; nil: by the rank tables
	SliceWith [][]int // ranks of the expert-slicing groups (ep_mp_group); nil: by the rank tables
}

// Quant is the section quant: group-wise int8 weights, made at load with dtype int8.
type Quant struct {
	Enabled          *bool // nil: with dtype int8
	Groups           int   // groups of a weight matrix; 0: automatic
	ExtraMLPGrouping bool  // twice the groups in MLP weights, the tuple's first part
}

// Checkpoint is where the weights lie: a path, or a description with the keys of DeepSpeed's checkpoint JSON.
type Checkpoint struct {
	Path        string
	Description map[string]any
}

// Model is what the field checkpoint stands for where no model is given: the path, or the folder in which the described
// files lie; "": the field is not set.
func (in *Inference) Model() string {
	if in.Checkpoint.Description == nil {
		return in.Checkpoint.Path
	}
	base, _ := in.Checkpoint.Description["base_dir"].(string)
	return cmp.Or(in.BaseDir, base, ".")
}

// Injection is one entry of injection_policy.
type Injection struct {
	Class   string   // the module class as written; "" from injection_policy_tuple
	Policy  string   // a built-in policy's name, as HFGPT2LayerPolicy; or
	Linears []string // suffixes of the names of linears whose outputs are summed over tp
}

// Fused tells whether fused kernels run: as kernel_inject says. A block that injection_policy names runs them, too.
func (in *Inference) Fused() bool { return in.KernelInject == nil || *in.KernelInject }

// Given tells whether a field was set, by its path in canonical names as "moe.ep_size".
func (in *Inference) Given(path string) bool {
	_, ok := in.given[path]
	return ok
}

// under is the place of the first field set whose path begins so.
func (in *Inference) under(prefix string) place {
	for _, path := range in.paths() {
		if strings.HasPrefix(path, prefix) {
			return in.given[path].at
		}
	}
	return place{}
}

// paths lists the fields set, in the order of the table.
func (in *Inference) paths() []string {
	var out []string
	for i := range fields {
		if in.Given(fields[i].path) {
			out = append(out, fields[i].path)
		}
	}
	return out
}

// ParseInference makes an Inference of what deepspeed.init_inference takes: config is nil, the path of a JSON file
// (string) or a map[string]any; kwargs are further fields, which win where both speak of the same one. All four of its
// call cases are valid. Maps are merged field by field, also below moe, quant and their like. Errors are *Error, all of
// them joined; warnings tell of deprecated names and are the caller's to log.
func ParseInference(config any, kwargs map[string]any) (Inference, []Warning, error) {
	top, err := configTree(config)
	if err != nil {
		return Inference{}, nil, err
	}
	all, warnings, err := collect(top)
	further, more, err2 := collect(treeOf("kwargs", kwargs))
	warnings = append(warnings, more...)
	if err := errors.Join(err, err2); err != nil {
		return Inference{}, warnings, err
	}
	maps.Copy(all, further)
	in, err := all.inference()
	if err == nil {
		err = errors.Join(in.conflicts()...)
	}
	if err != nil {
		return Inference{}, warnings, err
	}
	return in, warnings, nil
}

func configTree(config any) (node, error) {
	if path, ok := config.(string); ok {
		return readTree(path)
	}
	n := treeOf("config", config)
	if n.kind != null && n.kind != table {
		return node{}, &Error{File: "config", Err: fmt.Errorf("'config' argument expected string or dictionary, got %T", config)}
	}
	return n, nil
}

// leaves are the fields that one source sets, by canonical path, with aliases and old names resolved.
type leaves map[string]leaf

type leaf struct {
	field *field
	value node
	key   string // as written, with its section
	at    place
}

// collector gathers the leaves of one source.
type collector struct {
	leaves   leaves
	warnings []Warning
	errs     []error
}

// collect resolves the names of a DeepSpeedInferenceConfig. Fields that are null or "auto" count as not set.
func collect(top node) (leaves, []Warning, error) {
	c := collector{leaves: leaves{}}
	c.section(top, "", "")
	return c.leaves, c.warnings, errors.Join(c.errs...)
}

func (c *collector) fail(err error) { c.errs = append(c.errs, err) }

// section walks the dictionary n at path, which was written as key.
func (c *collector) section(n node, path, key string) {
	if n.kind == null {
		return
	}
	if n.kind != table {
		c.fail(n.at.errorAt(strings.TrimSuffix(key, "."), "is %s; write a dictionary", n.kind))
		return
	}
	for _, e := range n.keys {
		f := findField(path, e.key)
		if f == nil {
			c.fail(e.at.errorAt(key+e.key, "unknown key; %s", nearestField(path, e.key)))
			continue
		}
		if e.value.kind == null || e.value.isAuto() && f.path != "replace_method" {
			continue
		}
		c.entry(f, e, key+e.key)
	}
}

func (c *collector) entry(f *field, e entry, key string) {
	if f.old {
		mend := "leave it out"
		if f.instead != "" {
			mend = "write " + f.instead
		}
		c.warnings = append(c.warnings, Warning{e.at.String(), key + " is deprecated; " + mend})
	}
	target := f
	if f.instead != "" {
		target = fieldAt(f.instead)
	}
	if target.short != nil && e.value.kind != table {
		parts, err := target.short(e.value)
		if err != nil {
			c.fail(&Error{e.at.file, e.at.line, key, err})
			return
		}
		for _, path := range slices.Sorted(maps.Keys(parts)) {
			c.add(leaf{fieldAt(path), parts[path], key, e.at})
		}
		return
	}
	if target.section {
		c.section(e.value, target.path+".", key+".")
		return
	}
	c.add(leaf{target, e.value, key, e.at})
}

// add keeps a leaf unless the same field was set before under another name.
func (c *collector) add(x leaf) {
	other, ok := c.leaves[x.field.path]
	if !ok {
		c.leaves[x.field.path] = x
		return
	}
	deprecated, replacing := x.key, other.key
	if f := fieldAt(x.key); f == nil || !f.old {
		deprecated, replacing = replacing, deprecated
	}
	if f := fieldAt(deprecated); f != nil && f.old { // upstream's sentence, and the mend
		c.fail(x.at.errorAt("", "Cannot provide deprecated parameter '%s' and replacing parameter '%s' together; leave %s out",
			deprecated, replacing, deprecated))
		return
	}
	c.fail(x.at.errorAt(x.key, "is the same field as %s in %s; keep one of them", other.key, other.at))
}

// inference sets the fields, or says why they are refused.
func (l leaves) inference() (Inference, error) {
	if off, ok := l["tensor_parallel.enabled"]; ok && off.value.text == "false" {
		l["tensor_parallel.tp_size"] = leaf{fieldAt("tensor_parallel.tp_size"), node{kind: number, text: "1"}, off.key, off.at}
	}
	in := Inference{given: map[string]written{}}
	var errs []error
	for i := range fields {
		f := &fields[i]
		x, ok := l[f.path]
		if !ok {
			continue
		}
		err := f.refusal(x.value)
		if err == nil && f.set != nil {
			err = f.set(&in, x.value)
		}
		if err != nil {
			errs = append(errs, &Error{x.at.file, x.at.line, x.key, err})
			continue
		}
		in.given[f.path] = written{compact(x.value), x.key, x.at}
	}
	return in, errors.Join(errs...)
}

// compact writes a value on one line, as JSON for lists and dictionaries.
func compact(n node) string {
	if n.isScalar() || n.kind == object {
		return n.text
	}
	b, err := json.Marshal(n.plain())
	if err != nil {
		return fmt.Sprint(n.plain())
	}
	return string(b)
}
