// Package comm groups ranks and moves rows of tokens between them.
//
// A group is an ordered list of ranks with a communicator of its own: tp slices tensors, dp holds replicas of what tp
// slices, pp holds the stages of the layers, ep spreads the experts of a layer, es slices each expert. Ranks says which
// ranks are in which group, Form makes the communicators, AllToAll carries rows to the ranks of their experts and back,
// Agree lets all ranks decide alike, Watch names the rank that is stuck. The package knows rows of bytes; it knows no
// gate, no expert's weights and no model.
package comm

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// AutoES as Sizes.ES slices every expert over all ranks that would hold replicas of it.
const AutoES = -1

// Sizes is the layout that a job asks for. The zero value of all but World is automatic.
type Sizes struct {
	World   int   // ranks of the job
	TP      int   // ranks that slice a tensor; 0: 1
	PP      int   // stages of layers; 0: 1
	EP      int   // ranks over which experts are spread; 0: as many as can be, for each number of experts
	ES      int   // ranks that slice an expert; 0: 1; AutoES: all that hold it
	Experts []int // experts of each MoE layer, in any order, repeated or not; empty: no MoE layer

	// Groups that a user gives instead of sizes; nil: by the tables of Layout. Each list has every rank of the job once,
	// in groups of one size.
	TPGroups, EPGroups, ESGroups [][]int
}

// Layout is who works with whom. Every table lists all ranks once, cut into groups of equal size, the groups by their
// first rank. A stage is a contiguous run of ranks; in it, tp groups are contiguous and dp groups strided by TP, unless
// the user has given other tp groups.
type Layout struct {
	World, TP, DP, PP int // World = TP·DP·PP
	TPGroups          [][]int
	DPGroups          [][]int
	PPGroups          [][]int       // the stages that a token passes, in order
	Experts           []ExpertRanks // one for each distinct number of experts, ascending
}

// ExpertRanks is the part of a layout that concerns the layers with one number of experts. The k-th rank of an ep group
// holds the k-th of EP equal, contiguous runs of experts.
//
// With TP 1 ep groups are contiguous ranks; else they are strided, so that rows travel among peers of equal tp rank and
// slices of an expert lie with tp peers. Source of the tables: DeepSpeed's groups, research in arXiv 2201.05596 §5.3.
type ExpertRanks struct {
	Experts, EP, ES int
	EPGroups        [][]int // in each, a whole set of experts, or of one slice of them
	ESGroups        [][]int // the slices of the same experts, in order of the slices
	ReplicaGroups   [][]int // that hold the same slice of the same experts

	// For coordinated communication: tp peers hold the same tokens, so each need carry only some of them. Without tp
	// slices peers are the ep group, and the other two tables have groups of one rank.
	PeerGroups   [][]int // of an ep group, the ranks of equal tp rank: rows travel among them
	GatherGroups [][]int // of an ep group, tp peers, in the order of the experts that each one's peers hold
	ShareGroups  [][]int // tp peers in different ep groups: tokens are divided among them
}

