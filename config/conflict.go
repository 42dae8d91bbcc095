package config

import (
	"fmt"
	"math/bits"
	"path/filepath"
	"slices"
	"strings"
)

// conflicts finds settings that cannot work together, each a sentence with the mend. What depends on the model, on the
// ranks that a launcher started or on the input's columns is found later, by those who know them.
func (j *Job) conflicts() []error {
	c := conflict{job: j}
	c.wrongTask()
	c.oneOf("a row has one prompt", "prompt-column", "ids-column", "messages-column")
	c.both("stride", "continuation-column", "windows are for scoring whole documents")
	c.both("ids-column", "continuation-column", "prompt and continuation are encoded together, as texts")
	c.both("ids-column", "pair-column", "the tokenizer joins the texts of a pair")
	c.both("ids-column", "truncate", "ids are used as they are")
	c.both("messages-column", "truncate", "half a chat is none")
	c.both("messages-column", "pair-column", "the texts of a pair are a prompt and a second one")
	for _, flag := range []string{"tools-column", "chat-template", "chat-template-kwargs", "now"} {
		if j.Given(flag) && j.MessagesColumn == "" {
			c.refuse("--%s is for chats, and no column of them is named; add --messages-column, or leave it out", flag)
		}
	}
	for _, flag := range []string{"capacity-factor", "min-capacity", "drop-policy"} {
		if j.Given(flag) && !j.DropTokens {
			c.refuse("--%s has no effect as no token is dropped; add --drop-tokens, or leave it out", flag)
		}
	}
	c.layout()
	c.device()
	c.paths()
	if j.Progress == "bar" && j.LogFormat == "json" {
		c.refuse("--%s bar would stand between the lines of --log-format json; use --progress log", "progress")
	}
	if window := j.Inference.MaxOutTokens; window > 0 && j.Task == Generate && j.MaxNewTokens >= window {
		c.refuse("--%s %d leaves no room for a prompt in max_out_tokens %d; lower the one or raise the other", "max-new-tokens", j.MaxNewTokens, window)
	}
	if j.MinNewTokens > j.MaxNewTokens {
		c.refuse("--%s %d is more than --max-new-tokens %d; lower the one or raise the other", "min-new-tokens", j.MinNewTokens, j.MaxNewTokens)
	}
	return append(c.errs, j.Inference.conflicts()...)
}

// conflict gathers the errors of one job.
type conflict struct {
	job  *Job
	errs []error
}

// refuse adds an error at the place where the flag was given; the format's first argument is the flag.
func (c *conflict) refuse(format, flag string, args ...any) {
	at := c.job.given[flag]
	c.errs = append(c.errs, at.errorAt("", format, append([]any{flag}, args...)...))
}

// wrongTask refuses settings that mean nothing to the task.
func (c *conflict) wrongTask() {
	for i := range Flags {
		f := &Flags[i]
		if len(f.Tasks) == 0 || !c.job.Given(f.Name) || slices.Contains(f.Tasks, c.job.Task) {
			continue
		}
		only := strings.NewReplacer("(", "", ")", "").Replace(f.tasks())
		c.refuse("--%s means something to%s only, and the task is %s; leave it out, or change --task", f.Name, only, c.job.Task)
	}
}

// oneOf refuses all but one of the flags.
func (c *conflict) oneOf(why string, flags ...string) {
	var given []string
	for _, flag := range flags {
		if c.job.Given(flag) {
			given = append(given, flag)
		}
	}
	if len(given) > 1 {
		c.refuse("--%s and --%s are given, but %s; keep one of them", given[0], strings.Join(given[1:], " and --"), why)
	}
}

func (c *conflict) both(flag, other, why string) {
	if c.job.Given(flag) && c.job.Given(other) {
		c.refuse("--%s does not go with --%s: %s; leave one of them out", flag, other, why)
	}
}

