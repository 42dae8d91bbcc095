package engine

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/queuetest"
	"github.com/dsbatch/dsbatch/kernels/windowtest"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

// TestForeseenBatchesAreThePlanned: a batch that was foreseen is to the byte the one that would have been planned, whatever
// rows end, come, share beginnings, are penalised or wait for prompts, over one lane and several; and it is foreseen where
// nothing comes in between.
func TestForeseenBatchesAreThePlanned(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	taken, laid := 0, 0
	for round := range 40 {
		lanes := 1 + round%3
		s := newScheduler(60+random.IntN(100), 16+random.IntN(48), 1+random.IntN(16), lanes)
		batches, aheads, number := make([]batch, lanes), make([]batch, lanes), int64(0)
		for tick := 0; number < 40 || !s.idle(); tick++ {
			for number < 40 && s.backlog() < 4 && random.IntN(4) == 0 {
				q := &sequence{row: &rowState{number: number}, tokens: make([]int32, 2+random.IntN(60)), cut: -1}
				for i := range q.tokens {
					q.tokens[i] = int32(number/3)*100 + int32(i)
				}
				q.prompt, q.limit = len(q.tokens), len(q.tokens)+1+random.IntN(30)
				q.sampling = sampling{temperature: random.Float32(), penalty: 1, topP: 1, topK: int32(random.IntN(9)), seed: 5}
				if random.IntN(5) == 0 {
					q.sampling.penalty = 1.3
				}
				q.dump = random.IntN(8) == 0
				if round%5 == 4 {
					q.limit, q.scoreFrom = len(q.tokens), 1+random.IntN(len(q.tokens)-1)
				}
				if err := s.add(q); err != nil {
					t.Fatal(err)
				}
				number++
			}
			lane := tick % lanes
			b, ahead, want := &batches[lane], &aheads[lane], batch{}
			pieces := s.next(lane)
			want.plan(pieces, &batch{})
			foreseen := len(pieces) > 0 && slices.Equal(pieces, ahead.pieces)
			b.plan(pieces, ahead)
			if !bytes.Equal(b.encode(), want.encode()) || !slices.Equal(b.pieces, want.pieces) || !slices.Equal(b.wanted, want.wanted) {
				t.Fatalf("round %d, tick %d: foreseen (%v) %v, planned %v", round, tick, foreseen, b, want)
			}
			if foreseen {
				taken++
			} else if len(pieces) > 0 {
				laid++
			}
			ahead.foresee(b.pieces)
			for _, w := range b.wanted[b.scored:] {
				if w.seq.tokens = append(w.seq.tokens, int32(random.IntN(1000))); len(w.seq.tokens) == w.seq.limit || random.IntN(20) == 0 {
					w.seq.finished = finishStop
				}
			}
			for _, p := range b.pieces {
				if s.stored(p); p.seq.scoring() && p.seq.want() == 0 {
					p.seq.finished = finishLength
				}
			}
			s.finish()
		}
	}
	if taken < 100 || laid < 100 {
		t.Errorf("%d batches were foreseen, %d not: the test shows too little", taken, laid)
	}
}

// late has jobs computed by a device whose ops run when they are waited for.
func late(told func(queuetest.Event)) func(kernels.Device) kernels.Device {
	return func(d kernels.Device) kernels.Device { return &queuetest.Device{Device: d, Told: told} }
}