// Ranks computes the layout of a job. A size that can't be is a *SizeError, groups that can't be are a *GroupError.
func Ranks(s Sizes) (*Layout, error) {
	if s.World < 1 {
		return nil, &SizeError{Name: "world", Value: s.World, Why: "a job has 1 rank or more"}
	}
	tp, pp := cmp.Or(s.TP, 1), cmp.Or(s.PP, 1)
	if pp < 1 || s.World%pp != 0 {
		return nil, &SizeError{"pp", pp, fmt.Sprintf("%s cannot be cut into %d stages of equal size", count(s.World, "rank"), pp), divisors(s.World)}
	}
	stage := s.World / pp
	given, err := takeGroups("tp_group", s.TPGroups, s.World, stage)
	if err != nil {
		return nil, err
	}
	if given != nil {
		if s.TP != 0 && s.TP != len(given[0]) {
			return nil, &GroupError{"tp_group", fmt.Sprintf("groups of %s, and tp_size is %d; make them equal", count(len(given[0]), "rank"), s.TP)}
		}
		tp = len(given[0])
	}
	if tp < 1 || stage%tp != 0 {
		return nil, &SizeError{"tp_size", tp, fmt.Sprintf("%s cannot be divided into groups of %d", count(stage, "rank"), tp), divisors(stage)}
	}
	l := &Layout{World: s.World, TP: tp, DP: stage / tp, PP: pp}
	if l.TPGroups = given; given == nil {
		l.TPGroups = runs(ascending(0, s.World), tp)
	}
	for first := range pp {
		l.DPGroups = append(l.DPGroups, transposed(l.TPGroups[first*l.DP:(first+1)*l.DP])...)
	}
	byFirst(l.DPGroups)
	if err := sameEveryStage(l); err != nil {
		return nil, err
	}
	l.PPGroups = strided(ascending(0, s.World), stage)
	counts := slices.Clone(s.Experts)
	slices.Sort(counts)
	counts = slices.Compact(counts)
	if len(counts) == 0 && (s.EP > 1 || len(s.EPGroups) > 0 && len(s.EPGroups[0]) > 1) {
		return nil, &SizeError{"ep_size", max(s.EP, 2), "the model has no experts", []int{1}}
	}
	if len(counts) == 0 && (s.ES > 1 || len(s.ESGroups) > 0 && len(s.ESGroups[0]) > 1) {
		return nil, &SizeError{"es", max(s.ES, 2), "the model has no experts to slice", []int{1}}
	}
	for _, experts := range counts {
		e, err := expertRanks(l, s, experts, counts)
		if err != nil {
			return nil, err
		}
		l.Experts = append(l.Experts, e)
	}
	return l, nil
}

// DefaultEP is the number of ranks over which experts are spread when nobody says: the largest that divides both the
// experts and the ranks of a stage.
func DefaultEP(experts, ranks int) int {
	for n := min(experts, ranks); n > 1; n-- {
		if experts%n == 0 && ranks%n == 0 {
			return n
		}
	}
	return 1
}

// epSize checks the given ep for layers with so many experts. In a model with several numbers of experts (PR-MoE) the
// layers with fewer than ep use one rank an expert, where that divides the ranks.
func epSize(ep, experts, ranks int, counts []int) (int, error) {
	if experts < 1 {
		return 0, &SizeError{Name: "experts", Value: experts, Why: "an MoE layer has 1 expert or more"}
	}
	if ep == 0 {
		return DefaultEP(experts, ranks), nil
	}
	fits := func(ep, experts int) bool {
		n := min(ep, experts)
		return ranks%ep == 0 && ranks%n == 0 && experts%n == 0
	}
	if ep > 0 && ep <= slices.Max(counts) && fits(ep, experts) {
		return min(ep, experts), nil
	}
	e := &SizeError{Name: "ep_size", Value: ep, Why: fmt.Sprintf("%s cannot be spread evenly over %s", count(experts, "expert"), count(ep, "rank"))}
	if ep > 0 && experts%ep == 0 {
		e.Why = fmt.Sprintf("%s cannot be divided into groups of %d", count(ranks, "rank"), ep)
	}
	for n := 1; n <= min(ranks, slices.Max(counts)); n++ {
		if !slices.ContainsFunc(counts, func(experts int) bool { return !fits(n, experts) }) {
			e.Use = append(e.Use, n)
		}
	}
	return 0, e
}

