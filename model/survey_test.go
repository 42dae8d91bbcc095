package model_test

import (
	"path/filepath"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestSurveyKnowsWhatTheModelTakes: the bytes that it tells are those of the loaded weights, but for their padding.
func TestSurveyKnowsWhatTheModelTakes(t *testing.T) {
	dir := filepath.Join("..", "examples", "austen-prmoe")
	for _, o := range []model.LoadOptions{{DType: kernels.F32}, {DType: kernels.BF16}, {DType: kernels.I8, Group: 64},
		{DType: kernels.F32, Slices: 4}, {DType: kernels.BF16, Stage: 1, Stages: 3}, {DType: kernels.F32, TP: &comm.Group{World: two{mpi.Alone()}}}} {
		device, err := cpu.New(cpu.Options{Threads: 1})
		check(t, err)
		loaded := load(t, dir, device, o)
		c, err := ckpt.Open(dir, ckpt.Options{})
		check(t, err)
		facts := model.NewFacts(c.Config().Source, c.Config().Values)
		policy, err := policies.Find(facts)
		check(t, err)
		shape, err := policy.Configure(facts)
		check(t, err)
		surveyed, err := model.Survey(t.Context(), c, policy, shape, device, o)
		check(t, err)
		if got, want := surveyed.Bytes(), loaded.Bytes(); got > want || float64(got) < 0.9*float64(want) {
			t.Errorf("%v: %d bytes surveyed, %d loaded", o.DType, got, want)
		}
		if got, want := surveyed.CacheSpec(3, 16), loaded.CacheSpec(3, 16); got != want {
			t.Errorf("%v: cache %v surveyed, %v loaded", o.DType, got, want)
		}
		if got, want := surveyed.WorkspaceBytes(33), loaded.WorkspaceBytes(33); got != want {
			t.Errorf("%v: workspace of %d bytes surveyed, %d loaded", o.DType, got, want)
		}
		check(t, c.Close())
	}
}

// two is the second of two ranks, as far as loading asks.
type two struct{ mpi.World }

func (two) Size() int { return 2 }
func (two) Rank() int { return 1 }
