// Package main_test drives the built program from outside, as its users do: by arguments, files, signals and launchers.
package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the tests run, and run on. All paths are absolute.
var (
	program  string // bin/dsbatch
	programs string // the folder it lies in
	withMPI  string // why there is no dsbatch-mpi beside it; "": it is there
	bundled  = absolute("../../examples/austen-prmoe")
	prompts  = absolute("../../examples/prompts.parquet")
	goldens  = absolute("../../model/testdata/golden")
)

// Exit statuses as the users' contract has them, written down a second time.
const (
	done, failed, badRows               = 0, 1, 3
	badUsage, badData, noInput, stopped = 64, 65, 66, 75
	badConfig                           = 78
)

func absolute(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return path
}

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "dsbatch-test-")
	if err == nil {
		programs, program = folder, filepath.Join(folder, "dsbatch")
		err = build(program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := exec.LookPath("mpirun"); err != nil {
		withMPI = "no mpirun here: what several processes do is NOT tested; install openmpi-bin and libopenmpi-dev"
	} else if exec.Command("pkg-config", "--exists", "ompi").Run() != nil {
		withMPI = "no headers of Open MPI here: what several processes do is NOT tested; install libopenmpi-dev and pkg-config"
	} else if err := build(program+"-mpi", "-tags", "mpi"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := os.RemoveAll(folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

func build(to string, flags ...string) error {
	args := append([]string{"build", "-o", to}, flags...)
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// ended is a program that has run.
type ended struct {
	status         int // -1: by a signal
	stdout, stderr string
}

// patience is how long a program may run; none here needs a tenth of it.
const patience = 2 * time.Minute

// start starts a program, without what a launcher around the tests may have set, and gives a function that waits for
// its end.
func start(t testing.TB, name string, args ...string) (*exec.Cmd, func() ended) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	c := exec.CommandContext(ctx, name, args...)
	c.Env = slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "OMPI_COMM") || strings.HasPrefix(s, "SLURM_") || strings.HasPrefix(s, "PMI")
	})
	c.Env = append(c.Env, "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	c.WaitDelay = 5 * time.Second
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, func() ended {
		defer cancel()
		err := c.Wait()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
		}
		if ctx.Err() != nil {
			t.Fatalf("%s %s: no end after %v\n%s", name, strings.Join(args, " "), patience, stderr.String())
		}
		return ended{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	}
}

// dsbatch runs the program to its end.
func dsbatch(t testing.TB, args ...string) ended {
	t.Helper()
	_, wait := start(t, program, args...)
	return wait()
}

// launch makes mpirun's command line around the program's.
func launch(ranks int, args ...string) []string {
	return append([]string{"--oversubscribe", "-n", fmt.Sprint(ranks), program}, args...)
}

// mpirun runs the program as a job of MPI ranks.
func mpirun(t testing.TB, ranks int, args ...string) ended {
	t.Helper()
	_, wait := start(t, "mpirun", launch(ranks, args...)...)
	return wait()
}

func needMPI(t testing.TB) {
	t.Helper()
	if withMPI != "" {
		t.Skip(withMPI)
	}
}

// want fails the test when the status is another, and shows what was said.
func (e ended) want(t testing.TB, status int) ended {
	t.Helper()
	if e.status != status {
		t.Fatalf("status %d, want %d\n%s%s", e.status, status, e.stdout, e.stderr)
	}
	return e
}

// job is the command line of a small job on the bundled model, 24 rows in 8 chunks, sampled; the flags in more win.
func job(output string, more ...string) []string {
	args := []string{"run", "--output", output}
	for _, f := range [][2]string{
		{"--model", bundled}, {"--input", prompts}, {"--threads", "1"}, {"--limit", "24"}, {"--max-new-tokens", "8"},
		{"--chunk-rows", "3"}, {"--temperature", "0.8"}, {"--top-k", "40"},
	} {
		if !slices.Contains(more, f[0]) {
			args = append(args, f[0], f[1])
		}
	}
	return append(args, more...)
}

// write puts a file into the test's own folder and returns its path.
func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// lines are the lines of a text, the empty ones left out.
func lines(text string) (out []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// sameRows fails the test unless both outputs are whole and have the same bits in every column.
func sameRows(t testing.TB, one, other string) {
	t.Helper()
	for _, output := range []string{one, other} {
		if e := dsbatch(t, "verify", output); e.status != done {
			t.Fatalf("dsbatch verify %s: status %d\n%s%s", output, e.status, e.stdout, e.stderr)
		}
	}
	if e := dsbatch(t, "diff", one, other); e.status != done {
		t.Fatalf("dsbatch diff: status %d\n%s%s", e.status, e.stdout, e.stderr)
	}
}
