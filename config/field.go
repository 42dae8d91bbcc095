package config

import (
	"fmt"
	"slices"
	"strings"
)

// field is one entry of the DeepSpeedInferenceConfig: what DeepSpeed's documentation calls it, and what dsbatch does with it.
type field struct {
	path    string // sections and name in canonical names: "moe.ep_size"
	alias   string // another name for the last part
	stated  string // its default in DeepSpeed's documentation; "" where that has none
	does    string // what dsbatch does with a value, for the docs
	refuse  string // why every value outside accept is refused; "" for a field that is obeyed
	accept  []string
	example string // a value that shows what does or refuse says
	instead string // the path that the value goes to
	old     bool   // deprecated
	section bool
	tuple   bool // has no name of its own: part of a tuple
	bits    bool // part of the output's fingerprint, unless a flag says the same and is

	short func(node) (map[string]node, error) // of a section: what stands for a dictionary
	set   func(*Inference, node) error
}

// refusal is why a value is refused; nil when it is not.
func (f *field) refusal(n node) error {
	if f.refuse == "" || n.isScalar() && slices.Contains(f.accept, n.text) {
		return nil
	}
	if len(f.accept) > 0 {
		return fmt.Errorf("%s is refused: %s; leave it out, or write %s", compact(n), f.refuse, strings.Join(f.accept, " or "))
	}
	return fmt.Errorf("is refused: %s; leave it out", f.refuse)
}

// fieldAt finds a field by its canonical path.
func fieldAt(path string) *field {
	if i := slices.IndexFunc(fields, func(f field) bool { return f.path == path }); i >= 0 {
		return &fields[i]
	}
	return nil
}

// findField finds a name or alias in a section, whose path ends in a dot; "" is the top.
func findField(section, name string) *field {
	for i := range fields {
		f := &fields[i]
		rest, ok := strings.CutPrefix(f.path, section)
		if ok && !f.tuple && !strings.Contains(rest, ".") && (rest == name || f.alias != "" && f.alias == name) {
			return f
		}
	}
	return nil
}

// nearestField is the end of a sentence about an unknown name: the same name in another section, or the nearest in this.
func nearestField(section, name string) string {
	var here []string
	for i := range fields {
		f := &fields[i]
		at := strings.LastIndex(f.path, ".") + 1
		switch {
		case f.tuple:
		case f.path[:at] == section:
			here = append(here, f.path[at:])
			if f.alias != "" {
				here = append(here, f.alias)
			}
		case f.path[at:] == name || f.alias == name:
			return "did you mean " + f.path + "?"
		}
	}
	return didYouMean(name, here, "docs/config.md lists them")
}

