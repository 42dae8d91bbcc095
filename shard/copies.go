package shard

import (
	"fmt"
	"slices"
)

// Place is room for one expert on a rank, as a source of tokens sees it: of every Of tokens that the source has for the
// expert, those from From to To go there. An expert that several ranks hold has a place on each.
type Place struct {
	Expert       int
	From, To, Of int
}

// Part tells which of n tokens for the expert go to the place. The parts of an expert's places follow one another, in the
// order of the places, from 0 to n.
func (p Place) Part(n int) (from, to int) {
	return (n*p.From + p.Of/2) / p.Of, (n*p.To + p.Of/2) / p.Of
}

// Sources are the ranks of a group that have tokens of their own for the experts, and how near they are to the others.
type Sources struct {
	// Senders of each source: one rank, which sends to all of the group, or several with the same tokens (tp peers), each
	// of which sends to its run of the ranks, runs of equal length.
	Senders [][]int
	Nodes   []int // of each rank, what tells its node from others
}

// Divide shares the tokens for each expert out over its copies, so that each gets equally many where all sources have
// equally many: held are the experts of each rank of the group. A source sends to its own rank's copy first, then to
// those of its node, and to others what is over these copies' share. The result is the places of all ranks, in order,
// for each source, and depends on the arguments alone.
func Divide(held [][]int, experts int, s Sources) [][]Place {
	copies := make([][]int, experts) // the places of each expert
	var places []Place
	var rank []int // of each place
	for r, here := range held {
		for _, e := range here {
			copies[e] = append(copies[e], len(places))
			places, rank = append(places, Place{Expert: e}), append(rank, r)
		}
	}
	divided := make([][]Place, len(s.Senders))
	for i := range divided {
		divided[i] = slices.Clone(places)
	}
	for _, at := range copies {
		for i, units := range s.divide(at, rank, len(held)) {
			from := 0
			for k, p := range at {
				divided[i][p].From, divided[i][p].To, divided[i][p].Of = from, from+units[k], len(at)
				from += units[k]
			}
		}
	}
	return divided
}

// divide cuts the tokens of each source for one expert into as many units as it has copies, so that each copy takes as
// many units as there are sources; copies are places, on these ranks of so many. The result is by source and copy.
func (s *Sources) divide(copies, rank []int, ranks int) [][]int {
	units, left, room := make([][]int, len(s.Senders)), make([]int, len(s.Senders)), make([]int, len(copies))
	for i := range units {
		units[i], left[i] = make([]int, len(copies)), len(copies)
	}
	for k := range room {
		room[k] = len(s.Senders)
	}
	for _, near := range []func(sender, holder int) bool{
		func(sender, holder int) bool { return sender == holder },
		func(sender, holder int) bool { return s.Nodes[sender] == s.Nodes[holder] },
		func(int, int) bool { return true },
	} {
		for i, senders := range s.Senders {
			for k, p := range copies {
				if near(senders[rank[p]*len(senders)/ranks], rank[p]) {
					n := min(left[i], room[k])
					units[i][k], left[i], room[k] = units[i][k]+n, left[i]-n, room[k]-n
				}
			}
		}
	}
	return units
}

// CheckPlaces tells what is wrong with places for so many experts over so many ranks: each rank has equally many, none for
// an expert that it has already, and the parts of every expert's places make up the whole.
func CheckPlaces(places []Place, experts, ranks int) error {
	if len(places)%ranks != 0 {
		return fmt.Errorf("%d places cannot be on %d ranks, equally many on each", len(places), ranks)
	}
	end, of, last := make([]int, experts), make([]int, experts), make([]int, experts)
	for i, p := range places {
		rank := i*ranks/len(places) + 1
		switch {
		case p.Expert < 0 || p.Expert >= experts:
			return fmt.Errorf("a place for expert %d of %d", p.Expert, experts)
		case last[p.Expert] == rank:
			return fmt.Errorf("rank %d has two places for expert %d", rank-1, p.Expert)
		case p.From != end[p.Expert] || p.To < p.From || p.To > p.Of || p.Of < 1 || of[p.Expert] > 0 && p.Of != of[p.Expert]:
			return fmt.Errorf("the parts of expert %d's places do not follow one another", p.Expert)
		}
		end[p.Expert], of[p.Expert], last[p.Expert] = p.To, p.Of, rank
	}
	for e := range experts {
		if of[e] == 0 || end[e] != of[e] {
			return fmt.Errorf("the places of expert %d do not take all its tokens", e)
		}
	}
	return nil
}
