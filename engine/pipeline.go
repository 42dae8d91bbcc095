package engine

import (
	"context"
	"fmt"
)

// pipeline runs a replica's steps on one of its ranks, in ticks that all ranks of the world make together. At tick t the
// s-th stage computes the batch that the lead has planned at tick t-s; at the end of a tick hidden states go on to the
// next stage, and what the last one has drawn goes back to the lead. With one stage a tick is a step.
//
// So a replica has as many batches in flight as it has stages: the scheduler divides its sequences into that many lanes,
// and plans lane t mod stages at tick t, when what that lane has drawn last is back.
type pipeline struct {
	*place
	steps   *stepper
	tick    int
	batches []batch // of the last ticks, one a stage: that of tick t at t mod stages
	busy    []bool  // whether any replica has planned a batch at these ticks
	most    []int   // tokens of any replica's
	ahead   batch   // of the next tick, as far as the lead can know it before this one is over
	arrived []byte  // hidden states from the stage before

	begin  func(*batch) // told of the batch that this rank turns to; nil: nobody is
	beside func()       // what else there is to do while a device computes; nil: nothing
}

func newPipeline(p *place, steps *stepper) *pipeline {
	return &pipeline{place: p, steps: steps, batches: make([]batch, p.stages), busy: make([]bool, p.stages), most: make([]int, p.stages)}
}

// lane is the one whose turn it is.
func (p *pipeline) lane() int { return p.tick % p.stages }

// of is the place in batches and busy of the batch that a stage computes at this tick.
func (p *pipeline) of(stage int) int { return (p.tick + p.stages - stage) % p.stages }

// plan makes this tick's batch on the lead and returns how long its message is; 0: it is empty.
func (p *pipeline) plan(pieces []piece) int {
	b := &p.batches[p.of(0)]
	b.plan(pieces, &p.ahead)
	if len(pieces) == 0 || p.replica == nil {
		return len(pieces)
	}
	return len(b.encode())
}

// inFlight tells whether a batch of any replica that was planned at an earlier tick is not yet through.
func (p *pipeline) inFlight() bool {
	for stage := 1; stage < p.stages; stage++ {
		if p.busy[p.of(stage)] {
			return true
		}
	}
	return false
}

// planned is how many tokens the batch has that this rank has planned for this tick; 0 where it is no lead.
func (p *pipeline) planned() int {
	if !p.leads() {
		return 0
	}
	return p.batches[p.of(0)].tokens()
}

// step is one tick. message is how long the message of this replica's lead is, busy tells whether any replica's lead
// has planned a batch, and most is how many tokens one has at most. ran is what this rank computed, nil where no rank of its stage had anything to do; done is the
// batch that is through, which on the lead has noted in its sequences what was drawn and scored.
func (p *pipeline) step(ctx context.Context, message int, busy bool, most int) (ran, done *batch, err error) {
	planned, mine, done := &p.batches[p.of(0)], &p.batches[p.of(p.stage)], &p.batches[p.of(p.stages-1)]
	p.busy[p.of(0)], p.most[p.of(0)] = busy, most
	if err := p.share(ctx, planned, message); err != nil {
		return nil, nil, fmt.Errorf("the step's plan: %w", err)
	}
	if p.busy[p.of(p.stage)] { // ranks that share experts step together
		if p.begin != nil {
			p.begin(mine)
		}
		if err := p.steps.run(ctx, mine, p.most[p.of(p.stage)], p.arrived, func() { p.meanwhile(done) }); err != nil {
			return nil, nil, err
		}
		ran = mine
	}
	if err := p.pass(ctx, mine, done); err != nil {
		return nil, nil, fmt.Errorf("between pipeline stages: %w", err)
	}
	if p.leads() {
		done.note(p.steps.widths)
	}
	p.tick++
	return ran, done, nil
}

// meanwhile is what the host does while its device computes: it prepares the next tick's batch, of the lane whose rows are
// in the one that this tick is the last for.
func (p *pipeline) meanwhile(done *batch) {
	if p.leads() {
		p.ahead.foresee(done.pieces)
	}
	if p.beside != nil {
		p.beside()
	}
}

// share gives the lead's batch to the other ranks of the replica.
func (p *pipeline) share(ctx context.Context, b *batch, message int) error {
	if p.replica == nil {
		return nil
	}
	if message == 0 {
		b.empty()
		return nil
	}
	if !p.leads() {
		b.message = append(b.message[:0], make([]byte, message)...)
	}
	if err := p.replica.Bcast(ctx, 0, b.message); err != nil || p.leads() {
		return err
	}
	return b.decode()
}

// pass hands hidden states to the next stage and the last stage's results to the first: each stage sends to the next one
// around the ring, so that one exchange does it all. Sizes are known everywhere.
func (p *pipeline) pass(ctx context.Context, mine, done *batch) error {
	if p.ring == nil {
		return nil
	}
	m := p.steps.model
	hidden := int64(m.Config.Hidden) * int64(m.Device().Activations(m.DType).Size())
	size := func(stage int) int64 { // of what a stage sends
		b := &p.batches[p.of(stage)]
		if stage < p.stages-1 {
			return int64(b.tokens()) * hidden
		}
		if p.rank > 0 {
			return 0
		}
		b.outcome(p.steps.widths)
		return int64(len(b.answer))
	}
	sends, gets, any := make([]int64, p.stages), make([]int64, p.stages), false
	for stage := range p.stages {
		any = any || size(stage) > 0
	}
	if !any {
		p.arrived = p.arrived[:0]
		return nil
	}
	next, before := (p.stage+1)%p.stages, (p.stage+p.stages-1)%p.stages
	sends[next], gets[before] = size(p.stage), size(before)
	send, get := p.steps.out, done.answer
	if p.last() {
		send = mine.answer
	}
	if !p.first() {
		p.arrived = append(p.arrived[:0], make([]byte, gets[before])...)
		get = p.arrived
	}
	return p.ring.AllToAllV(ctx, send[:sends[next]], sends, get[:gets[before]], gets)
}
