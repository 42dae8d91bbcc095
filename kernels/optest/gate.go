package optest

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

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
