package kernels

// RingDevice is a Device that computes with weights that lie in the host's memory: in groups that are used one after the
// other, such as the layers of a model, each of which comes to the device shortly before its turn, beside what is computed
// meanwhile. No bit depends on it.
type RingDevice interface {
	Device
	// NewRing makes a ring of so many buffers, LeastBuffers or more.
	NewRing(buffers int) (Ring, error)
}

// LeastBuffers are those of a ring: one is read by a group's ops while the other is filled.
const LeastBuffers = 2

// Ring is some buffers on a device, and the groups of weights that come into them in turn. All groups are held, then Fill is
// called, and then any number of rounds: Enter and Leave of each group in order.
type Ring interface {
	// Hold moves packed weights, which nothing uses yet, to the host's memory: the next group, counted from 0. They stay their
	// owner's to Free. what names them in errors.
	Hold(what string, group []Weights) error
	// Fill takes the buffers' memory, when all groups are held, and begins to fill them. It waits for the first.
	Fill() error
	// Enter and Leave are ops of a stream, always the same one: the ops between them may use the group's weights, and no others.
	Enter(s Stream, group int)
	Leave(s Stream, group int)
	// Traffic tells what was brought so far.
	Traffic() RingTraffic
	// Close gives the memory back, with no work left.
	Close() error
}

// RingTraffic is what a ring has done.
type RingTraffic struct {
	Bytes int64   // brought to the device since Fill, by ops that were handed over
	Rate  float64 // bytes a second that the way from the host's memory carries, as Fill has measured; 0: not known
}