// expertRanks computes the groups of the layers with so many experts; counts are those of all layers.
func expertRanks(l *Layout, s Sizes, experts int, counts []int) (ExpertRanks, error) {
	stage := l.World / l.PP
	e := ExpertRanks{Experts: experts}
	groups, err := givenEP(s, stage, experts)
	if err != nil {
		return e, err
	}
	if groups != nil {
		e.EP = len(groups[0])
	} else if e.EP, err = epSize(s.EP, experts, stage, counts); err != nil {
		return e, err
	}
	holders := stage / e.EP // of each expert, in slices or replicas
	slicing, err := takeGroups("ep_mp_group", s.ESGroups, l.World, stage)
	if err != nil {
		return e, err
	}
	switch e.ES = s.ES; {
	case slicing != nil:
		e.ES = len(slicing[0])
	case s.ES == 0:
		e.ES = 1
	case s.ES == AutoES:
		e.ES = holders
	}
	if e.ES < 1 || holders%e.ES != 0 {
		return e, &SizeError{"es", e.ES, fmt.Sprintf("with ep %d an expert is held by %s, and cannot be cut into %s", e.EP, count(holders, "rank"), count(e.ES, "slice")), divisors(holders)}
	}
	for stageOf := range l.PP {
		var mine [][]int // ep groups of this stage
		if groups != nil {
			mine = groups[stageOf*holders : (stageOf+1)*holders]
		} else { // peers of equal tp rank next to each other, then cut
			order := slices.Concat(transposed(l.TPGroups[stageOf*l.DP : (stageOf+1)*l.DP])...)
			mine = byFirst(runs(order, e.EP))
		}
		e.EPGroups = append(e.EPGroups, mine...)
		for k := range e.EP {
			same := make([]int, holders) // the ranks that hold the k-th run of experts
			for i, g := range mine {
				same[i] = g[k]
			}
			e.ESGroups = append(e.ESGroups, runs(same, e.ES)...)
			e.ReplicaGroups = append(e.ReplicaGroups, strided(same, e.ES)...)
		}
	}
	if slicing != nil {
		if err := e.slice(l, slicing); err != nil {
			return e, err
		}
	}
	byFirst(e.ESGroups)
	byFirst(e.ReplicaGroups)
	e.coordinate(l)
	return e, nil
}

func ascending(from, n int) []int {
	r := make([]int, n)
	for i := range r {
		r[i] = from + i
	}
	return r
}

// runs cuts ranks into groups of n neighbours.
func runs(ranks []int, n int) [][]int { return slices.Collect(slices.Chunk(ranks, n)) }

// strided deals ranks out to n groups in turn.
func strided(ranks []int, n int) [][]int {
	groups := make([][]int, n)
	for i, r := range ranks {
		groups[i%n] = append(groups[i%n], r)
	}
	return groups
}

// transposed makes a group of the first ranks of all groups, one of the second ones, and so on.
func transposed(groups [][]int) [][]int {
	t := make([][]int, len(groups[0]))
	for _, g := range groups {
		for i, r := range g {
			t[i] = append(t[i], r)
		}
	}
	return t
}

func byFirst(groups [][]int) [][]int {
	slices.SortFunc(groups, func(a, b []int) int { return a[0] - b[0] })
	return groups
}

func divisors(n int) (d []int) {
	for i := 1; i <= n; i++ {
		if n%i == 0 {
			d = append(d, i)
		}
	}
	return d
}

// SizeError is a size of a layout that can't be, and those that can.
type SizeError struct {
	Name  string // as the user writes it: ep_size
	Value int
	Why   string
	Use   []int // the sizes that work, ascending; empty where no other size of this name helps
}

func (e *SizeError) Error() string {
	s := fmt.Sprintf("%s %d: %s", e.Name, e.Value, e.Why)
	if len(e.Use) > 0 {
		s += "; use " + either(e.Use)
	}
	return s
}

// either lists numbers as a sentence does: 1, 2 or 4.
func either(n []int) string {
	s := make([]string, len(n))
	for i, x := range n {
		s[i] = strconv.Itoa(x)
	}
	last := len(s) - 1
	if last == 0 {
		return s[0]
	}
	return strings.Join(s[:last], ", ") + " or " + s[last]
}

// count is a number with its noun: 1 rank, 4 ranks.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
