package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/mpi"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", ArgsUsage: "[OUTPUT]", Usage: "say what this machine offers a job, or how the job on OUTPUT stands, and what to do next",
		Description: "Without OUTPUT: CPU, GPUs, NVRTC, cuBLASLt, NCCL, MPI and Slurm, each with the mend for what is missing. Started by mpirun or srun, whether its ranks see each other.\n" +
			"With OUTPUT: what is committed, what each rank of its last start was doing, on which host and since when.",
		Action: func(c *cli.Context) error {
			w := c.App.Writer
			if c.NArg() > 1 {
				return usageErrorf("dsbatch doctor takes one OUTPUT at most, and got %d", c.NArg())
			}
			if c.NArg() == 1 {
				output, err := outputArgument(c)
				if err != nil {
					return err
				}
				d, err := results.Diagnose(c.Context, output, results.Options{Log: slog.Default()})
				if err != nil {
					return err
				}
				for _, line := range d.Lines() {
					fmt.Fprintln(w, line)
				}
				return nil
			}
			if kind, size := mpi.Launched(); kind != "" && size != 1 {
				return onWorld(&config.Job{Ranks: 1}, func(world mpi.World) error {
					return sayWorld(c.Context, w, kind, world)
				})
			}
			for _, say := range []func(io.Writer) error{sayCPU, sayGPU, sayMPI, saySlurm} {
				if err := say(w); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func say(w io.Writer, what, format string, args ...any) {
	fmt.Fprintf(w, "%-9s %s\n", what, fmt.Sprintf(format, args...))
}

func sayCPU(w io.Writer) error {
	d, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	free, total := d.Memory()
	say(w, "cpu", "%s; %d cores, %v of %v free", d.Name(), runtime.NumCPU(), config.Bytes(free).About(), config.Bytes(total).About())
	var levels []string
	for _, l := range cpu.Levels() {
		levels = append(levels, l.String())
	}
	say(w, "cpu", "kernels for %s (DSBATCH_CPU takes another than the last)", strings.Join(levels, ", "))
	return d.Close()
}

func sayGPU(w io.Writer) error {
	for _, line := range cuda.Describe() {
		say(w, "gpu", "%s", line)
	}
	return nil
}

// sayWorld is rank 0's account of the ranks that a launcher started, once all have met.
func sayWorld(ctx context.Context, w io.Writer, kind string, world mpi.World) error {
	node, err := world.Node(ctx)
	if err != nil {
		return err
	}
	mine, all := make([]byte, 64), make([]byte, 64*world.Size())
	copy(mine, fmt.Sprintf("%d\x00%s", node.Rank(), world.Host()))
	if err := world.AllGather(ctx, mine, all); err != nil {
		return err
	}
	if world.Rank() > 0 {
		return node.Close()
	}
	var hosts []string
	for rank := range world.Size() {
		local, host, _ := strings.Cut(strings.TrimRight(string(all[64*rank:64*rank+64]), "\x00"), "\x00")
		if local == "0" {
			hosts = append(hosts, host)
		}
	}
	on := "host " + hosts[0]
	if len(hosts) > 1 {
		on = fmt.Sprintf("%d hosts (%s)", len(hosts), strings.Join(hosts, ", "))
	}
	say(w, "launcher", "%s: %d ranks on %s see each other", kind, world.Size(), on)
	return node.Close()
}
