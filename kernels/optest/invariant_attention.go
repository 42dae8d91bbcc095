package optest

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// invariantAttention runs conversations whole, in ragged steps and token by token, alone and together.
func invariantAttention(k *kit) error {
	for _, c := range []attentionCase{
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{130, 1, 77, 16}, blockTokens: 16},
		{heads: 3, kvHeads: 3, dim: 20, lengths: []int{90, 33}, blockTokens: 5},
		{heads: 8, kvHeads: 1, dim: 32, lengths: []int{150, 40}, blockTokens: 32, window: 50},
		{heads: 4, kvHeads: 4, dim: 16, lengths: []int{70, 140}, blockTokens: 16, spread: 20},
		{heads: 4, kvHeads: 4, dim: 64, lengths: []int{600, 5, 130, 1, 513}, blockTokens: 16, bidirectional: true},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{130, 1, 77}, blockTokens: 16, alibi: true},
		{heads: 19, kvHeads: 1, dim: 24, latent: 16, lengths: []int{80, 1, 67}, blockTokens: 16},
		{heads: 16, kvHeads: 1, dim: 576, latent: 512, lengths: []int{70, 1, 18}, blockTokens: 16},
		{heads: 70, kvHeads: 1, dim: 576, latent: 512, lengths: []int{13, 5}, blockTokens: 5},
		{heads: 8, kvHeads: 1, dim: 64, lengths: []int{130, 1, 77}, blockTokens: 16, window: 50, sinks: true},
	} {
		for _, d := range []kernels.DType{kernels.F32, kernels.BF16} {
			v := k.conversation(c, k.dev.Activations(d), d)
			want := v.play(k, v.whole())
			single := make([][]chunk, 0)
			for i, s := range v.seqs {
				for t := range s.length {
					single = append(single, []chunk{{i, t, t + 1}})
				}
			}
			others := map[string][][]chunk{"in ragged steps": v.ragged(k), "in other ones": v.ragged(k), "token by token": single}
			if c.bidirectional { // what a token sees must be there: a sequence is not cut
				others = map[string][][]chunk{"in another order": v.reversed()}
			}
			for name, steps := range others {
				got := v.play(k, steps)
				for s := range want {
					if !bytes.Equal(got[s], want[s]) {
						return fmt.Errorf("attention %+v, cache %v: sequence %d has other bits %s than whole", c, d, s, name)
					}
				}
				k.release()
			}
			for i := range v.seqs {
				if got := v.play(k, [][]chunk{{{i, 0, v.seqs[i].length}}}); !bytes.Equal(got[i], want[i]) {
					return fmt.Errorf("attention %+v, cache %v: sequence %d has other bits alone than among others", c, d, i)
				}
			}
			k.release()
		}
	}
	return nil
}

// invariantContext looks at the last tokens of contexts about which back ends may cut their work: one token alone, many
// sequences' at once, short beside very long ones, and as part of a prompt; and compares them with the definition.
func invariantContext(k *kit) error {
	const last = 3 // tokens of each sequence
	for _, c := range []attentionCase{
		{heads: 4, kvHeads: 1, dim: 16, lengths: []int{4, 511, 512, 513, 514, 1023, 1024, 1025, 1026, 2047, 2050, 3073, 70000}, blockTokens: 16},
		{heads: 20, kvHeads: 1, dim: 128, lengths: []int{1027, 700, 2600, 37}, blockTokens: 16},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{513, 1025, 3000, 3075}, blockTokens: 7},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{516, 1027, 1537, 3000}, blockTokens: 16, window: 514},
		{heads: 2, kvHeads: 2, dim: 64, lengths: []int{2053, 700, 5000}, blockTokens: 16, spread: 20},
		{heads: 3, kvHeads: 3, dim: 64, lengths: []int{516, 1027, 3000}, blockTokens: 16, alibi: true},
		{heads: 3, kvHeads: 1, dim: 40, latent: 32, lengths: []int{516, 1027}, blockTokens: 16},
		{heads: 16, kvHeads: 1, dim: 576, latent: 512, lengths: []int{516, 1027, 37}, blockTokens: 16},
		{heads: 34, kvHeads: 1, dim: 576, latent: 512, lengths: []int{1030, 5}, blockTokens: 16},
		{heads: 4, kvHeads: 1, dim: 64, lengths: []int{516, 1027, 1600}, blockTokens: 16, sinks: true},
	} {
		for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16} {
			if c.dim == 16 && d != kernels.BF16 || c.dim == 576 && d == kernels.F32 { // long and wide ones take their time
				continue
			}
			if d == kernels.F16 && k.dev.Activations(d) != d { // then nor may its cache be
				continue
			}
			if err := sameInAnyContext(k, c, d, last); err != nil {
				return err
			}
		}
	}
	return nil
}

func sameInAnyContext(k *kit, c attentionCase, d kernels.DType, last int) error {
	v := k.conversation(c, k.dev.Activations(d), d)
	cache := k.newCache(v.cacheOf)
	defer cache.Free()
	k.fillCache(cache, v.act, math.NaN())
	for i, s := range v.seqs {
		v.remember(k, cache, []chunk{{i, 0, s.length - last}})
	}
	k.release()
	row := v.spec.Heads * v.cacheOf.Values() * v.act.Size()
	type token struct{ seq, at int }
	want := map[token][]byte{}
	scale := 0.0 // of V
	for _, s := range v.seqs {
		scale = max(scale, largestOf(s.kept[1]...))
	}
	tol := max(k.tol.of(d), k.tol.of(v.act)) * (1 + c.spread/4)
	run := func(how string, step []chunk) error {
		out := v.step(k, cache, step)
		for _, p := range step {
			for t := p.from; t < p.to; t++ {
				got, at := out[:row], token{p.seq, t}
				out = out[row:]
				if want[at] == nil {
					want[at] = got
					k.nearBy(fmt.Sprintf("attention %+v, cache %v: token %d of sequence %d", c, d, t, p.seq), decode(v.act, got),
						v.rowByDefinition(p.seq, t), 8*tol*scale)
				} else if !bytes.Equal(got, want[at]) {
					return fmt.Errorf("attention %+v, cache %v: token %d of sequence %d has other bits %s than alone", c, d, t, p.seq, how)
				}
			}
		}
		k.release()
		return nil
	}
	var together, prompts, mixed []chunk
	for t := last; t > 0; t-- {
		for i, s := range v.seqs {
			if err := run("alone again", []chunk{{i, s.length - t, s.length - t + 1}}); err != nil {
				return err
			}
		}
	}
	for i, s := range v.seqs {
		together = append(together, chunk{i, s.length - 1, s.length})
		prompts = append(prompts, chunk{i, s.length - last, s.length})
		mixed = append(mixed, chunk{i, s.length - 1 - i%3, s.length})
	}
	crowd := slices.Clone(together) // as many rows as leave little to share, a long one among them
	for i, p := range together {
		for range 20 {
			if v.seqs[i].length < 1100 {
				crowd = append(crowd, p)
			}
		}
	}
	for _, s := range []struct {
		how  string
		step []chunk
	}{
		{"among other sequences", together}, {"among many", crowd}, {"in a prompt", prompts},
		{"beside prompts", mixed}, {"in a prompt of its own", prompts[len(prompts)-1:]},
	} {
		if err := run(s.how, s.step); err != nil {
			return err
		}
	}
	return nil
}
