package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/plan"
	"github.com/dsbatch/dsbatch/stats"
)

// mostForeseen is the most ranks that are laid out in this process.
const mostForeseen = 4096

// planFlags are those of plan beside run's.
type planFlags struct {
	ranks, prompt, replicas int
	gpu, placement, ceiling string
	table                   bool
}

func planCommand() *cli.Command {
	values := config.Values{}
	var f planFlags
	const category = "Plan"
	own := []cli.Flag{
		&cli.IntFlag{Name: "gpus", Category: category, Destination: &f.ranks, Value: 1, Usage: "`N` GPUs, a rank each (with --gpu cpu: hosts like this one)"},
		&cli.StringFlag{Name: "gpu", Category: category, Destination: &f.gpu, Value: "cpu", Usage: "`WHICH` of h100, h200, a100 and cpu"},
		&cli.StringFlag{Name: "ceilings", Category: category, Destination: &f.ceiling, Usage: "`OUTPUT` of a run of a minute or more on such GPUs: predict with what it measured there, not with the data sheet"},
		&cli.BoolFlag{Name: "table", Category: category, Destination: &f.table, Usage: "the ranks of every group"},
		&cli.IntFlag{Name: "prompt-tokens", Category: category, Destination: &f.prompt, DefaultText: "those of some rows of the input", Usage: "`N` tokens of a prompt, on average"},
		&cli.StringFlag{Name: "placement", Category: category, Destination: &f.placement, Usage: "write a `FILE` for run --expert-placement, from the statistics of a run: --placement FILE from OUTPUT"},
		&cli.IntFlag{Name: "replicas", Category: category, Destination: &f.replicas, Usage: "with --placement: `N` experts more on each rank, copies of the hottest, which share their tokens"},
	}
	return &cli.Command{
		Name: "plan", ArgsUsage: "[from OUTPUT]", Usage: "say how a run would be laid out, its memory, and how long it takes at best, without running it",
		Description: "Takes every flag of dsbatch run. What run would refuse is refused here.\n\nEXIT STATUS\n0 it would work; 64 bad usage; 65 bad input data; 66 missing input; 78 bad configuration.",
		Flags:       append(own, jobFlags(values)...),
		Action: func(c *cli.Context) error {
			if f.placement != "" {
				return writePlacement(c, values, f)
			}
			if c.Args().Present() {
				return usageErrorf("dsbatch plan takes an argument with --placement only, and got %q", c.Args().First())
			}
			job, err := loadJob(values, c.App.ErrWriter)
			if err != nil {
				return err
			}
			return foresee(c, job, f)
		},
	}
}

// foresee prints layout, memory and prediction.
func foresee(c *cli.Context, job *config.Job, f planFlags) error {
	switch {
	case job.Given("ranks"):
		return usageErrorf("--ranks counts ranks inside one process; say how many there shall be with --gpus")
	case f.ranks < 1 || f.ranks > mostForeseen:
		return usageErrorf("--gpus %d is out of range; use 1 to %d", f.ranks, mostForeseen)
	case f.prompt < 0:
		return usageErrorf("--prompt-tokens %d is out of range; use a number at least 1", f.prompt)
	}
	machine, err := planMachine(f.gpu)
	if err != nil {
		return err
	}
	hosts := engine.Hosts{Ranks: f.ranks, Nodes: (f.ranks + machine.Node - 1) / machine.Node, Memory: machine.Memory, GPU: machine.GPU, Version: version}
	x, err := engine.Foresee(c.Context, job, hosts)
	if err != nil {
		return err
	}
	if f.prompt >= x.Window {
		return usageErrorf("--prompt-tokens %d: the model's window has %d tokens, for prompt and output together", f.prompt, x.Window)
	}
	if f.ceiling != "" {
		if machine, err = measuredBy(f.ceiling, f.gpu, machine, x.DType); err != nil {
			return err
		}
	}
	tellLayout(c.App.Writer, x, machine, f)
	l, fullest := x.Planned(machine)
	tellMemory(c.App.Writer, fullest)
	tellWaiting(c.App.Writer, x, fullest, machine)
	return predict(c, job, hosts, x, l, machine, f)
}

// tellLayout prints the model, and how its ranks share it out.
func tellLayout(w io.Writer, x *engine.Forecast, machine plan.Machine, f planFlags) {
	fmt.Fprintf(w, "model      %s, %d layers, %v weights, %.3g parameters at work for a token\n", x.Config.Family, x.Config.Layers, x.DType, plan.Active(&x.Config))
	for _, part := range x.Block {
		fmt.Fprintf(w, "block      %s\n", part)
	}
	fmt.Fprintf(w, "layout     %d × %s: tp %d, pp %d, dp %d", f.ranks, machine.Name, x.Layout.TP, x.Layout.PP, x.Layout.DP)
	for _, e := range x.Layout.Experts {
		fmt.Fprintf(w, "; %d experts over ep %d, es %d", e.Experts, e.EP, e.ES)
	}
	fmt.Fprintln(w)
	if f.table {
		for _, row := range x.Layout.Table() {
			fmt.Fprintf(w, "           %s (%s): %v\n", row.Name, row.What, row.Groups)
		}
	}
}

