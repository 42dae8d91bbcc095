package engine

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

func TestMain(m *testing.M) {
	status := m.Run()
	mpitest.RemoveBinary()
	os.Exit(status)
}

// TestCallsOverMPI: a program in Go that opens a model over the processes of an MPI job gets from each call, on all of
// them, the bits of one process alone.
func TestCallsOverMPI(t *testing.T) {
	if out, status := mpitest.Mpirun(t, 2, "TestRankCalls", 2*time.Minute); status != 0 || strings.Count(out, "--- PASS: TestRankCalls") != 2 {
		t.Errorf("status %d:\n%s", status, out)
	}
}

// TestRankCalls is one rank of TestCallsOverMPI.
func TestRankCalls(t *testing.T) {
	w := mpitest.Rank(t)
	if w.Size() != 2 {
		t.Errorf("%d ranks, want 2: each is a job of its own", w.Size())
	}
	greedy, texts := GenerateOptions{MaxNewTokens: 4}, []Text{{"It is a truth", " universally"}, {"She was", ""}, {"", " x"}}
	calls := func(e *Engine) (out [2][]Result) {
		var errs [2]error
		out[0], errs[0] = e.Generate(t.Context(), callPrompts, greedy)
		out[1], errs[1] = e.Score(t.Context(), texts)
		if err := errors.Join(append(errs[:], e.Close())...); err != nil {
			t.Fatal(err)
		}
		return out
	}
	together, err := InitInferenceOver(t.Context(), w, bundled, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := calls(together)
	alone, err := InitInference(t.Context(), bundled, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := calls(alone); !reflect.DeepEqual(got, want) {
		t.Errorf("rank %d: %+v\nalone: %+v", w.Rank(), got, want)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
