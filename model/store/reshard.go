package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/shard"
)

// ErrLayout marks a layout that the model cannot be saved in; the error says which it can.
var ErrLayout = errors.New("the model cannot be saved so")

// Slices is a model cut for a layout, ready to be written: what each file will hold. Made alike on all ranks.
type Slices struct {
	checkpoint *ckpt.Checkpoint
	files      ckpt.SavedFiles
	content    map[string][]ckpt.Output // by file
	facts      ckpt.FactsFile
	source     [32]byte
}

// Cut lays a checkpoint out for tp ranks that slice its dense parts and ep ranks over which its experts are spread, without
// reading a weight. c is what it says of itself; policy and shape may be what a job makes of it.
func Cut(ctx context.Context, c *ckpt.Checkpoint, policy model.Policy, shape model.Config, tp, ep int) (*Slices, error) {
	held, err := model.Look(ctx, c, policy, shape, tp)
	if err == nil {
		err = errors.Join(held.Faults...)
	}
	if err != nil {
		return nil, err
	}
	return cut(c, held, tp, ep)
}

func cut(c *ckpt.Checkpoint, held *model.Contents, tp, ep int) (*Slices, error) {
	y := &Slices{checkpoint: c, content: map[string][]ckpt.Output{}}
	var err error
	if y.facts, err = c.FactsFile(ckpt.Invalid); err != nil {
		return nil, err
	}
	if y.source, err = c.Digest(); err != nil {
		return nil, err
	}
	y.files.Shared = []string{"non-tp.safetensors"}
	for r := range tp {
		y.files.Ranks = append(y.files.Ranks, fmt.Sprintf("tp_%02d.safetensors", r))
	}
	if len(held.Experts) > 0 {
		if err := dividesExperts(held, ep); err != nil {
			return nil, err
		}
		for e := range ep {
			y.files.Experts = append(y.files.Experts, fmt.Sprintf("ep_%02d.safetensors", e))
		}
	} else if ep > 1 {
		return nil, fmt.Errorf("%w: ep %d: the model has no experts; leave it out", ErrLayout, ep)
	}
	read := readers(held)
	for _, name := range c.Names() {
		t, _ := c.Tensor(name)
		if x, is := held.Experts[name]; is {
			spread, err := shard.Spread(x.Of, ep)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrLayout, err)
			}
			y.addWhole(y.files.Experts[x.Number/spread.Local()], t)
			continue
		}
		if err := y.addCut(t, read[name], tp); err != nil {
			return nil, err
		}
	}
	return y, nil
}

// dividesExperts refuses an ep over which the experts of some layer cannot be spread evenly.
func dividesExperts(held *model.Contents, ep int) error {
	least, odd := 0, 0
	counts := map[int]bool{}
	for _, x := range held.Experts {
		counts[x.Of] = true
		if least == 0 || x.Of < least {
			least = x.Of
		}
		if ep < 1 || x.Of%ep != 0 {
			odd = max(odd, x.Of)
		}
	}
	if odd == 0 {
		return nil
	}
	var can []string
	for n := 1; n <= least; n++ {
		fits := true
		for count := range counts {
			fits = fits && count%n == 0
		}
		if fits {
			can = append(can, strconv.Itoa(n))
		}
	}
	return fmt.Errorf("%w: ep %d: %d experts cannot be spread evenly over %d ranks; use %s", ErrLayout, ep, odd, ep, strings.Join(can, ", "))
}

// readers is what each rank reads of each tensor, whole tensors as one whole part.
func readers(held *model.Contents) map[string][][]ckpt.Tensor {
	read := map[string][][]ckpt.Tensor{}
	for r, tensors := range held.Read {
		for _, t := range tensors {
			if read[t.Name] == nil {
				read[t.Name] = make([][]ckpt.Tensor, len(held.Read))
			}
			read[t.Name][r] = append(read[t.Name][r], t)
		}
	}
	return read
}

// add puts a tensor, or a piece of one, into a file, as it is stored; scales of a quantized one are for whoever has all of them.
func (y *Slices) add(file string, t ckpt.Tensor) {
	if t.Quantized() {
		t, _ = t.Stored()
	}
	y.content[file] = append(y.content[file], ckpt.Output{Tensor: t})
}

// addWhole puts a tensor into a file, scales and all.
func (y *Slices) addWhole(file string, t ckpt.Tensor) {
	y.add(file, t)
	if t.Quantized() {
		_, scales := t.Stored()
		y.add(file, scales)
	}
}