// fields is the whole of the DeepSpeedInferenceConfig. docs/config.md is made from it; a test sets every field to its
// example and finds it obeyed, or refused with the reason.
var fields = append([]field{
	{path: "replace_with_kernel_inject", alias: "kernel_inject", stated: "false", example: "true", bits: true,
		does: "true runs the fused kernels, false plain operations with sliced linears (the generic path). Not set: fused",
		set:  func(in *Inference, n node) error { return n.optional(&in.KernelInject) }},
	{path: "dtype", stated: "torch.float16", example: "torch.half",
		does: "type of the weights: fp32, bf16, fp16 or int8 in any spelling of DeepSpeed's, also torch.half and torch.float; int8 rounds every linear weight, the output embedding too, and leaves gates in fp32. Not set: the checkpoint's own",
		set:  func(in *Inference, n node) (err error) { in.DType, err = ParseDType(n.text); return err }},

	{path: "tensor_parallel", alias: "tp", stated: "{}", section: true, does: "dictionary of the fields below"},
	{path: "tensor_parallel.enabled", stated: "true", example: "false", accept: []string{"true", "false"}, refuse: eitherWay,
		does: "false sets tp_size to 1, whatever that says"},
	{path: "tensor_parallel.tp_size", stated: "1", example: "4", does: "the flag --tp",
		set: func(in *Inference, n node) error { return n.atLeast(1, &in.TensorParallel.Size) }},
	{path: "tensor_parallel.tp_grain_size", example: "32", accept: []string{"64"}, refuse: "slices of an uneven size keep to grains of 64, where there are enough of them"},
	{path: "tensor_parallel.mpu", stated: "None", example: "{size: 2}", refuse: "it is an object of a Python program; give tp_size, or tp_group as lists of ranks"},
	{path: "tensor_parallel.tp_group", stated: "None", example: "[[0, 1], [2, 3]]", bits: true, does: "the groups, as lists of ranks; checked against tp_size and the number of ranks",
		set: func(in *Inference, n node) (err error) { in.TensorParallel.Group, err = n.groups(); return err }},

	{path: "enable_cuda_graph", stated: "false", example: "true", does: "on a GPU true captures decode steps into CUDA graphs, false does not; refused as true on the CPU. Not set: on a GPU, true",
		set: func(in *Inference, n node) error { return n.optional(&in.CUDAGraph) }},
	{path: "use_triton", stated: "false", example: "true", accept: []string{"false"}, refuse: "kernels are C and CUDA C++; there is no Triton compiler"},
	{path: "triton_autotune", stated: "false", example: "true", accept: []string{"false"}, refuse: "kernels are C and CUDA C++; there is no Triton compiler"},

	{path: "zero", stated: "{}", section: true, does: "dictionary of the fields below"},
	{path: "zero.stage", example: "1", accept: []string{"0", "3"}, bits: false,
		refuse: "stages 1 and 2 split gradients and optimizer states, which inference has none of",
		does:   "0 and 3 are accepted; what 3 does for inference is said by offload_param"},
	{path: "zero.offload_param", section: true, does: "dictionary of the fields below"},
	{path: "zero.offload_param.device", example: "cpu", accept: []string{"none", "cpu"},
		refuse: "weights are not streamed from NVMe", does: "the flag --offload: cpu keeps the weights of layers in the host's memory, which is always so on the CPU; a GPU gets them when their turn comes",
		set: func(in *Inference, n node) error { return n.oneOf(&in.Offload.Device, "none", "cpu") }},
	{path: "zero.offload_param.pin_memory", example: "true",
		does: "true is how it is done: host memory is pinned wherever a GPU reads it, and nowhere else. false is refused where weights wait for a GPU: only pinned memory is read while it computes",
		set:  func(in *Inference, n node) error { return n.optional(&in.Offload.Pinned) }},
	{path: "zero.offload_param.nvme_path", example: "/local", refuse: noNVMe},
	{path: "zero.offload_param.buffer_count", example: "5", does: "buffers on the GPU, of a layer each, for weights that come from the host's memory; at least 2, which is enough to keep the bus busy. Not set: 2",
		set: func(in *Inference, n node) error { return n.atLeast(2, &in.Offload.Buffers) }},
	{path: "zero.offload_param.buffer_size", example: "100000000", refuse: "a buffer holds the weights of the largest layer, no less and no more"},
	{path: "zero.offload_param.max_in_cpu", example: "1000000000", refuse: noNVMe},

	{path: "triangular_masking", alias: "tm", stated: "true", example: "true", bits: true,
		does: "true attends to earlier tokens only, false to all. A model's family fixes it, and a value that contradicts the family is refused. Not set: as the family has it",
		set:  func(in *Inference, n node) error { return n.optional(&in.TriangularMask) }},

	{path: "moe", stated: "{}", section: true, does: "dictionary of the fields below; true or false alone is moe.enabled", short: shortMoE},
	{path: "moe.enabled", stated: "true", example: "false", does: "whether the checkpoint must have MoE layers (true) or none (false). Not set: either",
		set: func(in *Inference, n node) error { return n.optional(&in.MoE.Enabled) }},
	{path: "moe.ep_size", stated: "1", example: "8", does: "the flag --ep. Not set: automatic, the most ranks that the experts spread over",
		set: func(in *Inference, n node) error { return n.atLeast(1, &in.MoE.EPSize) }},
	{path: "moe.moe_experts", alias: "num_experts", stated: "[1]", example: "[64, 64, 128]",
		does: "expert counts, a number for all MoE layers or one for each; compared with the checkpoint's. Not set: the checkpoint's",
		set:  func(in *Inference, n node) (err error) { in.MoE.Experts, err = n.counts(); return err }},
	{path: "moe.type", stated: "standard", example: "residual", does: "standard or residual (PR-MoE); compared with the checkpoint's. Not set: the checkpoint's",
		set: func(in *Inference, n node) error { return n.lower().oneOf(&in.MoE.Type, "standard", "residual") }},
	{path: "moe.ep_mp_group", stated: "None", example: "[[0, 4], [1, 5]]", bits: true, does: "the expert-slicing groups, as lists of ranks; checked and used",
		set: func(in *Inference, n node) (err error) { in.MoE.SliceWith, err = n.groups(); return err }},
	{path: "moe.ep_group", alias: "expert_group", stated: "None", example: "[[0, 1], [2, 3]]", does: "the expert-parallel groups, as lists of ranks; checked and used",
		set: func(in *Inference, n node) (err error) { in.MoE.Group, err = n.groups(); return err }},

	{path: "keep_module_on_host", example: "true", accept: []string{"false"},
		refuse: "weights go straight to where they stay; --offload cpu keeps those of layers on the host"},

	{path: "quant", stated: "{}", section: true, short: shortQuant,
		does: "dictionary of the fields below, a number of groups, or the pair [true, groups] with extra grouping for the MLP; works with dtype int8 only"},
	{path: "quant.enabled", stated: "true", example: "true", bits: true, does: "true demands dtype int8, false refuses it. Not set: with dtype int8",
		set: func(in *Inference, n node) error { return n.optional(&in.Quant.Enabled) }},
	{path: "quant.extra_mlp_grouping", tuple: true, bits: true, does: "the first of a pair: true makes twice the groups in MLP weights",
		set: func(in *Inference, n node) (err error) { in.Quant.ExtraMLPGrouping, err = n.boolean(); return err }},
	{path: "quant.activation", stated: "enabled, 8 bits, symmetric, 1 group", section: true, does: "dictionary of the fields below"},
	{path: "quant.activation.enabled", stated: "true", example: "true", accept: []string{"false"}, refuse: floatActivations},
	{path: "quant.activation.num_bits", stated: "8", example: "8", refuse: floatActivations},
	{path: "quant.activation.q_type", stated: "symmetric", example: "symmetric", refuse: floatActivations},
	{path: "quant.activation.q_groups", stated: "1", example: "1", refuse: floatActivations},
	{path: "quant.weight", stated: "enabled, 8 bits, symmetric, 1 group", section: true, does: "dictionary of the fields below"},
	{path: "quant.weight.enabled", stated: "true", example: "false", accept: []string{"true"}, refuse: "weights are all that is quantized; turn it off with quant.enabled"},
	{path: "quant.weight.num_bits", stated: "8", example: "4", accept: []string{"8"}, refuse: "weights of 8 bits are the only quantized ones"},
	{path: "quant.weight.q_type", stated: "symmetric", example: "asymmetric", accept: []string{"symmetric"}, refuse: "weights of 8 bits are symmetric around 0"},
	{path: "quant.weight.q_groups", stated: "1", example: "8", bits: true,
		does: "groups that each weight matrix is cut into, with a scale each. int8 has a scale for each output row: a number that is not the rows of every weight is refused, with the arithmetic. Not set: a scale a row",
		set:  func(in *Inference, n node) error { return n.atLeast(1, &in.Quant.Groups) }},
	{path: "quant.weight.quantized_initialization", stated: "{}", example: "{num_bits: 4}", refuse: "it belongs to ZeRO-3 training"},
	{path: "quant.weight.post_init_quant", stated: "{}", example: "{fc: {num_bits: 4}}", refuse: "weights are quantized alike in all layers"},
	{path: "quant.qkv", stated: "enabled", section: true, does: "dictionary of the field below"},
	{path: "quant.qkv.enabled", stated: "true", example: "false", accept: []string{"true"}, refuse: "the attention's query, key and value weights are quantized like all others"},

	{path: "checkpoint", stated: "None", example: "/models/gpt.json", bits: true,
		does: "path of a checkpoint (folder, or JSON description), or the description itself: type, version, checkpoints, base_dir, parallelization, mp_size, tp_size, dtype. Stands for --model where that is not given; relative paths in a description begin at base_dir, else in the folder of its file, else (in a job) in the working directory",
		set:  setCheckpoint},
	{path: "base_dir", stated: `""`, example: "/models", bits: true, does: "stands in front of the checkpoint's relative file names",
		set: func(in *Inference, n node) error { return n.string(&in.BaseDir) }},
	{path: "set_empty_params", stated: "false", example: "true", accept: []string{"true", "false"}, refuse: eitherWay,
		does: "both are accepted: tensors are always made empty and then filled from the checkpoint"},
	{path: "save_mp_checkpoint_path", stated: "None", example: "/models/saved",
		does: "folder in which the model is saved at the start as the slices that the ranks hold, with an index (docs/formats.md): a later start of the same tp and ep reads its own files alone. One that is there already stays if it is this model in these slices; anything else there is refused",
		set:  func(in *Inference, n node) error { return n.string(&in.SavePath) }},
	{path: "checkpoint_config", alias: "ckpt_config", stated: "{}", section: true, does: "dictionary of the fields below"},
	{path: "checkpoint_config.checkpoint_dir", stated: "None", example: "/models/gpt", instead: "checkpoint"},
	{path: "checkpoint_config.save_mp_checkpoint_path", stated: "None", example: "/models/saved", instead: "save_mp_checkpoint_path"},
	{path: "checkpoint_config.base_dir", stated: "None", example: "/models", instead: "base_dir"},
	{path: "return_tuple", stated: "true", example: "false", accept: []string{"true"}, refuse: "it is about what a layer returns to Python code, and there is none"},
	{path: "training_mp_size", stated: "1", example: "2", does: "slices that the checkpoint was trained with; compared with the checkpoint's. Not set: the checkpoint's",
		set: func(in *Inference, n node) error { return n.atLeast(1, &in.TrainingMPSize) }},
	{path: "replace_method", stated: "auto", old: true, example: "generic", accept: []string{"auto"}, refuse: "blocks are found by the model's family"},
	{path: "injection_policy", alias: "injection_dict", stated: "None", example: "{T5Block: [SelfAttention.o, DenseReluDense.wo]}", bits: true,
		does: "module class → names of the linears whose outputs are summed over tp, all others being cut along their outputs; or → a policy of DeepSpeed's, which must be that of the model's family. The names make a Hugging Face model of a family that dsbatch has no policy for run, where its files tell the rest of its block (docs/slicing.md); of a known family they must be those that it sums. Not together with kernel_inject: true",
		set:  setInjection},
	{path: "injection_policy_tuple", stated: "None", example: "[attention.dense, mlp.dense_4h_to_h]", bits: true, does: "such names for every block of the model: the attention's output and the second linear of the MLP or of each expert",
		set: setInjectionTuple},
	{path: "config", alias: "args", stated: "None", example: "{rope_theta: 500000.0}", bits: true, does: "dictionary of values that win over the model's config.json; one that neither the model has nor dsbatch asks for is refused",
		set: func(in *Inference, n node) error {
			if n.kind != table {
				return fmt.Errorf("is %s; write a dictionary", n.kind)
			}
			in.ModelConfig = n.plain().(map[string]any) // what a table gives
			return nil
		}},
	{path: "max_out_tokens", alias: "max_tokens", stated: "1024", example: "2048", bits: true, does: "most tokens of a row, prompt and output together; the model's window where that is less, but of BLOOM, whose ALiBi knows no end. Not set: the window",
		set: func(in *Inference, n node) error { return n.atLeast(1, &in.MaxOutTokens) }},
	{path: "min_out_tokens", alias: "min_tokens", stated: "1", example: "64", does: "tokens of a row that must fit into memory, or the job is refused with the arithmetic",
		set: func(in *Inference, n node) error { return n.atLeast(1, &in.MinOutTokens) }},
	{path: "transposed_mode", stated: "false", example: "true", accept: []string{"false"}, refuse: "weights are packed once at load, into the order that the kernels want"},
	{path: "module_key", stated: "(in the Megatron example)", example: "model", bits: true, does: "the key that holds the weights in a DeepSpeed or Megatron file, module or model; refused for other checkpoints. Not set: the one that is there",
		set: func(in *Inference, n node) error { return n.oneOf(&in.ModuleKey, "module", "model") }},

	{path: "mp_size", stated: "1", old: true, example: "2", instead: "tensor_parallel.tp_size"},
	{path: "mpu", stated: "None", old: true, example: "{size: 2}", instead: "tensor_parallel.mpu"},
	{path: "ep_size", stated: "1", old: true, example: "8", instead: "moe.ep_size"},
	{path: "ep_group", alias: "expert_group", stated: "None", old: true, example: "[[0, 1]]", instead: "moe.ep_group"},
	{path: "ep_mp_group", alias: "expert_mp_group", stated: "None", old: true, example: "[[0, 1]]", instead: "moe.ep_mp_group"},
	{path: "moe_experts", stated: "[1]", old: true, example: "128", instead: "moe.moe_experts"},
	{path: "moe_type", stated: "standard", old: true, example: "residual", instead: "moe.type"},
}, trainingFields()...)