func tellMemory(w io.Writer, fullest engine.RankForecast) {
	about := func(n int64) string { return config.Bytes(n).About() }
	fmt.Fprintf(w, "memory     of the fullest rank: weights %s, workspace %s for steps of %d tokens, tokens of other ranks %s, KV %s (%d tokens), of %s\n",
		about(fullest.Weights), about(fullest.Workspace), fullest.Tokens, about(fullest.Exchange), about(fullest.KV), fullest.KV/max(1, fullest.TokenKV), about(fullest.Room))
}

// tellWaiting says what of the weights waits in the hosts' memory, and what a host needs for it.
func tellWaiting(w io.Writer, x *engine.Forecast, fullest engine.RankForecast, machine plan.Machine) {
	var most, here int64
	for i := range x.Ranks {
		if i%machine.Node == 0 {
			here = 0
		}
		here += x.Ranks[i].Waiting
		most = max(most, here)
	}
	if most > 0 {
		fmt.Fprintf(w, "host       %d of the fullest rank's %d layers, %s, wait in its host's memory for their turn; those of all ranks of a host take %s of it, pinned\n",
			fullest.Offloaded, fullest.Layers, config.Bytes(fullest.Waiting).About(), config.Bytes(most).About())
	}
}

// predict prints rates and times of a layout, what other layouts would bring, and what all that assumes.
func predict(c *cli.Context, job *config.Job, hosts engine.Hosts, x *engine.Forecast, l plan.Layout, machine plan.Machine, f planFlags) error {
	w := c.App.Writer
	load, from := x.Input.Load, fmt.Sprintf("in %d rows of the input", x.Input.Sampled)
	if f.prompt > 0 {
		load.Prompt, from = float64(f.prompt), "as --prompt-tokens says"
	}
	if x.Input.Bad > 0 {
		fmt.Fprintf(w, "input      %d of %d rows that were looked at would be set aside; the first: %s\n", x.Input.Bad, x.Input.Sampled, x.Input.Reason)
	}
	generated := ""
	if load.Output > 0 {
		generated = fmt.Sprintf("; rows that generate all they may, %.4g tokens", load.Output)
	}
	p, err := plan.Predict(&x.Config, l, machine, load)
	if errors.Is(err, plan.ErrFigures) {
		fmt.Fprintln(w, "predicted  nothing: this build cannot measure what the machine can do")
		return nil
	} else if err != nil {
		return err
	}
	output := ""
	if load.Output > 0 {
		output = fmt.Sprintf("%.3g output tokens/s and ", p.OutputRate)
	}
	fmt.Fprintf(w, "predicted  at best %s%.3g prompt tokens/s in all; %v for %d rows, loading left out\n", output, p.PromptRate, rounded(p.Seconds), load.Rows)
	if load.Output > 0 {
		bringing := ""
		if p.Bus > 0 {
			bringing = fmt.Sprintf(", or bringing weights over the bus %.3g", 1e3*p.Bus)
		}
		fmt.Fprintf(w, "           a decode step of %.3g rows a replica takes %.3g ms: reading %.3g, or computing %.3g%s, and exchanging %.3g\n",
			p.InFlight, 1e3*p.Step, 1e3*p.Memory, 1e3*p.Compute, bringing, 1e3*p.Exchange)
	}
	if err := tellOtherwise(c, job, hosts, x, machine, load, p.Seconds); err != nil {
		return err
	}
	bus := ""
	if p.Bus > 0 {
		bus = fmt.Sprintf(", %.3g GB/s from the host's memory", machine.Bus/1e9)
	}
	fmt.Fprintf(w, "assumed    a roofline of %s figures: %.3g GB/s, %.3g TFLOP/s%s; prompts of %.4g tokens on average, %s%s; even experts; all weights read every step\n",
		machine.From, machine.Read/1e9, machine.FLOPs[x.DType]/1e12, bus, load.Prompt, from, generated)
	return nil
}

// tellOtherwise says, where experts are replicated, what slicing them would give, and the other way round.
func tellOtherwise(c *cli.Context, job *config.Job, hosts engine.Hosts, x *engine.Forecast, machine plan.Machine, load plan.Load, seconds float64) error {
	other := engine.Otherwise(job, x.Layout)
	if other == nil {
		return nil
	}
	flag := "--es auto, experts in slices instead of replicas"
	if other.ES == 1 {
		flag = "--es 1, replicas of whole experts"
	}
	y, err := engine.Foresee(c.Context, other, hosts)
	if errors.Is(err, engine.ErrRefused) {
		_, err = fmt.Fprintf(c.App.Writer, "otherwise  %s: %v\n", flag, err)
		return err
	} else if err != nil {
		return nil // as with an output that was begun so
	}
	l, fullest := y.Planned(machine)
	p, err := plan.Predict(&y.Config, l, machine, load)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "otherwise  %s: weights %s, and %v for all rows, %.3g times as long\n",
		flag, config.Bytes(fullest.Weights).About(), rounded(p.Seconds), p.Seconds/seconds)
	return err
}

