package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dsbatch/dsbatch/slurm"
)

const installMPI = "on Debian: apt-get install openmpi-bin libopenmpi-dev, then make build"

// sayMPI tells whether jobs of several processes can run here, by running one.
func sayMPI(w io.Writer) error {
	text, err := tryMPI()
	if err != nil {
		text = err.Error()
	}
	say(w, "mpi", "%s", text)
	if err == nil {
		say(w, "", "mpirun has a slot a core, or as many as a machine file says (host slots=8); --oversubscribe starts more ranks than slots")
	}
	return nil
}

func tryMPI() (string, error) {
	run, err := exec.LookPath("mpirun")
	if err != nil {
		return "", errors.New("no mpirun; " + installMPI + " (or use --ranks N inside one process)")
	}
	out, err := output(run, "--version")
	version := firstLine(out)
	if err != nil {
		return "", fmt.Errorf("%s does not run (%s); %s", run, reason(out, err), installMPI)
	}
	if !strings.Contains(version, "Open MPI") && !strings.Contains(version, "OpenRTE") && !strings.Contains(version, "prterun") {
		return "", fmt.Errorf("%s is another library's (%s), and dsbatch-mpi is made for Open MPI: put Open MPI's first in PATH, or load its module; %s",
			run, version, installMPI)
	}
	other, err := os.Executable()
	if err != nil {
		return "", err
	}
	if !linkedWithMPI {
		other = filepath.Join(filepath.Dir(other), "dsbatch-mpi")
	}
	if _, err := os.Stat(other); err != nil {
		return "", fmt.Errorf("%s; but %s is not there; %s", version, other, installMPI)
	}
	if out, err := output(other, "version"); err != nil {
		return "", fmt.Errorf("%s; but %s does not start (%s): it was made with another major version of Open MPI, or its libraries are not found; make build makes it anew; %s",
			version, other, reason(out, err), installMPI)
	}
	if a, _ := slurm.Here(); a != nil {
		return fmt.Sprintf("%s; inside Slurm's job %d: srun -n 2 dsbatch doctor tells whether ranks see each other", version, a.Job), nil
	}
	out, err = output(run, "--oversubscribe", "-n", "2", other, "doctor")
	switch {
	case strings.Contains(out, "run as root"):
		return "", fmt.Errorf("%s refuses to run as root; where that is meant (in a container): export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", version)
	case err != nil || !strings.Contains(out, "2 ranks"):
		return "", fmt.Errorf("%s; but two ranks of %s do not see each other (%s): is it linked with the library of another mpirun? make build makes it anew; %s",
			version, other, reason(out, err), installMPI)
	}
	return fmt.Sprintf("%s works: two ranks of %s see each other", version, other), nil
}

func saySlurm(w io.Writer) error {
	path, err := exec.LookPath("sbatch")
	if err != nil {
		say(w, "slurm", "no sbatch here; dsbatch submit --dry-run prints the script for a cluster that has it")
		return nil
	}
	out, err := output(path, "--version")
	if err != nil {
		say(w, "slurm", "%s does not run (%s); is this a login node, and is its slurm.conf there?", path, reason(out, err))
		return nil
	}
	text := firstLine(out)
	a, err := slurm.Here()
	switch {
	case err != nil:
		text += "; " + err.Error()
	case a != nil:
		text += fmt.Sprintf("; inside job %d on %s", a.Job, strings.Join(a.Nodes, ", "))
	}
	say(w, "slurm", "%s", text)
	return nil
}

// trial is how long a program may take that is only asked about itself.
const trial = 20 * time.Second

func output(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), trial)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer after %v", trial)
	}
	return string(out), err
}

// reason is what a program said of why it failed, in a line; else how it ended.
func reason(out string, err error) string {
	for line := range strings.Lines(out) {
		if line = strings.Trim(line, "-= \t\n"); line != "" {
			return line
		}
	}
	if err == nil {
		return "it said nothing"
	}
	return err.Error()
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
