// Package mpitest runs tests on several ranks: in-process ones, and real ones under mpirun. Conform is the suite that each
// kind of world passes.
package mpitest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
)

// Run calls f on n in-process ranks and fails the test with the error of the first that fails. f may use t.Errorf, not
// t.Fatalf, which is for the test's own goroutine.
func Run(t testing.TB, n int, f func(w mpi.World) error) {
	t.Helper()
	if err := mpi.Run(n, f); err != nil {
		t.Fatalf("%d ranks: %v", n, err)
	}
}

// rankVariable tells a test binary that it is a rank, and of which test.
const rankVariable = "DSBATCH_MPITEST"

// IsRank tells whether this process is a rank that Mpirun started for the test of that name.
func IsRank(test string) bool { return os.Getenv(rankVariable) == test }

// Rank is the world of a process that Mpirun started for the calling test, which is skipped in any other process.
func Rank(t testing.TB) mpi.World {
	t.Helper()
	if !IsRank(t.Name()) {
		t.Skip("this is one rank's part of a test under mpirun")
	}
	w, err := mpi.MPI()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Mpirun runs one test of the calling package on n processes under mpirun, within limit, and returns all they print and
// the launcher's exit status. In the test binary, built with -tags mpi, that test begins with Rank.
// Where mpirun or the library's headers are missing, the calling test is skipped.
func Mpirun(t testing.TB, n int, test string, limit time.Duration, env ...string) (output string, status int) {
	t.Helper()
	mpirun, err := exec.LookPath("mpirun")
	if err != nil {
		t.Skip("SKIPPED, no mpirun: nothing is known about real MPI here; apt-get install libopenmpi-dev openmpi-bin pkg-config")
	}
	binary := rankBinary(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// unbound: a rank has several threads, and by default mpirun gives each of two ranks one core
	cmd := exec.CommandContext(ctx, mpirun, "--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", strconv.Itoa(n),
		binary, "-test.run", "^"+test+"$", "-test.count=1", "-test.v")
	cmd.Env = append(append(os.Environ(), rankVariable+"="+test), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { // the ranks first: they tell where they are
		_ = exec.Command("pkill", "-QUIT", "-P", strconv.Itoa(cmd.Process.Pid)).Run()
		time.Sleep(time.Second)
		return cmd.Process.Kill()
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s on %d ranks: not done after %v:\n%s", test, n, limit, out.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", mpirun, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// built keeps the binary of the package under test, which is made once a test process.
var built struct {
	sync.Once
	path, problem string
}

// rankBinary returns a test binary of the calling package with MPI in it: this one, or one made of the same sources.
func rankBinary(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if self, err := os.Executable(); err == nil && hasTag("mpi") {
			built.path = self
			return
		}
		if err := exec.Command("pkg-config", "--exists", "ompi").Run(); err != nil {
			built.problem = "no headers of Open MPI (pkg-config ompi); apt-get install libopenmpi-dev pkg-config"
			return
		}
		folder, err := os.MkdirTemp("", "mpitest")
		if err != nil {
			built.problem = err.Error()
			return
		}
		built.path = filepath.Join(folder, "ranks.test")
		if out, err := exec.Command("go", "test", "-c", "-tags", "mpi", "-o", built.path, ".").CombinedOutput(); err != nil {
			built.problem = "BROKEN go test -c -tags mpi: " + err.Error() + "\n" + string(out)
		}
	})
	switch {
	case built.problem == "":
	case built.problem[0] == 'B':
		t.Fatal(built.problem)
	default:
		t.Skip("SKIPPED, nothing is known about real MPI here: " + built.problem)
	}
	return built.path
}

// RemoveBinary deletes what Mpirun has built. A TestMain calls it last.
func RemoveBinary() {
	if self, _ := os.Executable(); built.path != "" && built.path != self {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
}

// hasTag tells whether this program was built with a build tag.
func hasTag(tag string) bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-tags" && s.Value == tag {
			return true
		}
	}
	return false
}
