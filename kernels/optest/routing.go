package optest

import (
	"cmp"
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

// logits by kind, as hard for a gate as they come.
func (k *kit) logits(kind string, n int) []float64 {
	x := k.normal(n, 2)
	for i := range x {
		switch kind {
		case "ties":
			x[i] = math.Round(x[i])
		case "equal":
			x[i] = 0.3
		case "extreme":
			x[i] *= 1e4
		case "one":
			if i%3 == 0 {
				x[i] = 100
			}
		case "infinite":
			if i%4 == 1 {
				x[i] = math.Inf(-1)
			}
		}
		x[i] = roundTo(kernels.F32, x[i])
	}
	return x
}

func testGate(k *kit) {
	for _, kind := range []string{"normal", "ties", "equal", "extreme", "one", "infinite"} {
		for _, c := range []struct{ tokens, k, experts int }{
			{0, 2, 8}, {1, 1, 1}, {3, 1, 3}, {17, 2, 4}, {63, 3, 5}, {9, 8, 64}, {5, 17, 17}, {4, 8, 129}, {3, 6, 513}, {200, 8, 60},
		} {
			gates := []kernels.Gate{
				{Score: kernels.Softmax},
				{Score: kernels.Softmax, Renormalise: true},
				{Score: kernels.Sigmoid, Scale: 2.5},
				{Score: kernels.Sigmoid, Renormalise: true, Scale: 0.5},
			}
			for _, groups := range []int{2, 4, 8, 43} {
				if c.experts%groups == 0 && c.k <= c.experts/groups*(groups/2) {
					gates = append(gates, kernels.Gate{Score: kernels.Softmax, Scale: 16, Groups: groups, TopGroups: groups / 2, GroupBest: 1})
				}
			}
			for _, g := range gates {
				if kind == "infinite" && c.experts < 5 { // every logit of a row might be -∞
					continue
				}
				g.K, g.Experts = c.k, c.experts
				logits := k.logits(kind, c.tokens*c.experts)
				r := k.routing(c.tokens, c.k, c.experts)
				k.stream.Gate(r.Routing, k.floats(kernels.F32, c.tokens, c.experts, logits).Tensor, g)
				expert, weight := gateByDefinition(logits, g)
				what := fmt.Sprintf("gate %s, %d tokens, %+v", kind, c.tokens, g)
				if got := k.intValues(r.expert); !slices.Equal(got, expert) {
					k.Fatalf("%s: experts %v, want %v", what, got, expert)
				}
				k.nearBy(what, k.values(r.weight), weight, 8*k.tol.F32*max(1, float64(g.Scale)))
				k.release()
			}
		}
	}
}

// testLimitedGate is of gates that choose by the sigmoid of a logit and a bias, in the best groups: where two numbers that
// decide are too near each other, either may be chosen.
func testLimitedGate(k *kit) {
	const near = 1e-5
	for _, c := range []struct{ tokens, k, experts, groups, top, best int }{
		{0, 2, 8, 0, 0, 0}, {1, 1, 1, 0, 0, 0}, {30, 3, 5, 1, 1, 1}, {20, 4, 16, 4, 2, 2}, {33, 8, 256, 8, 4, 2}, {40, 2, 8, 4, 2, 1}, {25, 6, 12, 3, 3, 2}, {9, 7, 80, 40, 37, 2},
	} {
		for _, kind := range []string{"normal", "extreme", "equal"} {
			g := kernels.Gate{Experts: c.experts, K: c.k, Score: kernels.Sigmoid, Renormalise: c.tokens%2 == 0, Scale: 2.5, Groups: c.groups, TopGroups: c.top, GroupBest: c.best}
			logits, bias := k.logits(kind, c.tokens*c.experts), k.logits("normal", c.experts)
			g.Bias = k.floats(kernels.F32, 1, c.experts, bias).Tensor
			r := k.routing(c.tokens, c.k, c.experts)
			k.stream.Gate(r.Routing, k.floats(kernels.F32, c.tokens, c.experts, logits).Tensor, g)
			expert, weight := k.intValues(r.expert), k.values(r.weight)
			clear := 0
			for t := range c.tokens {
				row, by := logits[t*c.experts:(t+1)*c.experts], make([]float64, c.experts)
				for e, x := range row {
					by[e] = 1/(1+math.Exp(-x)) + bias[e]
				}
				if want := limitedByDefinition(by, g, near); want != nil {
					clear++
					if got := expert[t*c.k : (t+1)*c.k]; !slices.Equal(got, want) {
						k.Fatalf("limited gate %s, %+v, token %d: experts %v, want %v", kind, g, t, got, want)
					}
				}
				var chosen float64
				want := make([]float64, c.k)
				for i, e := range expert[t*c.k : (t+1)*c.k] {
					want[i] = 1 / (1 + math.Exp(-row[e]))
					chosen += want[i]
				}
				for i := range want {
					if want[i] *= 2.5; g.Renormalise {
						want[i] /= max(chosen, 0x1p-23)
					}
				}
				k.nearBy(fmt.Sprintf("limited gate %s, %+v, token %d", kind, g, t), weight[t*c.k:(t+1)*c.k], want, 20*k.tol.F32)
			}
			if clear < c.tokens/2 && kind == "normal" {
				k.Errorf("limited gate %+v: only %d of %d tokens could be compared", g, clear, c.tokens)
			}
			k.release()
		}
	}
}

// limitedByDefinition is the experts in the best groups, best first; nil where two that decide are nearer than near.
func limitedByDefinition(by []float64, g kernels.Gate, near float64) []int32 {
	decide := func(x []float64, most int) (best []int32, told bool) {
		order := make([]int32, len(x))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(x[b], x[a]) })
		for i := 0; i < most && i+1 < len(order); i++ {
			if x[order[i]]-x[order[i+1]] < near {
				return nil, false
			}
		}
		return order[:most], true
	}
	x := slices.Clone(by)
	if g.Groups > 1 {
		sums, each := make([]float64, g.Groups), g.Experts/g.Groups
		for i := range sums {
			group := slices.Sorted(slices.Values(by[i*each : (i+1)*each]))
			for _, v := range group[each-g.GroupBest:] {
				sums[i] += v
			}
		}
		groups, told := decide(sums, g.TopGroups)
		if !told && g.TopGroups < g.Groups {
			return nil
		}
		for e := range x {
			if g.TopGroups < g.Groups && !slices.Contains(groups, int32(e/each)) {
				x[e] = math.Inf(-1)
			}
		}
	}
	best, _ := decide(x, g.K)
	return best
}

