package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/slurm/slurmtest"
)

// cluster is a real Slurm of two pretend nodes.
type cluster struct {
	env []string
}

// do runs one of Slurm's commands, or ours, and returns what it prints.
func (s cluster) do(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (s cluster) try(name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Env = s.env
	out, err := c.CombinedOutput()
	return string(out), err
}

// submit queues a job of 2 nodes × 2 ranks and returns its number.
func (s cluster) submit(t testing.TB, output, jobFile string, more ...string) string {
	t.Helper()
	out := s.do(t, program, append([]string{"submit", "--job", jobFile, "--output", output,
		"--nodes", "2", "--ranks-per-node", "2", "--cpus-per-rank", "1"}, more...)...)
	m := regexp.MustCompile(`(?m)^job (\d+) is queued; its log will be (.*)$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("dsbatch submit says %q", out)
	}
	t.Cleanup(func() {
		if log, err := os.ReadFile(m[2]); t.Failed() {
			t.Logf("%s (%v):\n%s", m[2], err, log)
		}
	})
	return m[1]
}

var jobFields = regexp.MustCompile(`\b(JobState|ExitCode|Restarts)=(\S+)`)

// await returns when a job is in the state, and tells its exit code and how often it was queued again.
func (s cluster) await(t testing.TB, job, state string) (exit, restarts string) {
	t.Helper()
	fields := map[string]string{}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, m := range jobFields.FindAllStringSubmatch(s.do(t, "scontrol", "show", "job", "--oneliner", job), -1) {
			fields[m[1]] = m[2]
		}
		if fields["JobState"] == state {
			return fields["ExitCode"], fields["Restarts"]
		}
	}
	t.Fatalf("job %s is %v after %v, want %s", job, fields, patience, state)
	return "", ""
}

// wholeAfter is await for the end of a job that did its work.
func (s cluster) wholeAfter(t testing.TB, job, restarts string) {
	t.Helper()
	if exit, n := s.await(t, job, "COMPLETED"); exit != "0:0" || n != restarts {
		t.Errorf("job %s: exit code %s after %s restarts, want 0:0 after %s", job, exit, n, restarts)
	}
}

// TestUnderSlurm runs jobs of 2 nodes × 2 ranks in a real Slurm. However often they are cancelled, queued again or out of
// time, their columns hold the bits of the undisturbed job.
func TestUnderSlurm(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	s := cluster{slurmtest.Start(t, 2, 4)}
	needMPI(t)
	settings := fmt.Sprintf("model: %s\ninput: [%s]\nlimit: 96\nn: 8\nmax_new_tokens: 32\nchunk_rows: 1\ntemperature: 0.8\nthreads: 1\n", bundled, prompts)
	fast := write(t, "fast.yaml", settings)
	// What changes no bit, but makes the work last: the test then changes the file, and the next start is fast.
	const slowly = "max_seqs: 1\nmax_batch_tokens: 1\n"
	undisturbed := filepath.Join(t.TempDir(), "undisturbed")
	dsbatch(t, "run", "--job", fast, "--output", undisturbed).want(t, done)

	t.Run("to the end", func(t *testing.T) {
		output := filepath.Join(t.TempDir(), "out")
		number := s.submit(t, output, fast)
		s.wholeAfter(t, number, "0")
		sameRows(t, undisturbed, output)
		log, err := os.ReadFile(filepath.Join(output, "_dsbatch", "slurm-"+number+".log"))
		if err != nil || strings.Contains(string(log), "MPI_Init") {
			t.Errorf("the ranks are warned of their own script: %v\n%s", err, log)
		}
		if text, err := os.ReadFile(filepath.Join(output, "stats.json")); err != nil || !regexp.MustCompile(`"layout":\s*"4 ranks`).Match(text) {
			t.Errorf("stats.json does not tell of 4 ranks: %v", err)
		}
	})

	t.Run("cancelled, submitted again, and requeued", func(t *testing.T) {
		output, file := filepath.Join(t.TempDir(), "out"), write(t, "slow.yaml", settings+slowly)
		first := s.submit(t, output, file)
		waitForCommit(t, output)
		s.do(t, "scancel", first)
		s.await(t, first, "CANCELLED")
		s.free(t)
		parts := count(t, output)
		second := s.submit(t, output, file)
		for deadline := time.Now().Add(patience); count(t, output) <= parts; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no part was committed")
			}
		}
		overwrite(t, file, settings)
		s.do(t, "scontrol", "requeue", second)
		s.await(t, second, "PENDING")
		s.startNow(t, second)
		s.wholeAfter(t, second, "1")
		sameRows(t, undisturbed, output)
		log, err := os.ReadFile(filepath.Join(output, "_dsbatch", "slurm-"+first+".log"))
		if err != nil || !strings.Contains(string(log), "stopped before the end: signal: terminated") {
			t.Errorf("the cancelled job did not stop cleanly: %v\n%s", err, log)
		}
	})

	t.Run("out of time", func(t *testing.T) {
		output, file := filepath.Join(t.TempDir(), "out"), write(t, "slow.yaml", settings+slowly)
		job := s.submit(t, output, file, "--time", "1", "--stop-before", "54s") // stops 6 s after it began
		starts := 0
		for starts == 0 || count(t, output) == 0 { // on a busy machine the seconds of a start may be too few for a row
			if starts > 0 {
				s.startNow(t, job)
			}
			starts++
			s.await(t, job, "RUNNING")
			if _, restarts := s.await(t, job, "PENDING"); restarts != fmt.Sprint(starts) {
				t.Fatalf("%s restarts after %d starts", restarts, starts)
			}
		}
		overwrite(t, file, settings)
		if e := dsbatch(t, "verify", output); e.status != badData || !strings.Contains(e.stdout, "not finished") {
			t.Errorf("dsbatch verify of a stopped job: status %d\n%s%s", e.status, e.stdout, e.stderr)
		}
		s.do(t, "scontrol", "update", "JobId="+job, "TimeLimit=10")
		s.startNow(t, job)
		s.wholeAfter(t, job, fmt.Sprint(starts))
		sameRows(t, undisturbed, output)
		log, err := os.ReadFile(filepath.Join(output, "_dsbatch", "slurm-"+job+".log"))
		// Slurm's warning may come before we look at the clock.
		for want, times := range map[string]int{
			"stopped before the end: (the time limit is near|signal: user defined signal 1)": starts,
			"job " + job + " is queued again":                                                starts,
			"resuming":                                                                       1,
		} {
			if n := len(regexp.MustCompile(want).FindAll(log, -1)); err != nil || n != times {
				t.Errorf("%q is %d times in the log, want %d: %v\n%s", want, n, times, err, log)
			}
		}
	})

	t.Run("ranks alone", func(t *testing.T) {
		output := filepath.Join(t.TempDir(), "out")
		said, err := s.try("srun", append([]string{"--mpi=none", "--nodes=2", "--ntasks-per-node=1", program}, job(output)...)...)
		if err == nil || !strings.Contains(said, "srun --mpi=pmix") {
			t.Errorf("srun without PMIx: %v\n%s", err, said)
		}
		if _, err := os.Stat(output); err == nil {
			t.Error("a job was run")
		}
	})
}

// startNow spares a job that is queued again the two minutes that Slurm lets pass so that what is left of the former
// start has ended: for that it waits. The 3 s are for the nodes' clocks, which tick in seconds: a node takes a start of
// the second in which it ended the former one for that one ("Job credential revoked"), and the job fails.
func (s cluster) startNow(t testing.TB, job string) {
	t.Helper()
	for deadline := time.Now().Add(patience); slurmtest.Steps(t, s.env, job) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the former start of job %s does not end", job)
		}
	}
	s.do(t, "scontrol", "update", "JobId="+job, "StartTime=now+3")
}

// free returns when no job holds a node any more.
func (s cluster) free(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); s.do(t, "squeue", "--noheader") != ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a job does not end:\n" + s.do(t, "squeue"))
		}
	}
}

// count is the number of parts that a job has committed.
func count(t testing.TB, output string) int {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(output, "part-*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	return len(parts)
}

func overwrite(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
