package main_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// launcher starts a job one way or another.
type launcher struct {
	name  string
	ranks int // of MPI; 0: no mpirun
	args  []string
}

var launchers = []launcher{
	{name: "alone"},
	{name: "--ranks 2", args: []string{"--ranks", "2"}},
	{name: "--ranks 3", args: []string{"--ranks", "3"}},
	{name: "mpirun -n 2", ranks: 2},
}

func (l launcher) start(t testing.TB, args []string) (*exec.Cmd, func() ended) {
	t.Helper()
	args = append(args, l.args...)
	if l.ranks == 0 {
		return start(t, program, args...)
	}
	return start(t, "mpirun", launch(l.ranks, args...)...)
}

// TestKilledAnywhere is promise 2: a job is killed at random moments, on any of its ranks, and started again on another
// number of them, until it ends. Its columns then hold the bits of the undisturbed job, each row once.
func TestKilledAnywhere(t *testing.T) {
	const kills, most = 32, 60 // SIGKILLs that hit a job; jobs begun anew for more of them
	slow := []string{"--max-seqs", "2", "--logprobs", "2"}
	undisturbed := filepath.Join(t.TempDir(), "undisturbed")
	began := time.Now()
	dsbatch(t, job(undisturbed, slow...)...).want(t, done)
	whole := time.Since(began)

	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d; the undisturbed job takes %v", seed, whole)
	hits, byLauncher := 0, map[string]int{}
	for attempt := 0; hits < kills; attempt++ {
		if attempt == most {
			t.Fatalf("only %d of %d kills hit a running job", hits, kills)
		}
		output := filepath.Join(t.TempDir(), fmt.Sprint("killed-", attempt))
		for try := 0; ; try++ {
			l := launchers[random.IntN(len(launchers))]
			if l.ranks > 0 && withMPI != "" {
				l = launchers[2]
			}
			began := time.Now()
			c, wait := l.start(t, job(output, slow...))
			// Late enough that most hits find work under way; mpirun needs its time to start ranks.
			after := time.Duration(random.Float64() * float64(whole))
			if l.ranks > 0 {
				after += whole
			}
			if try > 12 { // let it end
				after = patience
			}
			which, killed := random.Uint64(), make(chan []int, 1)
			stop := time.AfterFunc(after, func() { killed <- kill(c.Process.Pid, which) })
			e := wait()
			if !stop.Stop() {
				waitForEnd(t, <-killed)
			}
			if e.status == done {
				if try == 0 && l.ranks == 0 { // a machine that was busy at first would have the later kills come too late
					whole = time.Since(began)
				}
				break
			}
			if e.status != -1 && l.ranks == 0 || e.status == stopped {
				t.Fatalf("%s, killed after %v: status %d\n%s", l.name, after, e.status, e.stderr)
			}
			hits++
			byLauncher[l.name]++
		}
		sameRows(t, undisturbed, output)
	}
	t.Logf("kills: %v", byLauncher)
	if withMPI != "" {
		t.Log(withMPI)
	}
}

// kill kills a process and all its children, or it alone, or one child alone, such as one of mpirun's ranks. It
// returns all that have to end of it.
func kill(pid int, which uint64) []int {
	all := append(children(pid), pid)
	victims := all
	if one := which / 3 % uint64(len(all)); which%3 > 0 {
		victims = all[one : one+1]
	}
	for _, p := range victims {
		_ = syscall.Kill(p, syscall.SIGKILL) // it may have ended
	}
	return all
}

// waitForEnd returns when processes are gone, those too whose launcher or neighbour was killed.
func waitForEnd(t testing.TB, pids []int) {
	t.Helper()
	for _, pid := range pids {
		for deadline := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d does not end, though others of its job were killed", pid)
			}
		}
	}
}

