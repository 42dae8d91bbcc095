package optest

import (
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// routing is the buffers of a kernels.Routing.
type routing struct {
	kernels.Routing
	expert, weight, offsets, choices, place *buffer
}

func (k *kit) routing(tokens, choices, experts int) *routing {
	k.Helper()
	const spare = 3 // places that the ops must leave alone
	r := &routing{
		expert: k.output(kernels.I32, tokens, choices), weight: k.output(kernels.F32, tokens, choices),
		offsets: k.output(kernels.I32, 1, experts+1),
		choices: k.output(kernels.I32, 1, tokens*choices+spare), place: k.output(kernels.I32, 1, tokens*choices+spare),
	}
	r.Routing = kernels.Routing{K: choices, Experts: experts, Expert: r.expert.Tensor, Weight: r.weight.Tensor,
		Offsets: r.offsets.Tensor, Choices: r.choices.Tensor, Place: r.place.Tensor}
	return r
}

// fill gives the choices and weights of a routing.
func (k *kit) fill(r *routing, expert []int32, weight []float64) {
	for i, w := range weight {
		weight[i] = roundTo(kernels.F32, w)
	}
	k.stream.Write(r.Expert, encodeInts(expert))
	k.stream.Write(r.Weight, encode(kernels.F32, weight))
}

// distinct is random choices, no expert twice for a token; some are dropped.
func (k *kit) distinct(tokens, choices, experts int, dropped float64) (expert []int32) {
	for range tokens {
		for _, e := range k.rng.Perm(experts)[:choices] {
			if k.rng.Float64() < dropped {
				e = -1
			}
			expert = append(expert, int32(e))
		}
	}
	return expert
}

func testDrop(k *kit) {
	for _, c := range []struct{ tokens, k, experts, capacity int }{
		{0, 2, 4, 1}, {1, 1, 1, 0}, {3, 1, 3, 1}, {17, 2, 4, 5}, {63, 2, 5, 100}, {129, 3, 7, 20}, {40, 4, 4, 13}, {300, 8, 64, 30},
	} {
		for _, p := range []kernels.Capacity{
			{Policy: kernels.DropByPosition},
			{Policy: kernels.DropByPosition, Renormalise: true},
			{Policy: kernels.DropByPosition, SecondAfterFirst: true, Renormalise: true},
			{Policy: kernels.DropByPosition, Renormalise: true, Scale: 2.5},
			{Policy: kernels.DropByProbs},
			{Policy: kernels.DropByProbs, Renormalise: true},
		} {
			p.C = c.capacity
			expert := k.distinct(c.tokens, c.k, c.experts, 0.1)
			weight := make([]float64, len(expert))
			for i := range weight {
				if expert[i] >= 0 {
					weight[i] = float64(k.rng.IntN(12)) / 16 // with ties and zeros
				}
			}
			r := k.routing(c.tokens, c.k, c.experts)
			k.fill(r, expert, weight)
			k.stream.Drop(r.Routing, p)
			dropByDefinition(expert, weight, c.k, c.experts, p)
			what := fmt.Sprintf("drop %+v, %+v", c, p)
			if got := k.intValues(r.expert); !slices.Equal(got, expert) {
				k.Fatalf("%s: experts %v, want %v", what, got, expert)
			}
			k.nearBy(what, k.values(r.weight), weight, 2*k.tol.F32)
			k.release()
		}
	}
}

// dropByDefinition asks for each choice how many go before it.
func dropByDefinition(expert []int32, weight []float64, choices, experts int, p kernels.Capacity) {
	before := func(i, j int) bool { // choice i goes before j
		switch {
		case p.Policy == kernels.DropByProbs && weight[i] != weight[j]:
			return weight[i] > weight[j]
		case p.SecondAfterFirst && i%choices != j%choices:
			return i%choices < j%choices
		}
		return i < j
	}
	var drop []int
	for j, e := range expert {
		n := 0
		for i, f := range expert {
			if e >= 0 && e == f && before(i, j) {
				n++
			}
		}
		if e >= 0 && n >= p.C {
			drop = append(drop, j)
		}
	}
	for _, i := range drop {
		expert[i], weight[i] = -1, 0
	}
	scale := 1.0
	if p.Scale != 0 {
		scale = float64(p.Scale)
	}
	for t := 0; p.Renormalise && t < len(weight); t += choices {
		var sum float64
		for _, w := range weight[t : t+choices] {
			sum += w
		}
		for i := range choices {
			weight[t+i] *= scale / max(sum, 0x1p-23)
		}
	}
}

func testTable(k *kit) {
	for _, c := range []struct {
		tokens, k, experts int
		dropped            float64
	}{
		{0, 2, 4, 0}, {1, 1, 1, 0}, {1, 1, 1, 1}, {3, 1, 3, 0}, {17, 2, 4, 0.3}, {63, 3, 64, 0}, {129, 8, 8, 0.5}, {300, 8, 128, 0}, {5000, 2, 16, 0.1}, {8192, 8, 64, 0.01}, {7, 2, 1000, 0},
	} {
		expert := k.distinct(c.tokens, c.k, c.experts, c.dropped)
		k.table(fmt.Sprintf("table %+v", c), expert, c.tokens, c.k, c.experts)
		for i := range expert { // one takes all
			expert[i] = int32(c.experts - 1)
		}
		k.table(fmt.Sprintf("table %+v, all to one", c), expert, c.tokens, c.k, c.experts)
	}
}

func (k *kit) table(what string, expert []int32, tokens, choices, experts int) {
	for _, adjacent := range []bool{false, true} {
		r := k.routing(tokens, choices, experts)
		if adjacent {
			r.Expert = k.output(kernels.I32, 1, tokens*choices).Reshape(tokens, choices)
			what += ", rows adjacent"
		}
		k.fill(r, expert, make([]float64, len(expert)))
		k.tableOf(what, r, expert)
	}
}

func (k *kit) tableOf(what string, r *routing, expert []int32) {
	k.stream.Table(r.Routing)
	offsets, list := []int32{0}, []int32{}
	place := make([]int32, len(expert))
	for e := range int32(r.Experts) { // every expert's choices in order
		for i, f := range expert {
			if f == e {
				place[i] = int32(len(list))
				list = append(list, int32(i))
			}
		}
		offsets = append(offsets, int32(len(list)))
	}
	for i, e := range expert {
		if e < 0 {
			place[i] = -1
			list = append(list, -1)
		}
	}
	n := len(expert)
	if got := k.intValues(r.offsets); !slices.Equal(got, offsets) {
		k.Fatalf("%s: offsets %v, want %v", what, got, offsets)
	}
	old := decodeInts(poison(kernels.I32))[0]
	for name, x := range map[string]struct {
		got  *buffer
		want []int32
	}{"choices": {r.choices, list}, "place": {r.place, place}} {
		got := k.intValues(x.got)
		if !slices.Equal(got[:n], x.want) {
			k.Fatalf("%s: %s %v, want %v", what, name, got[:n], x.want)
		}
		for _, v := range got[n:] {
			if v != old {
				k.Fatalf("%s: %s is written beyond the choices", what, name)
			}
		}
	}
	k.release()
}

func testCombine(k *kit) {
	for _, act := range k.activations() {
		for _, c := range []struct {
			tokens, k, experts, cols int
			dropped                  float64
		}{{0, 2, 4, 8, 0}, {1, 1, 1, 1, 0}, {3, 1, 4, 17, 1}, {17, 2, 4, 63, 0.3}, {5, 3, 8, 129, 0}, {40, 8, 16, 1024, 0.1}, {130, 2, 3, 100, 0}} {
			expert := k.distinct(c.tokens, c.k, c.experts, c.dropped)
			weight := k.normal(len(expert), 1)
			r := k.routing(c.tokens, c.k, c.experts)
			k.fill(r, expert, weight)
			k.stream.Table(r.Routing)
			place := k.intValues(r.place)
			slots := 0
			for _, e := range expert {
				if e >= 0 {
					slots++
				}
			}
			out := k.normal(slots*c.cols, 1)
			ob, y := k.floats(act, slots, c.cols, out), k.output(act, c.tokens, c.cols)
			k.stream.Combine(y.Tensor, ob.Tensor, r.Routing)
			want, bound := make([]float64, c.tokens*c.cols), make([]float64, c.tokens*c.cols)
			for i := range want {
				for j := range c.k {
					if at := int(place[i/c.cols*c.k+j]); at >= 0 {
						v := weight[i/c.cols*c.k+j] * out[at*c.cols+i%c.cols]
						want[i] += v
						bound[i] += k.tol.of(act) * math.Abs(v)
					}
				}
			}
			k.near(fmt.Sprintf("combine %v %+v", act, c), k.values(y), want, bound)
			k.release()
		}
	}
}

func testMix(k *kit) {
	for _, act := range k.activations() {
		for _, c := range []struct {
			rows, cols, coefs int
			same              bool
		}{{0, 8, 2, false}, {1, 1, 2, false}, {3, 17, 2, true}, {17, 129, 2, false}, {5, 1030, 2, true},
			{0, 8, 1, false}, {1, 1, 1, false}, {3, 17, 1, true}, {17, 129, 1, false}, {5, 1030, 1, true}} {
			n := c.rows * c.cols
			moe, mlp, coef := k.normal(n, 1), k.normal(n, 1), k.normal(c.coefs*c.rows, 5)
			if c.rows > 2 {
				copy(coef, []float64{1000, -1000, 7, 7}[:min(4, c.rows)])
			}
			mb, pb := k.floats(act, c.rows, c.cols, moe), k.floats(act, c.rows, c.cols, mlp)
			cb, y := k.floats(kernels.F32, c.rows, c.coefs, coef), k.output(act, c.rows, c.cols)
			if c.same {
				y = mb
			}
			k.stream.Mix(y.Tensor, mb.Tensor, pb.Tensor, cb.Tensor)
			want, bound := make([]float64, n), make([]float64, n)
			for i := range want {
				t := i / c.cols
				if c.coefs == 1 {
					want[i] = moe[i] + mlp[i]/(1+math.Exp(-coef[t]))
				} else {
					c0 := 1 / (1 + math.Exp(coef[2*t+1]-coef[2*t]))
					want[i] = moe[i]*c0 + mlp[i]*(1-c0)
				}
				bound[i] = 2 * k.tol.of(act) * (math.Abs(moe[i]) + math.Abs(mlp[i]))
			}
			k.near(fmt.Sprintf("mix %v %+v", act, c), k.values(y), want, bound)
			k.release()
		}
	}
}
