package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// write puts a file into a fresh directory, makes that the working directory, so that messages have short names.
func write(t *testing.T, name, content string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const jobYAML = `# what a user keeps beside the data
model: models/austen-prmoe
input:
  - a.parquet
  - b/*.parquet
output: out
max-new-tokens: 64
temperature: 0.8
top_k: 40
stop: ["\n\n", "END"]
carry: all
kv_memory: 2GiB
rank_timeout: 45s
seed: 7
drop_tokens: false
tag: null
inference:
  dtype: torch.half
  moe: {ep_size: 4, num_experts: [4, 4, 8, 8]}
  max_tokens: 512
`

func TestJobFile(t *testing.T) {
	j, warnings, err := Load(Values{"job": {write(t, "job.yaml", jobYAML)}, "temperature": {"0.5"}, "output": {"elsewhere"}})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := New()
	want.JobFile, want.Model, want.Input, want.Output = "job.yaml", "models/austen-prmoe", []string{"a.parquet", "b/*.parquet"}, "elsewhere"
	want.MaxNewTokens, want.Temperature, want.TopK, want.Stop, want.Carry = 64, 0.5, 40, []string{"\n\n", "END"}, []string{"all"}
	want.KVMemory, want.RankTimeout, want.Seed, want.DType, want.EP = 2<<30, 45*time.Second, 7, FP16, 4
	want.Inference.DType, want.Inference.MoE.EPSize, want.Inference.MoE.Experts, want.Inference.MaxOutTokens = FP16, 4, []int{4, 4, 8, 8}, 512
	want.Inference.TensorParallel.Size = 0
	if d := cmp.Diff(want, j, cmp.AllowUnexported(), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".given" }, cmp.Ignore())); d != "" {
		t.Error(d)
	}
	if !j.Given("top-k") || !j.Given("dtype") || j.Given("tag") || j.Given("top-p") {
		t.Error("given does not tell what the file set")
	}
}