// rounded is a time of so many seconds with as many digits as are worth reading.
func rounded(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Microsecond)
	if d > time.Second {
		d = d.Round(time.Millisecond)
	}
	return d
}

// planMachine is what is planned for: a GPU's data sheet, or this host as it is measured.
func planMachine(name string) (plan.Machine, error) {
	if name != "cpu" {
		m, err := plan.GPU(name)
		if err != nil {
			return m, usageErrorf("%v", err)
		}
		return m, nil
	}
	d, err := cpu.New(cpu.Options{})
	if err != nil {
		return plan.Machine{}, err
	}
	free, _ := d.Memory()
	m := plan.Machine{Name: "this host", Memory: free, Link: 5e9, Wire: 5e9, Node: 1, From: "measured", FLOPs: map[kernels.DType]float64{}}
	if m.Read, err = d.PeakRead(); err == nil {
		for _, t := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8} {
			m.FLOPs[t] = d.PeakProducts(t)
		}
	}
	return m, d.Close()
}

// measuredBy is the machine with the ceilings that the ranks of a run have measured, the least of them.
func measuredBy(output, gpu string, m plan.Machine, d kernels.DType) (plan.Machine, error) {
	report, err := stats.ReadReport(output)
	if err != nil {
		return m, err
	}
	if report.DType != d.String() {
		return m, usageErrorf("--ceilings %s: it measured %s products, and this job's weights are %v; name a run of that --dtype", output, report.DType, d)
	}
	var least stats.Ceilings
	for i := range report.Ranks {
		x := report.Ranks[i].Machine
		if x.Peak.FLOPs <= 0 || x.Peak.Bytes <= 0 {
			return m, usageErrorf("--ceilings %s: rank %d was too short at work to measure anything; name a run of a minute or more", output, i)
		}
		if !strings.Contains(strings.ToLower(x.Device), gpu) {
			return m, usageErrorf("--ceilings %s: rank %d ran on %s, which is no %s; name a run on one, or say --gpu", output, i, x.Device, gpu)
		}
		if i == 0 || x.Peak.FLOPs < least.FLOPs {
			least.FLOPs = x.Peak.FLOPs
		}
		if i == 0 || x.Peak.Bytes < least.Bytes {
			least.Bytes = x.Peak.Bytes
		}
		if i == 0 || x.Peak.Bus < least.Bus {
			least.Bus = x.Peak.Bus
		}
	}
	return m.Measured(d, least.FLOPs, least.Bytes, least.Bus), nil
}

// writePlacement is plan --placement FILE from OUTPUT; without FILE it is OUTPUT/placement.json.
func writePlacement(c *cli.Context, values config.Values, f planFlags) error {
	args, file := c.Args().Slice(), f.placement
	switch {
	case len(args) == 2 && args[0] == "from":
		args = args[1:]
	case len(args) == 1 && file == "from":
		file = filepath.Join(args[0], "placement.json")
	default:
		return usageErrorf("say whose statistics: dsbatch plan --placement FILE from OUTPUT")
	}
	job, _, err := config.Load(values)
	if err != nil {
		return err
	}
	report, err := stats.ReadReport(args[0])
	if err != nil {
		return err
	}
	var layers []plan.Tokens
	asThere := !c.IsSet("gpus") && !job.Given("pp")
	for i := range report.Layers {
		x := plan.Tokens{Layer: report.Layers[i].Layer.Layer, Experts: report.Layers[i].Tokens}
		if asThere {
			x.EP = report.Layers[i].EP
		}
		layers = append(layers, x)
	}
	if len(layers) == 0 {
		return usageErrorf("%s: no layer with experts ran there", args[0])
	}
	ranks := len(report.Ranks)
	if c.IsSet("gpus") {
		ranks = f.ranks
	}
	p, evened, err := plan.Place(layers, ranks/max(job.PP, 1), job.EP, f.replicas)
	if err != nil {
		return usageErrorf("%v", err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o666); err != nil {
		return err
	}
	return tellPlacement(c.App.Writer, file, evened)
}

func tellPlacement(w io.Writer, file string, evened []plan.Evened) error {
	for _, x := range evened {
		fmt.Fprintf(w, "layer %d: %d experts over ep %d, %d on each rank: the busiest rank has %.2f times the mean in order, %.2f placed\n",
			x.Layer, x.Experts, x.EP, x.Held, x.Before, x.After)
	}
	_, err := fmt.Fprintf(w, "%s is for run --expert-placement\n", file)
	return err
}
