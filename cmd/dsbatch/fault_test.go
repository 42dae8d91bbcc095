package main_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/slurm/slurmtest"
)

// buildFaulty builds the program whose ranks can be broken, see faults.go.
var buildFaulty = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "faulty")
	return path, build(path, "-tags", "mpi,faults")
})

// faultyProgram is what buildFaulty has built.
func faultyProgram(t testing.TB) string {
	t.Helper()
	needMPI(t)
	path, err := buildFaulty()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBrokenRanks is promise 3 under MPI: in each phase a rank is killed (the launcher ends the others and names it) or
// stopped (the others name it). The job ends in time and not well, dsbatch doctor tells where every rank was, what was
// committed stays, and in the end the bits are those of an undisturbed job.
func TestBrokenRanks(t *testing.T) {
	faulty := faultyProgram(t)
	work := []string{"--limit", "96", "--max-new-tokens", "128", "--rank-timeout", "5s"}
	undisturbed := filepath.Join(t.TempDir(), "undisturbed")
	dsbatch(t, job(undisturbed, work...)...).want(t, done)
	work = append(work, "--max-seqs", "2") // from here on there is work left for the next fault

	stuck := filepath.Join(t.TempDir(), "stuck") // one rank alone, whose reader hangs: it waits beside the others
	t.Setenv("DSBATCH_FAULT", "0 read 3 0")
	_, waitForStuck := start(t, faulty, job(stuck, work...)...)

	output := filepath.Join(t.TempDir(), "out") // of all the jobs: each goes on where the one before was broken
	for _, fault := range []struct {
		phase string
		after int // times that the rank has entered it
		rank  int
		ranks int
		place string
	}{
		{"load", 0, 0, 3, ""},
		{"prefill", 20, 2, 3, ""},
		{"dispatch", 12, 1, 4, ", layer [1-6] of 6"}, // 4 ranks share the experts, 3 do not
		{"combine", 12, 3, 4, ", layer [1-6] of 6"},
		{"commit", 0, 1, 3, ""},
	} {
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
			t.Run(fmt.Sprintf("%v in %s", signal, fault.phase), func(t *testing.T) {
				before := committed(t, output)
				t.Setenv("DSBATCH_FAULT", fmt.Sprintf("%d %s %d %d", fault.rank, fault.phase, fault.after, int(signal)))
				_, wait := start(t, "mpirun", append([]string{"--oversubscribe", "-n", fmt.Sprint(fault.ranks), faulty}, job(output, work...)...)...)
				e := wait()
				ended := time.Now()
				if e.status == done || e.status == badRows || e.status == stopped {
					t.Fatalf("status %d\n%s", e.status, e.stderr)
				}
				spent := ended.Sub(faultTime(t, e.stderr))
				if spent > 30*time.Second {
					t.Errorf("the end took %v", spent)
				}
				says := fmt.Sprintf(`process rank %d with PID \d+ on node \S+ exited on signal 9`, fault.rank) // mpirun's words
				if signal == syscall.SIGSTOP {
					says = fmt.Sprintf(`rank %d \(\S+\) was killed or stopped, or its host cannot be reached: silent for .+, last in phase .+; .*start the same command again`, fault.rank)
				}
				if !regexp.MustCompile(says).MatchString(e.stderr) {
					t.Errorf("nobody says %q:\n%s", says, e.stderr)
				}
				told := dsbatch(t, "doctor", output).want(t, done).stdout
				line := fmt.Sprintf(`(?m)^rank %d \(\S+, process \d+\): .*in phase %s%s`, fault.rank, fault.phase, fault.place)
				if !regexp.MustCompile(line).MatchString(told) || strings.Count(told, "\nrank ") < fault.ranks || !strings.Contains(told, "start the same command again") {
					t.Errorf("dsbatch doctor does not say %q:\n%s", line, told)
				}
				after := committed(t, output)
				for name, digest := range before {
					if after[name] != digest {
						t.Errorf("%s was committed and is lost or changed", name)
					}
				}
				t.Logf("%v, status %d, %d parts\n%s\n%s", spent.Round(100*time.Millisecond), e.status, len(after), firstLines(e.stderr), told)
			})
		}
	}
	e := waitForStuck().want(t, failed)
	if !regexp.MustCompile(`^(\S+ INF .+\n)*dsbatch: rank 0 \(\S+\) is stuck: no progress for .+, in phase read, chunk \d+; .*start the same command again\n$`).MatchString(e.stderr) {
		t.Errorf("a job of one rank, stuck in a read, ends with\n%s", e.stderr)
	}
	dsbatch(t, job(stuck, work...)...).want(t, done)
	sameRows(t, undisturbed, stuck)
	if len(committed(t, output)) == 0 {
		t.Error("nothing was committed by any of these jobs, so nothing could be lost")
	}
	dsbatch(t, job(output, append(work, "--ranks", "2")...)...).want(t, done)
	sameRows(t, undisturbed, output)
	if e = dsbatch(t, "doctor", output).want(t, done); !strings.Contains(e.stdout, "every row is committed") || strings.Contains(e.stdout, "rank") {
		t.Errorf("of a finished output dsbatch doctor says:\n%s", e.stdout)
	}
	if left, _ := filepath.Glob(filepath.Join(output, "_dsbatch", "phase-*")); len(left) > 0 {
		t.Errorf("phase files of a job that is done: %v", left)
	}
}

