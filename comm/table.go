package comm

import "fmt"

// TableRow is one kind of group of a layout, for printing.
type TableRow struct {
	Name   string  // "tensor parallel", "experts of the 64-expert layers"
	What   string  // what its members do together
	Groups [][]int // ranks, in the order of the group
}

// Table lists the groups of a layout, of each kind that has several ranks in a group.
func (l *Layout) Table() []TableRow {
	var rows []TableRow
	add := func(name, what string, groups [][]int) {
		if len(groups) > 0 && len(groups[0]) > 1 {
			rows = append(rows, TableRow{name, what, groups})
		}
	}
	add("tp", "slices of the same tensors, in order", l.TPGroups)
	add("dp", "the same slices, for other rows", l.DPGroups)
	add("pp", "the stages of the same replica, in order", l.PPGroups)
	for _, e := range l.Experts {
		of := func(name string) string {
			if len(l.Experts) == 1 {
				return name
			}
			return fmt.Sprintf("%s, %s", name, count(e.Experts, "expert"))
		}
		add(of("ep"), fmt.Sprintf("%s each, in order", count(e.Experts/e.EP, "expert")), e.EPGroups)
		add(of("es"), "slices of the same experts, in order", e.ESGroups)
		add(of("replicas"), "the same experts, for other rows", e.ReplicaGroups)
		if l.TP > 1 {
			add(of("peers"), "rows travel among them, coordinated", e.PeerGroups)
			add(of("gather"), "have the same tokens, and gather what their peers' experts say of them", e.GatherGroups)
			add(of("share"), "have the same tokens, and divide them", e.ShareGroups)
		}
	}
	return rows
}
