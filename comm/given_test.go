package comm

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGivenGroups takes the groups that DeepSpeed's engine would make, and others.
func TestGivenGroups(t *testing.T) {
	quarters, halves := table{{0, 4}, {1, 5}, {2, 6}, {3, 7}}, table{{0, 1, 2, 3}, {4, 5, 6, 7}}
	singles := runs(ascending(0, 8), 1)
	for _, c := range []struct {
		what                    string
		sizes                   Sizes
		tp, dp, ep, es, replica table
	}{
		{"worked example, W=8, 4 experts, tp=2, ep contiguous, expert j on ranks j and j+4",
			Sizes{World: 8, TP: 2, EPGroups: halves, ESGroups: quarters, Experts: []int{4}},
			runs(ascending(0, 8), 2), table{{0, 2, 4, 6}, {1, 3, 5, 7}}, halves, quarters, singles},
		{"the same without slices: replicas", Sizes{World: 8, EPGroups: halves, Experts: []int{4}},
			singles, table{ascending(0, 8)}, halves, singles, quarters},
		{"ep alone is by the tables", Sizes{World: 8, EP: 4, ESGroups: quarters, Experts: []int{4}},
			singles, table{ascending(0, 8)}, halves, quarters, singles},
		{"groups in any order, ranks in any order", Sizes{World: 4, TPGroups: table{{3, 1}, {0, 2}}},
			table{{0, 2}, {3, 1}}, table{{0, 3}, {2, 1}}, nil, nil, nil},
		{"slices the other way round", Sizes{World: 4, EPGroups: table{{2, 3}, {0, 1}}, ESGroups: table{{2, 0}, {3, 1}}, Experts: []int{2}},
			table{{0}, {1}, {2}, {3}}, table{{0, 1, 2, 3}}, table{{0, 1}, {2, 3}}, table{{2, 0}, {3, 1}}, table{{2}, {0}, {3}, {1}}},
		{"two stages", Sizes{World: 8, PP: 2, TPGroups: table{{0, 2}, {1, 3}, {4, 6}, {5, 7}}},
			table{{0, 2}, {1, 3}, {4, 6}, {5, 7}}, table{{0, 1}, {2, 3}, {4, 5}, {6, 7}}, nil, nil, nil},
	} {
		l, err := Ranks(c.sizes)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		got := map[string]table{"tp": l.TPGroups, "dp": l.DPGroups}
		want := map[string]table{"tp": c.tp, "dp": c.dp}
		if c.ep != nil {
			e := l.Experts[0]
			got["ep"], got["es"], got["replicas"] = e.EPGroups, e.ESGroups, byFirst(e.ReplicaGroups)
			want["ep"], want["es"], want["replicas"] = c.ep, c.es, byFirst(c.replica)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got)\n%s", c.what, d)
		}
	}
}

func TestGivenGroupsThatCannotBe(t *testing.T) {
	experts := []int{4}
	for _, c := range []struct {
		sizes Sizes
		want  string
	}{
		{Sizes{World: 4, TPGroups: table{{0, 1}, {2}}}, "tp_group: group [0 1] has 2 ranks, group [2] has 1; make them equal"},
		{Sizes{World: 4, TPGroups: table{{0, 1}}}, "tp_group: rank 2 is in no group; list each of the 4 ranks once"},
		{Sizes{World: 4, TPGroups: table{{0, 1}, {1, 2}}}, "tp_group: rank 1 is in groups [0 1] and [1 2]; a rank belongs to one group"},
		{Sizes{World: 4, TPGroups: table{{0, 1}, {2, 4}}}, "tp_group: rank 4 in group [2 4]: the job has ranks 0 to 3"},
		{Sizes{World: 4, TPGroups: table{{0, -1}, {2, 3}}}, "tp_group: rank -1 in group [0 -1]: the job has ranks 0 to 3"},
		{Sizes{World: 4, TPGroups: table{}}, "tp_group: a group without ranks; leave it out, or list every rank of the job once"},
		{Sizes{World: 4, TP: 4, TPGroups: table{{0, 1}, {2, 3}}}, "tp_group: groups of 2 ranks, and tp_size is 4; make them equal"},
		{Sizes{World: 4, PP: 2, TPGroups: table{{0, 2}, {1, 3}}},
			"tp_group: group [0 2] has ranks of stages 0 and 1; with pp, ranks 0 to 1 are a stage and work together"},
		{Sizes{World: 4, PP: 2, TPGroups: table{{0, 1}, {3, 2}}},
			"tp_group: rank 0 hands its tokens to rank 2 of the next stage, and they are numbers 0 and 1 of their groups; make the groups of all stages alike"},
		{Sizes{World: 4, EP: 4, EPGroups: table{{0, 1}, {2, 3}}, Experts: experts}, "ep_group: groups of 2 ranks, and ep_size is 4; make them equal"},
		{Sizes{World: 3, EPGroups: table{{0, 1, 2}}, Experts: experts}, "ep_group: 4 experts cannot be spread evenly over groups of 3 ranks; use groups of 1, 2 or 4, or leave it out"},
		{Sizes{World: 2, EPGroups: table{{0, 1}}}, "ep_size 2: the model has no experts; use 1"},
		{Sizes{World: 4, EP: 2, ESGroups: table{{0, 1}, {2, 3}}, Experts: experts},
			"ep_mp_group: ranks 0 and 1 of group [0 1] are numbers 0 and 1 of their ep groups and hold different experts; only ranks with the same experts can slice them"},
		{Sizes{World: 4, EP: 2, ESGroups: table{{0, 2}, {3, 1}}, Experts: experts},
			"ep_mp_group: ranks 0 and 1 share the ep group [0 1] and hold slices 0 and 1; tokens that reach one must find the same slice on all"},
		{Sizes{World: 4, EP: 4, ESGroups: table{{0, 1}, {2, 3}}, Experts: experts}, "es 2: with ep 4 an expert is held by 1 rank, and cannot be cut into 2 slices; use 1"},
	} {
		_, err := Ranks(c.sizes)
		var group *GroupError
		var size *SizeError
		if !errors.As(err, &group) && !errors.As(err, &size) || err.Error() != c.want {
			t.Errorf("%+v:\n got %v\nwant %s", c.sizes, err, c.want)
		}
	}
}

func TestTableOfALayout(t *testing.T) {
	l, err := Ranks(Sizes{World: 4, TP: 2, EP: 2, Experts: []int{8}})
	if err != nil {
		t.Fatal(err)
	}
	want := []TableRow{
		{"tp", "slices of the same tensors, in order", table{{0, 1}, {2, 3}}},
		{"dp", "the same slices, for other rows", table{{0, 2}, {1, 3}}},
		{"ep", "4 experts each, in order", table{{0, 2}, {1, 3}}},
		{"replicas", "the same experts, for other rows", table{{0, 1}, {2, 3}}},
		{"peers", "rows travel among them, coordinated", table{{0, 2}, {1, 3}}},
		{"share", "have the same tokens, and divide them", table{{0, 1}, {2, 3}}},
	}
	if d := cmp.Diff(want, l.Table()); d != "" {
		t.Error(d)
	}
	if l, err = Ranks(Sizes{World: 1}); err != nil || l.Table() != nil {
		t.Errorf("one rank: %v, %v", l.Table(), err)
	}
}
