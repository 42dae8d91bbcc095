package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/benchmarks"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/mpi"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure this machine and what dsbatch reaches of it",
		Subcommands: []*cli.Command{benchKernelsCommand(), benchEngineCommand(), benchIOCommand(), benchCommCommand(),
			benchScalingCommand(), benchFiguresCommand()},
	}
}

var jsonFlag = &cli.BoolFlag{Name: "json", Usage: "print JSON for programs, not a table"}

func benchKernelsCommand() *cli.Command {
	return &cli.Command{
		Name: "kernels", Usage: "every op at sizes of real models, beside the machine's measured peak",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "device", Value: "cpu", Usage: "`cpu|cuda`"},
			&cli.IntFlag{Name: "threads", Usage: "`N` threads of a CPU (0: every core)"},
			&cli.StringFlag{Name: "only", Usage: "groups of ops whose names contain `TEXT`"},
			jsonFlag,
		},
		Action: func(c *cli.Context) (err error) {
			d, err := benchDevice(c.String("device"), c.Int("threads"))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			r := newReport(d.Name())
			if r.Groups, err = benchmarks.Kernels(c.Context, d, benchmarks.KernelOptions{Only: c.String("only")}); err != nil {
				return err
			}
			return printBench(c, r)
		},
	}
}

func benchDevice(name string, threads int) (kernels.Device, error) {
	switch name {
	case "cpu":
		return cpu.New(cpu.Options{Threads: threads})
	case "cuda":
		return cuda.New(cuda.Options{})
	}
	return nil, usageErrorf("--device %q: ops are measured on cpu or cuda", name)
}

