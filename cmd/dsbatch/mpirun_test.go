package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSameBitsUnderMPI runs one job alone, as in-process ranks and as MPI processes: the same bits in every column.
// bin/dsbatch, which is not linked with MPI, becomes bin/dsbatch-mpi by itself.
func TestSameBitsUnderMPI(t *testing.T) {
	needMPI(t)
	alone := filepath.Join(t.TempDir(), "alone")
	dsbatch(t, job(alone, "--logprobs", "2")...).want(t, done)
	for _, ranks := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("mpirun -n %d", ranks), func(t *testing.T) {
			output := filepath.Join(t.TempDir(), "out")
			e := mpirun(t, ranks, job(output, "--logprobs", "2")...).want(t, done)
			sameRows(t, alone, output)
			if told := strings.Count(e.stderr, "24 rows committed"); told != 1 {
				t.Errorf("%d ranks say what was committed, want one:\n%s", told, e.stderr)
			}
			text, err := os.ReadFile(filepath.Join(output, "stats.json"))
			if err != nil {
				t.Fatal(err)
			}
			if ranks > 1 && !regexp.MustCompile(fmt.Sprintf(`"layout":\s*"%d ranks`, ranks)).Match(text) {
				t.Errorf("stats.json does not tell of %d ranks: were these jobs of one rank?", ranks)
			}
		})
	}
}

// TestRefusedUnderMPI starts jobs that cannot work as MPI processes: the launcher's status is the program's own, and
// the reason is told once.
func TestRefusedUnderMPI(t *testing.T) {
	needMPI(t)
	output := func() string { return filepath.Join(t.TempDir(), "out") }
	for _, c := range []struct {
		name   string
		status int
		args   []string
		say    string
	}{
		{"a flag misspelt", badUsage, job(output(), "--temprature", "1"), "did you mean --temperature?"},
		{"a missing model", noInput, job(output(), "--model", "/nowhere"), "/nowhere: cannot be opened"},
		{"ep that cannot divide", badConfig, job(output(), "--ep", "3"), "ep_size 3"},
		{"ranks inside ranks", badUsage, job(output(), "--ranks", "2"), "leave --ranks out"},
		{"an output not writable", failed, job(write(t, "file", "") + "/out"), "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := mpirun(t, 2, c.args...)
			t.Log(e.stderr)
			if e.status != c.status {
				t.Errorf("status %d, want %d", e.status, c.status)
			}
			if n := strings.Count(e.stderr, c.say); n < 1 || n > 2 { // once, but for a rank 0 that takes a second for it
				t.Errorf("%q is said %d times", c.say, n)
			}
			if c.status != badUsage && strings.Contains(e.stderr, "-----") {
				t.Errorf("the launcher has a page to add:\n%s", e.stderr)
			}
		})
	}
}

// TestBadRowsUnderMPI: rows set aside are one sentence, and the status is told without a page of the launcher's.
func TestBadRowsUnderMPI(t *testing.T) {
	needMPI(t)
	rows := write(t, "rows.jsonl", "{\"prompt\": \"It is\"}\n{\"prompt\": null}\n")
	output := filepath.Join(t.TempDir(), "out")
	for range 2 { // the second finds all done
		e := mpirun(t, 3, job(output, "--input", rows)...).want(t, badRows)
		if !regexp.MustCompile(`^dsbatch: 2 rows committed in 1 part under \S+; 1 of them set aside, with their reasons in \S+ \(dsbatch head --bad shows them\), the first \(row 1\): prompt is null.*\n$`).MatchString(e.stderr) {
			t.Errorf("it ends with\n%s", e.stderr)
		}
	}
}

// TestUnlikeProcesses starts two processes of one job with different arguments: the one that differs is named, and in what.
func TestUnlikeProcesses(t *testing.T) {
	needMPI(t)
	output := filepath.Join(t.TempDir(), "out")
	args := append(launch(1, job(output)...), ":", "-n", "1", program)
	_, wait := start(t, "mpirun", append(args, job(output, "--temperature", "0.7")...)...)
	e := wait()
	t.Log(e.stderr)
	if e.status != badConfig || !strings.Contains(e.stderr, "rank 1 (") || !strings.Contains(e.stderr, `temperature ("0.7", rank 0 has "0.8")`) {
		t.Errorf("status %d, want %d, with rank and setting named", e.status, badConfig)
	}
	if _, err := os.Stat(output); err == nil {
		t.Error("the output was made")
	}
}

// TestTooFewSlots names a machine file that has fewer slots than the job has ranks: mpirun refuses it, and the doctor says
// what a slot is.
func TestTooFewSlots(t *testing.T) {
	needMPI(t)
	output := filepath.Join(t.TempDir(), "out")
	_, wait := start(t, "mpirun", append([]string{"--hostfile", write(t, "machines", "localhost slots=1\n"), "-n", "2", program}, job(output)...)...)
	if e := wait(); e.status == done || !strings.Contains(e.stderr, "not enough slots") {
		t.Errorf("status %d\n%s", e.status, e.stderr)
	}
	if _, err := os.Stat(output); err == nil {
		t.Error("a job was run")
	}
	if e := dsbatch(t, "doctor").want(t, done); !strings.Contains(e.stdout, "slots=") || !strings.Contains(e.stdout, "--oversubscribe") {
		t.Errorf("the doctor does not tell of slots:\n%s", e.stdout)
	}
}

// TestWithoutTheMPIProgram starts ranks where dsbatch-mpi is missing, or cannot load: each refuses with the line that
// installs what is missing, instead of running a job of its own.
func TestWithoutTheMPIProgram(t *testing.T) {
	copied, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	alone := filepath.Join(folder, "dsbatch")
	if err := os.WriteFile(alone, copied, 0o755); err != nil {
		t.Fatal(err)
	}
	output := filepath.Join(t.TempDir(), "out")
	for _, launcher := range [][]string{
		{"OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=0"},
		{"PMI_RANK=0", "PMI_SIZE=2"},
		{"SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID=0"},
	} {
		_, wait := start(t, "env", append(append(launcher, alone), job(output)...)...)
		e := wait().want(t, failed)
		t.Log(e.stderr)
		for _, word := range []string{filepath.Join(folder, "dsbatch-mpi"), "apt-get install openmpi-bin libopenmpi-dev", "make build"} {
			if !strings.Contains(e.stderr, word) {
				t.Errorf("%v: it does not say %q:\n%s", launcher, word, e.stderr)
			}
		}
	}
	const loader = "#!/bin/sh\necho \"$0: error while loading shared libraries: libmpi.so.7777: cannot open shared object file\" >&2\nexit 127\n"
	for script, says := range map[string]string{
		"#!/nowhere/loader\n": "does not start",
		loader:                "does not start: it is linked with libmpi.so.7777",
	} {
		if err := os.WriteFile(filepath.Join(folder, "dsbatch-mpi"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		_, wait := start(t, "env", append([]string{"OMPI_COMM_WORLD_SIZE=2", alone}, job(output)...)...)
		e := wait().want(t, failed)
		t.Log(e.stderr)
		if !strings.Contains(e.stderr, says) || !strings.Contains(e.stderr, "apt-get install") {
			t.Errorf("it does not say %q and what to install:\n%s", says, e.stderr)
		}
	}
	if _, err := os.Stat(output); err == nil {
		t.Error("a job was run")
	}
}