// children are the processes that pid has started.
func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(field); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// TestAskedToStop sends each signal that asks for a clean stop to a job under way: it commits what is whole, keeps the
// finished rows of open chunks, exits 75, and goes on when started again, on another number of ranks.
func TestAskedToStop(t *testing.T) {
	undisturbed := filepath.Join(t.TempDir(), "undisturbed")
	long := []string{"--max-new-tokens", "96", "--ignore-eos", "--n", "2", "--limit", "48"}
	slow := append(slices.Clone(long), "--max-seqs", "1") // so that a signal finds it at work, one by way of mpirun on a busy machine too
	dsbatch(t, job(undisturbed, long...)...).want(t, done)
	for _, c := range []struct {
		by     launcher
		signal syscall.Signal
	}{
		{launchers[0], syscall.SIGTERM},
		{launchers[0], syscall.SIGINT},
		{launchers[0], syscall.SIGUSR1},
		{launchers[0], syscall.SIGHUP},
		{launchers[1], syscall.SIGUSR1},
		{launchers[3], syscall.SIGUSR1},
	} {
		t.Run(fmt.Sprintf("%s, %v", c.by.name, c.signal), func(t *testing.T) {
			if c.by.ranks > 0 {
				needMPI(t)
			}
			if signal.Ignored(c.signal) {
				t.Skip("the tests were started by nohup, and so is the job")
			}
			output := filepath.Join(t.TempDir(), "out")
			cmd, wait := c.by.start(t, job(output, slow...))
			waitForCommit(t, output)
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			e := wait().want(t, stopped)
			if !strings.Contains(e.stderr, c.signal.String()) {
				t.Errorf("the signal is not named:\n%s", e.stderr)
			}
			for _, left := range []string{"stats.json", "report.html"} {
				if _, err := os.Stat(filepath.Join(output, left)); err != nil {
					t.Error(err)
				}
			}
			if _, err := os.Stat(filepath.Join(output, "_SUCCESS")); err == nil {
				t.Fatal("a job that was stopped says that it is whole")
			}
			if e := dsbatch(t, "verify", output); e.status != badData || !strings.Contains(e.stdout, "not finished") {
				t.Errorf("dsbatch verify of a stopped job: status %d\n%s%s", e.status, e.stdout, e.stderr)
			}
			if e := dsbatch(t, "head", output); e.status != done || !strings.HasPrefix(e.stdout, "row ") {
				t.Errorf("dsbatch head of a stopped job: status %d\n%s%s", e.status, e.stdout, e.stderr)
			}
			dsbatch(t, job(output, append(long, "--ranks", "3")...)...).want(t, done)
			sameRows(t, undisturbed, output)
		})
	}
}

// waitForCommit returns when a job has committed its first part.
func waitForCommit(t testing.TB, output string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if parts, _ := filepath.Glob(filepath.Join(output, "part-*.parquet")); len(parts) > 0 {
			return
		}
	}
	t.Fatal("no part was committed")
}

// TestFinishedOutputStays starts a finished job again: nothing changes, and it ends as before.
func TestFinishedOutputStays(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output)...).want(t, done)
	before := folder(t, output)
	e := dsbatch(t, job(output, "--ranks", "2")...).want(t, done)
	if after := folder(t, output); after != before {
		t.Errorf("files changed:\n%s\nbefore:\n%s", after, before)
	}
	if !strings.Contains(e.stderr, "24 rows") {
		t.Errorf("it does not say that all is there:\n%s", e.stderr)
	}
}

// folder lists files with their sizes and times.
func folder(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestChangedJobIsRefused starts an output again with what would change its bits.
func TestChangedJobIsRefused(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output)...).want(t, done)
	before := folder(t, output)
	e := dsbatch(t, job(output, "--seed", "1", "--top-k", "30")...).want(t, badConfig)
	t.Log(e.stderr)
	for _, word := range []string{"seed", "top-k", "40", "30"} {
		if !strings.Contains(e.stderr, word) {
			t.Errorf("the refusal does not say %q:\n%s", word, e.stderr)
		}
	}
	if after := folder(t, output); after != before {
		t.Errorf("the refused start has changed files:\n%s\nbefore:\n%s", after, before)
	}
}

// TestGrownInputIsRefused: rows that were added to a file under a started output are refused by run and plan, by its name.
func TestGrownInputIsRefused(t *testing.T) {
	rows := write(t, "rows.jsonl", "{\"prompt\": \"It is\"}\n")
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output, "--input", rows)...).want(t, done)
	if err := os.WriteFile(rows, []byte("{\"prompt\": \"It is\"}\n{\"prompt\": \"She\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := job(output, "--input", rows)
	for _, command := range []string{"run", "plan"} {
		e := dsbatch(t, append([]string{command}, run[1:]...)...).want(t, badConfig)
		for _, says := range []string{"the content of input file " + rows + ` was "`, `…", is "`, "the rows of input file " + rows + " was 1, is 2;"} {
			if !strings.Contains(e.stderr, says) {
				t.Errorf("%s does not say %q: %s", command, says, e.stderr)
			}
		}
	}
}