func TestJSONJobFile(t *testing.T) {
	yaml, _, err := Load(Values{"job": {write(t, "job.yaml", jobYAML)}})
	if err != nil {
		t.Fatal(err)
	}
	j, _, err := Load(Values{"job": {write(t, "job.json", "\ufeff{\n\t\"model\": \"models/austen-prmoe\",\n\t\"input\": [\"a.parquet\", \"b/*.parquet\"], \"output\": \"out\","+
		"\n\t\"max_new_tokens\": 64, \"temperature\": 8e-1, \"top_k\": 40, \"stop\": [\"\\n\\n\", \"\\u0045ND\"], \"carry\": \"all\", \"kv_memory\": \"2GiB\","+
		"\n\t\"rank_timeout\": 45, \"seed\": 7, \"drop_tokens\": false, \"tag\": null,"+
		"\n\t\"inference\": {\"dtype\": \"fp16\", \"moe\": {\"ep_size\": 4, \"moe_experts\": [4, 4, 8, 8]}, \"max_out_tokens\": 512}}\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(yaml.Bits(), j.Bits()); d != "" {
		t.Error(d)
	}
}

func TestFingerprintIgnoresSpelling(t *testing.T) {
	var bits []map[string]string
	for _, content := range []string{
		"dtype: bf16\ntp: 2", "inference: {dtype: torch.bfloat16, mp_size: 2}", `{"inference": {"dtype": "bfloat16", "tp": {"tp_size": 2}}}`,
		"inference: {dtype: bf16, tensor_parallel: {tp_size: 2}, triton_autotune: false, return_tuple: true}",
	} {
		j, _, err := Load(Values{"job": {write(t, "job.yaml", content)}})
		if err != nil {
			t.Fatal(err)
		}
		bits = append(bits, j.Bits())
		if d := cmp.Diff(bits[0], j.Bits()); d != "" {
			t.Errorf("%s:\n%s", content, d)
		}
	}
}

func TestBadJobFiles(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{"model: m\ntemprature: 1", "job.yaml:2: temprature: unknown key; did you mean temperature?"},
		{"model: m\n\nmax_token: 1", "job.yaml:3: max_token: unknown key; did you mean max_new_tokens?"},
		{"zzzzzz: 1", "job.yaml:1: zzzzzz: unknown key; docs/config.md lists them"},
		{"model: m\ntp: 1\ntp: 2", "job.yaml:3: tp: given twice, first in line 2; keep one of them"},
		{"top-k: 4\ntop_k: 5", "job.yaml:2: top_k: given twice, first in line 1; keep one of them"},
		{"tp: [1, 2]", "job.yaml:1: tp: is a list; write one value"},
		{"tp: {size: 2}", "job.yaml:1: tp: is a dictionary; write one value"},
		{"input: [a, [b]]", "job.yaml:1: input: has a list in its list; write plain values"},
		{"tp: true", `job.yaml:1: tp: "true" is not a whole number; use a number at least 1`},
		{"job: other.yaml", "job.yaml:1: job: cannot stand in a job file; give --job on the command line"},
		{"- model", "job.yaml:1: holds a list; write one `key: value` a line"},
		{"just words", "job.yaml:1: holds a text; write one `key: value` a line"},
		{"model: m\n---\nmodel: n", "job.yaml:3: a second document begins; put all settings into one"},
		{"model: m\ncarry: " + strings.Repeat("[", 200_000), "job.yaml:2: more than 1000 brackets are open; write plain values"},
		{"model: *nowhere", "job.yaml:1: no anchor &nowhere stands before *nowhere"},
		{"model: m\ninference:\n  dtype: fp16\n  moe:\n    ep_siz: 3", "job.yaml:5: moe.ep_siz: unknown key; did you mean ep_size?"},
		{"inference:\n  tp_size: 3", "job.yaml:2: tp_size: unknown key; did you mean tensor_parallel.tp_size?"},
		{"inference: fp16", "job.yaml:1: is a text; write a dictionary"},
		{"tp: 2\ninference: {tp: {tp_size: 4}}", "job.yaml:1: tp: 2 here, but tensor_parallel.tp_size: 4 in job.yaml:2; keep one of them"},
		{"tp: 0\nepp: 1", "job.yaml:1: tp: 0 is out of range; use a number at least 1\njob.yaml:2: epp: unknown key; did you mean ep?"},
	} {
		_, _, err := Load(Values{"job": {write(t, "job.yaml", c.content)}})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s\ngot  %v\nwant %s", c.content, err, c.want)
		}
		var e *Error
		if !errors.As(err, &e) || e.File != "job.yaml" {
			t.Errorf("%s: no *Error that names the file: %v", c.content, err)
		}
	}
	for name, content := range map[string]string{"tab.yaml": "a:\n\t- b", "open.json": "{\"model\": \"m\"", "words.json": "{model: m}", "more.json": "{}{}", "twice.json": `{"tp": 1, "tp": 1}`, "loop.yaml": "input: &a [*a]"} {
		_, _, err := Load(Values{"job": {write(t, name, content)}})
		if err == nil || !strings.HasPrefix(err.Error(), name+":") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Load(Values{"job": {"nowhere.yaml"}}); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "nowhere.yaml: cannot be read") {
		t.Errorf("a missing file: %v", err)
	}
	if j, _, err := Load(Values{"job": {write(t, "empty.yaml", "# nothing yet\n")}}); err != nil || j.TP != 1 {
		t.Errorf("an empty file: %v", err)
	}
}

func TestYAMLAnchors(t *testing.T) {
	j, _, err := Load(Values{"job": {write(t, "job.yaml", "inference:\n  tp: &two {tp_size: 2}\n  moe: {<<: {ep_size: 4, type: standard}, type: residual}\nprompt_column: &c text\nid_column: *c")}})
	if err != nil {
		t.Fatal(err)
	}
	if j.PromptColumn != "text" || j.IDColumn != "text" || j.TP != 2 || j.EP != 4 || j.Inference.MoE.Type != "residual" {
		t.Errorf("%+v", j)
	}
}

// TestJobFileIsTheCommandLine draws settings and finds the same job whether flags, a YAML or a JSON file say them.
func TestJobFileIsTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	rapid.Check(t, func(t *rapid.T) {
		flags, file := drawSettings(t)
		content, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := Load(flags)
		for name, content := range map[string]string{"job.json": string(content), "job.yaml": asYAML(t, file)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, _, gotErr := Load(Values{"job": {name}})
			if (err == nil) != (gotErr == nil) {
				t.Fatalf("%s\nflags: %v\nfile:  %v", content, err, gotErr)
			}
			if err != nil {
				continue
			}
			got.JobFile, got.given, got.Inference.given = "", want.given, want.Inference.given
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s\ngot  %+v\nwant %+v", content, got, want)
			}
		}
	})
}