func benchEngineCommand() *cli.Command {
	shape := benchmarks.DefaultShape()
	values := config.Values{}
	flags := []cli.Flag{
		&cli.StringFlag{Name: "prefill", Value: "8x512", Usage: "batches of prompts as `ROWSxTOKENS`,…"},
		&cli.StringFlag{Name: "decode", Value: "1,8,32,128", Usage: "`ROWS`,… that generate together"},
		&cli.StringFlag{Name: "generate", Usage: "whole jobs of prompts and new tokens as `ROWSxTOKENS`,…"},
		&cli.StringFlag{Name: "score", Usage: "whole jobs of texts as `ROWSxTOKENS`,…"},
		&cli.IntFlag{Name: "prompt", Value: 128, Usage: "`TOKENS` of a prompt that is continued"},
		&cli.IntFlag{Name: "tokens", Value: 32, Usage: "`TOKENS` that a row generates of --decode"},
		&cli.IntFlag{Name: "rounds", Value: 3, Usage: "repetitions `N`"},
		&cli.BoolFlag{Name: "load", Value: true, Usage: "measure loading too"},
		&cli.StringFlag{Name: "shape", Usage: "random weights of a known `MODEL`'s shape, which no file is written for: " + strings.Join(shapeNames(), ", ")},
		jsonFlag,
	}
	for _, f := range []struct {
		name, usage string
		to          *int
	}{
		{"hidden", "hidden size", &shape.Hidden}, {"layers", "layers", &shape.Layers}, {"heads", "attention heads", &shape.Heads},
		{"experts", "experts a layer", &shape.Experts}, {"active", "experts a token", &shape.Active},
		{"ffn", "ffn size of an expert", &shape.FFN}, {"vocab", "vocabulary", &shape.Vocab}, {"window", "most positions", &shape.Window},
	} {
		flags = append(flags, &cli.IntFlag{Name: f.name, Category: "the random model, where no --model is given",
			Value: *f.to, Destination: f.to, Usage: f.usage})
	}
	for _, f := range jobFlags(values) {
		switch f.Names()[0] {
		case "model", "tag", "device", "dtype", "threads", "max-batch-tokens", "max-seqs", "kv-memory", "offload", "offload-layers", "reference", "ranks", "ep", "tp", "es":
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name: "engine", Usage: "loading, prefill and decoding of a model, by default one of random weights",
		Flags: flags,
		Action: func(c *cli.Context) (err error) {
			o := benchmarks.EngineOptions{Prompt: c.Int("prompt"), Tokens: c.Int("tokens"), Rounds: c.Int("rounds"),
				Load: c.Bool("load")}
			for name, to := range map[string]*[]benchmarks.Batch{"prefill": &o.Prefill, "generate": &o.Jobs, "score": &o.Score} {
				if *to, err = parseBatches(c, name); err != nil {
					return err
				}
			}
			if o.Decode, err = parseCounts(c, "decode", "numbers of rows, as 1,8,32"); err != nil {
				return err
			}
			if o.Job, _, err = config.Load(values); err != nil {
				return err
			}
			if name := c.String("shape"); name != "" {
				known, ok := benchmarks.Shapes()[name]
				if !ok {
					return usageErrorf("--shape %q: these are known: %s", name, strings.Join(shapeNames(), ", "))
				}
				if o.Weights, err = benchmarks.NewWeights(name, known, 1); err != nil {
					return err
				}
			} else if o.Job.Model == "" {
				folder, err := os.MkdirTemp("", "dsbatch-bench-*")
				if err != nil {
					return err
				}
				defer os.RemoveAll(folder) //nolint:errcheck // a temporary folder
				if err := benchmarks.RandomModel(folder, shape, 1); err != nil {
					return err
				}
				o.Job.Model = folder
			}
			r := newReport("")
			err = onWorld(o.Job, func(w mpi.World) error {
				groups, device, err := benchmarks.Engine(c.Context, w, o)
				if w.Rank() == 0 {
					r.Groups, r.Machine.Device = groups, device
				}
				return err
			})
			if err != nil {
				return err
			}
			return printBench(c, r)
		},
	}
}

func shapeNames() []string { return slices.Sorted(maps.Keys(benchmarks.Shapes())) }

// parseBatches reads a list such as 8x512,1x512.
func parseBatches(c *cli.Context, flag string) (batches []benchmarks.Batch, err error) {
	for _, text := range strings.FieldsFunc(c.String(flag), isComma) {
		r, t, _ := strings.Cut(text, "x")
		rows, errRows := strconv.Atoi(r)
		tokens, errTokens := strconv.Atoi(t)
		if errRows != nil || errTokens != nil || rows < 1 || tokens < 1 {
			return nil, usageErrorf("--%s %q: give ROWSxTOKENS, as 8x512", flag, text)
		}
		batches = append(batches, benchmarks.Batch{Rows: rows, Tokens: tokens})
	}
	return batches, nil
}

// parseCounts reads a list such as 1,8 of what is named.
func parseCounts(c *cli.Context, flag, what string) (counts []int, err error) {
	for _, text := range strings.FieldsFunc(c.String(flag), isComma) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, usageErrorf("--%s %q: give %s", flag, text, what)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

func isComma(r rune) bool { return r == ',' }

func benchIOCommand() *cli.Command {
	return &cli.Command{
		Name: "io", Usage: "rows from Parquet to Parquet, and what files cost of a run",
		Flags: []cli.Flag{
			&cli.Int64Flag{Name: "rows", Value: 1_000_000, Usage: "`N` rows"},
			&cli.IntFlag{Name: "bytes", Value: 200, Usage: "`N` bytes of text a row"},
			&cli.StringFlag{Name: "model", Usage: "run this model `FOLDER` too, and tell what reading and writing rows costs of it"},
			&cli.StringFlag{Name: "input", Usage: "data set `FILE` for that run"},
			&cli.StringFlag{Name: "folder", Usage: "where files are written and removed again: `FOLDER` (default: the system's temporary one)"},
			jsonFlag,
		},
		Action: func(c *cli.Context) error {
			folder, err := os.MkdirTemp(c.String("folder"), "dsbatch-bench-*")
			if err != nil {
				return err
			}
			defer os.RemoveAll(folder) //nolint:errcheck // a temporary folder
			r := newReport("")
			o := benchmarks.IOOptions{Folder: folder, Rows: c.Int64("rows"), Bytes: c.Int("bytes"),
				Model: c.String("model"), Input: c.String("input")}
			if r.Groups, err = benchmarks.IO(c.Context, o); err != nil {
				return err
			}
			return printBench(c, r)
		},
	}
}

// counts refuses flags whose number is none to count with.
func counts(c *cli.Context, flags ...string) error {
	for _, flag := range flags {
		if n := c.Int(flag); n < 1 {
			return usageErrorf("--%s %d is out of range; use a number at least 1", flag, n)
		}
	}
	return nil
}

func benchCommCommand() *cli.Command {
	return &cli.Command{
		Name: "comm", Usage: "the exchange of rows between ranks of this host, beside a plain MPI program",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "ranks", Value: 2, Usage: "`N` ranks"},
			&cli.IntFlag{Name: "rounds", Value: 5, Usage: "repetitions `N`"},
			jsonFlag,
		},
		Action: func(c *cli.Context) error {
			if kind, _ := mpi.Launched(); kind != "" { // started by the bench itself, as one of the ranks
				return onWorld(&config.Job{}, func(w mpi.World) error { return benchmarks.CommRank(c.Context, w, c.App.Writer) })
			}
			if err := counts(c, "ranks", "rounds"); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			r := newReport("")
			o := benchmarks.CommOptions{Program: self, Args: []string{"bench", "comm"}, Ranks: c.Int("ranks"), Rounds: c.Int("rounds")}
			if r.Groups, err = benchmarks.Comm(c.Context, o); err != nil {
				return err
			}
			return printBench(c, r)
		},
	}
}

