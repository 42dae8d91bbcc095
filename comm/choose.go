package comm

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Algorithm is a way of an all-to-all. All give the same bytes.
type Algorithm int

// The algorithms.
const (
	Auto         Algorithm = iota // the one that the cost model finds fastest
	Flat                          // every rank sends to every other
	Hierarchical                  // inside the node, then between nodes
	Coordinated                   // each tp rank carries its share of the tokens among its peers
)

var algorithms = [...]string{Auto: "auto", Flat: "flat", Hierarchical: "hierarchical", Coordinated: "coordinated"}

func (a Algorithm) String() string { return algorithms[a] }

// ParseAlgorithm reads an algorithm's name as --all-to-all has it. "auto" and "" give way to DSBATCH_A2A in the environment.
func ParseAlgorithm(name string) (Algorithm, error) {
	from := "--all-to-all"
	if name == "" || name == Auto.String() {
		if name = os.Getenv("DSBATCH_A2A"); name == "" {
			return Auto, nil
		}
		from = "DSBATCH_A2A"
	}
	if a := slices.Index(algorithms[:], name); a >= 0 {
		return Algorithm(a), nil
	}
	return Auto, fmt.Errorf("%s %q: use %s", from, name, strings.Join(algorithms[:], ", "))
}

// AllToAllOptions of ExpertGroups.AllToAll. All ranks of the group give the same.
type AllToAllOptions struct {
	Algorithm Algorithm
	Nodes     Nodes   // of the job's world
	Network   Network // of Measure; the zero value: nothing is known, and Auto is flat
	Bytes     int     // that a rank dispatches in a typical step, for Auto; 0: 64 KiB
}

// newAllToAll returns the all-to-all of host memory over an ep group, flat or hierarchical. Where the group lies on one
// node, or no two of its ranks share one, hierarchical is flat, message by message.
func newAllToAll(group *Group, o AllToAllOptions) (AllToAll, error) {
	if n := len(o.Nodes.of); n > 0 && n <= slices.Max(group.Ranks) {
		return nil, fmt.Errorf("all-to-all: rank %d, and the nodes of %s are known", slices.Max(group.Ranks), count(n, "rank"))
	}
	nodes := o.Nodes.within(group.Ranks)
	how := o.Algorithm
	if how == Auto || how == Coordinated {
		how = o.Network.cheapest(Load{Ranks: group.Size(), Node: nodes.Largest(), TP: 1, Bytes: float64(cmp.Or(o.Bytes, 64<<10))})
	}
	if how == Hierarchical && nodes.Count() > 1 && nodes.Largest() > 1 {
		return newHierarchical(group, nodes), nil
	}
	return NewFlat(group), nil
}

// AllToAll returns the all-to-all of the layers with this number of experts. Where it is coordinated, which Auto is with
// tp slices, tp peers have every row computed once; split, nil where it would be of one rank, are those among whom the
// tokens have to be divided beforehand and the results gathered afterwards. Otherwise each tp peer sends all its tokens.
func (x *ExpertGroups) AllToAll(o AllToAllOptions) (rows AllToAll, split *Group, err error) {
	common := x.Gather.Size() * x.Share.Size() // ranks with the same tokens
	if o.Algorithm == Coordinated && common == 1 {
		return nil, nil, fmt.Errorf("--all-to-all coordinated: no two ranks hold the same tokens, which takes --tp 2 or more; use auto, flat or hierarchical")
	}
	if common == 1 || o.Algorithm == Flat || o.Algorithm == Hierarchical {
		rows, err = newAllToAll(x.EP, o)
		return rows, nil, err
	}
	if rows, err = newAllToAll(x.Peers, o); err != nil {
		return nil, nil, err
	}
	if x.Gather.Size() > 1 {
		rows = newCoordinated(x, rows)
	}
	if x.Share.Size() > 1 {
		split = x.Share
	}
	return rows, split, nil
}
