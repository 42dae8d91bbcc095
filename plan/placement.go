package plan

import (
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/shard"
)

// Tokens is how many choices each expert of a layer got in a run.
type Tokens struct {
	Layer   int
	Experts []int64
}

// Evened tells what a placement does for a layer: the busiest rank's tokens over the mean, in order and placed.
type Evened struct {
	Layer, Experts, EP int
	Before, After      float64
}

// Place packs the experts of every layer over the ranks of its ep group by what they got in a run, and adds replicas of
// the hottest to each rank. ep 0 is the default for so many ranks.
func Place(layers []Tokens, ranks, ep, replicas int) (*shard.Placement, []Evened, error) {
	p := &shard.Placement{Format: 1}
	var evened []Evened
	for _, l := range layers {
		n := ep
		if n == 0 {
			n = comm.DefaultEP(len(l.Experts), ranks)
		}
		n = min(n, len(l.Experts))
		held, err := shard.Pack(l.Experts, n, replicas)
		if err != nil {
			return nil, nil, fmt.Errorf("layer %d: %w", l.Layer, err)
		}
		order := make([][]int, n)
		for e := range l.Experts {
			r := e * n / len(l.Experts)
			order[r] = append(order[r], e)
		}
		p.Layers = append(p.Layers, shard.LayerExpert{Layer: l.Layer, Ranks: held})
		evened = append(evened, Evened{l.Layer, len(l.Experts), n, shard.Imbalance(l.Experts, order), shard.Imbalance(l.Experts, held)})
	}
	return p, evened, nil
}
