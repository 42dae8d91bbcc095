package kernels

// PeerDevice is a Device that can send rows to devices of other ranks without the host's memory between them.
type PeerDevice interface {
	Device
	// Hardware names the piece of hardware, so that ranks that share one are known: only different ones can be peers.
	Hardware() string
	// PeerKey makes a key under which devices meet. One rank makes it and tells the others.
	PeerKey() ([]byte, error)
	// Meet joins the devices that meet under a key as one of several ranks. All of them call it, and it returns when all
	// have.
	Meet(key []byte, rank, ranks int) (Peers, error)
}

// Peers are the devices that have met, as one of them sees them. A peer that does not take part in an op within 20 seconds ends the
// line, and Sync tells.
type Peers interface {
	Team
	// Exchange is an op of s: send [Σ to, cols] lies by destination, to[r] rows for rank r; recv [Σ from, cols] gets
	// from[r] rows from each rank r, in their order. What one rank sends must be what the other expects. Both are
	// contiguous, of one type, in this device's memory.
	Exchange(s Stream, recv, send Tensor, from, to []int)
}
