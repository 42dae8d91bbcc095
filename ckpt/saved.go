package ckpt

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// A saved folder holds the slices of ranks: what all of them read in one file, what one of them reads in a file of its
// own, the experts of each part of them in another. savedFile lists the files; the facts lie beside it, as config.json
// or model.json. A tensor that is cut is there in pieces, tensors of their own whose names tell what they are:
// NAME[axis:from:to]. So a rank of the same layout reads its own files alone, and any other one what it needs.
const (
	savedFile = "ds_inference_config.json" // as DeepSpeed calls the index of save_mp_checkpoint_path
	savedType = "dsbatch"                  // its type: DeepSpeed's own files hold weights in orders of their own
)

// pieceName is the name of a piece.
var pieceName = regexp.MustCompile(`^(.+)\[(\d+):(\d+):(\d+)\]$`)

// SavedFiles lists the files of a saved folder, as its index does: those of all ranks, a file a rank of tensor parallelism, a
// file a part of the experts.
type SavedFiles struct {
	Shared  []string `json:"non_tp"`
	Ranks   []string `json:"tp"`
	Experts []string `json:"ep,omitempty"`
}

// savedIndex is savedFile.
type savedIndex struct {
	Type            string     `json:"type"`
	BaseDir         string     `json:"base_dir"`
	Checkpoints     SavedFiles `json:"checkpoints"`
	Version         float64    `json:"version"`
	Parallelization string     `json:"parallelization"`
	TPSize          int        `json:"tp_size"`
	EPSize          int        `json:"ep_size,omitempty"`
	Source          string     `json:"source"` // the digest of what was cut
}

// Piece is the part from..to (excluded) of a tensor along axis, named so that it is found again in a saved folder.
func (t Tensor) Piece(axis int, from, to int64) (Tensor, error) {
	p, err := t.Slice(axis, from, to)
	p.Name = fmt.Sprintf("%s[%d:%d:%d]", t.Name, axis, from, to)
	return p, err
}

// Window is the part of the tensor that it was sliced from which it shows: the elements from..to (excluded) along axis.
func (t Tensor) Window(axis int) (from, to int64) {
	if t.from != nil {
		from = t.from[axis]
	}
	return from, from + t.Shape[axis]
}

// Saved writes the index of a saved folder whose files are there. source is the digest of the checkpoint that was cut.
func (f *Folder) Saved(files SavedFiles, source [32]byte) error {
	text, err := json.MarshalIndent(savedIndex{Type: savedType, Checkpoints: files, Version: 1, Parallelization: "tp",
		TPSize: len(files.Ranks), EPSize: len(files.Experts), Source: fmt.Sprintf("%x", source)}, "", "  ")
	if err != nil {
		return err
	}
	return f.File(savedFile, append(text, '\n'))
}

// SavedFrom tells whether path is a saved folder of the checkpoint with that digest, in so many slices and parts.
func SavedFrom(path string, source [32]byte, tp, ep int) bool {
	var index savedIndex
	err := readJSON(filepath.Join(path, savedFile), &index)
	return err == nil && index.Type == savedType && index.Source == fmt.Sprintf("%x", source) && index.TPSize == tp && index.EPSize == ep
}

// openRankFiles reads the files of an index; relative names begin at folder.
func (c *Checkpoint) openRankFiles(path, folder string, index savedIndex) error {
	c.Format = Saved
	files := index.Checkpoints
	if len(files.Ranks) != index.TPSize || len(files.Experts) != index.EPSize || index.TPSize < 1 {
		return mismatch(path, "", "lists %d files of ranks and %d of experts, but tp_size is %d and ep_size %d; copy it again", len(files.Ranks), len(files.Experts), index.TPSize, index.EPSize)
	}
	pieces := map[string][]placedPiece{}
	for _, name := range slices.Concat(files.Shared, files.Ranks, files.Experts) {
		if !filepath.IsLocal(name) {
			return damaged(path, "", "names a file outside its folder, %q; put all files of the model in one folder", name)
		}
		tensors, err := c.openTensors(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		for _, t := range tensors {
			if err := c.takePiece(t, filepath.Join(folder, name), pieces); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pieces)) {
		t, err := joinPieces(path, name, pieces[name])
		if err != nil {
			return err
		}
		if _, twice := c.tensors[name]; twice {
			return damaged(path, name, "is there whole and in pieces; save the model again")
		}
		c.tensors[name] = t
	}
	if _, err := os.Stat(filepath.Join(folder, configFile)); err != nil {
		c.canonical = true
		return c.settleCanonical(folder, index.TPSize)
	}
	c.config.Source = filepath.Join(folder, configFile)
	return readJSON(c.config.Source, &c.config.Values)
}

// placedPiece is a tensor that is the part from..to of another one along axis.
type placedPiece struct {
	Tensor
	axis     int
	from, to int64
}

// takePiece sorts a tensor of a file in: a piece, or a whole one.
func (c *Checkpoint) takePiece(t Tensor, file string, pieces map[string][]placedPiece) error {
	m := pieceName.FindStringSubmatch(t.Name)
	if m == nil {
		if _, twice := c.tensors[t.Name]; twice {
			return damaged(file, t.Name, "stands in another file of the checkpoint too; remove the file that does not belong to it")
		}
		c.tensors[t.Name] = t
		return nil
	}
	p := placedPiece{t, atoi(m[2]), int64(atoi(m[3])), int64(atoi(m[4]))}
	if p.axis >= len(t.Shape) || p.to-p.from != t.Shape[p.axis] {
		return damaged(file, t.Name, "has shape %v, which is not what its name says; save the model again", t.Shape)
	}
	pieces[m[1]] = append(pieces[m[1]], p)
	return nil
}

// joinPieces is the tensor that the pieces make up, without reading any.
func joinPieces(file, name string, pieces []placedPiece) (Tensor, error) {
	slices.SortFunc(pieces, func(a, b placedPiece) int { return cmp.Compare(a.from, b.from) })
	first := pieces[0]
	t, at := Tensor{Name: name, DType: first.DType, Shape: slices.Clone(first.Shape)}, int64(0)
	var all []piece
	for _, p := range pieces {
		alike := slices.Clone(p.Shape)
		if p.axis == first.axis && len(alike) == len(first.Shape) {
			alike[p.axis] = first.Shape[p.axis]
		}
		if p.DType != first.DType || p.axis != first.axis || !slices.Equal(alike, first.Shape) {
			return t, mismatch(file, name, "has pieces that do not fit each other (%v %v and %v %v); the files are not of one checkpoint", first.DType, first.Shape, p.DType, p.Shape)
		}
		if p.from != at {
			return t, mismatch(file, name, "has a piece that begins at %d where one that begins at %d is needed; the files are not of one checkpoint", p.from, at)
		}
		_, its, err := p.src.pieces()
		if err != nil {
			return t, err
		}
		all, at = append(all, its...), p.to
	}
	t.Shape[first.axis] = at
	if _, ok := elements(t.Shape); !ok {
		return t, damaged(file, name, "has the impossible shape %v; save the model again", t.Shape)
	}
	t.src = laid{first.axis, all}
	return t, nil
}
