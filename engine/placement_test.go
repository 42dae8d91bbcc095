package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
	"github.com/dsbatch/dsbatch/stats"
)

// skewedRows are so many chunks of six rows, as many tokens in each, of which most are the same one: its experts get most
// of the work.
func skewedRows(t *testing.T, chunks int) string {
	t.Helper()
	var text strings.Builder
	for row := range 6 * chunks {
		ids := make([]string, 4+row%6*5)
		for i := range ids {
			if ids[i] = "7"; (row+i)%4 == 0 {
				ids[i] = fmt.Sprint(1 + (row*37+i*i*11)%149)
			}
		}
		fmt.Fprintf(&text, "{\"ids\": [%s]}\n", strings.Join(ids, ", "))
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPlacementMovesWorkAndNoBit packs the experts of a run by the tokens that they got, alone and then with one and two
// copies of the hottest on each rank: the busiest rank has less and less to do, every row and what the experts get in all
// is the same, and a rank reads the bytes of one and two experts more.
func TestPlacementMovesWorkAndNoBit(t *testing.T) {
	input := skewedRows(t, 4)                                                                                // a chunk for each rank, whatever the machine does
	for name, each := range map[string]int64{"mixtral": 2 * 3 * 32 * 48 * 4, "olmoe": 3 * 3 * 32 * 16 * 4} { // an expert of each layer, in bytes
		var want map[string]string
		var inOrder stats.Report
		var busiest []int64
		var mean int64
		for copies := -1; copies <= 2; copies++ { // -1: in order
			j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", name), input)
			j.EP, j.ChunkRows = 4, 6
			if copies >= 0 {
				p := shard.Placement{Format: 1}
				for i := range inOrder.Layers {
					ranks, err := shard.Pack(inOrder.Layers[i].Tokens, 4, copies)
					if err != nil {
						t.Fatal(err)
					}
					p.Layers = append(p.Layers, shard.LayerExpert{Layer: inOrder.Layers[i].Layer.Layer, Ranks: ranks})
				}
				j.ExpertPlacement = writePlacement(t, p)
			}
			got, err := runRanks(t, 4, j, RunOptions{})
			if err != nil {
				t.Fatalf("%s, %d copies: %v", name, copies, err)
			}
			r, err := stats.ReadReport(j.Output)
			if err != nil {
				t.Fatal(err)
			}
			if copies < 0 {
				want, inOrder = got.Digests, r
			} else if !maps.Equal(got.Digests, want) {
				t.Errorf("%s, %d copies: digests %v, in order %v", name, copies, got.Digests, want)
			}
			var most, sum int64
			for i := range r.Ranks {
				most, sum = max(most, r.Ranks[i].Slots), sum+r.Ranks[i].Slots
			}
			busiest, mean = append(busiest, most), sum/4
			for i, l := range r.Layers {
				if sum -= l.Slots; !slices.Equal(l.Tokens, inOrder.Layers[i].Tokens) {
					t.Errorf("%s, %d copies, layer %d: experts get %v, in order %v", name, copies, i, l.Tokens, inOrder.Layers[i].Tokens)
				}
			}
			if sum != 0 {
				t.Errorf("%s, %d copies: the ranks compute %d slots more than the experts get", name, copies, sum)
			}
			for i := range r.Ranks {
				if extra := r.Ranks[i].Read - inOrder.Ranks[i].Read; extra != int64(max(copies, 0))*each {
					t.Errorf("%s, %d copies: rank %d reads %d bytes more than in order, of experts of %d", name, copies, i, extra, each)
				}
			}
		}
		if near := mean + mean/10; busiest[0] <= busiest[1] || busiest[2] >= near || busiest[3] >= near || name == "mixtral" && busiest[2] >= busiest[1] {
			t.Errorf("%s: the busiest rank computes %d slots in order, placed, with one copy and with two; the mean is %d", name, busiest, mean)
		}
	}
}

// anyPlacement packs the experts of layers with so many each for loads at random, with up to so many copies on a rank.
func anyPlacement(t testing.TB, layers []int, layout *comm.Layout, copies int) string {
	t.Helper()
	random, p := rand.New(rand.NewPCG(17, uint64(copies))), shard.Placement{Format: 1}
	for layer, experts := range layers {
		for _, x := range layout.Experts {
			if x.Experts != experts {
				continue
			}
			loads := make([]int64, x.Experts)
			for e := range loads {
				loads[e] = random.Int64N(1000)
			}
			ranks, err := shard.Pack(loads, x.EP, min(copies, x.Experts-x.Experts/x.EP))
			if err != nil {
				t.Fatal(err)
			}
			p.Layers = append(p.Layers, shard.LayerExpert{Layer: layer, Ranks: ranks})
		}
	}
	return writePlacement(t, p)
}

func writePlacement(t testing.TB, p shard.Placement) string {
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
	for says, p := range map[string]shard.Placement{
		"layer 0 is for ep 4, and ep is 2":                        of([]int{0, 1}, []int{2, 3}, []int{4, 5}, []int{6, 7}),
		"layer 0 has 4 experts there and 8 in the model":          of([]int{0, 1}, []int{2, 3}),
		"layer 0 is not in it":                                    {Format: 1},
		"layer 2 of the model has no experts":                     {Format: 1, Layers: append(of([]int{0, 1, 2, 3}, []int{4, 5, 6, 7}).Layers, shard.LayerExpert{Layer: 2, Ranks: [][]int{{0}}})},
		"rank 1: expert 4 is out of order, or there twice":        of([]int{0, 1, 2, 3}, []int{4, 4, 6, 7}),
		"no rank holds expert 3":                                  of([]int{0, 1, 2, 4}, []int{4, 5, 6, 7}),
		"rank 1 holds 4 experts, rank 0 5; all hold equally many": of([]int{0, 1, 2, 3, 4}, []int{4, 5, 6, 7}),
	} {
		if err := run(writePlacement(t, p)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want a refusal that says %q", err, says)
		}
	}
	if err := run(filepath.Join(t.TempDir(), "none.json")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRefused) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestPlacementsThatDiffer: two ranks that read other placements under one name are refused before rows go astray.
func TestPlacementsThatDiffer(t *testing.T) {
	halves := [][]int{{0, 1, 2, 3}, {4, 5, 6, 7}}
	files := make([]string, 2)
	for i := range files {
		p := shard.Placement{Format: 1}
		for layer := range 2 {
			p.Layers = append(p.Layers, shard.LayerExpert{Layer: layer, Ranks: [][]int{halves[i], halves[1-i]}})
		}
		files[i] = writePlacement(t, p)
	}
	input := layoutRows(t, 150, 4)
	err := mpi.Run(2, func(w mpi.World) error {
		j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", "mixtral"), input)
		j.EP, j.ExpertPlacement = 2, files[w.Rank()]
		e := &Engine{job: j, world: w}
		return errors.Join(e.prepare(t.Context()), e.Close())
	})
	if !errors.Is(err, comm.ErrUnlike) || !strings.Contains(err.Error(), `in expert placement by layer ("map[0:[[4 5 6 7] [0 1 2 3]]`) {
		t.Error(err)
	}
}