// layout checks the sizes of groups against one another and against --ranks.
func (c *conflict) layout() {
	j := c.job
	one := max(j.TP, 1) * max(j.PP, 1) // ranks of a replica
	switch {
	case j.Ranks > 0 && j.DP > 0 && j.Ranks != one*j.DP:
		c.refuse("--%s %d is not dp %d × tp %d × pp %d = %d; leave --dp out, or make them equal", "ranks", j.Ranks, j.DP, j.TP, j.PP, one*j.DP)
	case j.Ranks > 0 && j.Ranks%one != 0 && j.PP == 1:
		c.refuse("--%s %d does not divide --ranks %d; use %s", "tp", j.TP, j.Ranks, divisors(j.Ranks))
	case j.Ranks > 0 && j.Ranks%one != 0 && j.TP == 1:
		c.refuse("--%s %d does not divide --ranks %d; use %s", "pp", j.PP, j.Ranks, divisors(j.Ranks))
	case j.Ranks > 0 && j.Ranks%one != 0:
		c.refuse("--%s %d is no multiple of tp %d × pp %d = %d, the ranks of a replica; use sizes whose product is %s", "ranks",
			j.Ranks, j.TP, j.PP, one, divisors(j.Ranks))
	}
	if j.Ranks > 0 && j.EP > 0 && (j.Ranks/max(j.PP, 1))%j.EP != 0 {
		stage := j.Ranks / max(j.PP, 1)
		c.refuse("--%s %d does not divide the %d ranks of a stage; use %s, or leave it out", "ep", j.EP, stage, divisors(stage))
	}
	if j.Reference && (j.Ranks > 1 || one > 1 || j.EP > 1 || j.ES > 1) {
		c.refuse("--%s runs on one rank; leave out --ranks, --tp, --pp, --ep and --es", "reference")
	}
	if j.TPInvariant && (bits.OnesCount(uint(j.TP)) != 1 || j.ES != 0 && bits.OnesCount(uint(j.ES)) != 1) {
		c.refuse("--%s holds for powers of two, and tp is %d, es %d; change these, or leave it out", "tp-invariant", j.TP, j.ES)
	}
	if j.AllToAll == "coordinated" && j.TP == 1 {
		c.refuse("--%s coordinated shares the tokens among tensor-parallel ranks, and --tp is 1; use auto, flat or hierarchical", "all-to-all")
	}
	if j.FakeNodes > 0 && j.Ranks > 0 && j.FakeNodes > j.Ranks {
		c.refuse("--%s %d are more than --ranks %d; use at most as many", "fake-nodes", j.FakeNodes, j.Ranks)
	}
}

// divisors lists the numbers that divide n: "1, 2 or 4".
func divisors(n int) string {
	text := "1"
	for d := 2; d < n; d++ {
		if n%d == 0 {
			text += fmt.Sprintf(", %d", d)
		}
	}
	if n > 1 {
		text += fmt.Sprintf(" or %d", n)
	}
	return text
}

// device refuses what the named back end cannot do.
func (c *conflict) device() {
	in := &c.job.Inference
	if c.job.Device == "cpu" && in.CUDAGraph != nil && *in.CUDAGraph {
		c.refuse("--%s cpu has no CUDA graphs, and enable_cuda_graph is true; leave that out, or use --device cuda", "device")
	}
	const buffers = "zero.offload_param.buffer_count"
	if in.Given(buffers) && c.job.Offload != "cpu" {
		c.errs = append(c.errs, in.under(buffers).errorAt("", "%s counts buffers for weights that wait in the host's memory, and --offload is %s; add device: cpu, or leave it out", buffers, c.job.Offload))
	}
	switch {
	case c.job.Given("offload-layers") && c.job.Offload != "cpu":
		c.refuse("--%s counts layers whose weights wait in the host's memory, and --offload is %s; add --offload cpu, or leave it out", "offload-layers", c.job.Offload)
	case c.job.Given("offload-layers") && c.job.Device == "cpu":
		c.refuse("--%s has no effect on a CPU, which computes with weights where they lie; leave it out, or use --device cuda", "offload-layers")
	}
	if c.job.Reference && in.KernelInject != nil && *in.KernelInject {
		c.refuse("--%s runs plain operations, and kernel_inject is true; keep one of them", "reference")
	}
}

// paths refuses an output whose parts would be read as input: one that lies in an input folder, or that a glob finds.
func (c *conflict) paths() {
	for _, path := range []struct{ flag, value string }{{"model", c.job.Model}, {"output", c.job.Output}, {"expert-placement", c.job.ExpertPlacement},
		{"chat-template", c.job.ChatTemplate}} {
		c.local(path.flag, path.value)
	}
	for _, input := range c.job.Input {
		c.local("input", input)
	}
	part, err := filepath.Abs(filepath.Join(c.job.Output, "part-0000000.parquet"))
	if err != nil || c.job.Output == "" {
		return // no working directory: whoever opens the output says so
	}
	for _, input := range c.job.Input {
		in, err := filepath.Abs(input)
		if err != nil {
			continue
		}
		for folder := part; ; folder = filepath.Dir(folder) {
			if found, err := filepath.Match(in, folder); folder == in || err == nil && found {
				c.refuse("--%s %s lies where --input %s finds it, and would be read as input when the job is resumed; name a directory elsewhere", "output", c.job.Output, input)
				break
			}
			if folder == filepath.Dir(folder) {
				break
			}
		}
	}
}

