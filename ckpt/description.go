package ckpt

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// description is a checkpoint JSON: which files, of what kind. Source: DeepSpeed's state_dict_factory.py, and the
// ds_inference_config.json that it writes.
type description struct {
	Type        string          `json:"type"`
	Checkpoints json.RawMessage `json:"checkpoints"`
	Path        string          `json:"checkpoint_path"` // the older documents' name, a folder
	Version     *float64        `json:"version"`         // wins over the files' own; null: theirs
	BaseDir     string          `json:"base_dir"`
	MPSize      int             `json:"mp_size"`
	TPSize      int             `json:"tp_size"`
}

// OpenDescription opens what a checkpoint JSON describes that lies in no file: text is its content. Its relative paths
// begin at o.BaseDir, else at its own base_dir, else in the working directory.
func OpenDescription(text []byte, o Options) (*Checkpoint, error) {
	var d description
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, damaged("checkpoint", "", "is not the description that is expected (%v)", err)
	}
	folder := cmp.Or(o.BaseDir, d.BaseDir, ".")
	return newCheckpoint(folder, o, func(c *Checkpoint) error {
		c.root = "."
		return c.openDescribed(d, o)
	})
}

// openDescription reads a checkpoint JSON.
func (c *Checkpoint) openDescription(o Options) error {
	var d description
	if err := readJSON(c.Path, &d); err != nil {
		return err
	}
	if d.Type == savedType {
		var index savedIndex
		if err := readJSON(c.Path, &index); err != nil {
			return err
		}
		c.root = cmp.Or(o.BaseDir, c.root)
		return c.openRankFiles(c.Path, c.root, index)
	}
	return c.openDescribed(d, o)
}

// openDescribed opens the files of a description that lies in the folder root. Megatron files are ranks of one model and
// are joined; ds_model and bloom files hold different tensors, whose names are taken as they are.
func (c *Checkpoint) openDescribed(d description, o Options) error {
	folder, base := c.root, cmp.Or(o.BaseDir, d.BaseDir)
	if !filepath.IsAbs(base) && o.BaseDir == "" {
		base = filepath.Join(folder, base)
	}
	c.root = base
	if v := d.Version; v != nil && *v != 0 && *v != 1 && *v != 2 && *v != 3 {
		return unsupported(c.Path, "", "version %v is not known; it is 0, 1.0, 2.0 or 3.0, or null for that of the files", *v)
	}
	paths, sliced, err := d.files(c.Path, base)
	if err != nil {
		return err
	}
	switch strings.ToLower(d.Type) {
	case "megatron":
		c.Format = Megatron
		if d.MPSize > 0 && len(paths)%d.MPSize != 0 {
			return mismatch(c.Path, "", "mp_size is %d, but %d files are listed; list the file of every rank", d.MPSize, len(paths))
		}
		if err := listedAreThere(paths, base); err != nil {
			return err
		}
		return c.openRanks(paths, d.Version, base, folder)
	case "ds_model", "bloom":
		c.Format = DSModel
		if sliced {
			return unsupported(c.Path, "", "lists weights that DeepSpeed's kernels were given in %d slices, in an order of their own; give the model that they were saved from", d.TPSize)
		}
		if err := listedAreThere(paths, base); err != nil {
			return err
		}
		for _, path := range paths {
			if err := c.add(path); err != nil {
				return err
			}
		}
		config := filepath.Join(base, configFile)
		c.config.Source = config
		return readJSON(config, &c.config.Values)
	case "deepspeed":
		if len(paths) != 1 {
			return unsupported(c.Path, "", "type DeepSpeed takes one folder, %d paths are listed", len(paths))
		}
		st, err := os.Stat(paths[0])
		if err != nil || !st.IsDir() {
			return &Error{File: paths[0], Kind: cmp.Or(err, ErrUnknown), What: "is no folder; " + c.Path + " should name the folder that holds latest"}
		}
		c.Path, c.root = paths[0], paths[0]
		return c.open(st, Options{Tag: o.Tag})
	}
	return unsupported(c.Path, "", "type %q is not known; it is Megatron, ds_model, bloom or DeepSpeed", d.Type)
}

// listedAreThere tells of the first listed file that is not there where relative paths begin.
func listedAreThere(paths []string, base string) error {
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return &Error{File: p, Kind: err, What: "cannot be opened: " + cause(err) + "; relative names begin at " + cmp.Or(base, ".") + ": give base_dir where they begin elsewhere"}
		}
	}
	return nil
}

// files lists the paths under checkpoints: a list, or the two lists non_tp and tp that DeepSpeed itself writes.
// sliced is true where the latter are of more than one rank.
func (d description) files(path, base string) (paths []string, sliced bool, err error) {
	var flat []string
	var split struct {
		NonTP []string `json:"non_tp"`
		TP    []string `json:"tp"`
	}
	switch {
	case len(d.Checkpoints) == 0 && d.Path != "":
		flat = []string{d.Path}
	case json.Unmarshal(d.Checkpoints, &flat) == nil:
	case json.Unmarshal(d.Checkpoints, &split) == nil:
		flat = slices.Concat(split.NonTP, split.TP)
		sliced = len(split.TP) > 0 && d.TPSize > 1
	default:
		return nil, false, damaged(path, "", "lists no files under checkpoints, which is a list of paths, or {\"non_tp\": […], \"tp\": […]}")
	}
	seen := map[string]bool{}
	for _, p := range flat {
		if !filepath.IsAbs(p) {
			p = filepath.Join(base, p)
		}
		if seen[p] {
			return nil, false, damaged(path, "", "lists %s twice; list the file of every rank once", p)
		}
		seen[p] = true
		paths = append(paths, p)
	}
	if len(paths) == 0 {
		return nil, false, damaged(path, "", "lists no files under checkpoints")
	}
	return paths, sliced, nil
}
