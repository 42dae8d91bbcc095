package comm

// Link is what messages between two ranks cost: latency + bytes/bandwidth.
type Link struct {
	Latency   float64 // seconds a message
	Bandwidth float64 // bytes a second that a rank sends while all do
}

// Network is the links of a job.
type Network struct {
	Inside  Link // a node
	Between Link // nodes
}

// Load is one exchange as the cost model sees it: every rank has rows for all, as many for each.
type Load struct {
	Ranks int     // over which the experts are spread
	Node  int     // of them on a node
	TP    int     // ranks that hold the same tokens, among them; 1: none
	Bytes float64 // of the rows of a rank's tokens, at all experts
}

// leg is what one rank sends over one kind of link.
type leg struct {
	messages int
	bytes    float64
}

func (l Link) seconds(g leg) float64 {
	if g.messages == 0 {
		return 0
	}
	return float64(g.messages)*l.Latency + g.bytes/l.Bandwidth
}

// legs returns what a rank sends inside its node and between nodes. Coordinated peers exchange flat, or as among says.
func (l Load) legs(how, among Algorithm) (inside, between leg) {
	p, node := float64(l.Ranks), max(1, min(l.Node, l.Ranks))
	nodes := (l.Ranks + node - 1) / node
	switch how {
	case Hierarchical:
		inside = leg{node - 1, l.Bytes * float64(node-1) / float64(node)}
		between = leg{nodes - 1, l.Bytes * (p - float64(node)) / p}
	case Coordinated:
		inside, between = l.peers().legs(among, Flat)
		gathers := leg{l.TP - 1, l.Bytes * float64(l.TP-1) / float64(l.TP)}
		to := &inside
		if l.TP > node {
			to = &between
		}
		to.messages += gathers.messages
		to.bytes += gathers.bytes
	default:
		inside = leg{node - 1, l.Bytes * float64(node-1) / p}
		between = leg{l.Ranks - node, l.Bytes * (p - float64(node)) / p}
	}
	return inside, between
}

// peers is the load among ranks of equal tp rank.
func (l Load) peers() Load {
	return Load{Ranks: max(1, l.Ranks/l.TP), Node: max(1, l.Node/l.TP), TP: 1, Bytes: l.Bytes / float64(l.TP)}
}

// Messages is how many a rank sends in one exchange; coordinated with flat exchanges among peers, p/L-1 + L-1.
func (l Load) Messages(how Algorithm) int {
	inside, between := l.legs(how, Flat)
	return inside.messages + between.messages
}

// Seconds is how long one exchange takes, dispatch or combine, by the model: a rank's messages one after the other, and
// coordinated peers exchange as is cheapest for them.
func (n Network) Seconds(how Algorithm, l Load) float64 {
	among := Flat
	if how == Coordinated {
		peers := l.peers()
		if n.Seconds(Hierarchical, peers) < n.Seconds(Flat, peers) {
			among = Hierarchical
		}
	}
	inside, between := l.legs(how, among)
	return n.Inside.seconds(inside) + n.Between.seconds(between)
}

// crossing returns the bytes of a rank's rows from which on flat is faster than hierarchical, which saves messages and
// sends what crosses nodes twice; 0 where it always is, on one node. Both times are linear in the bytes.
func (n Network) crossing(l Load) float64 {
	at := func(how Algorithm, bytes float64) float64 { l.Bytes = bytes; return n.Seconds(how, l) }
	saved := at(Flat, 0) - at(Hierarchical, 0)
	if saved <= 0 {
		return 0
	}
	const unit = 1e6
	return unit * saved / (at(Hierarchical, unit) - at(Hierarchical, 0) - at(Flat, unit) + at(Flat, 0))
}

// cheapest returns the algorithm that takes least, the simplest of several. A zero Network knows nothing: flat.
func (n Network) cheapest(l Load) Algorithm {
	if n == (Network{}) {
		return Flat
	}
	best := Flat
	for _, how := range []Algorithm{Hierarchical, Coordinated} {
		if how == Coordinated && l.TP < 2 {
			continue
		}
		if n.Seconds(how, l) < n.Seconds(best, l) {
			best = how
		}
	}
	return best
}
