package ckpt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// shard writes a golden model again as two files and an index, and returns the folder and which file has what.
func shard(t *testing.T, golden string, torch bool) (dir string, index map[string]string) {
	t.Helper()
	dir, index = t.TempDir(), map[string]string{}
	c := open(t, filepath.Join(goldens, golden))
	copyFile(t, filepath.Join(goldens, golden, "config.json"), filepath.Join(dir, "config.json"))
	parts, names := [2][]Tensor{}, [2]string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
	list := "model.safetensors.index.json"
	if torch {
		names = [2]string{"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}
		list = "pytorch_model.bin.index.json"
	}
	for i, name := range c.Names() {
		x, _ := c.Tensor(name)
		parts[i%2] = append(parts[i%2], x)
		index[name] = names[i%2]
	}
	for i, part := range parts {
		path := filepath.Join(dir, names[i])
		if !torch {
			if err := SaveSafetensors(path, part); err != nil {
				t.Fatal(err)
			}
			continue
		}
		a := &archive{}
		var root []item
		for _, x := range part {
			root = append(root, item{x.Name, a.put(x.DType, x.Shape, content(t, x))})
		}
		a.root = root
		a.write(t, path)
	}
	writeIndex(t, filepath.Join(dir, list), index)
	return dir, index
}

func writeIndex(t *testing.T, path string, index map[string]string) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 1}, "weight_map": index})
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b))
}

func TestShardedEqualsWhole(t *testing.T) {
	for _, torch := range []bool{false, true} {
		for _, golden := range []string{"gpt2", "llama", "mixtral", "olmoe", "qwen3_moe"} {
			dir, _ := shard(t, golden, torch)
			a, b := open(t, dir), open(t, filepath.Join(goldens, golden))
			if fmt.Sprint(a.Names()) != fmt.Sprint(b.Names()) || len(a.Files()) != 2 || a.Config().Values["model_type"] != b.Config().Values["model_type"] {
				t.Fatalf("%s (torch %v): %d names in %d files", golden, torch, len(a.Names()), len(a.Files()))
			}
			for _, name := range b.Names() {
				x, _ := a.Tensor(name)
				y, _ := b.Tensor(name)
				if x.DType != y.DType || fmt.Sprint(x.Shape) != fmt.Sprint(y.Shape) || !bytes.Equal(content(t, x), content(t, y)) {
					t.Errorf("%s (torch %v): %s differs", golden, torch, name)
				}
			}
		}
	}
}

func TestDamagedShards(t *testing.T) {
	const list, second = "model.safetensors.index.json", "model-00002-of-00002.safetensors"
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string, index map[string]string)
		kind   error
		says   []string
	}{
		"shard gone":    {func(t *testing.T, dir string, _ map[string]string) { remove(t, filepath.Join(dir, second)) }, os.ErrNotExist, []string{second}},
		"shard cut":     {func(t *testing.T, dir string, _ map[string]string) { truncate(t, filepath.Join(dir, second)) }, ErrDamaged, []string{second, "cut short"}},
		"tensor gone":   {func(_ *testing.T, _ string, index map[string]string) { index["model.norm2.weight"] = second }, ErrDamaged, []string{second, `"model.norm2.weight"`, list}},
		"wrong shard":   {func(_ *testing.T, _ string, index map[string]string) { index["lm_head.weight"] = second }, ErrDamaged, []string{second, `"lm_head.weight"`, "is missing"}},
		"out of folder": {func(_ *testing.T, _ string, index map[string]string) { index["lm_head.weight"] = "../x.safetensors" }, ErrDamaged, []string{list, "outside its folder"}},
		"empty index":   {func(_ *testing.T, _ string, index map[string]string) { clear(index) }, ErrDamaged, []string{list, "weight_map"}},
		"name in two, unlisted": {func(t *testing.T, dir string, index map[string]string) {
			for _, f := range []string{"model-00001-of-00002.safetensors", second} {
				x, err := NewTensor("extra", U8, []int64{1}, []byte{1})
				if err != nil {
					t.Fatal(err)
				}
				all := []Tensor{x}
				c := open(t, filepath.Join(dir, f))
				for _, n := range c.Names() {
					y, _ := c.Tensor(n)
					all = append(all, y)
				}
				if err := SaveSafetensors(filepath.Join(dir, f), all); err != nil {
					t.Fatal(err)
				}
			}
		}, ErrDamaged, []string{`"extra"`, "two files"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, index := shard(t, "llama", false)
			c.change(t, dir, index)
			writeIndex(t, filepath.Join(dir, list), index)
			_, err := Open(dir, Options{})
			wants(t, err, c.kind, append(c.says, dir)...)
		})
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, st.Size()-1)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTrainerFolder: a saved model beside a DeepSpeed state is the model, unless a tag is asked for.
func TestTrainerFolder(t *testing.T) {
	dir := copyTree(t, goldens+"/ds-moe-hoisted")
	copyFile(t, goldens+"/llama/config.json", dir+"/config.json")
	copyFile(t, goldens+"/llama/model.safetensors", dir+"/model.safetensors")
	if c := open(t, dir); c.Format != HuggingFace {
		t.Errorf("format %s", c.Format)
	}
	c, err := Open(dir, Options{Tag: "global_step10"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Format != DeepSpeed {
		t.Errorf("format %s with a tag", c.Format)
	}
}
