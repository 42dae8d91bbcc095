package cuda

// order decides which group of a ring comes into which buffer, and when. It knows no GPU: lanes do what it says.
//
// Group g has buffer g mod buffers in every round, so that addresses never change. A buffer that was left gets the group that is
// next in it: of this round, or else the first of the next round, so that between two rounds, too, the bus has something to do.
type order struct {
	lanes  lanes
	groups int
	holds  []int // of each buffer, the group that it has or gets; -1: none
	inside int   // the group that was entered and not left; -1: none
}

// lanes are two queues: one computes, one copies.
type lanes interface {
	// bring has the copying queue wait until what reads the buffer is through, as leave has told last, and copy a group there.
	bring(group, buffer int) error
	// await has the computing queue wait until what was brought to the buffer last is there.
	await(buffer int) error
	// leave marks what the computing queue was given so far as all that reads the buffer.
	leave(buffer int) error
}

func newOrder(l lanes, groups, buffers int) *order {
	o := &order{lanes: l, groups: groups, holds: make([]int, buffers), inside: -1}
	for b := range o.holds {
		o.holds[b] = -1
	}
	return o
}

// fill begins a round before it is entered.
func (o *order) fill() error {
	for g := range min(o.groups, len(o.holds)) {
		if err := o.ensure(g); err != nil {
			return err
		}
	}
	return nil
}

// ensure brings a group unless its buffer holds it.
func (o *order) ensure(group int) error {
	b := group % len(o.holds)
	if o.holds[b] == group {
		return nil
	}
	o.holds[b] = group
	return o.lanes.bring(group, b)
}

// enter has what is computed from now on find the group in its buffer. A round that was given up, as after an error, is left.
func (o *order) enter(group int) error {
	if o.inside >= 0 {
		if err := o.leave(); err != nil {
			return err
		}
	}
	if err := o.ensure(group); err != nil {
		return err
	}
	o.inside = group
	return o.lanes.await(group % len(o.holds))
}

// leave ends what enter has begun, and has the next group brought.
func (o *order) leave() error {
	b := o.inside % len(o.holds)
	next := o.inside + len(o.holds)
	if next >= o.groups {
		next = b
	}
	o.inside = -1
	if err := o.lanes.leave(b); err != nil {
		return err
	}
	return o.ensure(next)
}
