package engine

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

// TestStagesWorkAtOnce: two stages meet in the middle of their work, the last one on a batch and the first one on the next.
// Were a batch begun only when the one before is through, each would wait there for the other, for ever; how fast they are
// has no part in it. What they find is what one rank finds.
func TestStagesWorkAtOnce(t *testing.T) {
	const meetings = 5           // batches: 2 lanes, each with a prefill and 2 steps of decoding
	const patience = time.Minute // only a failure takes it
	prompts := layoutPrompts(100, 5, 5, 5, 5)
	results := map[int][]Result{} // by the number of stages
	for stages := 1; stages <= 2; stages++ {
		var inside [2][meetings + 2]chan struct{} // closed by a stage in the middle of its batch, from 1
		for stage := range inside {
			for i := range inside[stage] {
				inside[stage][i] = make(chan struct{})
			}
		}
		j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", "llama"), "")
		j.PP = stages
		met := 0
		err := mpi.Run(stages, func(w mpi.World) error {
			e, err := Open(context.Background(), w, j)
			if err != nil {
				return err
			}
			stage, turn, sections, alone := e.place.stage, 0, 0, stages == 1
			e.pipeline.begin = func(*batch) { turn, sections = turn+1, 0 }
			e.Observe(Observer{Section: func(stats.Phase, time.Duration) {
				// The last stage's k-th batch is in work while the first stage's is the next.
				k := turn - 1 + stage
				if sections++; sections > 1 || alone || k < 1 || k > meetings {
					return
				}
				close(inside[stage][k])
				select {
				case <-inside[1-stage][k]:
					if stage == 0 {
						met++
					}
				case <-time.After(patience):
					alone = true
					t.Errorf("stage %d is at its batch %d, and the other stage does not come to the one beside it", stage, turn)
				}
			}})
			out, err := e.GenerateIDs(context.Background(), prompts, GenerateOptions{MaxNewTokens: 3, IgnoreEOS: true})
			if w.Rank() == 0 {
				results[stages] = out
			}
			return errors.Join(err, e.Close())
		})
		if err != nil {
			t.Fatal(err)
		}
		if stages == 2 && met != meetings {
			t.Errorf("the stages met %d times, want %d", met, meetings)
		}
	}
	if !reflect.DeepEqual(results[1], results[2]) || len(results[1]) != len(prompts) {
		t.Errorf("two stages find %+v, one %+v", results[2], results[1])
	}
}