func benchScalingCommand() *cli.Command {
	return &cli.Command{
		Name: "scaling", Usage: "jobs on one rank and on several, of one core each, with as many rows for every rank; and three placements of a hot expert",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "measure this model `FOLDER` too, beside one of random weights"},
			&cli.StringFlag{Name: "input", Usage: "data set `FILE` for that model; its rows are repeated with their words turned where a rank takes more"},
			&cli.StringFlag{Name: "only", Usage: "jobs whose names contain `TEXT`, as \"64 experts, score\""},
			&cli.IntFlag{Name: "ranks", Value: 2, Usage: "`N` ranks"},
			&cli.IntFlag{Name: "rounds", Value: 3, Usage: "repetitions `N`"},
			&cli.IntFlag{Name: "rows", Usage: "`N` rows of a rank (0: as many as take one some 8 s)"},
			jsonFlag,
		},
		Action: func(c *cli.Context) error {
			if (c.String("model") == "") != (c.String("input") == "") {
				return usageErrorf("--model and --input belong together")
			}
			if err := counts(c, "ranks", "rounds"); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			r := newReport("")
			o := benchmarks.ScalingOptions{Program: self, Model: c.String("model"), Input: c.String("input"),
				Only: c.String("only"), Ranks: c.Int("ranks"), Rounds: c.Int("rounds"), Rows: c.Int("rows")}
			if r.Groups, err = benchmarks.Scaling(c.Context, o); err != nil {
				return err
			}
			return printBench(c, r)
		},
	}
}

