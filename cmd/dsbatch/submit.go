package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/plan"
	"github.com/dsbatch/dsbatch/slurm"
)

func submitCommand() *cli.Command {
	values := config.Values{}
	var s slurm.Script
	var lines verbatim
	var gpu string
	var dry, unchecked bool
	const category = "Slurm"
	own := []cli.Flag{
		&cli.IntFlag{Name: "nodes", Category: category, Destination: &s.Nodes, Value: 1, Usage: "`N` nodes"},
		&cli.IntFlag{Name: "gpus-per-node", Category: category, Destination: &s.GPUsPerNode, Usage: "`N` GPUs of each node, with a rank each"},
		&cli.IntFlag{Name: "ranks-per-node", Category: category, Destination: &s.RanksPerNode, Usage: "`N` ranks on each node (default: one a GPU, else one)"},
		&cli.IntFlag{Name: "cpus-per-rank", Category: category, Destination: &s.CPUsPerRank, Usage: "`N` cores for each rank (default: whole nodes)"},
		&cli.StringFlag{Name: "time", Category: category, Destination: &s.Time, Usage: "`LIMIT` of a start, as 90 (minutes), 4:00:00 or 2-00:00:00 (days); a job that needs more is queued again"},
		&cli.StringFlag{Name: "partition", Category: category, Destination: &s.Partition, Usage: "`NAME` of the queue"},
		&cli.StringFlag{Name: "account", Category: category, Destination: &s.Account, Usage: "`NAME` that the time is charged to"},
		&cli.StringFlag{Name: "job-name", Category: category, Destination: &s.Name, Value: "dsbatch", Usage: "`NAME` that squeue shows"},
		&cli.GenericFlag{Name: "sbatch", Category: category, Value: &lines, Usage: "any other `OPTION` of sbatch, as --sbatch=--constraint=h100; may be repeated"},
		&cli.IntFlag{Name: "requeues", Category: category, Destination: &s.Requeues, Value: 20, Usage: "queue the job again at most `N` times when its time has run out"},
		&cli.StringFlag{Name: "gpu", Category: category, Destination: &gpu, Usage: "`WHICH` of h100, h200 and a100 the nodes have, to check their memory too"},
		&cli.BoolFlag{Name: "unchecked", Category: category, Destination: &unchecked, Usage: "do not look at model and input beforehand, where only the nodes can see them"},
		&cli.BoolFlag{Name: "dry-run", Category: category, Destination: &dry, Usage: "print the script, submit nothing"},
	}
	return &cli.Command{
		Name: "submit", Usage: "queue a run with Slurm, to be continued until every row is done",
		Description: "Takes every flag of dsbatch run. What run would refuse on the ranks asked for is refused here, as far as this host can tell. See docs/slurm.md.\n\nEXIT STATUS\n0 queued; 64 bad usage; 65 bad input data; 66 missing input; 78 bad configuration; 1 sbatch refuses.",
		Flags:       append(own, jobFlags(values)...),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			job, err := loadJob(values, c.App.ErrWriter)
			if err != nil {
				return err
			}
			if job.Given("ranks") {
				return usageErrorf("--ranks counts ranks inside one process; say --nodes and --gpus-per-node or --ranks-per-node")
			}
			if s.RanksPerNode == 0 {
				s.RanksPerNode = max(1, s.GPUsPerNode)
			}
			s.Directives, s.StopBefore = lines, job.StopBefore
			if s.Command, err = runCommandLine(values); err != nil {
				return err
			}
			if s.Dir, err = os.Getwd(); err != nil {
				return err
			}
			if s.Log, err = filepath.Abs(filepath.Join(job.Output, "_dsbatch")); err != nil {
				return err
			}
			if err := s.Check(); err != nil {
				return usageErrorf("%v", err)
			}
			if !unchecked {
				if err := foreseeSubmission(c, job, &s, gpu); err != nil {
					return err
				}
			}
			if dry {
				_, err := fmt.Fprint(c.App.Writer, s.Text())
				return err
			}
			queued, err := s.Submit(c.Context)
			if err == nil {
				_, err = fmt.Fprintf(c.App.Writer, "job %d is queued; its log will be %s\n", queued.Job, queued.Log)
			}
			return err
		},
	}
}

// foreseeSubmission refuses what run would refuse on the ranks asked for, and tells what only the nodes can know.
func foreseeSubmission(c *cli.Context, job *config.Job, s *slurm.Script, gpu string) error {
	h := engine.Hosts{Ranks: s.Nodes * s.RanksPerNode, Nodes: s.Nodes, Version: version,
		GPU: job.Device == "cuda" || job.Device == "auto" && s.GPUsPerNode > 0}
	if h.Ranks > mostForeseen {
		return usageErrorf("--nodes %d of %d ranks: at most %d ranks are laid out beforehand; queue more with --unchecked", s.Nodes, s.RanksPerNode, mostForeseen)
	}
	left := "memory and CPUs of the nodes"
	if h.GPU {
		left = "that the nodes have such GPUs"
		if gpu == "" {
			left = "the GPUs' memory (--gpu says which they are)"
		}
	}
	if gpu != "" {
		m, err := plan.GPU(gpu)
		if err != nil || !h.GPU {
			return usageErrorf("--gpu %s: of h100, h200 and a100 one can be, with --gpus-per-node and without --device cpu", gpu)
		}
		h.Memory = m.Memory / int64(max(1, s.RanksPerNode/max(1, s.GPUsPerNode)))
	}
	x, err := engine.Foresee(c.Context, job, h)
	if err != nil {
		return fmt.Errorf("not queued: %w", err)
	}
	if in := x.Input; in.Bad > 0 {
		fmt.Fprintf(c.App.ErrWriter, "dsbatch: %d of %d rows that were looked at would be set aside; the first: %s\n", in.Bad, in.Sampled, in.Reason)
	}
	fmt.Fprintf(c.App.ErrWriter, "dsbatch: checked here: model, input, output, and the layout of %d %s on %d %s (tp %d, pp %d, dp %d); not checked: %s, and the cluster's MPI\n",
		h.Ranks, plural("rank", h.Ranks), s.Nodes, plural("node", s.Nodes), x.Layout.TP, x.Layout.PP, x.Layout.DP, left)
	return nil
}

// loadJob is the job that flags ask for; warnings are told.
func loadJob(values config.Values, stderr interface{ Write([]byte) (int, error) }) (*config.Job, error) {
	job, warnings, err := config.Load(values)
	for _, w := range warnings {
		fmt.Fprintln(stderr, "dsbatch:", w)
	}
	if err != nil {
		return nil, err
	}
	return job, job.Require("model", "input", "output")
}

// runCommandLine is dsbatch run with the flags that were given, in the order of the help.
func runCommandLine(values config.Values) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{self, "run"}
	for i := range config.Flags {
		name := config.Flags[i].Name
		for _, value := range values[name] {
			args = append(args, "--"+name+"="+value)
		}
	}
	return args, nil
}

// verbatim collects the values of a flag that may be repeated, commas and all.
type verbatim []string

func (v *verbatim) Set(value string) error { *v = append(*v, value); return nil }

func (v *verbatim) String() string { return strings.Join(*v, " ") }
