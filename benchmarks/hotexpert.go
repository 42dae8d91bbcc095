package benchmarks

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// hotShape is a small model of 8 experts, of which a token takes one.
var hotShape = Shape{Hidden: 512, Layers: 2, Heads: 8, Experts: 8, Active: 1, FFN: 1024, Vocab: 8192, Window: 1024}

// hotName is the name by which ScalingOptions.Only chooses it, hotRowsEach the rows of a rank where nothing is said of them.
const (
	hotName     = "random, 8 experts, one of them hot, score"
	hotRowsEach = 256
)

// hotExpert scores rows of which three tokens in four are one and the same, so that one expert of a layer gets most of
// them: with experts in order over the ranks, packed by what they got, and with a copy of the hottest on each rank.
func (s *scaling) hotExpert(ctx context.Context) (Group, error) {
	g := Group{Name: fmt.Sprintf("%s on %d ranks", hotName, s.o.Ranks),
		Note: "tokens a second; one expert for each token, three tokens in four are the same"}
	model, input, sample := filepath.Join(s.folder, "hot"), filepath.Join(s.folder, "hot.jsonl"), filepath.Join(s.folder, "sample")
	if err := os.Mkdir(model, 0o755); err != nil {
		return g, err
	}
	if err := RandomModel(model, hotShape, 1); err != nil {
		return g, err
	}
	rows := cmp.Or(s.o.Rows, hotRowsEach)
	if err := hotRows(input, s.o.Ranks*rows); err != nil {
		return g, err
	}
	args := []string{"run", "--model", model, "--task", "score", "--threads", "1", "--ids-column", "ids", "--ep", strconv.Itoa(s.o.Ranks)}
	launch, err := newLauncher(s.o.Ranks, "core")
	if err != nil {
		return g, err
	}
	if _, err := launch.run(ctx, s.o.Program, append(args[:len(args):len(args)], "--input", input, "--output", sample)...); err != nil {
		return g, err
	}
	alone, err := newLauncher(1, "core")
	if err != nil {
		return g, err
	}
	ways := []struct {
		name   string
		args   []string
		rounds []round
	}{{name: "in order"}, {name: "packed"}, {name: "packed, with a copy on each rank"}}
	for copies := range ways[1:] {
		file := filepath.Join(s.folder, fmt.Sprintf("placement-%d.json", copies))
		if _, err := alone.run(ctx, s.o.Program, "plan", "--placement", file, "from", sample, "--ep", strconv.Itoa(s.o.Ranks), "--replicas", strconv.Itoa(copies)); err != nil {
			return g, err
		}
		ways[1+copies].args = []string{"--expert-placement", file}
	}
	var tokens float64
	for range s.o.Rounds {
		for i := range ways {
			d, err := s.run(ctx, s.o.Ranks, input, rows, append(args[:len(args):len(args)], ways[i].args...))
			if err != nil {
				return g, err
			}
			tokens = d.tokens // of all the same
			ways[i].rounds = append(ways[i].rounds, round{seconds: d.seconds})
		}
	}
	for _, w := range ways {
		g.Figures = append(g.Figures, rate(w.name, "tokens/s", tokens, w.rounds...))
	}
	return g, nil
}

// hotRows writes rows of token ids of which three in four are the same.
func hotRows(path string, rows int) error {
	r := rand.New(rand.NewPCG(4, 4))
	var text []byte
	for range rows {
		ids := make([]int32, scalingPrompt)
		for i := range ids {
			if ids[i] = 7; r.IntN(4) == 0 {
				ids[i] = r.Int32N(int32(hotShape.Vocab))
			}
		}
		line, err := json.Marshal(map[string][]int32{"ids": ids})
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	return os.WriteFile(path, text, 0o600)
}