// drawSettings draws flags of all kinds, as a command line and as what a job file holds. Not all go together.
func drawSettings(t *rapid.T) (Values, map[string]any) {
	flags, file := Values{}, map[string]any{}
	for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"tp", "temperature", "seed", "stop", "model", "limit", "kv-memory",
		"ignore-eos", "stop-before", "task", "dtype", "prompt-column", "carry"}), rapid.ID[string]).Draw(t, "flags") {
		f := lookup(name)
		var value any
		switch name {
		case "tp":
			value = rapid.IntRange(1, 64).Draw(t, name)
		case "temperature":
			value = rapid.Float64Range(0, 3).Draw(t, name)
		case "seed":
			value = rapid.Uint64().Draw(t, name)
		case "limit":
			value = rapid.Int64Range(1, 1<<62).Draw(t, name)
		case "ignore-eos":
			value = rapid.Bool().Draw(t, name)
		case "stop", "carry":
			value = rapid.SliceOfN(rapid.StringMatching(`[ -+\--~]{1,5}`), 1, 3).Draw(t, name)
		case "task":
			value = rapid.SampledFrom(f.Choices).Draw(t, name)
		case "dtype":
			value = rapid.SampledFrom([]string{"fp32", "half", "torch.bfloat16", "auto"}).Draw(t, name)
		case "kv-memory":
			value = rapid.SampledFrom([]string{"1GiB", "auto", "12345"}).Draw(t, name)
		case "stop-before":
			value = rapid.SampledFrom([]string{"90s", "1h2m", "7"}).Draw(t, name)
		default:
			value = rapid.String().Filter(func(s string) bool { return !strings.ContainsRune(s, '\uFFFD') }).Draw(t, name)
		}
		file[f.Key()] = value
		flags[name] = asTexts(t, value)
	}
	return flags, file
}

func asTexts(t *rapid.T, value any) []string {
	if list, ok := value.([]string); ok {
		return list
	}
	if s, ok := value.(string); ok {
		return []string{s}
	}
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return []string{string(b)}
}

// asYAML writes block style, with texts in quotes as JSON has them.
func asYAML(t *rapid.T, file map[string]any) string {
	var b strings.Builder
	for key, value := range file {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(strings.ReplaceAll(key, "_", "-") + ": " + string(text) + "\n")
	}
	return b.String()
}

func TestRequire(t *testing.T) {
	j := New()
	if err := j.Require("model", "input", "output"); err == nil || err.Error() != "--model, --input and --output must be given, on the command line or in the job file" {
		t.Error(err)
	}
	j.Model, j.Input, j.Output = "m", []string{"i"}, "o"
	if err := j.Require("model", "input", "output"); err != nil {
		t.Error(err)
	}
}

func FuzzJobFile(f *testing.F) {
	f.Add([]byte(jobYAML))
	f.Add([]byte(`{"inference": {"quant": [true, 8], "dtype": "int8"}}`))
	f.Add([]byte("a: &a [*a, *a]\nb: {<<: *a}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		top, err := parseTree("job.yaml", content)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.File != "job.yaml" {
				t.Errorf("refused without the file's name: %v", err)
			}
			return
		}
		if top.kind != table {
			return
		}
		if _, err := json.Marshal(top.plain()); err != nil && !strings.Contains(err.Error(), "unsupported value") { // NaN, infinities
			t.Errorf("accepted, but is no plain value: %v", err)
		}
		all, _, _ := collect(top)
		in, err := all.inference()
		if err == nil && in.MoE.EPSize < 0 {
			t.Errorf("accepted ep_size %d", in.MoE.EPSize)
		}
	})
}