// addCut puts a tensor into the files: what one rank alone reads into that rank's, all else into the one of all ranks.
// by is what each rank reads of it, nil where none does.
func (y *Slices) addCut(t ckpt.Tensor, by [][]ckpt.Tensor, tp int) error {
	axis, err := axisOf(t, by)
	if err != nil {
		return err
	}
	if len(t.Shape) == 0 || tp == 1 {
		file := y.files.Shared[0]
		if by != nil {
			file = y.files.Ranks[0]
		}
		y.addWhole(file, t)
		return nil
	}
	edges := []int64{0, t.Shape[axis]}
	for _, parts := range by {
		for _, p := range parts {
			from, to := p.Window(axis)
			edges = append(edges, from, to)
		}
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	type run struct {
		from, to int64
		file     string
	}
	var runs []run
	for i := range edges[1:] {
		next := run{edges[i], edges[i+1], y.fileOf(by, axis, edges[i])}
		if last := len(runs) - 1; last >= 0 && runs[last].file == next.file {
			runs[last].to = next.to
		} else {
			runs = append(runs, next)
		}
	}
	switch len(runs) {
	case 0: // nothing in it
		y.addWhole(y.files.Shared[0], t)
		return nil
	case 1:
		y.addWhole(runs[0].file, t)
		return nil
	}
	for _, r := range runs {
		p, err := t.Piece(axis, r.from, r.to)
		if err != nil {
			return err
		}
		y.add(r.file, p)
	}
	if t.Quantized() { // few bytes, which most ranks need all of
		_, scales := t.Stored()
		y.add(y.files.Shared[0], scales)
	}
	return nil
}

// fileOf is the file of the elements from at on: that of the one rank that reads them.
func (y *Slices) fileOf(by [][]ckpt.Tensor, axis int, at int64) string {
	reader := -1
	for r, parts := range by {
		if slices.ContainsFunc(parts, func(p ckpt.Tensor) bool { from, to := p.Window(axis); return from <= at && at < to }) {
			if reader >= 0 {
				return y.files.Shared[0]
			}
			reader = r
		}
	}
	if reader < 0 {
		return y.files.Shared[0]
	}
	return y.files.Ranks[reader]
}

// axisOf is the axis along which ranks read parts of a tensor.
func axisOf(t ckpt.Tensor, by [][]ckpt.Tensor) (int, error) {
	axis := -1
	for _, parts := range by {
		for _, p := range parts {
			for a := range p.Shape {
				if p.Shape[a] == t.Shape[a] {
					continue
				}
				if axis >= 0 && axis != a {
					return 0, fmt.Errorf("%w: tensor %s is cut along two axes", ErrLayout, t.Name)
				}
				axis = a
			}
		}
	}
	return max(axis, 0), nil
}

// names lists the files of tensors, in an order that is the same everywhere.
func (y *Slices) names() []string {
	return slices.Concat(y.files.Shared, y.files.Ranks, y.files.Experts)
}

// Bytes is what the files take, headers left out.
func (y *Slices) Bytes() (bytes int64) {
	for _, tensors := range y.content {
		for _, t := range tensors {
			bytes += t.Size()
		}
	}
	return bytes
}

// Layout is in how many slices and parts the model is cut; ep is 0 without experts.
func (y *Slices) Layout() (tp, ep int) { return len(y.files.Ranks), len(y.files.Experts) }

// SavedAt tells whether the same model lies at path in this layout already.
func (y *Slices) SavedAt(path string) bool {
	tp, ep := y.Layout()
	return ckpt.SavedFrom(path, y.source, tp, ep)
}

// Write writes every of-th file, from that of number first on, into f: ranks share the work so.
func (y *Slices) Write(ctx context.Context, f *ckpt.Folder, first, of int) error {
	names := y.names()
	for i := first; i < len(names); i += of {
		if err := f.Tensors(ctx, names[i], y.content[names[i]]); err != nil {
			return err
		}
	}
	return nil
}

// Finish writes the index and the facts into f, whose files are all there, and makes it what Open opens.
func (y *Slices) Finish(f *ckpt.Folder) error {
	if err := f.Saved(y.files, y.source); err != nil {
		return err
	}
	if err := f.Facts(y.checkpoint, y.facts); err != nil {
		return err
	}
	return f.Commit()
}

// Reshard writes a checkpoint at to, which must not be there, as the slices of tp ranks and ep parts of its experts: a
// start of that layout reads its own files alone, one of another layout what it needs of all. No bit changes.
func Reshard(ctx context.Context, c *ckpt.Checkpoint, to string, tp, ep int) error {
	if tp < 1 {
		return fmt.Errorf("%w: tp %d; 1 or more slices can be", ErrLayout, tp)
	}
	held, err := fitting(ctx, c, tp)
	if err != nil {
		return err
	}
	y, err := cut(c, held, tp, max(ep, 1))
	if err != nil {
		return err
	}
	f, err := ckpt.CreateFolder(to, y.Bytes())
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := y.Write(ctx, f, 0, 1); err != nil {
		return err
	}
	return y.Finish(f)
}
