package config

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var ignoreGiven = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".given" }, cmp.Ignore())

func ptr[T any](x T) *T { return &x }

// TestEveryField sets every field to its example, alone: one that is obeyed must reach the Inference, one that is refused
// must say why, and what a refused field accepts must pass.
func TestEveryField(t *testing.T) {
	parse := func(path, value string) (Inference, []Warning, error) {
		sections := strings.Split(path, ".")
		content := strings.Join(sections, ": {") + ": " + value + strings.Repeat("}", len(sections)-1)
		switch {
		case strings.HasPrefix(path, "quant."):
			content += "\ndtype: int8"
		case path == "zero.stage":
			content = "zero: {stage: " + value + ", offload_param: {device: cpu}}"
		}
		top, err := parseTree("f.yaml", []byte(content))
		if err != nil {
			t.Fatal(path, err)
		}
		all, warnings, err := collect(top)
		if err != nil {
			t.Fatal(path, err)
		}
		in, err := all.inference()
		return in, warnings, errors.Join(append(in.conflicts(), err)...)
	}
	for i := range fields {
		f := &fields[i]
		if f.section || f.tuple {
			if f.does == "" {
				t.Errorf("%s: nothing said of it", f.path)
			}
			continue
		}
		in, warnings, err := parse(f.path, f.example)
		target := f
		if f.instead != "" {
			if target = fieldAt(f.instead); target == nil {
				t.Errorf("%s: %s is no field", f.path, f.instead)
				continue
			}
		}
		if f.old != (len(warnings) == 1) {
			t.Errorf("%s: deprecated %v, warnings %v", f.path, f.old, warnings)
		}
		switch refused := target.refuse != "" && !slices.Contains(target.accept, f.example); {
		case refused:
			if err == nil || !strings.Contains(err.Error(), target.refuse) || !strings.Contains(err.Error(), "leave it out") {
				t.Errorf("%s: %s gave %v, want it refused: %s", f.path, f.example, err, target.refuse)
			}
			if target.refuse == "" || target.set != nil && target.accept == nil {
				t.Errorf("%s: refused, but has a place", f.path)
			}
		case err != nil:
			t.Errorf("%s: %s is refused: %v", f.path, f.example, err)
		default:
			without := Inference{} // what the rest of the file gives
			if strings.HasPrefix(f.path, "quant.") {
				without.DType = INT8
			}
			if target.set != nil && cmp.Equal(in, without, ignoreGiven) {
				t.Errorf("%s: %s changes nothing", f.path, f.example)
			}
			if target.set == nil && target.does == "" {
				t.Errorf("%s: accepted, and nothing said of it", f.path)
			}
			if !in.Given(target.path) {
				t.Errorf("%s: not known as given", f.path)
			}
		}
		for _, value := range target.accept {
			if _, _, err := parse(f.path, `"`+value+`"`); err != nil {
				t.Errorf("%s: %q should be accepted: %v", f.path, value, err)
			}
		}
		if f.path == "replace_method" {
			continue
		}
		if in, _, err := parse(f.path, "auto"); err != nil || in.Given(target.path) {
			t.Errorf("%s: auto should count as not set: %v", f.path, err)
		}
	}
}

