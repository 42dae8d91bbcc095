package ckpt

import (
	"maps"
	"path/filepath"
	"slices"
)

// configFile is what every Hugging Face folder has.
const configFile = "config.json"

// weightsFile is the file by which a Hugging Face folder is read, "" where there is none: the order is transformers'.
func weightsFile(names map[string]bool) string {
	for _, f := range []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"} {
		if names[f] {
			return f
		}
	}
	return ""
}

func (c *Checkpoint) openHuggingFace(names map[string]bool) error {
	c.Format = HuggingFace
	if !names[configFile] {
		return &Error{File: filepath.Join(c.Path, configFile), Kind: ErrDamaged, What: "is missing: weights alone do not tell what model they are; copy it from where the weights come from"}
	}
	c.config.Source = filepath.Join(c.Path, configFile)
	if err := readJSON(c.config.Source, &c.config.Values); err != nil {
		return err
	}
	return c.openWeights(weightsFile(names))
}

// openWeights reads the one file of weights of a folder, or those that its index names.
func (c *Checkpoint) openWeights(name string) error {
	if filepath.Ext(name) == ".json" {
		return c.openIndexed(filepath.Join(c.Path, name))
	}
	return c.add(filepath.Join(c.Path, name))
}

// openIndexed reads the files that an index names, and takes each tensor from the file that the index says. The index
// knows no shapes; those are checked against the files' own headers, and by the model against the config.
func (c *Checkpoint) openIndexed(path string) error {
	var index struct {
		Map map[string]string `json:"weight_map"`
	}
	if err := readJSON(path, &index); err != nil {
		return err
	}
	if len(index.Map) == 0 {
		return damaged(path, "", "has no weight_map, or an empty one; copy it again")
	}
	shards := map[string]map[string]Tensor{}
	for _, file := range slices.Sorted(maps.Values(index.Map)) {
		if shards[file] != nil {
			continue
		}
		if !filepath.IsLocal(file) {
			return damaged(path, "", "names a file outside its folder, %q; put all files of the model in one folder", file)
		}
		tensors, err := c.openTensors(filepath.Join(c.Path, file))
		if err != nil {
			return err
		}
		shards[file] = map[string]Tensor{}
		for _, t := range tensors {
			shards[file][t.Name] = t
		}
	}
	for _, name := range slices.Sorted(maps.Keys(index.Map)) {
		t, ok := shards[index.Map[name]][name]
		if !ok {
			return damaged(filepath.Join(c.Path, index.Map[name]), name, "is missing, though %s places it here; copy the file again", filepath.Base(path))
		}
		c.tensors[name] = t
	}
	for _, file := range slices.Sorted(maps.Keys(shards)) { // what the index forgot
		for _, name := range slices.Sorted(maps.Keys(shards[file])) {
			if _, listed := index.Map[name]; listed {
				continue
			}
			if _, twice := c.tensors[name]; twice {
				return damaged(filepath.Join(c.Path, file), name, "stands in two files, and %s says of neither that it is meant", filepath.Base(path))
			}
			c.tensors[name] = shards[file][name]
		}
	}
	return nil
}
