package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

func runCommand() *cli.Command {
	values := config.Values{}
	return &cli.Command{
		Name: "run", Usage: "generate, score, embed or classify every row of a data set, or fill its masks",
		Description: "EXIT STATUS\n0 every row committed; 3 committed, bad rows set aside; 75 stopped, start again to go on; 64 bad usage; 65 bad input data; 66 missing input; 78 bad configuration; 1 anything else.",
		Flags:       jobFlags(values),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			job, warnings, err := config.Load(values)
			if err != nil {
				return err
			}
			if err := job.Require("model", "input", "output"); err != nil {
				return err
			}
			return runJob(c.Context, job, warnings, c.App.ErrWriter)
		},
	}
}

// jobFlags makes the command line's flags of config's table.
func jobFlags(values config.Values) (flags []cli.Flag) {
	for i := range config.Flags {
		f := &config.Flags[i]
		flag := &cli.GenericFlag{Name: f.Name, Category: f.Category, Usage: f.Usage(), Value: values.Collect(f),
			DefaultText: f.Default}
		if f.Bool() {
			flag.DefaultText = ""
			flags = append(flags, switchFlag{flag})
			continue
		}
		flags = append(flags, flag)
	}
	return flags
}

// switchFlag stands on the command line without a value.
type switchFlag struct{ *cli.GenericFlag }

// TakesValue tells the help so.
func (f switchFlag) TakesValue() bool { return false }

func (f switchFlag) String() string { return cli.FlagStringer(f) }

// noArguments refuses positional arguments of the commands that take the flags of run.
func noArguments(c *cli.Context) error {
	switch arg := c.Args().First(); arg {
	case "":
		return nil
	case "true", "false":
		return usageErrorf("dsbatch %s takes no argument, and got %q; a switch stands alone, or as --drop-tokens=%s", c.Command.Name, arg, arg)
	default:
		return usageErrorf("dsbatch %s takes no argument, and got %q; name the data set with --input", c.Command.Name, arg)
	}
}

// runJob runs the job on every rank that this process holds: its own of an MPI job, or all of --ranks.
func runJob(ctx context.Context, job *config.Job, warnings []config.Warning, stderr io.Writer) (err error) {
	defer func() { err = forLog(job, err) }()
	stop := &engine.Stop{}
	defer onSignals(stop)()
	options := engine.RunOptions{Version: version, Command: strings.Join(os.Args, " "), Stop: stop, Phase: faults()}
	return onWorld(job, func(w mpi.World) (err error) {
		defer func() { err = forLog(job, err) }() // a rank of MPI tells before onWorld returns
		o := options
		var progress *stats.Progress
		if w.Rank() == 0 {
			setLog(job, stderr, coloured(stderr))
			for _, x := range warnings {
				slog.Warn(x.String())
			}
			progress = stats.NewProgress(stats.ProgressOptions{Mode: job.Progress, Out: stderr})
			setLog(job, progress.Above(), coloured(stderr))
			unheed, err := heedLimit(ctx, stop, job.StopBefore)
			if err != nil {
				return err
			}
			defer unheed()
			o.Notice = func(line string) { slog.Info(line) }
			o.Stage = progress.Stage
			o.Progress = func(p engine.Progress) {
				progress.SetRows(p.Total, p.Kept)
				progress.Set(stats.Totals{Rows: p.Rows, Bad: p.Bad, Prompt: p.Prompt, Output: p.Output})
			}
		}
		summary, err := engine.Run(ctx, w, job, o)
		progress.Close()
		if errors.Is(err, engine.ErrStopped) {
			return fmt.Errorf("%w; what is finished is kept under %s, and the same command goes on from there", err, job.Output)
		}
		if err != nil {
			return err
		}
		if w.Rank() == 0 {
			if jsonLog(job) {
				args := []any{"rows", summary.Rows, "parts", summary.Chunks, "bad", summary.Bad, "output", job.Output}
				if first := summary.FirstBad; first != nil {
					args = append(args, "first_bad", first)
				}
				slog.Info("committed", args...)
			} else {
				tell(stderr, job, summary)
			}
		}
		if summary.Bad > 0 {
			return errBadRows
		}
		return nil
	})
}

// setLog makes the job's log: text for people, JSON for collectors.
func setLog(job *config.Job, w io.Writer, colour bool) {
	var h slog.Handler = tint.NewTextHandler(w, &tint.Options{TimeFormat: time.TimeOnly, NoColor: !colour})
	if jsonLog(job) {
		h = slog.NewJSONHandler(w, nil)
	}
	slog.SetDefault(slog.New(h))
}

func jsonLog(job *config.Job) bool { return job.LogFormat == "json" }

// forLog marks an error of a job whose log is JSON, so that report tells it so.
func forLog(job *config.Job, err error) error {
	if err == nil || !jsonLog(job) {
		return err
	}
	return &jsonError{err}
}

// jsonError is an error that is told as a line of a log in JSON.
type jsonError struct{ error }

func (e *jsonError) Unwrap() error { return e.error }

// coloured tells whether w shows colours, and its user wants them (no-color.org).
func coloured(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
