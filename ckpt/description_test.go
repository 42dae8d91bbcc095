package ckpt

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestDescriptions(t *testing.T) {
	abs, err := filepath.Abs(goldens)
	if err != nil {
		t.Fatal(err)
	}
	v2 := fmt.Sprintf
	dir := t.TempDir()
	same := func(t *testing.T, c *Checkpoint, golden string) {
		t.Helper()
		want := open(t, filepath.Join(goldens, golden))
		for _, name := range want.Names() {
			x, ok := c.Tensor(name)
			y, _ := want.Tensor(name)
			if !ok || string(content(t, x)) != string(content(t, y)) {
				t.Errorf("%s differs", name)
			}
		}
	}
	ranks := `["iter_0000010/mp_rank_00/model_optim_rng.pt", "iter_0000010/mp_rank_01/model_optim_rng.pt"]`
	for name, c := range map[string]struct {
		json, base, golden string
	}{
		"base_dir in the JSON":   {v2(`{"type":"Megatron","version":0,"base_dir":%q,"checkpoints":%s}`, abs+"/megatron-v0-mp2", ranks), "", "megatron-v0-mp2"},
		"base_dir given":         {v2(`{"type":"megatron","version":null,"base_dir":"/nowhere","checkpoints":%s}`, ranks), abs + "/megatron-v0-mp2", "megatron-v0-mp2"},
		"two pipeline stages":    {`{"type":"Megatron","version":3.0,"checkpoints":["mp_rank_00_000/model_optim_rng.pt","mp_rank_00_001/model_optim_rng.pt"]}`, abs + "/megatron-pp2/iter_0000040", "megatron-pp2"},
		"DeepSpeed's older form": {v2(`{"type":"DeepSpeed","version":1.0,"checkpoint_path":%q}`, abs+"/ds-moe-hoisted"), "", "ds-moe-hoisted"},
		"ds_model":               {`{"type":"ds_model","version":1.0,"checkpoints":["model.safetensors"],"extra":1}`, abs + "/llama", "llama"},
		"ds_model, split":        {`{"type":"ds_model","version":1.0,"parallelization":"tp","tp_size":1,"checkpoints":{"non_tp":[],"tp":["model.safetensors"]}}`, abs + "/llama", "llama"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "x.json")
			write(t, path, c.json)
			ck, err := Open(path, Options{BaseDir: c.base})
			if err != nil {
				t.Fatal(err)
			}
			defer ck.Close()
			same(t, ck, c.golden)
			if len(ck.Config().Values) == 0 {
				t.Error("no facts")
			}
			inline, err := OpenDescription([]byte(c.json), Options{BaseDir: c.base})
			if err != nil {
				t.Fatal("described, not in a file:", err)
			}
			defer inline.Close()
			same(t, inline, c.golden)
		})
	}
	ds := filepath.Join(dir, "y.json")
	for name, c := range map[string]struct {
		json string
		kind error
		says []string
	}{
		"no JSON":        {`{`, ErrDamaged, []string{"JSON"}},
		"no type":        {`{"checkpoints":["a"]}`, ErrUnsupported, []string{`type ""`, "Megatron"}},
		"no files":       {`{"type":"Megatron","checkpoints":[]}`, ErrDamaged, []string{"lists no files"}},
		"files no list":  {`{"type":"Megatron","checkpoints":7}`, ErrDamaged, []string{"non_tp"}},
		"file twice":     {`{"type":"Megatron","checkpoints":["a","./a"]}`, ErrDamaged, []string{"twice"}},
		"file not there": {`{"type":"Megatron","checkpoints":["a.pt"]}`, os.ErrNotExist, []string{"a.pt", "give base_dir"}},
		"version 4":      {`{"type":"Megatron","version":4,"checkpoints":["a.pt"]}`, ErrUnsupported, []string{"version 4", "3.0"}},
		"mp_size":        {`{"type":"Megatron","mp_size":2,"checkpoints":["a.pt"]}`, ErrMismatch, []string{"mp_size is 2"}},
		"kernel slices":  {`{"type":"ds_model","tp_size":2,"checkpoints":{"non_tp":[],"tp":["a.pt","b.pt"]}}`, ErrUnsupported, []string{"2 slices"}},
		"names itself":   {fmt.Sprintf(`{"type":"DeepSpeed","checkpoint_path":%q}`, ds), ErrUnknown, []string{"no folder"}},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, ds, c.json)
			_, err := Open(ds, Options{})
			wants(t, err, c.kind, append(c.says, dir)...)
		})
	}
}
