package engine

import (
	"slices"

	"github.com/dsbatch/dsbatch/comm"
)

// Ranks that share experts step together, so a step takes as long as the slowest of them, and a job ends with the one that has
// most left to do. What evens that out is decided here, by every rank alike, from numbers that all have told.

// shares is which part of the tokens each rank should have, so that those whose experts get more rows than others' have fewer
// tokens of their own: the work beside the experts goes with the tokens, that of the experts lies where they do. Ranks that
// only follow a lead have none; where a replica is several ranks, whose experts' work its lead does not know, all leads have the same.
func shares(v comm.Votes, ranks int) []float64 {
	s, leads := make([]float64, ranks), float64(v.Sum(voteLeads))
	dense, experts := float64(v.Sum(voteDense)), float64(v.Sum(voteExperts))
	for r := range s {
		if v.Of(r, voteLeads) == 0 {
			continue
		}
		s[r] = 1 / leads
		if int(leads) == ranks && dense > 0 {
			s[r] = max(s[r]/2, s[r]+(experts/leads-float64(v.Of(r, voteExperts)))/dense)
		}
	}
	return s
}

// budget is how many tokens of a full step of so many a rank has by its share: the rank with the largest has them all.
func budget(shares []float64, rank, tokens int) int {
	return max(1, int(float64(tokens)*shares[rank]/slices.Max(shares)+0.5))
}

// loan is rows of so many tokens, prompts and what is drawn at most, that a rank lends to another.
type loan struct{ from, to, tokens int }

// loans has ranks whose rows have more tokens left than is their share lend to those with less, as far as their rows have not begun;
// what is off by no more than slack stays.
func loans(v comm.Votes, shares []float64, slack int) (all []loan) {
	var sum, left float64
	for _, s := range shares {
		sum += s
	}
	left = float64(v.Sum(voteLeft))
	over := make([]int, len(shares)) // tokens over the share
	for r := range over {
		over[r] = int(float64(v.Of(r, voteLeft)) - left*shares[r]/sum)
	}
	if slices.Max(over) <= slack {
		return nil
	}
	to := 0
	for from := range over {
		for spare := min(over[from], int(v.Of(from, voteSpare))); spare > 0; {
			for to < len(over) && (over[to] >= 0 || shares[to] == 0) {
				to++
			}
			if to == len(over) {
				return all
			}
			n := min(spare, -over[to])
			all = append(all, loan{from, to, n})
			spare, over[to] = spare-n, over[to]+n
		}
	}
	return all
}
