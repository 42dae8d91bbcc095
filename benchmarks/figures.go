package benchmarks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
)

// FiguresOptions of Figures.
type FiguresOptions struct {
	Program string   // dsbatch, which measures the scaling of jobs
	Only    []string // names of FigureNames; empty: all
	Shape   string   // a name of FigureShapes; "": small
	Ranks   []int    // ascending; empty: 1, 2, 4, 8 as far as the machine goes
	Device  string   // cpu or cuda; "": cuda where a GPU is found
	Rounds  int      // 0: 3
	// Progress is told of what is about to be measured; nil: nobody is.
	Progress func(string)

	gpus  int // found
	cores int // 0: this host's
	model figureModel
}

// figureModel is a model of the tutorial, whole or scaled, and the work that is measured on it.
type figureModel struct {
	name, says     string
	shape          Shape
	few, many      int // rows of a rank
	prompt, tokens int // of a row
}

// small keeps the proportions of the tutorial's first model at a size that plain operations can be waited for.
const (
	smallSays = "1.3B+MoE-128 (52 billion parameters) scaled down: hidden 128 instead of 2048 (1:16), 12 layers instead of 24 (1:2), vocabulary 1:16; experts of 4 × hidden, 128 in every second layer, one a token, as there"
	largeSays = "random weights in bf16, every second layer with 128 experts, one a token"
)

var figureModels = []figureModel{
	{"small", smallSays, Shape{Family: DSMoE, Hidden: 128, Layers: 12, Heads: 4, Experts: 128, Active: 1, FFN: 512, Vocab: 3144, Window: 256}, 8, 16, 8, 8},
	{"13b", "350M+MoE-128, " + largeSays, Shapes()["ds-13b"], 8, 256, 128, 32},
	{"52b", "1.3B+MoE-128, " + largeSays, Shapes()["ds-52b"], 8, 256, 128, 32},
	{"107b", "2.4B+MoE-128, " + largeSays, Shapes()["ds-107b"], 8, 256, 128, 32},
}

// FigureShapes are the names of the models that figures can be of.
func FigureShapes() (names []string) {
	for _, m := range figureModels {
		names = append(names, m.name)
	}
	return names
}

// The names of the figures.
const (
	inferencePlate = "inference"
	prmoePlate     = "prmoe"
	scalingPlate   = "scaling"
	modelledPlate  = "modelled"
)

// FigureNames are the names of all figures.
func FigureNames() []string { return []string{inferencePlate, prmoePlate, scalingPlate, modelledPlate} }

// FiguresError says what is wrong with the options of Figures.
type FiguresError struct{ text string }

func (e *FiguresError) Error() string { return e.text }

func figuresErrorf(format string, args ...any) error {
	return &FiguresError{fmt.Sprintf(format, args...)}
}

// Check refuses what cannot be measured on this machine, before anything is.
func (o FiguresOptions) Check() error { return o.settle() }

// settle fills in what is not said, and refuses what this machine cannot do.
func (o *FiguresOptions) settle() error {
	for _, name := range o.Only {
		if !slices.Contains(FigureNames(), name) {
			return figuresErrorf("--only %s: there is no such figure; name some of %s", name, strings.Join(FigureNames(), ", "))
		}
	}
	o.Rounds = cmp.Or(o.Rounds, 3)
	if o.model.name == "" {
		name := cmp.Or(o.Shape, figureModels[0].name)
		i := slices.Index(FigureShapes(), name)
		if i < 0 {
			return figuresErrorf("--shape %s: these are known: %s", name, strings.Join(FigureShapes(), ", "))
		}
		o.model = figureModels[i]
	}
	if err := o.settleDevice(); err != nil {
		return err
	}
	most, what := cmp.Or(o.cores, runtime.NumCPU()), "cores, and a rank takes one"
	if o.Device == "cuda" {
		most, what = o.gpus, "GPUs, and a rank takes one"
	}
	if len(o.Ranks) == 0 {
		for n := 1; n <= min(most, 8); n *= 2 {
			o.Ranks = append(o.Ranks, n)
		}
	}
	o.Ranks = slices.Compact(slices.Sorted(slices.Values(o.Ranks)))
	for _, n := range o.Ranks {
		switch {
		case n < 1 || n > most:
			return figuresErrorf("--ranks %d: this host has %d %s; use 1 to %d", n, most, what, most)
		case o.model.shape.Experts/2%n != 0: // the experts of the PR-MoE's first layers
			return figuresErrorf("--ranks %d: the model's %d and %d experts cannot be shared evenly; use numbers that divide %d", n,
				o.model.shape.Experts/2, o.model.shape.Experts, o.model.shape.Experts/2)
		}
	}
	if o.Device == "cuda" && slices.Contains(o.Only, scalingPlate) {
		return figuresErrorf("--only %s: whole jobs of one core a rank are measured, on a CPU; use --device cpu, or look at %s, whose ranks have as many rows each", scalingPlate, inferencePlate)
	}
	return nil
}

