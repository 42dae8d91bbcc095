package shard

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestPackIsAPlacement packs any loads: every rank holds equally many experts, none twice, every expert is held, and the
// result is read back and never worse than the greedy bound.
func TestPackIsAPlacement(t *testing.T) {
	folder := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		ranks := rapid.IntRange(1, 8).Draw(t, "ranks")
		each := rapid.IntRange(1, 6).Draw(t, "experts a rank")
		loads := rapid.SliceOfN(rapid.Int64Range(0, 1000), ranks*each, ranks*each).Draw(t, "loads")
		replicas := rapid.IntRange(0, len(loads)-each).Draw(t, "replicas")
		held, err := Pack(loads, ranks, replicas)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(Placement{Format: 1, Layers: []LayerExpert{{Layer: 3, Ranks: held}}})
		path := filepath.Join(folder, "placement.json")
		if err := errors.Join(err, os.WriteFile(path, text, 0o644)); err != nil {
			t.Fatal(err)
		}
		p, err := ReadPlacement(path)
		if err != nil {
			t.Fatalf("%v: %v", held, err)
		}
		got, err := p.Layer(3, len(loads), ranks)
		if err != nil || !slices.EqualFunc(got, held, slices.Equal[[]int]) || len(held[0]) != each+replicas {
			t.Fatalf("%v, %v, packed %v", got, err, held)
		}
		if x := Imbalance(loads, held); x > float64(ranks)+1e-9 || x > 0 && x < 1-1e-9 {
			t.Fatalf("imbalance %v of %v", x, held)
		}
	})
}

func TestPackEvensOut(t *testing.T) {
	loads := []int64{80, 70, 60, 50, 4, 3, 2, 1} // in order, four ranks hold 150, 110, 7 and 3
	inOrder := [][]int{{0, 1}, {2, 3}, {4, 5}, {6, 7}}
	held, err := Pack(loads, 4, 0)
	if want := [][]int{{0, 7}, {1, 6}, {2, 5}, {3, 4}}; err != nil || !slices.EqualFunc(held, want, slices.Equal[[]int]) {
		t.Errorf("%v, %v, want %v", held, err, want)
	}
	if before, after := Imbalance(loads, inOrder), Imbalance(loads, held); before != 150/67.5 || after != 81/67.5 {
		t.Errorf("imbalance %v, then %v", before, after)
	}
	one := []int64{97, 1, 1, 1} // no packing helps, replicas do
	alone, err1 := Pack(one, 4, 0)
	shared, err2 := Pack(one, 4, 1)
	if err1 != nil || err2 != nil || Imbalance(one, alone) < 3.8 || Imbalance(one, shared) > 1.1 {
		t.Errorf("imbalance %v alone, %v shared (%v), %v %v", Imbalance(one, alone), Imbalance(one, shared), shared, err1, err2)
	}
	for _, wrong := range [][2]int{{3, 0}, {0, 0}, {4, 7}, {4, -1}} {
		if held, err := Pack(loads, wrong[0], wrong[1]); err == nil {
			t.Errorf("%v accepted: %v", wrong, held)
		}
	}
}

func TestPlacementRefused(t *testing.T) {
	const good = `{"format":1,"layers":[{"layer":1,"ranks":[[0,2],[1,3]]}]}`
	read := func(text string) (*Placement, error) {
		path := filepath.Join(t.TempDir(), "placement.json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return ReadPlacement(path)
	}
	for say, text := range map[string]string{
		"format 2":               strings.Replace(good, `:1,"layers"`, `:2,"layers"`, 1),
		"unknown field":          strings.Replace(good, "ranks", "rank", 1),
		"invalid character":      good[:20] + "}",
		"all hold equally many":  strings.Replace(good, "[1,3]", "[1]", 1),
		"there twice":            strings.Replace(good, "[1,3]", "[3,3]", 1),
		"out of order":           strings.Replace(good, "[1,3]", "[3,1]", 1),
		"no rank holds expert 1": strings.Replace(good, "[1,3]", "[2,3]", 1),
		"a rank without experts": strings.Replace(good, "[[0,2],[1,3]]", "[]", 1),
		"layer -1":               strings.Replace(good, `"layer":1`, `"layer":-1`, 1),
	} {
		if _, err := read(text); !errors.Is(err, ErrPlacement) || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", say, err)
		}
	}
	p, err := read(good)
	if err != nil {
		t.Fatal(err)
	}
	for say, ask := range map[string][3]int{"layer 2 is not in it": {2, 4, 2}, "4 experts there and 8": {1, 8, 2}, "use --ep 2": {1, 4, 4}} {
		if _, err := p.Layer(ask[0], ask[1], ask[2]); !errors.Is(err, ErrPlacement) || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", say, err)
		}
	}
}
