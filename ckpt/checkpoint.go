// Package ckpt reads model checkpoints: names, types, shapes and bytes of tensors, and the facts that stand beside them.
//
// A file is mapped, checked whole before any weight is touched (offsets, overlaps, sizes, types), and read tensor by
// tensor, part by part: a rank touches the bytes of its own part alone. Nothing in a file is ever run: a PyTorch
// pickle is interpreted by a machine that knows a fixed list of classes (pickle.go, classes.go).
//
//	safetensors.go  one file: header and bytes; save.go writes one, folder.go a whole checkpoint
//	torch.go        one file of torch.save, and its form before PyTorch 1.6 (torchlegacy.go)
//	huggingface.go  a folder: config.json and either of these, single or sharded with an index; stacked.go and mxfp4.go for the
//	                experts of gpt-oss, fp8.go for DeepSeek's weights
//	deepspeed.go    a folder of DeepSpeed, its experts a file each
//	megatron.go     a folder of Megatron, a file a tensor- and pipeline-parallel rank
//	canonical.go    a folder of either as safetensors with a model.json
//	saved.go        a folder of the slices that ranks hold
//	description.go  a JSON file that lists the files of either
//
// The checkpoints of DeepSpeed and Megatron are joined (merge.go) and renamed (names.go), so that however one was cut
// and by whichever version it was written, the model sees the same tensors:
//
//	language_model.embedding.{word,position}_embeddings.weight
//	language_model.encoder.layers.L.{input,post_attention}_layernorm.{weight,bias}
//	language_model.encoder.layers.L.attention.{query_key_value,dense}.{weight,bias}
//	language_model.encoder.layers.L.mlp.dense_{h_to_4h,4h_to_h}.{weight,bias}            a dense layer
//	language_model.encoder.layers.L.mlp.deepspeed_moe.gate.wg.weight                     a layer of experts
//	language_model.encoder.layers.L.mlp.deepspeed_moe.experts.deepspeed_experts.E.dense_{h_to_4h,4h_to_h}.{weight,bias}
//	language_model.encoder.layers.L.mlp.mlp.dense_{h_to_4h,4h_to_h}.{weight,bias}        its residual MLP
//	language_model.encoder.layers.L.mlp.coefficient.{weight,bias}
//	language_model.encoder.final_layernorm.{weight,bias}
//
// The rows of query_key_value are always [heads, 3, head_dim] (q, k and v of head 0, then of head 1 …), L counts from 0
// through all pipeline stages, E through all experts of the layer.
package ckpt

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// The formats that Open finds, as Checkpoint.Format names them.
const (
	HuggingFace = "huggingface" // names and config.json as the folder has them
	DeepSpeed   = "deepspeed"   // canonical names
	Megatron    = "megatron"    // canonical names
	DSModel     = "ds_model"    // a JSON list of files whose names are taken as they are
	Canonical   = "canonical"   // safetensors under canonical names, with their model.json, as Convert writes them
	Saved       = "saved"       // the slices of ranks, as Reshard writes them
	SingleFile  = "file"        // one file of tensors by itself, without a config
	Memory      = "memory"      // made by InMemory
)

// Options of Open. The zero value takes what the checkpoint itself says is its latest state.
type Options struct {
	Tag     string // of a DeepSpeed folder (global_step10) or a Megatron one (iter_0000010, 10, release); "": the latest
	BaseDir string // where the relative paths of a checkpoint JSON begin; "": its own base_dir, else its own folder

	// ModuleKey is the key of the weights in the files of DeepSpeed or Megatron, module or model; "": the one that is
	// there. Other checkpoints have none, and are refused with one.
	ModuleKey string
}

// Checkpoint is an open checkpoint. Its methods may be called from several goroutines; Close comes last.
type Checkpoint struct {
	Format string // one of the constants above
	Path   string // as given to Open

	root      string // what the files' names are relative to
	canonical bool   // Saved: the tensors have canonical names
	key       string // of the weights in files of DeepSpeed and Megatron; "": whichever is there
	config    Config
	tensors   map[string]Tensor
	names     []string // sorted
	read      atomic.Int64

	mu    sync.Mutex // guards what follows: expert files are opened late
	files map[string]int64
	maps  []*mapping
}

