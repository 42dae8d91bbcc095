package model

import (
	"fmt"

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
	y := &moe.Layer{Gate: m.Gate, Act: c.activation(), Capacity: l.options.Capacity}
	y.Logits = l.pack(fmt.Sprintf("layer %d gate", i), kernels.WeightSpec{DType: kernels.F32,
		Experts: []kernels.Linear{l.linear("moe.gate", i, 0, l.whole(m.Gate.Experts, c.Hidden), c.Bias.Gate)}})
	if m.Biased {
		name := l.policy.Tensors.name("moe.bias", i, 0)
		y.Gate.Bias = l.put(name, kernels.F32, l.named(name, l.whole(1, m.Gate.Experts)))
	}
	mine := l.spread[m.Gate.Experts]
	y.Exchange, y.Places = mine.exchange, l.placed(i)
	held := l.expertsHere(i, mine)
	slices, err := cut("the inside of an expert", m.FFN, mine.place, l.options.Slices)
	if err != nil {
		l.fail(err)
		return y
	}
	l.widen(moe.Shape{Inner: span(slices).Len(), Experts: m.Gate.Experts, K: m.Gate.K, Layers: 1})
	y.Up, y.Down = l.mlp(fmt.Sprintf("layer %d experts", i), "expert", i, held, m.FFN, slices, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
	l.useExperts(i, m)
	if inside := m.Branch(); inside > 0 {
		if slices, err = l.slicing.inside(inside); err != nil {
			l.fail(err)
			return y
		}
		l.widen(moe.Shape{Branch: span(slices).Len()})
		coefficients := 1
		if m.Residual {
			coefficients = 2
		}
		r := &moe.Residual{}
		r.Up, r.Down = l.mlp(fmt.Sprintf("layer %d residual branch", i), "residual", i, []int{0}, inside, slices,
			c.Bias.MLP, c.Bias.MLP && m.OutputBias)
		if m.Residual || m.Weighed {
			r.Mix = l.pack(fmt.Sprintf("layer %d residual coefficients", i), kernels.WeightSpec{DType: kernels.F32,
				Experts: []kernels.Linear{l.linear("residual.mix", i, 0, l.whole(coefficients, c.Hidden), m.Residual)}})
		}
		y.Residual = r
	}
	return y
}

// placed is the places of a layer's experts where they do not lie in order.
func (l *loader) placed(layer int) []shard.Place {
	if l.options.Placement == nil || l.spread[l.config.MoE[layer].Gate.Experts].exchange == nil {
		return nil
	}
	return l.options.Placement(layer)
}

// expertsHeld is how many experts of a layer a rank holds, and in how many slices each is cut.
func (l *loader) expertsHeld(layer int) (held, slices int) {
	p := l.spread[l.config.MoE[layer].Gate.Experts]
	if places := l.placed(layer); places != nil {
		return len(places) / p.exchange.Ranks, p.place.ranks
	}
	return p.to - p.from, p.place.ranks
}

// expertsHere is the experts of a layer that this rank holds, in order of their places.
func (l *loader) expertsHere(layer int, mine part) (experts []int) {
	places := l.placed(layer)
	if places == nil {
		for e := mine.from; e < mine.to; e++ {
			experts = append(experts, e)
		}
		return experts
	}
	x := mine.exchange
	if err := shard.CheckPlaces(places, l.config.MoE[layer].Gate.Experts, x.Ranks); err != nil {
		l.fail(fmt.Errorf("%w: layer %d: %w", ErrSlices, layer, err))
		return nil
	}
	each := len(places) / x.Ranks
	for _, p := range places[x.Rank*each : (x.Rank+1)*each] {
		experts = append(experts, p.Expert)
	}
	return experts
}

// widen notes what an MoE layer that is here needs.
func (l *loader) widen(by moe.Shape) {
	if l.elsewhere || !l.surveying {
		return
	}
	m := &l.model.largest
	m.Inner, m.Experts, m.K, m.Branch = max(m.Inner, by.Inner), max(m.Experts, by.Experts), max(m.K, by.K), max(m.Branch, by.Branch)
	m.Layers += by.Layers
}