func (o *FiguresOptions) settleDevice() error {
	var err error
	if o.gpus, err = cuda.Count(); err == nil && o.gpus == 0 {
		err = errors.New("no GPU is visible; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
	}
	switch {
	case o.Device == "" && err == nil:
		o.Device = "cuda"
	case o.Device == "":
		o.Device = "cpu"
	case o.Device == "cuda" && err != nil:
		return fmt.Errorf("%w: --device cuda: %w; use --device cpu, or see dsbatch doctor", engine.ErrRefused, err)
	case o.Device != "cpu" && o.Device != "cuda":
		return figuresErrorf("--device %s: figures are measured on cpu or cuda", o.Device)
	}
	return nil
}

// FigureSet is what figures.json holds: all that was measured, from which the figures are drawn.
type FigureSet struct {
	Format  int       `json:"format"` // 1
	Command string    `json:"command"`
	Version string    `json:"version"` // with the commit, where the build knows it
	Time    time.Time `json:"time"`
	Machine Machine   `json:"machine"`
	Peaks   Group     `json:"peaks"` // of the machine, looked at beside every round
	Plates  []Plate   `json:"figures"`
	LeftOut []string  `json:"left_out,omitempty"` // what is missing, and why
}

// figureFormat is the format of figures.json that this version writes and reads.
const figureFormat = 1

// figures measures.
type figures struct {
	o       FiguresOptions
	set     *FigureSet
	looks   []*ceilings   // of a CPU, one a rank
	lookers []*cpu.Device // that look
	weights map[Shape]*Weights
	device  string
}

// Figures measures the figures of DeepSpeed-MoE's inference tutorial on this machine: one model run by plain operations on
// one rank, by plain operations with its experts shared out, and by fused kernels; a standard MoE and a PR-MoE; whole jobs
// on more and more ranks; and what the planner predicts for more GPUs than are here. Machine, Command and Version are the
// caller's to fill in.
func Figures(ctx context.Context, o FiguresOptions) (set *FigureSet, err error) {
	if err := o.settle(); err != nil {
		return nil, err
	}
	f := &figures{o: o, set: &FigureSet{Format: figureFormat, Time: time.Now()}, weights: map[Shape]*Weights{}}
	defer func() {
		for i, c := range f.looks {
			c.close()
			err = errors.Join(err, f.lookers[i].Close())
		}
	}()
	f.set.Machine = ThisMachine("") // its load before the work
	for _, p := range []struct {
		name string
		make func(context.Context) (Plate, error)
	}{{inferencePlate, f.inference}, {prmoePlate, f.prmoe}, {scalingPlate, f.scaling}, {modelledPlate, f.modelled}} {
		if len(o.Only) > 0 && !slices.Contains(o.Only, p.name) {
			continue
		}
		plate, err := p.make(ctx)
		if err != nil {
			return nil, fmt.Errorf("figure %s: %w", p.name, err)
		}
		if len(plate.Points) > 0 {
			plate.Name = p.name
			f.set.Plates = append(f.set.Plates, plate)
		}
	}
	if f.set.Machine.Device = f.device; f.device == "" {
		f.set.Machine.Device = o.Device
	}
	if len(f.looks) > 0 {
		f.set.Peaks = f.looks[0].group()
		f.set.Peaks.Note += "; those of one rank, while all others are looked at too"
	}
	return f.set, nil
}

func (f *figures) progress(format string, args ...any) {
	if f.o.Progress != nil {
		f.o.Progress(fmt.Sprintf(format, args...))
	}
}

func (f *figures) leaveOut(format string, args ...any) {
	f.set.LeftOut = append(f.set.LeftOut, fmt.Sprintf(format, args...))
}

// inference is the tutorial's first figure.
func (f *figures) inference(ctx context.Context) (Plate, error) {
	m := f.o.model
	p := Plate{Title: "One MoE model, " + f.barNames() + ", on more and more " + f.places(), Quantities: []Quantity{Latency, Throughput}}
	p.Caption = fmt.Sprintf("%s. %d rows of each rank decode together, after prompts of %d tokens. %s", m.says, m.few, m.prompt, f.barsSay())
	var points []*setup
	for _, n := range f.o.Ranks {
		for _, b := range f.bars() {
			points = append(points, &setup{bar: b, shape: m.shape, ranks: n, rows: m.few,
				point: Point{Group: f.count(n), Bar: b.name, Model: "MoE-Standard"}})
		}
	}
	err := f.measure(ctx, points, &p)
	return p, err
}

// prmoe is the tutorial's second figure.
func (f *figures) prmoe(ctx context.Context) (Plate, error) {
	m := f.o.model
	n := f.o.Ranks[len(f.o.Ranks)-1]
	p := Plate{Title: "MoE-Standard and PR-MoE, " + f.barNames() + ", on " + f.count(n), Quantities: []Quantity{Latency, Throughput}}
	p.Caption = fmt.Sprintf("%s. PR-MoE has half the experts in all layers with some but the last two, and a dense branch beside them in each; the paper (arXiv 2201.05596) found it as good as the standard one, the random weights here say nothing of that. Prompts of %d tokens. %s",
		m.says, m.prompt, f.barsSay())
	residual := m.shape
	residual.Residual = true
	var points []*setup
	for _, rows := range []int{m.few, m.many} {
		for _, model := range []struct {
			name  string
			shape Shape
		}{{"MoE-Standard", m.shape}, {"PR-MoE", residual}} {
			for _, b := range f.bars() {
				points = append(points, &setup{bar: b, shape: model.shape, ranks: n, rows: rows,
					point: Point{Group: fmt.Sprintf("%s, %d rows a rank", model.name, rows), Bar: b.name, Model: model.name}})
			}
		}
	}
	err := f.measure(ctx, points, &p)
	return p, err
}

// scaling is weak scaling of whole jobs.
func (f *figures) scaling(ctx context.Context) (Plate, error) {
	p := Plate{Title: "Whole jobs on more and more ranks, as many rows for each", Quantities: []Quantity{Throughput},
		Caption: fmt.Sprintf("Prompt and output tokens a second of generating jobs (mpirun, a core a rank, %d rows a rank), from their start to the last commit. The share is that of as many times one rank. “Apart” are as many jobs of one rank at once, which share nothing but the machine.", scalingRows)}
	why := ""
	switch {
	case f.o.Device == "cuda":
		why = "whole jobs are measured with a core a rank, on a CPU"
	case f.o.Ranks[len(f.o.Ranks)-1] == 1:
		why = "there is but one rank"
	default:
		if _, err := newLauncher(1, "core"); err != nil {
			why = err.Error()
		}
	}
	if why != "" {
		if len(f.o.Only) > 0 {
			return p, errors.New(why)
		}
		f.leaveOut("figure %s: %s", scalingPlate, why)
		return p, nil
	}
	for _, n := range f.o.Ranks {
		if n == 1 {
			continue
		}
		f.progress("whole jobs on 1 and on %d ranks", n)
		groups, err := Scaling(ctx, ScalingOptions{Program: f.o.Program, Only: "64 experts, generate", Ranks: n, Rounds: f.o.Rounds, Rows: scalingRows})
		if err != nil && len(f.o.Only) == 0 && ctx.Err() == nil { // what the others have measured is kept
			f.leaveOut("figure %s: %v", scalingPlate, err)
			break
		} else if err != nil {
			return p, err
		}
		p.scaled(n, groups[0].Figures)
	}
	return p, nil
}

// scalingRows are those of a rank of the figure's jobs, of a second or two.
const scalingRows = 48

// scaled adds the bars of jobs on n ranks.
func (p *Plate) scaled(n int, figures []Figure) {
	add := func(group, bar, name string, ranks int) {
		i := slices.IndexFunc(figures, func(f Figure) bool { return f.Name == name })
		if i >= 0 {
			p.Points = append(p.Points, Point{Group: group, Bar: bar, Ranks: ranks, Rows: scalingRows, Throughput: &figures[i], Model: "64 experts, 4 a token, hidden 512"})
		}
	}
	if len(p.Points) == 0 {
		add("1 rank", "one job", "1 rank", 1)
	}
	group := fmt.Sprintf("%d ranks", n)
	add(group, "one job", group, n)
	add(group, "apart", fmt.Sprintf("%d jobs of 1 rank, at once", n), n)
}

// temporary gives a folder that is removed after its use.
func temporary(use func(folder string) error) error {
	folder, err := os.MkdirTemp("", "dsbatch-bench-*")
	if err != nil {
		return err
	}
	return errors.Join(use(folder), os.RemoveAll(folder))
}