// TestTheNextStepIsPreparedWhileOneRuns: a whole step is handed to the device before the host waits for any of it; the next
// one is laid out in between, and taken as it is while the same rows go on.
func TestTheNextStepIsPreparedWhileOneRuns(t *testing.T) {
	const rows, tokens = 5, 12
	j := config.New()
	j.Model, j.Threads = bundled, 1
	var e *Engine
	var events []string
	ready := 0 // steps that were laid out when those before them had not begun
	told := func(event queuetest.Event) {
		if e == nil || e.steps == nil {
			return
		}
		switch event {
		case queuetest.Submit:
			events = append(events, "submit")
		case queuetest.Wait:
			events = append(events, "wait")
			if running := e.pipeline.batches[0].pieces; len(e.pipeline.ahead.pieces) == len(running) {
				for i, p := range e.pipeline.ahead.pieces {
					if q := running[i]; p.seq != q.seq || p.from != q.to || p.to != q.to+1 {
						t.Errorf("%v is to follow %v", p, q)
					}
				}
				ready++
			}
		default:
			t.Error("the host waits for ops that it has not handed over")
		}
	}
	e = &Engine{job: j, world: mpi.Alone(), wrap: late(told)}
	if err := e.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	e.pipeline.beside = func() { events = append(events, "beside") }
	var taken []*byte // where the steps' batches lie
	e.Observe(Observer{Step: func(s stats.Step) {
		events = append(events, "over")
		taken = append(taken, &e.pipeline.batches[0].position[0])
		if s.Beside > s.Device || s.Device > s.Duration {
			t.Errorf("of %v the device has %v, and in that the host %v", s.Duration, s.Device, s.Beside)
		}
	}})
	events = nil // of the load
	prompts := make([][]int32, rows)
	for i := range prompts {
		prompts[i] = []int32{int32(10 + i), 7, 9}
	}
	if _, err := e.GenerateIDs(context.Background(), prompts, GenerateOptions{MaxNewTokens: tokens, IgnoreEOS: true}); err != nil {
		t.Fatal(err)
	}
	if want := slices.Repeat([]string{"submit", "beside", "wait", "over"}, tokens); !slices.Equal(events, want) {
		t.Errorf("the order is %v", events)
	}
	if ready != tokens-1 { // nothing follows the last
		t.Errorf("%d of %d steps were prepared ahead", ready, tokens-1)
	}
	for i := 2; i < len(taken); i++ { // two batches take turns
		if taken[i] != taken[i-2] || taken[i] == taken[i-1] {
			t.Errorf("step %d was laid out again", i)
		}
	}
}

// TestSameBitsOfLateResults: whatever runs ahead of a device and beside it, in all layouts, with rows that end early and
// rows that take their places, sees no result before it is there and changes nothing that is still wanted.
func TestSameBitsOfLateResults(t *testing.T) {
	job := func(change func(*config.Job)) *config.Job {
		return newJob(t, func(j *config.Job) {
			j.Logprobs, j.RepetitionPenalty, j.Stop, j.ChunkRows, j.MaxSeqs = 2, 1.1, []string{" the"}, 3, 5
			if change != nil {
				change(j)
			}
		})
	}
	for _, c := range []struct {
		name  string
		ranks int
		set   func(*config.Job)
	}{
		{"alone", 1, nil},
		{"logits too", 1, func(j *config.Job) { j.OutputLogits, j.Limit = true, 4 }},
		{"scores", 1, func(j *config.Job) {
			j.Task, j.Input, j.ContinuationColumn, j.Temperature, j.TopK = config.Score, []string{passages}, "continuation", 0, 0
			j.Logprobs, j.RepetitionPenalty, j.Stop = 0, 1, nil
		}},
		{"2 ranks", 2, nil},
		{"tp 2", 2, func(j *config.Job) { j.TP = 2 }},
		{"2 stages", 2, func(j *config.Job) { j.PP = 2 }},
		{"tp 2, 2 stages, twice", 8, func(j *config.Job) { j.TP, j.PP = 2, 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, err := runRanks(t, c.ranks, job(c.set), RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := runRanks(t, c.ranks, job(c.set), RunOptions{wrap: late(nil)})
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got.Digests, want.Digests) {
				t.Errorf("digests %v, and %v where results are never late", got.Digests, want.Digests)
			}
		})
	}
	t.Run("windows", func(t *testing.T) {
		want, err := runRanks(t, 1, job(nil), RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		house := windowtest.NewHouse()
		var named, through atomic.Int32
		got, err := runRanks(t, 2, job(nil), RunOptions{
			wrap: func(d kernels.Device) kernels.Device {
				return house.NewDevice(late(nil)(d), fmt.Sprint("late ", named.Add(1)), "cuda/none")
			},
			connected: func(e *Engine) { through.Add(int32(len(e.windows))) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if through.Load() == 0 {
			t.Error("nothing went through windows")
		}
		if !maps.Equal(got.Digests, want.Digests) {
			t.Errorf("digests %v, alone %v", got.Digests, want.Digests)
		}
	})
}