// Config is the facts that stand beside the weights: config.json as it is, or for DeepSpeed and Megatron the keys of
// model.json (num_layers, hidden_size, num_attention_heads, ffn_hidden_size, max_position_embeddings, vocab_size,
// padded_vocab_size, moe_layers, experts_per_moe_layer, mlp_type, topk, activation, layernorm_epsilon, dtype …), taken
// from model.json, else from the saved arguments, else from names and shapes. Values are as encoding/json gives them.
type Config struct {
	Source string // the file or files they come from
	Values map[string]any
}

// File is one file of a checkpoint.
type File struct {
	Name string // relative to the checkpoint's folder
	Size int64
}

// Open opens a checkpoint: the folder of a Hugging Face model, of DeepSpeed (with latest, or the tag's own folder) or
// of Megatron (with latest_checkpointed_iteration.txt, or the iteration's own folder), a checkpoint JSON, or a single
// file of tensors (.safetensors, .pt, .pth, .bin). All of it is checked that can be without reading weights. Where a
// folder has more than 256 files of experts, only one a layer is opened now and the others when they are first read.
func Open(path string, o Options) (*Checkpoint, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, &Error{File: path, Kind: err, What: "cannot be opened: " + cause(err) + "; give the model's folder, or its checkpoint JSON"}
	}
	return newCheckpoint(path, o, func(c *Checkpoint) error { return c.open(st, o) })
}

// newCheckpoint is what open makes of an empty one; path stands for it in messages.
func newCheckpoint(path string, o Options, open func(*Checkpoint) error) (*Checkpoint, error) {
	c := &Checkpoint{Path: path, root: path, key: o.ModuleKey, files: map[string]int64{}, tensors: map[string]Tensor{}}
	err := open(c)
	if err == nil && o.ModuleKey != "" && c.Format != DeepSpeed && c.Format != Megatron {
		err = unsupported(path, "", "module_key is for the files of DeepSpeed and Megatron, and this is none of them; leave it out")
	}
	if err == nil {
		err = c.pairQuantized()
	}
	if err == nil {
		err = c.unstack()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	c.names = slices.Sorted(maps.Keys(c.tensors))
	return c, nil
}

// InMemory is a checkpoint of tensors that lie in memory, made by NewTensor, under the names and with the facts of a
// Hugging Face folder or of one of DeepSpeed's. name stands for its path in messages.
func InMemory(name string, config map[string]any, tensors []Tensor) *Checkpoint {
	c := &Checkpoint{Format: Memory, Path: name, config: Config{Source: name, Values: config},
		files: map[string]int64{}, tensors: map[string]Tensor{}}
	for _, t := range tensors {
		c.tensors[t.Name] = t
	}
	_ = c.unstack() // what is none of a model's tensors, whoever loads it says
	c.names = slices.Sorted(maps.Keys(c.tensors))
	return c
}

// open finds out what the path is and reads it so.
func (c *Checkpoint) open(st fs.FileInfo, o Options) error {
	if !st.IsDir() {
		c.root = filepath.Dir(c.Path)
		switch filepath.Ext(c.Path) {
		case ".json":
			return c.openDescription(o)
		case ".safetensors", ".pt", ".pth", ".bin":
			c.Format = SingleFile
			return c.add(c.Path)
		}
		return &Error{File: c.Path, Kind: ErrUnknown, What: "is no checkpoint JSON (.json) and no file of tensors (.safetensors, .pt, .pth, .bin)"}
	}
	entries, err := os.ReadDir(c.Path)
	if err != nil {
		return &Error{File: c.Path, Kind: err, What: "cannot be listed: " + cause(err)}
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	has := func(match func(string) bool) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return match(e.Name()) })
	}
	// The folder of a trainer may hold a DeepSpeed state beside the saved model: the model is meant, unless a tag is given.
	switch {
	case o.Tag == "" && weightsFile(names) != "" && names[factsFile] && !names[configFile]:
		return c.openCanonical(weightsFile(names))
	case o.Tag == "" && weightsFile(names) != "":
		return c.openHuggingFace(names)
	case o.Tag == "" && names[savedFile]:
		c.Path = filepath.Join(c.Path, savedFile)
		return c.openDescription(o)
	case names[latestFile] || has(denseFile.MatchString) || o.Tag != "" && !names[iterationFile]:
		return c.openDeepSpeed(o)
	case names[iterationFile] || has(rankFolder.MatchString):
		return c.openMegatron(o)
	case has(func(n string) bool { return strings.HasPrefix(n, "global_step") }):
		return &Error{File: c.Path, Kind: ErrTag, What: fmt.Sprintf("has no file %q to say which state is meant; choose one with --tag: %s", latestFile, strings.Join(folders(entries), ", "))}
	case has(func(n string) bool { return iterationFolder.MatchString(n) }):
		return &Error{File: c.Path, Kind: ErrTag, What: fmt.Sprintf("has no %s to say which iteration is meant; give the folder of one: %s", iterationFile, strings.Join(folders(entries), ", "))}
	case len(entries) == 0:
		return &Error{File: c.Path, Kind: ErrUnknown, What: "is an empty folder; give the model's folder"}
	}
	return &Error{File: c.Path, Kind: ErrUnknown, What: "holds no model.safetensors, pytorch_model.bin (or an index of either), no DeepSpeed state (latest) and no Megatron state (" + iterationFile + "); give the model's folder, or its checkpoint JSON"}
}

