package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/mpi"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "say what this machine offers a job, and the mend for what is missing",
		Action: func(c *cli.Context) error {
			w := c.App.Writer
			d, err := cpu.New(cpu.Options{})
			if err != nil {
				return err
			}
			free, total := d.Memory()
			fmt.Fprintf(w, "cpu       %s; %d cores, %v of %v free\n", d.Name(), runtime.NumCPU(), config.Bytes(free).About(), config.Bytes(total).About())
			for _, line := range cuda.Describe() {
				fmt.Fprintf(w, "gpu       %s\n", line)
			}
			fmt.Fprintf(w, "mpi       %s\n", mpiFound())
			if kind, ranks := mpi.Launched(); kind != "" {
				fmt.Fprintf(w, "launcher  %s, %d ranks\n", kind, ranks)
			}
			fmt.Fprintf(w, "slurm     %s\n", slurmFound())
			return d.Close()
		},
	}
}

// mpiFound tells whether jobs of several processes can run here.
func mpiFound() string {
	const install = "on Debian: apt-get install openmpi-bin libopenmpi-dev, then make build"
	run, err := exec.LookPath("mpirun")
	if err != nil {
		return "no mpirun; " + install + " (or use --ranks N inside one process)"
	}
	version, err := exec.Command(run, "--version").Output()
	if err != nil {
		return fmt.Sprintf("%s does not run: %v; %s", run, err, install)
	}
	line, _, _ := strings.Cut(string(version), "\n")
	if linkedWithMPI {
		return line
	}
	self, err := os.Executable()
	if err != nil {
		return line
	}
	other := filepath.Join(filepath.Dir(self), "dsbatch-mpi")
	out, err := exec.Command(other, "version").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s, but %s does not start (%s); %s", line, other, strings.TrimSpace(string(out)), install)
	}
	return line + "; " + other + " is linked with it"
}

func slurmFound() string {
	path, err := exec.LookPath("sbatch")
	if err != nil {
		return "no sbatch here"
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return fmt.Sprintf("%s does not run: %v", path, err)
	}
	return strings.TrimSpace(string(version))
}
