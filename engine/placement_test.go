package engine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/shard"
	"github.com/dsbatch/dsbatch/stats"
)

// TestPlacementMovesWorkAndNoBit packs the experts of a run by the tokens that they got: the busiest rank has less to do,
// and every row is the same.
func TestPlacementMovesWorkAndNoBit(t *testing.T) {
	lengths := make([]int, 24)
	for i := range lengths {
		lengths[i] = 3 + i*5%17
	}
	input := layoutRows(t, 150, lengths...)
	run := func(model, placement string) (digests map[string]string, busiest int64, r stats.Report) {
		j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", model), input)
		j.EP, j.ExpertPlacement = 4, placement
		got, err := runRanks(t, 4, j, RunOptions{})
		if err != nil {
			t.Fatalf("%s, placement %q: %v", model, placement, err)
		}
		if r, err = stats.ReadReport(j.Output); err != nil {
			t.Fatal(err)
		}
		for i := range r.Ranks {
			busiest = max(busiest, r.Ranks[i].Slots)
		}
		return got.Digests, busiest, r
	}
	for _, model := range []string{"mixtral", "olmoe"} {
		want, before, r := run(model, "")
		p := shard.Placement{Format: 1}
		for i := range r.Layers {
			ranks, err := shard.Pack(r.Layers[i].Tokens, 4, 0)
			if err != nil {
				t.Fatal(err)
			}
			p.Layers = append(p.Layers, shard.LayerExpert{Layer: r.Layers[i].Layer.Layer, Ranks: ranks})
		}
		got, after, _ := run(model, writePlacement(t, p))
		if !maps.Equal(got, want) {
			t.Errorf("%s: digests %v placed, %v in order", model, got, want)
		}
		if after >= before {
			t.Errorf("%s: the busiest rank computes %d slots placed, %d in order", model, after, before)
		}
	}
}

func writePlacement(t *testing.T, p shard.Placement) string {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "placement.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPlacementsThatDoNotFit are refused before a weight is read, each with what is wrong.
func TestPlacementsThatDoNotFit(t *testing.T) {
	input := layoutRows(t, 150, 4)
	run := func(path string) error {
		j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", "mixtral"), input)
		j.EP, j.ExpertPlacement = 2, path
		_, err := runRanks(t, 2, j, RunOptions{})
		return err
	}
	of := func(ranks ...[]int) shard.Placement {
		return shard.Placement{Format: 1, Layers: []shard.LayerExpert{{Layer: 0, Ranks: ranks}, {Layer: 1, Ranks: ranks}}}
	}
	half := []int{0, 1, 2, 3}
	for says, p := range map[string]shard.Placement{
		"layer 0 is for ep 4, and ep is 2":                 of([]int{0, 1}, []int{2, 3}, []int{4, 5}, []int{6, 7}),
		"layer 0 has 4 experts there and 8 in the model":   of([]int{0, 1}, []int{2, 3}),
		"layer 0 is not in it":                             {Format: 1},
		"10 copies of 8 experts; replicas are not run yet": of([]int{0, 1, 2, 3, 4}, slices.Concat(half[:1], []int{4, 5, 6, 7})),
	} {
		if err := run(writePlacement(t, p)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want a refusal that says %q", err, says)
		}
	}
	if err := run(filepath.Join(t.TempDir(), "none.json")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRefused) {
		t.Errorf("a missing file: %v", err)
	}
}
