package config

import (
	"strings"
	"testing"
)

// TestConflicts gives each forbidden combination, and finds the same settings accepted once mended as the sentence says.
func TestConflicts(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct{ args, says, mended string }{
		{"prompt-column=a ids-column=b", "--prompt-column and --ids-column are given, but a row has one prompt; keep one of them", "ids-column=b"},
		{"prompt-column=a ids-column=b messages-column=c", "--prompt-column and --ids-column and --messages-column are given, but a row has one prompt; keep one of them", "messages-column=c"},
		{"task=score temperature=1", "--temperature means something to task generate only, and the task is score; leave it out, or change --task", "task=score"},
		{"continuation-column=c", "--continuation-column means something to task score only, and the task is generate; leave it out, or change --task", "continuation-column=c task=score"},
		{"task=score continuation-column=c ids-column=i", "--ids-column does not go with --continuation-column: prompt and continuation are encoded together, as texts; leave one of them out", "task=score continuation-column=c messages-column=m"},
		{"task=score continuation-column=c stride=5", "--stride does not go with --continuation-column: windows are for scoring whole documents; leave one of them out", "task=score stride=5"},
		{"capacity-factor=2", "--capacity-factor has no effect as no token is dropped; add --drop-tokens, or leave it out", "capacity-factor=2 drop-tokens=true"},
		{"ranks=8 dp=2 tp=2", "--ranks 8 is not dp 2 × tp 2 × pp 1 = 4; leave --dp out, or make them equal", "ranks=8 tp=2"},
		{"ranks=8 tp=3", "--tp 3 does not divide --ranks 8; use 1, 2, 4 or 8", "ranks=9 tp=3"},
		{"ranks=4 pp=3", "--pp 3 does not divide --ranks 4; use 1, 2 or 4", "ranks=4 pp=2"},
		{"ranks=8 tp=2 pp=3", "--ranks 8 is no multiple of tp 2 × pp 3 = 6, the ranks of a replica; use sizes whose product is 1, 2, 4 or 8", "ranks=8 tp=2 pp=2"},
		{"ranks=8 ep=3", "--ep 3 does not divide the 8 ranks of a stage; use 1, 2, 4 or 8, or leave it out", "ranks=8 ep=4"},
		{"reference=true ranks=2", "--reference runs on one rank; leave out --ranks, --tp, --pp, --ep and --es", "reference=true"},
		{"tp-invariant=true tp=3", "--tp-invariant holds for powers of two, and tp is 3, es 1; change these, or leave it out", "tp-invariant=true tp=4"},
		{"all-to-all=coordinated", "--all-to-all coordinated shares the tokens among tensor-parallel ranks, and --tp is 1; use auto, flat or hierarchical", "all-to-all=coordinated tp=2"},
		{"fake-nodes=4 ranks=2", "--fake-nodes 4 are more than --ranks 2; use at most as many", "fake-nodes=2 ranks=4"},
		{"progress=bar log-format=json", "--progress bar would stand between the lines of --log-format json; use --progress log", "progress=log log-format=json"},
		{"input=data output=data/out", "--output data/out lies where --input data finds it, and would be read as input when the job is resumed; name a directory elsewhere", "input=data output=data-out"},
		{"input=data/a input=data output=data/out", "--output data/out lies where --input data finds it, and would be read as input when the job is resumed; name a directory elsewhere", "input=data/*.parquet output=data/out"},
		{"input=data/* output=data/out/a", "--output data/out/a lies where --input data/* finds it, and would be read as input when the job is resumed; name a directory elsewhere", "input=data/in/* output=data"},
		{"input=data/*.parquet output=data", "--output data lies where --input data/*.parquet finds it, and would be read as input when the job is resumed; name a directory elsewhere", "input=data/*.jsonl output=data"},
		{"input=data output=./data/", "--output ./data/ lies where --input data finds it, and would be read as input when the job is resumed; name a directory elsewhere", "input=data/in output=data"},
	} {
		_, _, err := Load(values(c.args))
		if err == nil || err.Error() != c.says {
			t.Errorf("%s\ngot  %v\nwant %s", c.args, err, c.says)
		}
		if _, _, err := Load(values(c.mended)); err != nil {
			t.Errorf("%s, mended: %v", c.mended, err)
		}
	}
}

func values(args string) Values {
	v := Values{}
	for arg := range strings.FieldsSeq(args) {
		name, value, _ := strings.Cut(arg, "=")
		v[name] = append(v[name], value)
	}
	return v
}

func TestConflictsWithInference(t *testing.T) {
	for _, c := range []struct{ content, args, says string }{
		{"device: cpu\ninference: {enable_cuda_graph: true}", "", "job.yaml:1: --device cpu has no CUDA graphs, and enable_cuda_graph is true; leave that out, or use --device cuda"},
		{"inference: {zero: {offload_param: {device: none, buffer_count: 3}}}", "", "job.yaml:1: zero.offload_param.buffer_count counts buffers for weights that wait in the host's memory, and --offload is none; add device: cpu, or leave it out"},
		{"offload_layers: 3", "", "job.yaml:1: --offload-layers counts layers whose weights wait in the host's memory, and --offload is none; add --offload cpu, or leave it out"},
		{"offload: cpu", "device=cpu offload-layers=3", "--offload-layers has no effect on a CPU, which computes with weights where they lie; leave it out, or use --device cuda"},
		{"{offload: none, inference: {zero: {offload_param: {device: cpu}}}}", "", "job.yaml:1: offload: none here, but zero.offload_param.device: cpu in job.yaml:1; keep one of them"},
		{"reference: true\ninference: {kernel_inject: true}", "", "job.yaml:1: --reference runs plain operations, and kernel_inject is true; keep one of them"},
		{"max_new_tokens: 8\nmin_new_tokens: 9", "", "job.yaml:2: --min-new-tokens 9 is more than --max-new-tokens 8; lower the one or raise the other"},
		{"max_new_tokens: 64\ninference: {max_tokens: 64}", "", "job.yaml:1: --max-new-tokens 64 leaves no room for a prompt in max_out_tokens 64; lower the one or raise the other"},
		{"tp: 2\ninference:\n  quant: {weight: {q_groups: 4}}", "", "job.yaml:3: quant works with dtype int8 only; add dtype: int8, or leave quant out"},
	} {
		v := values(c.args)
		v["job"] = []string{write(t, "job.yaml", c.content)}
		if _, _, err := Load(v); err == nil || err.Error() != c.says {
			t.Errorf("%s\ngot  %v\nwant %s", c.content, err, c.says)
		}
	}
	v := values("dtype=int8")
	v["job"] = []string{write(t, "job.yaml", "inference: {quant: 4}")}
	if j, _, err := Load(v); err != nil || j.Inference.DType != INT8 {
		t.Errorf("quant in the file and int8 on the command line: %v", err)
	}
}

func TestPromptColumn(t *testing.T) {
	for args, want := range map[string]string{"": "prompt", "ids-column=ids": "", "messages-column=m": "", "prompt-column=text": "text"} {
		j, _, err := Load(values(args))
		if err != nil || j.PromptColumn != want {
			t.Errorf("%s: prompt column %q, %v; want %q", args, j.PromptColumn, err, want)
		}
	}
}

func TestIdleSampling(t *testing.T) {
	for args, want := range map[string]int{"top-k=40": 1, "top-k=40 temperature=1": 0, "n=4 seed=3": 2, "task=score": 0} {
		_, warnings, err := Load(values(args))
		if err != nil || len(warnings) != want {
			t.Errorf("%s: %v, %v; want %d warnings", args, warnings, err, want)
		}
	}
}
