package plan

import (
	"cmp"
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/shard"
)

// Tokens is how many choices each expert of a layer got in a run.
type Tokens struct {
	Layer   int
	EP      int // ranks to share them; 0: the default
	Experts []int64
}

// Evened tells what a placement does for a layer: the experts that a rank holds, copies included, and the busiest rank's
// tokens over the mean, in order and placed.
type Evened struct {
	Layer, Experts, EP, Held int
	Before, After            float64
}

// Place packs the experts of every layer over the ranks of its ep group by what they got in a run, and adds replicas of
// the hottest to each rank: so many, or as many as a rank of a layer with fewer experts can hold. ep 0 is
// what the layer says, else the default for so many ranks.
func Place(layers []Tokens, ranks, ep, replicas int) (*shard.Placement, []Evened, error) {
	p := &shard.Placement{Format: 1}
	var evened []Evened
	most := 0
	for _, l := range layers {
		n := min(cmp.Or(ep, l.EP, comm.DefaultEP(len(l.Experts), ranks)), len(l.Experts))
		room := len(l.Experts) - len(l.Experts)/max(n, 1) // a rank holds an expert once
		most = max(most, room)
		held, err := shard.Pack(l.Experts, n, min(replicas, room))
		if err != nil {
			return nil, nil, fmt.Errorf("layer %d: %w", l.Layer, err)
		}
		order := make([][]int, n)
		for e := range l.Experts {
			r := e * n / len(l.Experts)
			order[r] = append(order[r], e)
		}
		p.Layers = append(p.Layers, shard.LayerExpert{Layer: l.Layer, Ranks: held})
		evened = append(evened, Evened{l.Layer, len(l.Experts), n, len(held[0]), shard.Imbalance(l.Experts, order),
			shard.Imbalance(l.Experts, held)})
	}
	if replicas > most && most == 0 {
		return nil, nil, fmt.Errorf("%d replicas a rank: with ep 1 every rank holds all experts already; say with --gpus or --ep on how many ranks they will be", replicas)
	}
	if replicas > most {
		return nil, nil, fmt.Errorf("%d replicas a rank: 0 to %d can be, as a rank holds an expert once", replicas, most)
	}
	return p, evened, nil
}