// local refuses a path that would be taken for an odd name in this folder: no shell has replaced its ~, or it is an
// address, such as of an object store.
func (c *conflict) local(flag, path string) {
	if scheme, _, remote := strings.Cut(path, "://"); remote && !strings.ContainsAny(scheme, "/.") {
		c.refuse("--%s %s is an address, and only files are read and written; mount or copy what it names, and give the path", flag, path)
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		c.refuse("--%s %s begins with ~, which only a shell replaces, and neither behind = nor in quotes nor in a file; write the folder out", flag, path)
	}
}

// conflicts finds fields of inference: that do not go together.
func (in *Inference) conflicts() (errs []error) {
	refuse := func(path, sentence string) {
		errs = append(errs, in.under(path).errorAt("", "%s", sentence))
	}
	if in.KernelInject != nil && *in.KernelInject && len(in.InjectionPolicy) > 0 {
		refuse("replace_with_kernel_inject", "Cannot use both user specified injection policy and kernel injection; leave out injection_policy or kernel_inject")
	}
	if in.Given("injection_policy") && in.Given("injection_policy_tuple") {
		refuse("injection_policy_tuple", "injection_policy_tuple is for every block, injection_policy for the classes it names; keep one of them")
	}
	if in.MaxOutTokens > 0 && in.MinOutTokens > in.MaxOutTokens {
		refuse("min_out_tokens", fmt.Sprintf("min_out_tokens %d is more than max_out_tokens %d; lower the one or raise the other", in.MinOutTokens, in.MaxOutTokens))
	}
	if in.given["zero.stage"].text == "3" && !in.Given("zero.offload_param.device") {
		refuse("zero.stage", "zero.stage 3 without offload_param.device splits weights that every step has to gather again; use tensor_parallel and moe.ep_size to split a model, and leave zero out")
	}
	quantized := in.Quant.Enabled != nil && *in.Quant.Enabled || in.Quant.Enabled == nil && in.Quant.set()
	off := in.Quant.Enabled != nil && !*in.Quant.Enabled
	switch {
	case quantized && in.DType != INT8:
		refuse("quant", "quant works with dtype int8 only; add dtype: int8, or leave quant out")
	case off && in.DType == INT8:
		refuse("quant.enabled", "dtype int8 needs quantized weights, and quant.enabled is false; leave one of them out")
	}
	if group := in.TensorParallel.Group; group != nil && in.TensorParallel.Size > 0 && len(group[0]) != in.TensorParallel.Size {
		refuse("tensor_parallel.tp_group", fmt.Sprintf("tp_group has groups of %d ranks, and tp_size is %d; make them equal", len(group[0]), in.TensorParallel.Size))
	}
	if group := in.MoE.Group; group != nil && in.MoE.EPSize > 0 && len(group[0]) != in.MoE.EPSize {
		refuse("moe.ep_group", fmt.Sprintf("ep_group has groups of %d ranks, and ep_size is %d; make them equal", len(group[0]), in.MoE.EPSize))
	}
	return errs
}

// set tells whether anything but enabled was asked for.
func (q Quant) set() bool { return q.Groups > 0 || q.ExtraMLPGrouping }

// idle warns of settings that have no effect unless a column of the input says otherwise.
func (j *Job) idle() (out []Warning) {
	if j.Task != Generate || j.Temperature > 0 {
		return nil
	}
	for _, flag := range []string{"top-k", "top-p", "min-p", "seed"} {
		if j.Given(flag) {
			out = append(out, Warning{j.given[flag].String(), "--" + flag + " has no effect at temperature 0, where the likeliest token is taken; rows with a column temperature use it"})
		}
	}
	if j.N > 1 {
		out = append(out, Warning{j.given["n"].String(), "the samples of a row are all equal at temperature 0; add --temperature, or a column temperature"})
	}
	return out
}
