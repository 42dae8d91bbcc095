package benchmarks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/plan"
)

// modelledRanks are the GPUs that no host has.
var modelledRanks = []int{8, 16, 32, 64}

// The work of the modelled jobs: rows of a rank, enough that every expert is some token's, as the planner assumes.
const (
	modelledRows   = 64
	modelledPrompt = 128
	modelledTokens = 32
)

// modelled is what the planner predicts, as dsbatch plan does, of GPUs that are not here; and, where GPUs are, of those
// beside what is measured on them.
func (f *figures) modelled(ctx context.Context) (Plate, error) {
	m := f.o.model
	p := Plate{Title: "GPUs that are not here, as the planner foresees them", Quantities: []Quantity{Latency, Throughput}}
	card, flops, read := "h100", 0.0, 0.0
	if f.o.Device == "cuda" {
		if err := f.beside(ctx, &p); err != nil {
			return p, err
		}
		flops, read = f.peak("products"), f.peak("read")
		for _, name := range []string{"h200", "a100"} {
			if strings.Contains(strings.ToLower(f.device), name) {
				card = name
			}
		}
	} else {
		m = figureModels[2] // the tutorial's own; the small one is for a CPU
	}
	machine, err := plan.GPU(card)
	if err != nil {
		return p, err
	}
	if flops > 0 && read > 0 {
		machine = machine.Measured(kernels.BF16, flops, read, 0)
	}
	p.Caption = fmt.Sprintf("%s, %d rows of each GPU decode together after prompts of %d tokens, experts shared out. Modelled: a roofline of a %s (%s: %.3g TB/s, %.3g TFLOP/s), %d GPUs a node, links of %.3g GB/s in a node and %.3g between nodes, as dsbatch plan predicts; no job is faster than that, and none of these was run.",
		m.says, modelledRows, modelledPrompt, strings.ToUpper(card), machine.From, machine.Read/1e12, machine.FLOPs[kernels.BF16]/1e12, machine.Node, machine.Link/1e9, machine.Wire/1e9)
	ranks := modelledRanks
	if f.o.Device == "cuda" {
		for i := len(f.o.Ranks) - 1; i >= 0; i-- {
			if f.o.Ranks[i] < modelledRanks[0] {
				ranks = append([]int{f.o.Ranks[i]}, ranks...)
			}
		}
	}
	residual := m.shape
	residual.Residual = true
	for _, model := range []struct {
		name  string
		shape Shape
	}{{"MoE-Standard", m.shape}, {"PR-MoE", residual}} {
		f.progress("%s: %s", p.Title, model.name)
		err := temporary(func(folder string) error {
			if err := hollowJob(folder, model.shape); err != nil {
				return err
			}
			for _, n := range ranks {
				point, err := foreseen(ctx, folder, n, machine)
				if err != nil {
					return err
				}
				if point == nil {
					f.leaveOut("%s, %s, %d GPUs: it does not fit their memory", p.Title, model.name, n)
					continue
				}
				point.Model, point.Bar = model.name, model.name
				p.Points = append(p.Points, *point)
			}
			return nil
		})
		if err != nil {
			return p, err
		}
	}
	p.sort()
	return p, nil
}

// beside measures, on the GPUs that are here, what is modelled of them.
func (f *figures) beside(ctx context.Context, p *Plate) error {
	var points []*setup
	bars := f.bars()
	for _, n := range f.o.Ranks {
		points = append(points, &setup{bar: bars[len(bars)-1], shape: f.o.model.shape, ranks: n, rows: modelledRows,
			point: Point{Group: f.count(n), Bar: "MoE-Standard", Model: "MoE-Standard"}})
	}
	return f.measure(ctx, points, p)
}

// peak is a measured ceiling of the GPU; 0: none was measured.
func (f *figures) peak(name string) float64 {
	for _, x := range f.set.Peaks.Figures {
		if strings.Contains(x.Name, name) {
			return x.Value * 1e9
		}
	}
	return 0
}

// hollowJob writes a model without weights, and an input of as many tokens a row as the modelled jobs have.
func hollowJob(folder string, s Shape) error {
	if err := HollowModel(folder, s); err != nil {
		return err
	}
	line, err := json.Marshal(map[string][]int32{"ids": make([]int32, modelledPrompt)})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "rows.jsonl"), append(line, '\n'), 0o600)
}

// foreseen is the planner's prediction for n GPUs; nil: it finds that the model does not fit.
func foreseen(ctx context.Context, folder string, n int, machine plan.Machine) (*Point, error) {
	job := config.New()
	job.Model, job.Input, job.IDsColumn, job.PromptColumn = folder, []string{filepath.Join(folder, "rows.jsonl")}, "ids", ""
	job.Output, job.MaxNewTokens, job.MaxSeqs = filepath.Join(folder, "out"), modelledTokens, modelledRows
	x, err := engine.Foresee(ctx, job, engine.Hosts{Ranks: n, Nodes: (n + machine.Node - 1) / machine.Node, Memory: machine.Memory, GPU: true})
	if errors.Is(err, engine.ErrRefused) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	layout, fullest := x.Planned(machine)
	load := plan.Load{Rows: int64(n * modelledRows), Prompt: modelledPrompt, Output: modelledTokens}
	p, err := plan.Predict(&x.Config, layout, machine, load)
	if err != nil {
		return nil, err
	}
	of := func(unit string, value float64) *Figure {
		figure := plain("modelled", unit, value)
		figure.Rounds, figure.Fraction, figure.By = []float64{value}, 1, "modelled"
		return &figure
	}
	exchange := 0.0
	if p.Step > 0 {
		exchange = p.Exchange / p.Step
	}
	return &Point{Group: count("GPU", n), Modelled: true, Ranks: n, Rows: modelledRows, Weights: float64(fullest.Weights),
		Exchange: exchange, Latency: of("ms", 1e3*p.Step), Throughput: of("tokens/s", p.OutputRate)}, nil
}