// TestDocumentedFields holds every field and alias that DeepSpeed's documentation names.
func TestDocumentedFields(t *testing.T) {
	for section, names := range map[string]string{
		"": `replace_with_kernel_inject kernel_inject dtype tensor_parallel tp enable_cuda_graph use_triton triton_autotune zero triangular_masking
			tm moe quant checkpoint base_dir set_empty_params save_mp_checkpoint_path checkpoint_config ckpt_config return_tuple training_mp_size
			replace_method injection_policy injection_dict injection_policy_tuple config args max_out_tokens max_tokens min_out_tokens min_tokens
			transposed_mode mp_size mpu ep_size ep_group expert_group ep_mp_group expert_mp_group moe_experts moe_type module_key`,
		"tensor_parallel.":    "enabled tp_size mpu tp_group",
		"moe.":                "enabled ep_size moe_experts num_experts type ep_mp_group ep_group expert_group",
		"quant.":              "enabled activation weight qkv",
		"quant.activation.":   "enabled num_bits q_type q_groups",
		"quant.weight.":       "enabled num_bits q_type q_groups quantized_initialization post_init_quant",
		"quant.qkv.":          "enabled",
		"checkpoint_config.":  "checkpoint_dir save_mp_checkpoint_path base_dir",
		"zero.offload_param.": "device nvme_path buffer_count buffer_size max_in_cpu pin_memory",
	} {
		for name := range strings.FieldsSeq(names) {
			if findField(section, name) == nil {
				t.Errorf("%s%s is unknown", section, name)
			}
		}
	}
}

func TestFourCallCases(t *testing.T) {
	file := write(t, "ds.json", `{"kernel_inject": true, "tensor_parallel": {"tp_size": 4}, "dtype": "fp16", "enable_cuda_graph": false}`)
	config := map[string]any{"kernel_inject": true, "tensor_parallel": map[string]int{"tp_size": 4}, "dtype": "fp16", "enable_cuda_graph": false}
	documented := Inference{KernelInject: ptr(true), TensorParallel: TensorParallel{Size: 4}, DType: FP16, CUDAGraph: ptr(false)}
	for _, c := range []struct {
		name   string
		config any
		kwargs map[string]any
		want   Inference
	}{
		{"no config, no kwargs", nil, nil, Inference{}},
		{"a config", config, nil, documented},
		{"a file", file, nil, documented},
		{"kwargs only", nil, map[string]any{"tensor_parallel": map[string]any{"tp_size": 2}}, Inference{TensorParallel: TensorParallel{Size: 2}}},
		{"both", map[string]any{"dtype": "torch.half"}, map[string]any{"replace_with_kernel_inject": true}, Inference{DType: FP16, KernelInject: ptr(true)}},
		{"both, and kwargs win", file, map[string]any{"dtype": BF16, "replace_with_kernel_inject": false},
			Inference{KernelInject: ptr(false), TensorParallel: TensorParallel{Size: 4}, DType: BF16, CUDAGraph: ptr(false)}},
		{"an old name in kwargs wins over the new one", config, map[string]any{"mp_size": 8},
			Inference{KernelInject: ptr(true), TensorParallel: TensorParallel{Size: 8}, DType: FP16, CUDAGraph: ptr(false)}},
		{"MoE types in capitals", map[string]any{"moe": map[string]any{"type": "Residual"}}, nil, Inference{MoE: MoE{Type: "residual"}}},
		{"sections are merged", map[string]any{"moe": map[string]any{"ep_size": 4, "type": "standard"}}, map[string]any{"moe": map[string]any{"type": "residual"}},
			Inference{MoE: MoE{EPSize: 4, Type: "residual"}}},
		{"a nil map and a typed one", map[string]any(nil), map[string]any{"moe": false, "injection_policy": map[string][]string{"T5Block": {"SelfAttention.o"}}},
			Inference{MoE: MoE{Enabled: ptr(false)}, InjectionPolicy: []Injection{{Class: "T5Block", Linears: []string{"SelfAttention.o"}}}}},
	} {
		got, _, err := ParseInference(c.config, c.kwargs)
		if d := cmp.Diff(c.want, got, ignoreGiven); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", c.name, err, d)
		}
	}
	if _, _, err := ParseInference(3, nil); err == nil || err.Error() != "config: 'config' argument expected string or dictionary, got int" {
		t.Error(err)
	}
	if !reflect.DeepEqual(config, map[string]any{"kernel_inject": true, "tensor_parallel": map[string]int{"tp_size": 4}, "dtype": "fp16", "enable_cuda_graph": false}) {
		t.Error("the caller's map was changed")
	}
}

