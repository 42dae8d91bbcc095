package model

import (
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/shard"
)

// part is this rank's part of the experts of a layer: those from from to to, of each of them the slices of place.
type part struct {
	exchange *moe.Exchange
	from, to int
	place    place
}

// spreadExperts settles which experts of the layers are here.
func (l *loader) spreadExperts() {
	l.spread = map[int]part{}
	for _, m := range l.config.MoE {
		experts := m.Gate.Experts
		if _, known := l.spread[experts]; known || experts == 0 || l.err != nil {
			continue
		}
		mine := part{to: experts, place: place{0, 1}}
		if l.options.Experts != nil {
			if mine.exchange, l.err = l.options.Experts(experts); l.err == nil && mine.exchange != nil {
				var spread shard.Experts
				spread, l.err = shard.Spread(experts, mine.exchange.Ranks)
				if l.err == nil {
					mine.from, mine.to = spread.Range(mine.exchange.Rank)
				}
				mine.place = placeIn(mine.exchange.Slice)
			}
		}
		l.spread[experts] = mine
	}
}

// moe loads an MoE layer: the gate, this rank's experts, the residual branch.
func (l *loader) moe(i int, m MoE) *moe.Layer {
	c := l.config
	y := &moe.Layer{Gate: m.Gate, Act: c.Act, Capacity: l.options.Capacity}
	y.Logits = l.pack(fmt.Sprintf("layer %d gate", i), kernels.WeightSpec{DType: kernels.F32,
		Experts: []kernels.Linear{l.linear("moe.gate", i, 0, l.whole(m.Gate.Experts, c.Hidden), false)}})
	mine := l.spread[m.Gate.Experts]
	y.Exchange = mine.exchange
	held := l.expertsHere(i, y, mine)
	slices, err := cut("the inside of an expert", m.FFN, mine.place, l.options.Slices)
	if err != nil {
		l.fail(err)
		return y
	}
	l.widen(moe.Shape{Inner: span(slices).Len(), Experts: m.Gate.Experts, K: m.Gate.K, Layers: 1})
	y.Up, y.Down = l.mlp(fmt.Sprintf("layer %d experts", i), "expert", i, held, m.FFN, slices, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
	l.useExperts(i, m)
	if m.Residual {
		if slices, err = l.slicing.inside(m.FFN); err != nil {
			l.fail(err)
			return y
		}
		l.widen(moe.Shape{Inner: span(slices).Len()})
		r := &moe.Residual{}
		r.Up, r.Down = l.mlp(fmt.Sprintf("layer %d residual branch", i), "residual", i, []int{0}, m.FFN, slices, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
		r.Mix = l.pack(fmt.Sprintf("layer %d residual coefficients", i), kernels.WeightSpec{DType: kernels.F32,
			Experts: []kernels.Linear{l.linear("residual.mix", i, 0, l.whole(2, c.Hidden), true)}})
		y.Residual = r
	}
	return y
}

// expertsHere is the experts of a layer that this rank holds, in order of their places.
func (l *loader) expertsHere(i int, y *moe.Layer, mine part) []int {
	experts := y.Gate.Experts
	places := make([]int, experts)
	for e := range places {
		places[e] = e
	}
	if p := l.options.Placement; p != nil && y.Exchange != nil {
		if placed := p(i); placed != nil {
			if !slices.Equal(slices.Sorted(slices.Values(placed)), places) {
				l.fail(fmt.Errorf("%w: layer %d: the placement %v does not name each of %d experts once", ErrSlices, i, placed, experts))
				return nil
			}
			y.Placement, places = placed, placed
		}
	}
	return places[mine.from:mine.to]
}

// widen notes what an MoE layer that is here needs.
func (l *loader) widen(by moe.Shape) {
	if l.elsewhere || !l.surveying {
		return
	}
	m := &l.model.largest
	m.Inner, m.Experts, m.K = max(m.Inner, by.Inner), max(m.Experts, by.Experts), max(m.K, by.K)
	m.Layers += by.Layers
}
