package model

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// ErrSlices marks a model that cannot be cut as was asked; the error says how it can be.
var ErrSlices = errors.New("the model cannot be sliced so")

// place is where a rank stands among those that slice the same tensors; the zero place holds them whole.
type place struct{ rank, ranks int }

func placeIn(g *comm.Group) place {
	if g == nil {
		return place{0, 1}
	}
	return place{g.Rank(), g.Size()}
}

// slicing is what tensor parallelism cuts of a model: every rank holds some attention heads (the rows of q, k and v and
// the columns of the output projection), some of the inside of each dense MLP, and some rows of the output embedding.
// Norms, gates and the input embedding are whole everywhere.
type slicing struct {
	place
	slices int           // of every row-parallel product, over all ranks; 0: one a rank
	heads  []shard.Heads // of each rank
	vocab  []shard.Range // of each rank
	hidden shard.Range   // the whole
}

// newSlicing cuts c for a place in a tp group, or says why that does not work.
func newSlicing(c *Config, at place, slices int) (y slicing, err error) {
	y = slicing{place: at, slices: slices, hidden: shard.Range{To: c.Hidden}}
	if y.heads, err = shard.CutHeads(c.Heads, c.KVHeads, y.ranks); err != nil {
		return y, fmt.Errorf("%w: tp %d: %w", ErrSlices, y.ranks, err)
	}
	if y.vocab, err = shard.Cut("a vocabulary", c.Vocab, y.ranks); err != nil {
		return y, fmt.Errorf("%w: tp %d: %w", ErrSlices, y.ranks, err)
	}
	if y.slices == 0 {
		return y, nil
	}
	if s := y.slices; s < 0 || s&(s-1) != 0 || s > kernels.MaxParts {
		return y, fmt.Errorf("%w: %d slices, whatever tp and es are, do not add up in pairs; use 2, 4, 8, 16, 32 or 64", ErrSlices, s)
	}
	if y.slices%y.ranks != 0 {
		return y, fmt.Errorf("%w: tp %d: %d slices, whatever tp is, cannot be shared out evenly by %d ranks; use %s", ErrSlices, y.ranks, y.slices, y.ranks,
			powersOfTwo(1, y.slices, func(tp int) bool { return c.Heads%tp == 0 }))
	}
	if c.Heads%y.ranks != 0 || c.KVHeads%y.ranks != 0 && y.ranks%c.KVHeads != 0 {
		return y, fmt.Errorf("%w: tp %d: for results that do not depend on tp, %d heads and %d key-value heads are shared out evenly; use %s", ErrSlices, y.ranks, c.Heads, c.KVHeads,
			powersOfTwo(1, y.slices, func(tp int) bool { return c.Heads%tp == 0 && (c.KVHeads%tp == 0 || tp%c.KVHeads == 0) }))
	}
	return y, nil
}

// powersOfTwo lists those that fit as a sentence does: 1, 2 or 4.
func powersOfTwo(from, to int, fits func(int) bool) string {
	var all []string
	for n := from; n <= to; n *= 2 {
		if fits(n) {
			all = append(all, strconv.Itoa(n))
		}
	}
	if last := len(all) - 1; last > 0 {
		return strings.Join(all[:last], ", ") + " or " + all[last]
	}
	return strings.Join(all, "")
}

// own is this rank's heads.
func (y *slicing) own() shard.Heads { return y.heads[y.rank] }

// cut is a rank's part of the inputs of a row-parallel op: slices, each multiplied by itself.
func cut(what string, size int, at place, slices int) ([]shard.Range, error) {
	if slices == 0 {
		all, err := shard.Cut(what, size, at.ranks)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSlices, err)
		}
		return all[at.rank : at.rank+1], nil
	}
	if size%slices != 0 {
		can := powersOfTwo(max(2, at.ranks), kernels.MaxParts, func(n int) bool { return size%n == 0 })
		if can == "" {
			can = "one slice a rank"
		}
		return nil, fmt.Errorf("%w: %s, %d, cannot be cut into %d equal slices; use %s", ErrSlices, what, size, slices, can)
	}
	if slices%at.ranks != 0 {
		return nil, fmt.Errorf("%w: %d slices of %s cannot be shared out evenly by %d ranks; use %s", ErrSlices, slices, what, at.ranks,
			powersOfTwo(1, slices, func(int) bool { return true }))
	}
	all, err := shard.Cut(what, size, slices)
	each := slices / at.ranks
	return all[at.rank*each : (at.rank+1)*each], err
}

// attention is the slices of the output projection's inputs: this rank's heads.
func (y *slicing) attention(c *Config) ([]shard.Range, error) {
	if y.slices == 0 {
		q := y.own().Q
		return []shard.Range{{From: q.From * c.OutDim(), To: q.To * c.OutDim()}}, nil
	}
	return cut("the width of all heads", c.Heads*c.OutDim(), y.place, y.slices)
}

// inside is the slices of the inside of a dense MLP.
func (y *slicing) inside(ffn int) ([]shard.Range, error) {
	return cut("the inside of an MLP", ffn, y.place, y.slices)
}

// columns are the columns that each rank has of the projections of q and k together with those of others.
func (y *slicing) columns(dim int) (qFrom, qTo, kFrom, kTo []int) {
	for _, h := range y.heads {
		qFrom, qTo = append(qFrom, h.Q.From*dim), append(qTo, h.Q.To*dim)
		kFrom, kTo = append(kFrom, h.KV.From*dim), append(kTo, h.KV.To*dim)
	}
	return qFrom, qTo, kFrom, kTo
}

// span is what adjacent slices cover.
func span(slices []shard.Range) shard.Range {
	return shard.Range{From: slices[0].From, To: slices[len(slices)-1].To}
}