// TestSeedCalls gives what the three documents pass to init_inference.
func TestSeedCalls(t *testing.T) {
	for _, c := range []struct {
		name     string
		kwargs   map[string]any
		want     Inference
		warnings int
	}{
		{"DeepSpeed-MoE", map[string]any{"mp_size": 2, "dtype": "torch.half", "moe_experts": 128, "checkpoint": "/ckpt", "replace_method": "auto", "replace_with_kernel_inject": true},
			Inference{TensorParallel: TensorParallel{Size: 2}, DType: FP16, MoE: MoE{Experts: []int{128}}, Checkpoint: Checkpoint{Path: "/ckpt"}, KernelInject: ptr(true)}, 3},
		{"PR-MoE", map[string]any{"moe_experts": []int{64, 64, 128, 128}, "moe_type": "residual"},
			Inference{MoE: MoE{Experts: []int{64, 64, 128, 128}, Type: "residual"}}, 2},
		{"GPT-2", map[string]any{"mp_size": 1, "dtype": "torch.half", "injection_policy": map[string]any{"gpt2_transformer": "module_inject.replace_policy.HFGPT2LayerPolicy"}},
			Inference{TensorParallel: TensorParallel{Size: 1}, DType: FP16, InjectionPolicy: []Injection{{Class: "gpt2_transformer", Policy: "HFGPT2LayerPolicy"}}}, 1},
		{"Megatron", map[string]any{"checkpoint": "./test.json", "dtype": "torch.half", "module_key": "model", "injection_dict": map[string]string{"GPT2ParallelTransformerLayer": "MegatronLayerPolicy"}},
			Inference{DType: FP16, Checkpoint: Checkpoint{Path: "./test.json"}, ModuleKey: "model", InjectionPolicy: []Injection{{Class: "GPT2ParallelTransformerLayer", Policy: "MegatronLayerPolicy"}}}, 0},
		{"MoQ", map[string]any{"dtype": "int8", "quant": []any{true, 8}},
			Inference{DType: INT8, Quant: Quant{ExtraMLPGrouping: true, Groups: 8}}, 0},
		{"MoQ, groups", map[string]any{"dtype": "int8", "quant": 4}, Inference{DType: INT8, Quant: Quant{Groups: 4}}, 0},
	} {
		got, warnings, err := ParseInference(nil, c.kwargs)
		if d := cmp.Diff(c.want, got, ignoreGiven); err != nil || d != "" || len(warnings) != c.warnings {
			t.Errorf("%s: %v, warnings %v\n%s", c.name, err, warnings, d)
		}
	}
	for policy, family := range map[string]string{"HFGPT2LayerPolicy": "gpt2", "MegatronLayerPolicy": "megatron", "": ""} {
		if got := (Injection{Policy: policy}).Family(); got != family {
			t.Errorf("%s is for %q, want %q", policy, got, family)
		}
	}
}

func TestFused(t *testing.T) {
	named := []Injection{{Linears: []string{"o"}}}
	for _, c := range []struct {
		in   Inference
		want bool
	}{
		{Inference{}, true}, {Inference{KernelInject: ptr(false)}, false}, {Inference{InjectionPolicy: named}, true},
		{Inference{InjectionPolicy: []Injection{{Policy: "HFGPT2LayerPolicy"}}}, true},
	} {
		if got := c.in.Fused(); got != c.want {
			t.Errorf("%+v: fused %v", c.in, got)
		}
	}
}