func gateByDefinition(logits []float64, g kernels.Gate) (expert []int32, weight []float64) {
	for ; len(logits) > 0; logits = logits[g.Experts:] {
		row := logits[:g.Experts]
		order := make([]int32, g.Experts)
		var sum, chosen float64
		for e := range order {
			order[e] = int32(e)
			sum += math.Exp(row[e] - slices.Max(row))
		}
		if g.Groups > 1 { // those of other groups come last
			each, best := g.Experts/g.Groups, make([]int, g.Groups)
			for i := range best {
				best[i] = i
			}
			slices.SortStableFunc(best, func(a, b int) int {
				return cmp.Compare(slices.Max(row[b*each:(b+1)*each]), slices.Max(row[a*each:(a+1)*each]))
			})
			order = slices.DeleteFunc(order, func(e int32) bool { return !slices.Contains(best[:g.TopGroups], int(e)/each) })
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(row[b], row[a]) })
		score := func(e int32) float64 {
			if g.Score == kernels.Sigmoid {
				return 1 / (1 + math.Exp(-row[e]))
			}
			return math.Exp(row[e]-slices.Max(row)) / sum
		}
		scale := float64(g.Scale)
		if scale == 0 {
			scale = 1
		}
		for _, e := range order[:g.K] {
			chosen += score(e)
		}
		for _, e := range order[:g.K] {
			w := score(e)
			if g.Renormalise {
				w /= max(chosen, 0x1p-23)
			}
			expert = append(expert, e)
			weight = append(weight, w*scale)
		}
	}
	return expert, weight
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
