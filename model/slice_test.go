package model_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
)

// TestARankReadsItsOwnBytes: stages read each their layers, ep ranks each their experts, tp ranks each their slices.
func TestARankReadsItsOwnBytes(t *testing.T) {
	sum := func(n []int64) (s int64) {
		for _, x := range n {
			s += x
		}
		return s
	}
	read := func(name string, y layout) (bytes []int64) {
		t.Run(name+", "+y.String(), func(t *testing.T) {
			o, err := y.run(t, filepath.Join("testdata", "golden", name), nil)
			check(t, err)
			bytes = o.read
		})
		return bytes
	}
	for _, name := range []string{"gpt2", "olmoe", "ds-moe-hoisted"} {
		if one, two := read(name, layout{}), read(name, layout{pp: 2}); sum(two) != one[0] || two[0] == 0 || two[1] == 0 {
			t.Errorf("%s: two stages read %v bytes, one rank %v", name, two, one)
		}
	}
	one, two, four := read("olmoe", layout{}), read("olmoe", layout{dp: 2}), read("olmoe", layout{dp: 4})
	if experts := 4 * (two[0] - four[0]); one[0]-two[0] != experts/2 || experts < one[0]/2 || two[0] != two[1] {
		t.Errorf("olmoe: ranks read %v, %v and %v bytes with ep 1, 2 and 4", one, two, four)
	}
	one, two, four = read("megatron-v2-mp4", layout{}), read("megatron-v2-mp4", layout{tp: 2}), read("megatron-v2-mp4", layout{tp: 4})
	if same := sum(two) - one[0]; sum(four)-sum(two) != 2*same || same > one[0]/3 {
		t.Errorf("megatron-v2-mp4: ranks read %v, %v and %v bytes with tp 1, 2 and 4", one, two, four)
	}
	one, two = read("mixtral", layout{dp: 2, ep: 1}), read("mixtral", layout{dp: 2, ep: 1, es: 2})
	if _, _, config, err := describe(filepath.Join("testdata", "golden", "mixtral")); err != nil {
		t.Error(err)
	} else if experts := int64(4 * config.Layers * 8 * 3 * config.Hidden * config.MoE[0].FFN); one[0]-two[0] != experts/2 && one[0]-two[0] != experts/4 {
		t.Errorf("mixtral: ranks read %v and %v bytes with es 1 and 2; the experts are %d", one, two, experts)
	}
}

// TestTrafficOfSlices: each tp rank sends the others two partial results a layer and token, and its columns of the logits.
func TestTrafficOfSlices(t *testing.T) {
	tokens := 0
	for _, text := range texts {
		tokens += len(text)
	}
	for _, boards := range []bool{false, true} {
		o, err := layout{tp: 2, boards: boards}.run(t, filepath.Join("testdata", "golden", "llama"), texts)
		check(t, err)
		want := int64(tokens * 4 * (3*2*32 + 160/2)) // layers, hidden, half of the vocabulary
		if o.sent[0] != want || o.sent[1] != want {
			t.Errorf("boards %t: %v bytes sent, want %d", boards, o.sent, want)
		}
	}
}

// TestPlacementThatIsNone: a placement that loses an expert is refused.
func TestPlacementThatIsNone(t *testing.T) {
	device, err := openRankDevice(0)
	check(t, err)
	_, err = openRunner(t, device, filepath.Join("testdata", "golden", "mixtral"), 16, model.LoadOptions{
		Placement: func(int) []shard.Place { return []shard.Place{{Expert: 0, To: 1, Of: 1}, {Expert: 1, To: 1, Of: 2}} },
		Experts: func(int) (*moe.Exchange, error) {
			return &moe.Exchange{Ranks: 1, Rows: comm.NewFlat(mpi.Alone())}, nil
		}})
	if !errors.Is(err, model.ErrSlices) || !strings.Contains(err.Error(), "layer 0: the places of expert 1 do not take all its tokens") {
		t.Error(err)
	}
}

// TestInt8GroupsThatSlicesCut are refused.
func TestInt8GroupsThatSlicesCut(t *testing.T) {
	device, err := openRankDevice(0)
	check(t, err)
	_, err = openRunner(t, device, filepath.Join("testdata", "golden", "mixtral"), 16, model.LoadOptions{DType: kernels.I8, Group: 16, Slices: 4})
	if !errors.Is(err, model.ErrSlices) || !strings.Contains(err.Error(), "layer 0 attention output: a slice of 8 of 32 inputs is no multiple of the int8 groups of 16") {
		t.Error(err)
	}
}

// TestModelThatCannotBeSliced: the error tells how it can be, and no weight is read.
func TestModelThatCannotBeSliced(t *testing.T) {
	for name, c := range map[string]struct {
		layout
		model string
		want  []string
	}{
		"more ranks than heads":                          {layout{tp: 8, ep: 1}, "mixtral", []string{"tp 8", "4 attention heads", "use 1 to 4"}},
		"more stages than layers":                        {layout{pp: 4}, "llama", []string{"pp 4", "3 layers", "use 1 to 3"}},
		"slices that do not divide the inside of an MLP": {layout{slices: 16}, "llama", []string{"the inside of an MLP, 56", "16 equal slices", "use 2, 4 or 8"}},
		"slices that are no power of two":                {layout{slices: 6}, "llama", []string{"6 slices", "use 2, 4, 8"}},
		"fewer slices than ranks":                        {layout{slices: 2, tp: 4}, "llama", []string{"2 slices", "4 ranks"}},
		"heads over 3 ranks, invariant":                  {layout{slices: 8, tp: 3}, "llama", []string{"8 slices", "3 ranks", "use 1, 2, 4 or 8"}},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := c.run(t, filepath.Join("testdata", "golden", c.model), texts)
			if !errors.Is(err, model.ErrSlices) {
				t.Fatalf("%v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v: no %q", err, part)
				}
			}
			if slices.Max(o.read) > 0 {
				t.Errorf("%v bytes were read", o.read)
			}
		})
	}
}
