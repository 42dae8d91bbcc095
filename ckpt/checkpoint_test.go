package ckpt

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFormats(t *testing.T) {
	for path, want := range map[string]string{
		"mixtral":                       HuggingFace,
		"ds-moe-hoisted":                DeepSpeed,
		"ds-moe-hoisted/global_step10":  DeepSpeed, // the tag's own folder
		"ds-moe-old-files":              DeepSpeed,
		"megatron-pp2":                  Megatron,
		"megatron-pp2/iter_0000040":     Megatron,
		"megatron-v0-mp2/megatron.json": Megatron,
		"mixtral/expected.safetensors":  SingleFile,
		"ds-moe-old-files/global_step7/expert_1_mp_rank_00_model_states.pt": SingleFile,
	} {
		if c := open(t, filepath.Join(goldens, path)); c.Format != want || len(c.Names()) == 0 {
			t.Errorf("%s is %s with %d tensors, want %s", path, c.Format, len(c.Names()), want)
		}
	}
	for tag, dir := range map[string]string{"global_step10": "ds-moe-hoisted", "iter_0000040": "megatron-pp2", "40": "megatron-pp2"} {
		c, err := Open(filepath.Join(goldens, dir), Options{Tag: tag})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("text.txt"), "x")
	write(t, at("weights/model.safetensors"), "x")
	write(t, at("nothing/readme.md"), "x")
	write(t, at("steps/global_step10/mp_rank_00_model_states.pt"), "x")
	write(t, at("lost/latest"), "global_step10\n")
	write(t, at("lost/global_step9/x"), "x")
	write(t, at("away/latest"), "../../etc")
	write(t, at("zero3/latest"), "a")
	write(t, at("zero3/a/zero_pp_rank_0_mp_rank_00_model_states.pt"), "x")
	write(t, at("pipe/latest"), "a")
	write(t, at("pipe/a/layer_00-model_00-model_states.pt"), "x")
	write(t, at("gap/latest"), "a")
	write(t, at("gap/a/mp_rank_00_model_states.pt"), "x")
	write(t, at("gap/a/mp_rank_02_model_states.pt"), "x")
	write(t, at("iteration/latest_checkpointed_iteration.txt"), "soon")
	write(t, at("noranks/latest_checkpointed_iteration.txt"), "7")
	write(t, at("noranks/iter_0000007/x"), "x")
	write(t, at("rankgap/mp_rank_00/model_optim_rng.pt"), "x")
	write(t, at("rankgap/mp_rank_02/model_optim_rng.pt"), "x")
	write(t, at("lfs/config.json"), "{}")
	write(t, at("lfs/model.safetensors"), "version https://git-lfs.github.com/spec/v1")
	write(t, at("badconfig/config.json"), "{")
	write(t, at("badconfig/model.safetensors"), "x")
	if err := os.Mkdir(at("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tag  string
		kind error
		says []string
	}{
		"missing":   {"", fs.ErrNotExist, []string{"no such file"}},
		"text.txt":  {"", ErrUnknown, []string{"safetensors"}},
		"empty":     {"", ErrUnknown, []string{"empty folder"}},
		"nothing":   {"", ErrUnknown, []string{"model.safetensors", "latest"}},
		"weights":   {"", ErrDamaged, []string{"config.json", "is missing"}},
		"steps":     {"", ErrTag, []string{"--tag", "global_step10"}},
		"lost":      {"", ErrTag, []string{"global_step10", "--tag", "global_step9"}},
		"away":      {"", ErrTag, []string{"leads out"}},
		"zero3":     {"", ErrUnsupported, []string{"zero_to_fp32.py"}},
		"pipe":      {"", ErrUnsupported, []string{"pipeline"}},
		"gap":       {"", ErrDamaged, []string{"mp_rank_01_model_states.pt", "is missing"}},
		"iteration": {"", ErrTag, []string{"soon", "--tag"}},
		"noranks":   {"", ErrUnknown, []string{"mp_rank_00"}},
		"rankgap":   {"", ErrMismatch, []string{"2 files of ranks"}},
		"lfs":       {"", ErrDamaged, []string{"model.safetensors", "git lfs pull"}},
		"badconfig": {"", ErrDamaged, []string{"config.json", "JSON"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(at(name), Options{Tag: c.tag})
			wants(t, err, c.kind, append(c.says, at(name))...)
		})
	}
	_, err := Open(filepath.Join(goldens, "ds-moe-hoisted"), Options{Tag: "global_step99"})
	wants(t, err, ErrTag, "global_step99", "global_step10")
}

// TestFacts: the config is model.json's, and without it nearly the same from the arguments, names and shapes.
func TestFacts(t *testing.T) {
	presented := map[string]any{"qkv_order": "[heads, 3, head_dim]", "attention_name": "attention"}
	ranks := map[string]float64{"ds-moe-hoisted": 1, "ds-moe-old-files": 1, "megatron-v0-mp2": 2, "megatron-v1-mp2": 2, "megatron-v2-mp4": 4, "megatron-pp2": 1}
	untold := []string{"name", "eos_token_id", "expert_output_bias"} // nothing but model.json tells these
	for _, name := range []string{"ds-moe-hoisted", "ds-moe-old-files", "megatron-v0-mp2", "megatron-v1-mp2", "megatron-v2-mp4", "megatron-pp2"} {
		dir := filepath.Join(goldens, name)
		want := modelJSON(t, dir)
		for k, v := range presented {
			want[k] = v
		}
		want["tensor_model_parallel_size"] = ranks[name]
		c := open(t, dir)
		for k, v := range want {
			if got := c.Config().Values[k]; !reflect.DeepEqual(got, v) {
				t.Errorf("%s: %s is %v, want %v", name, k, got, v)
			}
		}
		if !strings.Contains(c.Config().Source, filepath.Join(dir, "model.json")) {
			t.Errorf("%s: source %q", name, c.Config().Source)
		}
		for _, k := range untold {
			delete(want, k)
		}
		c = open(t, copyTree(t, dir, "model.json"))
		for k, v := range want {
			if got := c.Config().Values[k]; !reflect.DeepEqual(got, v) {
				t.Errorf("%s without model.json: %s is %v, want %v", name, k, got, v)
			}
		}
		if s := c.Config().Source; !strings.Contains(s, "args") || strings.Contains(s, "model.json") {
			t.Errorf("%s: source %q", name, s)
		}
	}
}

func TestContradictions(t *testing.T) {
	replace := func(t *testing.T, dir, old, new string) {
		t.Helper()
		path := filepath.Join(dir, "model.json")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %q in %s", old, path)
		}
		write(t, path, strings.Replace(string(b), old, new, 1))
	}
	for name, c := range map[string]struct {
		golden string
		change func(t *testing.T, dir string)
		kind   error
		says   []string
	}{
		"layers": {"megatron-pp2", func(t *testing.T, dir string) { replace(t, dir, `"num_layers": 4`, `"num_layers": 6`) },
			ErrMismatch, []string{"model.json: num_layers is 6", "4"}},
		"experts": {"ds-moe-hoisted", func(t *testing.T, dir string) {
			replace(t, dir, "\"experts_per_moe_layer\": [\n  2,", "\"experts_per_moe_layer\": [\n  3,")
		}, ErrMismatch, []string{"experts_per_moe_layer is [3 4]", "[2 4]"}},
		"vocabulary": {"megatron-v2-mp4", func(t *testing.T, dir string) {
			replace(t, dir, `"padded_vocab_size": 256`, `"padded_vocab_size": 512`)
		}, ErrMismatch, []string{"padded_vocab_size is 512", "256"}},
		"expert file gone": {"ds-moe-hoisted", func(t *testing.T, dir string) {
			remove(t, dir+"/global_step10/layer_1_expert_2_mp_rank_00_model_states.pt")
		}, ErrDamaged, []string{"layer_1_expert_2_mp_rank_00_model_states.pt", "is missing"}},
		"last expert file gone": {"ds-moe-hoisted", func(t *testing.T, dir string) {
			remove(t, dir+"/global_step10/layer_1_expert_3_mp_rank_00_model_states.pt")
		}, ErrMismatch, []string{"4 experts", "files of 3"}},
		"last expert layer gone": {"ds-moe-hoisted", func(t *testing.T, dir string) {
			for e := range 4 {
				remove(t, fmt.Sprintf("%s/global_step10/layer_1_expert_%d_mp_rank_00_model_states.pt", dir, e))
			}
		}, ErrMismatch, []string{"2 layers of experts", "files of 1"}},
		"an expert's file is another's": {"ds-moe-hoisted", func(t *testing.T, dir string) {
			copyFile(t, dir+"/global_step10/layer_1_expert_0_mp_rank_00_model_states.pt", dir+"/global_step10/layer_1_expert_1_mp_rank_00_model_states.pt")
		}, ErrMismatch, []string{"layer_1_expert_1", "deepspeed_experts.1.", "is missing"}},
		"old expert file gone": {"ds-moe-old-files", func(t *testing.T, dir string) {
			remove(t, dir+"/global_step7/expert_3_mp_rank_00_model_states.pt")
		}, ErrMismatch, []string{"4 experts", "files of 3"}},
		"expert of a rank too many": {"ds-moe-hoisted", func(t *testing.T, dir string) {
			copyFile(t, dir+"/global_step10/layer_1_expert_0_mp_rank_00_model_states.pt", dir+"/global_step10/layer_1_expert_0_mp_rank_01_model_states.pt")
		}, ErrMismatch, []string{"mp_rank_01", "not of one checkpoint"}},
		"rank gone": {"megatron-v2-mp4", func(t *testing.T, dir string) {
			remove(t, dir+"/iter_0000030/mp_rank_03")
		}, ErrMismatch, []string{"4 tensor-parallel ranks", "3 files"}},
		"stage gone": {"megatron-pp2", func(t *testing.T, dir string) {
			remove(t, dir+"/iter_0000040/mp_rank_00_001")
		}, ErrMismatch, []string{"num_layers is 4", "make it 2"}},
		"rank's file gone": {"megatron-v2-mp4", func(t *testing.T, dir string) {
			remove(t, dir+"/iter_0000030/mp_rank_01/model_optim_rng.pt")
		}, fs.ErrNotExist, []string{"mp_rank_01/model_optim_rng.pt"}},
		"rank cut short": {"megatron-v2-mp4", func(t *testing.T, dir string) {
			if err := os.Truncate(dir+"/iter_0000030/mp_rank_01/model_optim_rng.pt", 30_000); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged, []string{"mp_rank_01/model_optim_rng.pt", "cut short"}},
		"ranks of two checkpoints": {"megatron-v0-mp2", func(t *testing.T, dir string) {
			copyFile(t, goldens+"/megatron-v1-mp2/iter_0000020/mp_rank_01/model_optim_rng.pt", dir+"/iter_0000010/mp_rank_01/model_optim_rng.pt")
		}, ErrMismatch, []string{"checkpoint_version 1", "of 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyTree(t, filepath.Join(goldens, c.golden))
			c.change(t, dir)
			_, err := Open(dir, Options{})
			wants(t, err, c.kind, append(c.says, dir)...)
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(b))
}

// TestHoistedExperts: the copy at the top of the dense file and the expert's own file give one tensor, the file's.
func TestHoistedExperts(t *testing.T) {
	c := open(t, goldens+"/ds-moe-hoisted")
	file := open(t, goldens+"/ds-moe-hoisted/global_step10/layer_1_expert_3_mp_rank_00_model_states.pt")
	for _, name := range file.Names() {
		x, ok := c.Tensor(name)
		y, _ := file.Tensor(name)
		if !ok || !bytes.Equal(content(t, x), content(t, y)) {
			t.Errorf("%s differs from its file", name)
		}
	}
	for _, name := range c.Names() {
		if !strings.HasPrefix(name, "language_model.") {
			t.Errorf("%s is no canonical name", name)
		}
	}
}

// TestModuleKey: weights under two keys are told apart by name, and a name that is not there is refused.
func TestModuleKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mp_rank_00_model_states.pt")
	a := &archive{}
	const name = "language_model.embedding.word_embeddings.weight"
	var root []item
	for i, key := range []string{"module", "model"} {
		root = append(root, item{key, []item{{name, a.put(F32, []int64{4, 2}, bytes.Repeat([]byte{byte(i)}, 4*4*2))}}})
	}
	a.root = root
	a.write(t, path)
	folder := filepath.Dir(path)
	_, err := Open(folder, Options{})
	wants(t, err, ErrUnsupported, path, "module_key")
	for i, key := range []string{"module", "model"} {
		c, err := Open(folder, Options{ModuleKey: key})
		if err != nil {
			t.Fatal(err)
		}
		x, _ := c.Tensor(name)
		if b := content(t, x); b[0] != byte(i) {
			t.Errorf("%s gave the weights of the other key", key)
		}
		_ = c.Close()
	}
	_, err = Open(filepath.Join(goldens, "ds-moe-hoisted"), Options{ModuleKey: "model"})
	wants(t, err, ErrUnsupported, "under model", "module_key")
	_, err = Open(filepath.Join(goldens, "llama"), Options{ModuleKey: "model"})
	wants(t, err, ErrUnsupported, "module_key")
}

// TestManyExpertsOpenLate: beyond 256 files a damaged one is found when it is read, and those not read stay shut.
func TestManyExpertsOpenLate(t *testing.T) {
	const experts, h, ffn = 300, 2, 3
	dir := t.TempDir()
	write(t, dir+"/latest", "s")
	layer := "language_model.encoder.layers.0."
	dense := &archive{}
	dense.root = []item{{"module", []item{
		{"language_model.embedding.word_embeddings.weight", dense.put(F32, []int64{4, h}, make([]byte, 4*4*h))},
		{layer + gateName, dense.put(F32, []int64{experts, h}, make([]byte, 4*experts*h))},
	}}, {"num_experts", []any{experts}}}
	dense.write(t, dir+"/s/mp_rank_00_model_states.pt")
	for e := range experts {
		a := &archive{}
		name := fmt.Sprintf("%smlp.deepspeed_moe.experts.deepspeed_experts.%d.", layer, e)
		rows := int64(ffn)
		if e == 299 {
			rows++ // contradicts expert 0
		}
		a.root = []item{
			{name + "dense_h_to_4h.weight", a.put(F32, []int64{rows, h}, bytes.Repeat([]byte{byte(e)}, int(4*rows*h)))},
			{name + "dense_4h_to_h.weight", a.put(F32, []int64{h, ffn}, make([]byte, 4*ffn*h))},
		}
		a.write(t, fmt.Sprintf("%s/s/layer_0_expert_%d_mp_rank_00_model_states.pt", dir, e))
	}
	if err := os.Truncate(dir+"/s/layer_0_expert_200_mp_rank_00_model_states.pt", 100); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	if got := c.Config().Values["experts_per_moe_layer"]; fmt.Sprint(got) != "[300]" {
		t.Errorf("experts %v", got)
	}
	if n := len(c.Files()); n != experts+1 {
		t.Errorf("%d files", n)
	}
	if n := len(c.maps); n != 2 {
		t.Errorf("%d files are open, want the dense one and expert 0", n)
	}
	bytesOf := func(e int) ([]byte, error) {
		x, ok := c.Tensor(fmt.Sprintf("%smlp.deepspeed_moe.experts.deepspeed_experts.%d.dense_h_to_4h.weight", layer, e))
		if !ok {
			t.Fatalf("no expert %d", e)
		}
		return x.Bytes()
	}
	if b, err := bytesOf(77); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{77}, 4*ffn*h)) {
		t.Errorf("expert 77: %v, %v", b, err)
	}
	_, err := bytesOf(200)
	wants(t, err, ErrDamaged, "layer_0_expert_200")
	_, err = bytesOf(299)
	wants(t, err, ErrMismatch, "layer_0_expert_299", "[4 2]", "[3 2]")
	if _, err := Inspect(c); err == nil {
		t.Error("Inspect found nothing wrong")
	}
}