func folders(entries []fs.DirEntry) (names []string) {
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Names lists the tensors, sorted.
func (c *Checkpoint) Names() []string { return c.names }

// Tensor finds a tensor by its name.
func (c *Checkpoint) Tensor(name string) (Tensor, bool) {
	t, ok := c.tensors[name]
	return t, ok
}

// Config is the facts beside the weights; a single file has none.
func (c *Checkpoint) Config() Config { return c.config }

// Files lists the files that hold the weights, sorted by name.
func (c *Checkpoint) Files() []File {
	c.mu.Lock()
	defer c.mu.Unlock()
	fs := make([]File, 0, len(c.files))
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		fs = append(fs, File{name, c.files[name]})
	}
	return fs
}

// BytesRead counts the bytes of tensors handed out so far.
func (c *Checkpoint) BytesRead() int64 { return c.read.Load() }

// Close gives the mapped files back; views that Bytes gave are invalid from now on.
func (c *Checkpoint) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first error
	for _, m := range c.maps {
		first = orElse(first, m.close())
	}
	c.maps = nil
	return first
}

// keep notes a mapped file, to be listed and to be closed.
func (c *Checkpoint) keep(m *mapping) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maps = append(c.maps, m)
	c.files[c.relative(m.path)] = int64(len(m.data))
}

func (c *Checkpoint) relative(path string) string {
	if r, err := filepath.Rel(c.root, path); err == nil {
		return filepath.ToSlash(r)
	}
	return path
}

// openTensors opens a file of either kind and lists its tensors under the names that the file gives them.
func (c *Checkpoint) openTensors(path string) ([]Tensor, error) {
	if filepath.Ext(path) == ".safetensors" {
		m, tensors, err := openSafetensors(path, &c.read)
		if err == nil {
			c.keep(m)
		}
		return tensors, err
	}
	f, err := openTorch(path, &c.read)
	if err != nil {
		return nil, err
	}
	c.keep(f.m)
	root, ok := f.root.(*dict)
	if !ok {
		return nil, unsupported(path, "", "holds no dict of tensors; save a state_dict")
	}
	return f.flatten(root)
}

// add opens a file and takes all its tensors, none of which may be there already.
func (c *Checkpoint) add(path string) error {
	tensors, err := c.openTensors(path)
	if err != nil {
		return err
	}
	for _, t := range tensors {
		if _, twice := c.tensors[t.Name]; twice {
			return damaged(path, t.Name, "stands in another file of the checkpoint too; remove the file that does not belong to it")
		}
		c.tensors[t.Name] = t
	}
	return nil
}

// readJSON decodes a JSON file, saying where it is broken.
func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return &Error{File: path, Kind: err, What: "cannot be read: " + cause(err)}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return damaged(path, "", "is not the JSON that is expected (%v)", err)
	}
	return nil
}