func TestRefusedInference(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{`{"mp_size": 2, "tensor_parallel": {"tp_size": 2}}`, "ds.json:1: Cannot provide deprecated parameter 'mp_size' and replacing parameter 'tensor_parallel.tp_size' together; leave mp_size out"},
		{`{"moe": {"moe_experts": [4]}, "moe_experts": [4]}`, "ds.json:1: Cannot provide deprecated parameter 'moe_experts' and replacing parameter 'moe.moe_experts' together; leave moe_experts out"},
		{"{\"tp\": {\"tp_size\": 2},\n\"tensor_parallel\": {\"tp_size\": 2}}", "ds.json:2: tensor_parallel.tp_size: is the same field as tp.tp_size in ds.json:1; keep one of them"},
		{`{"max_tokens": 2, "max_out_tokens": 2}`, "ds.json:1: max_out_tokens: is the same field as max_tokens in ds.json:1; keep one of them"},
		{`{"checkpoint": "a", "ckpt_config": {"checkpoint_dir": "b"}}`, "ds.json:1: ckpt_config.checkpoint_dir: is the same field as checkpoint in ds.json:1; keep one of them"},
		{`{"quant": [8, true], "dtype": "int8"}`, "ds.json:1: quant: [8,true] is the wrong way round; write [true, 8]: extra grouping for the MLP, then the number of groups"},
		{`{"quant": "much"}`, "ds.json:1: quant: much is not understood; write a number of groups, [true, groups] or a dictionary"},
		{`{"quant": 8}`, "ds.json:1: quant works with dtype int8 only; add dtype: int8, or leave quant out"},
		{`{"quant": {"enabled": false}, "dtype": "int8"}`, "ds.json:1: dtype int8 needs quantized weights, and quant.enabled is false; leave one of them out"},
		{`{"moe": "yes"}`, "ds.json:1: moe: is a text; write true, false or a dictionary"},
		{`{"moe": {"type": "residul"}}`, "ds.json:1: moe.type: residul is not one of standard, residual; did you mean residual?"},
		{`{"moe": {"moe_experts": []}}`, "ds.json:1: moe.moe_experts: is empty; give a number for all MoE layers, or one for each"},
		{`{"moe": {"ep_size": 0}}`, "ds.json:1: moe.ep_size: 0 is not a whole number of 1 or more"},
		{`{"kernel_inject": 1}`, "ds.json:1: kernel_inject: 1 is neither true nor false"},
		{`{"dtype": "float64"}`, `ds.json:1: dtype: "float64" is not a dtype; use fp32, bf16, fp16, int8 or auto (the checkpoint's own)`},
		{`{"tp": {"tp_group": [[0, 1], [1, 2]]}}`, "ds.json:1: tp.tp_group: has rank 1 twice; a rank belongs to one group"},
		{`{"tp": {"tp_group": [[0, 1], [2]]}}`, "ds.json:1: tp.tp_group: has groups of 2 and of 1 ranks; make them equal"},
		{`{"tp": {"tp_group": [[0, 1]], "tp_size": 4}}`, "ds.json:1: tp_group has groups of 2 ranks, and tp_size is 4; make them equal"},
		{`{"moe": {"ep_group": "mine"}}`, "ds.json:1: moe.ep_group: is a text; write lists of ranks, as [[0, 1], [2, 3]]"},
		{`{"kernel_inject": true, "injection_policy": {"T5Block": ["o"]}}`, "ds.json:1: Cannot use both user specified injection policy and kernel injection; leave out injection_policy or kernel_inject"},
		{`{"injection_policy_tuple": ["a"], "injection_policy": {"T5Block": "o"}}`, "ds.json:1: injection_policy_tuple is for every block, injection_policy for the classes it names; keep one of them"},
		{`{"injection_policy": {"B": "HFGTP2LayerPolicy"}}`, "ds.json:1: injection_policy: B: HFGTP2LayerPolicy is no policy that dsbatch has; did you mean HFGPT2LayerPolicy?"},
		{`{"checkpoint": {"type": "Megatron", "checkpoint": []}}`, "ds.json:1: checkpoint: checkpoint: unknown key; did you mean checkpoints?"},
		{`{"min_out_tokens": 64, "max_out_tokens": 32}`, "ds.json:1: min_out_tokens 64 is more than max_out_tokens 32; lower the one or raise the other"},
		{`{"use_triton": true}`, "ds.json:1: use_triton: true is refused: kernels are C and CUDA C++; there is no Triton compiler; leave it out, or write false"},
		{`{"zero": {"stage": 3, "offload_param": {"device": "nvme"}}}`, "ds.json:1: zero.offload_param.device: nvme is refused: weights are not streamed from NVMe; leave it out, or write none or cpu"},
		{`{"zero": {"stage": 3}}`, "ds.json:1: zero.stage 3 without offload_param.device splits weights that every step has to gather again; use tensor_parallel and moe.ep_size to split a model, and leave zero out"},
		{`{"zero": {"overlap_comm": true}}`, "ds.json:1: zero.overlap_comm: is refused: it tunes how ZeRO trains a model, or gathers split weights, which dsbatch never splits so; leave it out"},
		{`{"ep_sise": 1}`, "ds.json:1: ep_sise: unknown key; did you mean ep_size?"},
		{`{"replace_method": "all"}`, "ds.json:1: replace_method: all is refused: blocks are found by the model's family; leave it out, or write auto"},
	} {
		_, _, err := ParseInference(write(t, "ds.json", c.content), nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s\ngot  %v\nwant %s", c.content, err, c.want)
		}
	}
	_, _, err := ParseInference(nil, map[string]any{"mpu": struct{}{}})
	if want := "kwargs: mpu: is refused: it is an object of a Python program; give tp_size, or tp_group as lists of ranks; leave it out"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, _, err := ParseInference("nowhere.json", nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestTensorParallelOff(t *testing.T) {
	in, _, err := ParseInference(map[string]any{"tensor_parallel": map[string]any{"enabled": false, "tp_size": 4}}, nil)
	if err != nil || in.TensorParallel.Size != 1 {
		t.Errorf("%+v, %v", in.TensorParallel, err)
	}
}

func TestDSConfig(t *testing.T) {
	ds := write(t, "ds.json", `{"dtype": "fp16", "checkpoint": "models/x", "tp": {"tp_size": 2}, "ep_size": 4}`)
	j, warnings, err := Load(Values{"ds-config": {ds}, "dtype": {"bf16"}, "output": {"out"}})
	if err != nil {
		t.Fatal(err)
	}
	if j.DType != BF16 || j.Inference.DType != BF16 || j.TP != 2 || j.EP != 4 || j.Model != "models/x" {
		t.Errorf("dtype %s and %s, tp %d, ep %d, model %s", j.DType, j.Inference.DType, j.TP, j.EP, j.Model)
	}
	if len(warnings) != 1 || warnings[0].String() != "ds.json:1: ep_size is deprecated; write moe.ep_size" {
		t.Errorf("warnings %v", warnings)
	}
	if err := j.Require("model"); err != nil {
		t.Error(err)
	}
	want := Setting{"inference.dtype", "bf16", true}
	if !slices.Contains(j.Settings(), want) {
		t.Errorf("no %v among the settings %v", want, j.Settings())
	}
	j, _, err = Load(Values{"ds-config": {ds}, "model": {"models/y"}})
	if err != nil || j.Model != "models/y" || j.Inference.Checkpoint.Path != "" {
		t.Errorf("a model on the command line: %v, %s, checkpoint %s", err, j.Model, j.Inference.Checkpoint.Path)
	}
	if err := os.WriteFile("job.yaml", []byte("model: models/y\ninference: {checkpoint: {type: Megatron, checkpoints: [a.pt]}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(Values{"job": {"job.yaml"}}); err == nil || !strings.Contains(err.Error(), "job.yaml:1: model: models/y here, but checkpoint: ") {
		t.Errorf("a model and a checkpoint in one file: %v", err)
	}
	if err := os.WriteFile("job.yaml", []byte("ds_config: ds.json\ninference: {dtype: fp16}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(Values{"job": {"job.yaml"}}); err == nil || err.Error() != "job.yaml:1: --ds-config ds.json and the section inference: of job.yaml hold the same fields; keep one of them" {
		t.Error(err)
	}
}
