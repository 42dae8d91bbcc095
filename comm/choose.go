package comm

import (
	"fmt"
	"slices"
	"strings"
)

// Algorithm is a way of an all-to-all. All give the same bytes.
type Algorithm int

// The algorithms of NewAllToAll.
const (
	Auto         Algorithm = iota // the one that the cost model finds fastest
	Flat                          // every rank sends to every other
	Hierarchical                  // inside the node, then between nodes
	Coordinated                   // each tp rank carries its share of the tokens among its peers
)

var algorithms = [...]string{Auto: "auto", Flat: "flat", Hierarchical: "hierarchical", Coordinated: "coordinated"}

func (a Algorithm) String() string { return algorithms[a] }

// ParseAlgorithm reads an algorithm's name; "" is Auto.
func ParseAlgorithm(name string) (Algorithm, error) {
	if name == "" {
		return Auto, nil
	}
	for a, known := range algorithms {
		if name == known {
			return Algorithm(a), nil
		}
	}
	return Auto, fmt.Errorf("all-to-all %q: use %s", name, strings.Join(algorithms[:], ", "))
}

// AllToAllOptions of NewAllToAll.
type AllToAllOptions struct {
	Algorithm Algorithm
	Nodes     Nodes // of the job's world
}

// NewAllToAll returns the all-to-all of host memory over an ep group, whose ranks all call it with the same options. Where
// the group lies on one node, or no two of its ranks share one, hierarchical is flat, message by message.
func NewAllToAll(group *Group, o AllToAllOptions) (AllToAll, error) {
	if n := len(o.Nodes.of); n > 0 && n <= slices.Max(group.Ranks) {
		return nil, fmt.Errorf("all-to-all: rank %d of a job whose nodes have %s", slices.Max(group.Ranks), count(n, "rank"))
	}
	nodes := o.Nodes.Within(group.Ranks)
	if o.Algorithm == Hierarchical && nodes.Count() > 1 && nodes.Largest() > 1 {
		return newHierarchical(group, nodes), nil
	}
	return NewFlat(group), nil
}
