package comm

import (
	"fmt"
	"slices"
)

// GroupError is a list of groups, given by the user, that can't be.
type GroupError struct {
	Name string // as the user writes it: ep_group
	Why  string
}

func (e *GroupError) Error() string { return e.Name + ": " + e.Why }

// takeGroups checks the groups that a user has given: every rank of the world once, sizes equal, and no group over two
// stages. They come back ordered by their first ranks; nil stays nil.
func takeGroups(name string, groups [][]int, world, stage int) ([][]int, error) {
	if groups == nil {
		return nil, nil
	}
	refuse := func(format string, args ...any) ([][]int, error) {
		return nil, &GroupError{name, fmt.Sprintf(format, args...)}
	}
	if len(groups) == 0 || len(groups[0]) == 0 {
		return refuse("a group without ranks; leave it out, or list every rank of the job once")
	}
	group := make([]int, world) // of each rank, from 1
	for i, g := range groups {
		if len(g) != len(groups[0]) {
			return refuse("group %v has %s, group %v has %d; make them equal", groups[0], count(len(groups[0]), "rank"), g, len(g))
		}
		for _, r := range g {
			if r < 0 || r >= world {
				return refuse("rank %d in group %v: the job has ranks 0 to %d", r, g, world-1)
			}
			if group[r] != 0 {
				return refuse("rank %d is in groups %v and %v; a rank belongs to one group", r, groups[group[r]-1], g)
			}
			group[r] = i + 1
			if r/stage != g[0]/stage {
				return refuse("group %v has ranks of stages %d and %d; with pp, ranks %d to %d are a stage and work together",
					g, g[0]/stage, r/stage, g[0]/stage*stage, (g[0]/stage+1)*stage-1)
			}
		}
	}
	if r := slices.Index(group, 0); r >= 0 {
		return refuse("rank %d is in no group; list each of the %d ranks once", r, world)
	}
	return byFirst(slices.Clone(groups)), nil
}

// givenEP returns the user's ep groups, where there are any, for layers with so many experts.
func givenEP(s Sizes, stage, experts int) ([][]int, error) {
	groups, err := takeGroups("ep_group", s.EPGroups, s.World, stage)
	if groups == nil || err != nil {
		return nil, err
	}
	ep := len(groups[0])
	if s.EP != 0 && s.EP != ep {
		return nil, &GroupError{"ep_group", fmt.Sprintf("groups of %s, and ep_size is %d; make them equal", count(ep, "rank"), s.EP)}
	}
	if experts < 1 || experts%ep != 0 {
		return nil, &GroupError{"ep_group", fmt.Sprintf("%s cannot be spread evenly over groups of %s; use groups of %s, or leave it out", count(experts, "expert"), count(ep, "rank"), either(divisors(experts)))}
	}
	return groups, nil
}

// sameEveryStage refuses tp groups that differ from stage to stage: a rank hands its slice of the tokens to the rank with
// the same place in the next stage.
func sameEveryStage(l *Layout) error {
	place, stage := places(l.TPGroups), l.World/l.PP
	for r := stage; r < l.World; r++ {
		if place[r] != place[r-stage] {
			return &GroupError{"tp_group", fmt.Sprintf("rank %d hands its tokens to rank %d of the next stage, and they are numbers %d and %d of their groups; make the groups of all stages alike",
				r-stage, r, place[r-stage], place[r])}
		}
	}
	return nil
}

// places tells for each rank its place in its group.
func places(groups [][]int) map[int]int {
	at := map[int]int{}
	for _, g := range groups {
		for i, r := range g {
			at[r] = i
		}
	}
	return at
}

// slice replaces the slicing groups by those that the user has given, where they fit the ep groups: the members of one
// hold the same experts, and the members of an ep group the same slice of theirs.
func (e *ExpertRanks) slice(l *Layout, groups [][]int) error {
	run, slice := places(e.EPGroups), places(groups)
	for _, g := range groups {
		for _, r := range g {
			if run[r] != run[g[0]] {
				return &GroupError{"ep_mp_group", fmt.Sprintf("ranks %d and %d of group %v are numbers %d and %d of their ep groups and hold different experts; only ranks with the same experts can slice them",
					g[0], r, g, run[g[0]], run[r])}
			}
		}
	}
	for _, g := range e.EPGroups {
		for _, r := range g {
			if slice[r] != slice[g[0]] {
				return &GroupError{"ep_mp_group", fmt.Sprintf("ranks %d and %d share the ep group %v and hold slices %d and %d; tokens that reach one must find the same slice on all",
					g[0], r, g, slice[g[0]], slice[r])}
			}
		}
	}
	e.ESGroups, e.ReplicaGroups = groups, nil
	same := map[[3]int]int{} // stage, run and slice: the group of those that hold it
	for _, g := range groups {
		for i, r := range g {
			key := [3]int{r / (l.World / l.PP), run[r], i}
			at, known := same[key]
			if !known {
				at = len(e.ReplicaGroups)
				same[key], e.ReplicaGroups = at, append(e.ReplicaGroups, nil)
			}
			e.ReplicaGroups[at] = append(e.ReplicaGroups[at], r)
		}
	}
	return nil
}