// faultTime is when a rank broke, which it has told: how long the machine took to get there is none of the end's time.
func faultTime(t testing.TB, stderr string) time.Time {
	t.Helper()
	m := regexp.MustCompile(`fault at (\d+)`).FindStringSubmatch(stderr)
	if m == nil {
		t.Fatalf("no rank broke:\n%s", stderr)
	}
	ms, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.UnixMilli(ms)
}

// TestBrokenRanksUnderSlurm breaks a rank of a real step of 2 nodes × 2 ranks: srun ends the others after a kill, and a
// rank of another node tells of one that was stopped.
func TestBrokenRanksUnderSlurm(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	s := cluster{slurmtest.Start(t, 2, 4)}
	faulty, output := faultyProgram(t), filepath.Join(t.TempDir(), "out")
	// The pretended hosts have addresses that lead nowhere, which the MPI library takes seconds to see.
	env := append(slices.Clone(s.env), "OMPI_MCA_btl_tcp_if_include=lo", "SLURM_PMIX_FENCE=ring")
	for signal, says := range map[syscall.Signal]string{
		syscall.SIGKILL: `task 1: Killed`, // srun's words
		// The phase is that of the last beat, which may be older than the fault.
		syscall.SIGSTOP: `rank 1 \(\S+\) was killed or stopped, or its host cannot be reached: silent for .+, last in phase \w+`,
	} {
		s.env = slices.Concat(env, []string{fmt.Sprint("DSBATCH_FAULT=1 dispatch 12 ", int(signal))})
		began := time.Now()
		said, err := s.try("srun", append([]string{"--mpi=pmix", "-N2", "-n4", faulty}, job(output, "--rank-timeout", "6s")...)...)
		told := dsbatch(t, "doctor", output).want(t, done).stdout
		t.Logf("%v: %v after %v\n%s%s", signal, err, time.Since(began), said, told)
		if err == nil || !regexp.MustCompile(says).MatchString(said) {
			t.Errorf("%v: %v, nobody says %q", signal, err, says)
		}
		if !regexp.MustCompile(`(?m)^rank 1 \(\S+, process \d+\): in phase dispatch, layer [1-6] of 6`).MatchString(told) {
			t.Errorf("dsbatch doctor does not tell where rank 1 was")
		}
		if signal == syscall.SIGKILL && !regexp.MustCompile(`next: find out what ended rank 1 \(\S+, process \d+\) \(`).MatchString(told) {
			t.Errorf("dsbatch doctor does not say that rank 1 is the one to look at")
		}
	}
}

func firstLines(text string) string {
	all := lines(text)
	return strings.Join(all[:min(len(all), 3)], "\n")
}

// committed are the digests of the parts that commit lines name, by name.
func committed(t testing.TB, output string) map[string][32]byte {
	t.Helper()
	found := map[string][32]byte{}
	commits, _ := filepath.Glob(filepath.Join(output, "_dsbatch", "commits-*.jsonl"))
	for _, c := range commits {
		text, err := os.ReadFile(c)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			name := regexp.MustCompile(`part-\d+\.parquet`).FindString(line)
			if name == "" || !strings.HasSuffix(line, "\n") { // torn: it does not count
				continue
			}
			content, err := os.ReadFile(filepath.Join(output, name))
			if err != nil {
				t.Fatal(err)
			}
			found[name] = sha256.Sum256(content)
		}
	}
	return found
}

// TestTerminatedLauncher sends SIGTERM to mpirun, which gives its ranks about a second and returns 1: what is committed
// stays. Ranks are not bound to cores, as the README has it.
func TestTerminatedLauncher(t *testing.T) {
	needMPI(t)
	long := []string{"--limit", "96", "--max-new-tokens", "48", "--n", "2"}
	undisturbed, output := filepath.Join(t.TempDir(), "undisturbed"), filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(undisturbed, long...)...).want(t, done)
	long = append(long, "--max-seqs", "2")
	cmd, wait := start(t, "mpirun", append([]string{"--bind-to", "none"}, launch(2, job(output, long...)...)...)...)
	waitForCommit(t, output)
	before := committed(t, output)
	for ; len(before) == 0; before = committed(t, output) { // the part is there before its line
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e := wait().want(t, failed)
	after := committed(t, output)
	for name, digest := range before {
		if after[name] != digest {
			t.Errorf("%s was committed and is lost or changed", name)
		}
	}
	if len(after) == 32 {
		t.Error("the job was done before the signal came")
	}
	t.Logf("%d parts before, %d after; %s", len(before), len(after), firstLines(e.stderr))
	dsbatch(t, job(output, append(long, "--ranks", "2")...)...).want(t, done)
	sameRows(t, undisturbed, output)
}