func benchFiguresCommand() *cli.Command {
	var o benchmarks.FiguresOptions
	var output, from, only, ranks string
	return &cli.Command{
		Name: "figures", Usage: "the figures of DeepSpeed-MoE's inference tutorial on this machine, and the planner's for more GPUs, as pictures and tables",
		Description: "Measures one MoE model by plain operations and by fused kernels on more and more ranks (inference), a standard MoE and a PR-MoE (prmoe), " +
			"and whole jobs (scaling); what is not here the planner predicts (modelled). Writes figures.json (all rounds), a picture (SVG) a figure and figures.html.\n\n" +
			"EXIT STATUS\n0 written; 64 bad usage; 66 no such file; 78 no GPU where one is asked for.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Destination: &output, Usage: "`FOLDER` to write to: a new one, or that of an earlier run (default with --from: where that file lies)"},
			&cli.StringFlag{Name: "only", Destination: &only, Usage: "`NAME`,… of the figures " + strings.Join(benchmarks.FigureNames(), ", ") + " (default: all)"},
			&cli.StringFlag{Name: "shape", Destination: &o.Shape, Value: benchmarks.FigureShapes()[0], Usage: "`MODEL` of random weights: " + strings.Join(benchmarks.FigureShapes(), ", ")},
			&cli.StringFlag{Name: "ranks", Destination: &ranks, Usage: "`N`,… ranks, of a core or a GPU each (default: 1, 2, 4 and 8, as far as the machine goes)"},
			&cli.StringFlag{Name: "device", Destination: &o.Device, Usage: "`cpu|cuda` (default: cuda where a GPU is found)"},
			&cli.IntFlag{Name: "rounds", Destination: &o.Rounds, Value: 3, Usage: "repetitions `N`"},
			&cli.StringFlag{Name: "from", Destination: &from, Usage: "draw again what a figures.json `FILE` holds, without measuring"},
		},
		Action: func(c *cli.Context) (err error) {
			if from != "" {
				for _, flag := range []string{"only", "shape", "ranks", "device", "rounds"} {
					if c.IsSet(flag) {
						return usageErrorf("--%s is of measuring, and --from draws what was measured; leave one of them out", flag)
					}
				}
				set, err := benchmarks.ReadFigures(from)
				if err != nil {
					return err
				}
				return writeFigures(c, set, cmp.Or(output, filepath.Dir(from)))
			}
			if output == "" {
				return usageErrorf("dsbatch bench figures wants --output, the folder to write to")
			}
			if kind, size := mpi.Launched(); kind != "" && size != 1 {
				return usageErrorf("bench figures starts its ranks itself; leave out %s", kind)
			}
			if err := counts(c, "rounds"); err != nil {
				return err
			}
			if o.Ranks, err = parseCounts(c, "ranks", "numbers of ranks, as 1,2,4"); err != nil {
				return err
			}
			o.Only = strings.FieldsFunc(only, isComma)
			if o.Program, err = os.Executable(); err != nil {
				return err
			}
			if err := o.Check(); err != nil {
				return err
			}
			if err := benchmarks.PrepareFigures(output); err != nil {
				return err
			}
			o.Progress = func(text string) { fmt.Fprintln(c.App.ErrWriter, text) }
			set, err := benchmarks.Figures(c.Context, o)
			if err != nil {
				return err
			}
			set.Command, set.Version = strings.Join(os.Args, " "), "dsbatch "+version
			return writeFigures(c, set, output)
		},
	}
}

// writeFigures writes what was measured, and says where.
func writeFigures(c *cli.Context, set *benchmarks.FigureSet, folder string) error {
	if err := benchmarks.PrepareFigures(folder); err != nil {
		return err
	}
	if err := set.Write(folder); err != nil {
		return err
	}
	for _, why := range set.LeftOut {
		fmt.Fprintf(c.App.Writer, "left out: %s\n", why)
	}
	_, err := fmt.Fprintf(c.App.Writer, "figures are drawn in %s\n", filepath.Join(folder, "figures.html"))
	return err
}

func newReport(device string) *benchmarks.Report {
	return &benchmarks.Report{Command: strings.Join(os.Args, " "), Version: "dsbatch " + version, Time: time.Now(),
		Machine: benchmarks.ThisMachine(device)}
}

func printBench(c *cli.Context, r *benchmarks.Report) error {
	if c.Bool("json") {
		return r.JSON(c.App.Writer)
	}
	return r.Table(c.App.Writer)
}
