package ckpt

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// shardBytes is the most bytes of a file of a converted checkpoint, but for one tensor that is larger: 5 GB, as
// transformers has it.
const shardBytes = 5_000_000_000

// ConvertOptions of Convert. The zero value keeps every bit.
type ConvertOptions struct {
	// DType is the type that the tensors for which Narrow is true, and those stored in 8 bits, are rounded to: F32, BF16 or F16;
	// Invalid: as they are.
	DType  DType
	Narrow func(name string) bool
	Shard  int64 // most bytes of a file; 0: 5 GB
}

// Convert writes a checkpoint of any format as a folder of safetensors at to, which must not be there: a Hugging Face
// model under its own names with its config.json, one of DeepSpeed or Megatron under canonical names with a model.json.
// Up to 5 GB are one file, more are several with an index. What lies beside the weights and belongs to the model
// (tokenizer, generation_config.json, chat template, licence) comes along. Nothing is kept in memory; nothing is left at
// to unless all of it is there and fsynced.
func Convert(ctx context.Context, c *Checkpoint, to string, o ConvertOptions) error {
	var outputs []Output
	for _, name := range c.names {
		t := c.tensors[name]
		switch {
		case o.DType == Invalid || !t.Quantized() && !o.Narrow(name):
			outputs = append(outputs, t.asStored()...)
		case t.DType == o.DType:
			outputs = append(outputs, Output{Tensor: t})
		default:
			outputs = append(outputs, Output{Tensor: t, As: o.DType})
		}
	}
	facts, err := c.FactsFile(o.DType)
	if err != nil {
		return err
	}
	return c.writeFolder(ctx, to, outputs, facts, o.Shard)
}

// writeFolder writes a whole checkpoint at to.
func (c *Checkpoint) writeFolder(ctx context.Context, to string, outputs []Output, facts FactsFile, shard int64) error {
	f, err := CreateFolder(to, totalSize(outputs))
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := f.weights(ctx, outputs, shard); err != nil {
		return err
	}
	if err := f.Facts(c, facts); err != nil {
		return err
	}
	return f.Commit()
}

func totalSize(outputs []Output) (bytes int64) {
	for _, o := range outputs {
		bytes += o.Size()
	}
	return bytes
}

// weights writes the tensors as one file, or as several with an index.
func (f *Folder) weights(ctx context.Context, outputs []Output, most int64) error {
	if most <= 0 {
		most = shardBytes
	}
	shards := [][]Output{nil}
	size := int64(0)
	for _, o := range outputs {
		last := len(shards) - 1
		if len(shards[last]) > 0 && size+o.Size() > most {
			shards, size, last = append(shards, nil), 0, last+1
		}
		shards[last] = append(shards[last], o)
		size += o.Size()
	}
	if len(shards) == 1 {
		return f.Tensors(ctx, "model.safetensors", outputs)
	}
	index := struct {
		Metadata map[string]any    `json:"metadata"`
		Map      map[string]string `json:"weight_map"`
	}{map[string]any{"total_size": totalSize(outputs)}, map[string]string{}}
	for i, shard := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := f.Tensors(ctx, name, shard); err != nil {
			return err
		}
		for _, o := range shard {
			index.Map[o.Name] = name
		}
	}
	text, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return f.File("model.safetensors.index.json", append(text, '\n'))
}

// companions are the files beside the weights that belong to a model, whatever form these have.
var companions = []string{
	"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"vocab.json", "merges.txt", "vocab.txt", "gpt2-vocab.json", "gpt2-merges.txt", "tokenizer.model", "spiece.model",
	"chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "README.md",
}

// FactsFile is the file of facts that a written checkpoint gets, config.json or model.json.
type FactsFile struct {
	Name    string
	Content []byte
}

// FactsFile is config.json or model.json of a checkpoint in safetensors, the latter with all that the checkpoint says
// of itself. dtype, unless Invalid, is noted as the type of the weights. Without a config nothing can be made.
func (c *Checkpoint) FactsFile(dtype DType) (FactsFile, error) {
	return c.factsFile(func(values map[string]any) bool {
		if dtype == Invalid {
			return false
		}
		for _, key := range []string{"torch_dtype", "dtype"} {
			if _, said := values[key].(string); said {
				values[key] = dtypes[dtype].torch
			}
		}
		delete(values, quantizationKey)
		return true
	})
}

// quantizedFacts is FactsFile for a model in 8 bits.
func (c *Checkpoint) quantizedFacts(axis int) (FactsFile, error) {
	return c.factsFile(func(values map[string]any) bool {
		values[quantizationKey] = quantizationFact(axis)
		return true
	})
}

// factsFile is the facts as change, which tells whether it has, leaves them.
func (c *Checkpoint) factsFile(change func(values map[string]any) bool) (facts FactsFile, err error) {
	if c.CanonicalNames() {
		values := maps.Clone(c.config.Values)
		values["tensor_model_parallel_size"] = 1
		change(values)
		facts.Name = factsFile
		facts.Content, err = json.MarshalIndent(values, "", "  ")
		return facts, err
	}
	if c.Format == SingleFile || c.Format == Memory {
		return facts, unsupported(c.Path, "", "is a file of tensors without a config, which would make no model; give the folder that it belongs to")
	}
	facts.Name = configFile
	if facts.Content, err = os.ReadFile(c.config.Source); err != nil {
		return facts, &Error{File: c.config.Source, Kind: err, What: "cannot be read: " + cause(err)}
	}
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(facts.Content))
	d.UseNumber() // numbers stay as they are written
	if err := d.Decode(&values); err != nil {
		return facts, damaged(c.config.Source, "", "is not the JSON that is expected (%v)", err)
	}
	widened := c.inMXFP4()
	if widened { // to bfloat16, whatever is done to it besides
		delete(values, quantizationKey)
	}
	if change(values) || widened {
		facts.Content, err = json.MarshalIndent(values, "", "  ")
	}
	return facts, err
}

// CanonicalNames tells whether the tensors have the names that this package gives to those of DeepSpeed and Megatron.
func (c *Checkpoint) CanonicalNames() bool {
	return slices.Contains([]string{DeepSpeed, Megatron, Canonical}, c.Format) || c.canonical
}

// Facts writes what stands beside the weights: the files that belong to the model, and last the facts, without which no
// folder is a checkpoint.
func (f *Folder) Facts(c *Checkpoint, facts FactsFile) error {
	folder := c.Path
	if st, err := os.Stat(folder); err != nil || !st.IsDir() {
		folder = filepath.Dir(folder)
	}
	if err := f.Copy(folder, companions...); err != nil {
		return err
	}
	return f.File(facts.Name, facts.Content)
}
