package engine

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

// someRanks opens the bundled model on n ranks, tp of which slice tensors, and calls f on each.
func someRanks(t *testing.T, n, tp int, f func(*Engine) error) {
	t.Helper()
	err := mpi.Run(n, func(w mpi.World) error {
		e, err := InitInferenceOver(context.Background(), w, bundled, nil, map[string]any{"tensor_parallel": map[string]any{"tp_size": tp}})
		if err != nil {
			return err
		}
		return errors.Join(f(e), e.Close())
	})
	if err != nil {
		t.Error(err)
	}
}

var callPrompts = []string{"It is a truth universally acknowledged, that", "", "She was", "No one who had ever seen", "The sea"}

// TestRanksThatCallForOtherThings: all ranks refuse, name the rank and what differs, and can go on.
func TestRanksThatCallForOtherThings(t *testing.T) {
	ctx := context.Background()
	greedy := GenerateOptions{MaxNewTokens: 3}
	generate := func(prompts []string, o GenerateOptions) func(*Engine) error {
		return func(e *Engine) error { _, err := e.Generate(ctx, prompts, o); return err }
	}
	other := append([]string{}, callPrompts...)
	other[3] = "No one who had never seen"
	someRanks(t, 4, 2, func(e *Engine) error {
		for _, c := range []struct {
			call func(*Engine) error // of rank 1
			say  string
		}{
			{generate(other, greedy), `prompt 3 ("No one who had never seen", rank 0 has "No one who had ever seen")`},
			{generate(callPrompts[:4], greedy), `number of prompts ("4", rank 0 has "5"), prompt 4 (none,`},
			{generate(callPrompts, GenerateOptions{MaxNewTokens: 3, Temperature: 0.5}), `temperature ("0.5", rank 0 has "0")`},
			{func(e *Engine) error { _, err := e.Score(ctx, []Text{{"a", " b"}}); return err }, `task ("score", rank 0 has "generate")`},
			{func(e *Engine) error { _, err := e.GenerateIDs(ctx, [][]int32{{5, 6}}, greedy); return err }, `prompt 0 ("[5 6]", rank 0 has`},
		} {
			mine := generate(callPrompts, greedy)
			if e.world.Rank() == 1 {
				mine = c.call
			}
			if err := mine(e); !errors.Is(err, comm.ErrUnlike) || !strings.Contains(err.Error(), "rank 1 (") || !strings.Contains(err.Error(), c.say) {
				t.Errorf("rank %d: %v; want %s", e.world.Rank(), err, c.say)
			}
		}
		return generate(callPrompts, greedy)(e)
	})
}

// TestTheContextOfOneRankEnds, in the middle of a call: all ranks stop and name it, and the next call is as the first was.
func TestTheContextOfOneRankEnds(t *testing.T) {
	o := GenerateOptions{MaxNewTokens: 12, Temperature: 0.9, Seed: 5}
	someRanks(t, 4, 2, func(e *Engine) error {
		before, err := e.Generate(context.Background(), callPrompts, o)
		if err != nil {
			return err
		}
		for _, at := range []int{0, 1, 5} {
			ctx, cancel := context.WithCancelCause(context.Background())
			steps, gone := 0, errors.New("the user is gone")
			if e.world.Rank() == 2 {
				if at == 0 {
					cancel(gone)
				}
				e.Observe(Observer{Step: func(stats.Step) {
					if steps++; steps == at {
						cancel(gone)
					}
				}})
			}
			out, err := e.Generate(ctx, callPrompts, o)
			want := context.Canceled
			if e.world.Rank() == 2 {
				want = gone
			}
			if !errors.Is(err, ErrStopped) || !errors.Is(err, want) || !strings.Contains(err.Error(), "rank 2") || out != nil {
				t.Errorf("rank %d, after %d steps: %v, %v", e.world.Rank(), at, out, err)
			}
			e.Observe(Observer{})
			cancel(nil)
		}
		after, err := e.Generate(context.Background(), callPrompts, o)
		if !reflect.DeepEqual(after, before) {
			t.Errorf("rank %d: %v after a call that was stopped, %v before", e.world.Rank(), after, before)
		}
		return err
	})
}

// TestOneRankStops is the same for a rank alone.
func TestOneRankStops(t *testing.T) {
	someRanks(t, 1, 1, func(e *Engine) error {
		ctx, cancel := context.WithCancel(context.Background())
		e.Observe(Observer{Step: func(stats.Step) { cancel() }})
		if _, err := e.Generate(ctx, callPrompts, GenerateOptions{}); !errors.Is(err, ErrStopped) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if !e.scheduler.idle() {
			t.Error("rows are left for the next call")
		}
		return nil
	})
}

// TestARankThatDoesNotCome is named to those that wait for it, when their own time is over.
func TestARankThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		worlds := mpi.InProcess(3)
		var ranks sync.WaitGroup
		for _, w := range worlds[:2] {
			ranks.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				late, leave := patient(ctx)
				defer leave()
				begun := time.Now()
				_, err := comm.Agree(late, w, 1)
				if err == nil || !strings.Contains(err.Error(), "rank 2 has not come") || time.Since(begun) != time.Minute+grace {
					t.Errorf("rank %d after %v: %v", w.Rank(), time.Since(begun), err)
				}
			})
		}
		ranks.Wait()
	})
}
