package shard

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Placement says which rank of an expert-parallel group holds which experts, layer by layer. It moves work, and changes no
// bit of the results. An expert may be held by several ranks, which then share its tokens.
type Placement struct {
	Format int           `json:"format"` // 1
	Layers []LayerExpert `json:"layers"` // ascending
}

// LayerExpert is the placement of one layer.
type LayerExpert struct {
	Layer int     `json:"layer"` // of the model, from 0
	Ranks [][]int `json:"ranks"` // experts of each rank of the group, ascending; equally many on every rank
}

// ErrPlacement marks a placement that cannot be, or is for another layout or model.
var ErrPlacement = errors.New("expert placement")

// ReadPlacement reads the JSON file of a placement and checks it by itself. Layer checks it against the model.
func ReadPlacement(path string) (*Placement, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("expert placement: %w; make it with dsbatch plan --placement", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w; give the file that dsbatch plan --placement made", ErrPlacement, err)
	}
	p := &Placement{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("%w: %s: %w; make it with dsbatch plan --placement", ErrPlacement, path, err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w; make it with dsbatch plan --placement", ErrPlacement, path, err)
	}
	return p, nil
}

func (p *Placement) check() error {
	if p.Format != 1 {
		return fmt.Errorf("format %d; this version reads 1", p.Format)
	}
	for i, l := range p.Layers {
		if l.Layer < 0 || i > 0 && l.Layer <= p.Layers[i-1].Layer {
			return fmt.Errorf("layer %d is out of order, or there twice", l.Layer)
		}
		if len(l.Ranks) == 0 || len(l.Ranks[0]) == 0 {
			return fmt.Errorf("layer %d has a rank without experts", l.Layer)
		}
		held := map[int]bool{}
		most := 0
		for rank, experts := range l.Ranks {
			if len(experts) != len(l.Ranks[0]) {
				return fmt.Errorf("layer %d: rank %d holds %d experts, rank 0 %d; all hold equally many", l.Layer, rank, len(experts), len(l.Ranks[0]))
			}
			for k, e := range experts {
				if e < 0 || k > 0 && e <= experts[k-1] {
					return fmt.Errorf("layer %d, rank %d: expert %d is out of order, or there twice", l.Layer, rank, e)
				}
				held[e], most = true, max(most, e)
			}
		}
		for e := range most {
			if !held[e] {
				return fmt.Errorf("layer %d: no rank holds expert %d", l.Layer, e)
			}
		}
	}
	return nil
}

// Layer returns the experts of each rank for a layer with so many experts over so many ranks.
func (p *Placement) Layer(layer, experts, ranks int) ([][]int, error) {
	i := slices.IndexFunc(p.Layers, func(l LayerExpert) bool { return l.Layer == layer })
	if i < 0 {
		return nil, fmt.Errorf("%w: layer %d is not in it; was it made for another model?", ErrPlacement, layer)
	}
	l := p.Layers[i]
	most := 0
	for _, held := range l.Ranks {
		most = max(most, held[len(held)-1]+1)
	}
	if most != experts {
		return nil, fmt.Errorf("%w: layer %d has %d experts there and %d in the model; was it made for another one?", ErrPlacement, layer, most, experts)
	}
	if len(l.Ranks) != ranks {
		return nil, fmt.Errorf("%w: layer %d is for ep %d, and ep is %d; use --ep %d, or make another placement", ErrPlacement, layer, len(l.Ranks), ranks, len(l.Ranks))
	}
	return l.Ranks, nil
}

// Pack places experts with the given loads over ranks, each rank holding equally many: len(loads)/ranks, which must divide,
// and replicas more. The largest load goes first, to the rank with the least (Graham's longest processing time first). Replicas go to the experts with the largest share a copy,
// and share its load. The result depends on the arguments alone.
func Pack(loads []int64, ranks, replicas int) ([][]int, error) {
	if _, err := Spread(len(loads), ranks); err != nil {
		return nil, err
	}
	slots := len(loads)/ranks + replicas
	if replicas < 0 || slots > len(loads) {
		return nil, fmt.Errorf("%d replicas a rank: 0 to %d can be, as each rank holds an expert once", replicas, len(loads)-len(loads)/ranks)
	}
	copies := make([]int, len(loads))
	for e := range copies {
		copies[e] = 1
	}
	share := func(e int) float64 { return float64(loads[e]) / float64(copies[e]) }
	for range replicas * ranks {
		hottest := -1
		for e := range loads {
			if copies[e] < ranks && (hottest < 0 || share(e) > share(hottest)) {
				hottest = e
			}
		}
		copies[hottest]++
	}
	var items []int // an expert, as often as there are copies of it
	for e, n := range copies {
		for range n {
			items = append(items, e)
		}
	}
	slices.SortStableFunc(items, func(a, b int) int { return cmp.Compare(share(b), share(a)) })
	p := packing{held: make([][]int, ranks), load: make([]float64, ranks), slots: slots, share: share}
	for _, e := range items {
		p.put(e)
	}
	for _, held := range p.held {
		slices.Sort(held)
	}
	return p.held, nil
}

// packing is ranks being filled.
type packing struct {
	held  [][]int
	load  []float64
	slots int
	share func(expert int) float64
}

// put gives a copy of an expert to the rank with the least load that has room and no copy of it. Where all with room have
// one, a full rank without it takes it in exchange for another expert.
func (p *packing) put(e int) {
	to := p.least(func(r int) bool { return len(p.held[r]) < p.slots && !slices.Contains(p.held[r], e) })
	if to < 0 {
		room := p.least(func(r int) bool { return len(p.held[r]) < p.slots })
		to = p.least(func(r int) bool { return !slices.Contains(p.held[r], e) })
		// to is full and room is not: to has an expert that room lacks
		k := slices.IndexFunc(p.held[to], func(x int) bool { return !slices.Contains(p.held[room], x) })
		x := p.held[to][k]
		p.held[to] = slices.Delete(p.held[to], k, k+1)
		p.load[to] -= p.share(x)
		p.add(room, x)
	}
	p.add(to, e)
}

func (p *packing) add(rank, expert int) {
	p.held[rank] = append(p.held[rank], expert)
	p.load[rank] += p.share(expert)
}

// least is the rank with the least load of those that may be, the first of several; -1: none may be.
func (p *packing) least(may func(rank int) bool) int {
	best := -1
	for r := range p.held {
		if may(r) && (best < 0 || p.load[r] < p.load[best]) {
			best = r
		}
	}
	return best
}

// Imbalance is the largest load of a rank over the mean one, where the holders of an expert share its load; 1 is even, and
// 0 is no load at all.
func Imbalance(loads []int64, ranks [][]int) float64 {
	copies := make([]float64, len(loads))
	for _, held := range ranks {
		for _, e := range held {
			copies[e]++
		}
	}
	var most, sum float64
	for _, held := range ranks {
		load := 0.0
		for _, e := range held {
			load += float64(loads[e]) / copies[e]
		}
		most, sum = max(most, load), sum+load
	}
	if sum == 0 {
		return 0
	}
	return most / (sum / float64(len(ranks)))
}