const (
	eitherWay        = "it is true or false"
	noNVMe           = "weights are not streamed from NVMe"
	floatActivations = "only weights are quantized, activations stay in floating point"
)

// trainingFields are the fields of DeepSpeedZeroConfig that say how a model is trained.
func trainingFields() (out []field) {
	for name := range strings.FieldsSeq(`allgather_bucket_size allgather_partitions contiguous_gradients cpu_offload cpu_offload_param
		cpu_offload_use_pin_memory elastic_checkpoint gather_16bit_weights_on_model_save ignore_unused_parameters leaf_module legacy_stage1
		load_from_fp32_weights log_trace_cache_warnings max_live_parameters max_reuse_distance memory_efficient_linear
		mics_hierarchical_params_gather mics_shard_size model_persistence_threshold module_granularity_threshold offload_optimizer
		overlap_comm override_module_apply param_persistence_threshold pipeline_loading_checkpoint prefetch_bucket_size reduce_bucket_size
		reduce_scatter round_robin_gradients stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save
		stage3_max_live_parameters stage3_max_reuse_distance stage3_model_persistence_threshold stage3_param_persistence_threshold
		stage3_prefetch_bucket_size sub_group_size use_all_reduce_for_fetch_params use_multi_rank_bucket_allreduce zero_hpz_partition_size
		zero_quantized_gradients zero_quantized_nontrainable_weights zero_quantized_weights`) {
		out = append(out, field{path: "zero." + name, example: "1", refuse: "it tunes how ZeRO trains a model, or gathers split weights, which dsbatch never splits so"})
	}
	return out
}
