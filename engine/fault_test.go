package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestARankBreaks is promise 3 in one process: in each phase a rank of four panics, or does nothing any more. The job
// ends (how soon, comm's tests say), names rank and phase, keeps what was committed, and goes on to the same bits.
func TestARankBreaks(t *testing.T) {
	change := func(j *config.Job) {
		j.ChunkRows, j.MaxSeqs, j.KVMemory, j.RankTimeout = 2, 2, 8<<20, 6*time.Second
	}
	whole, err := runRanks(t, 1, newJob(t, change), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	type broken struct {
		name, phase, place, says string
		job                      *config.Job
		err                      error
	}
	var all []*broken
	var jobs sync.WaitGroup
	for _, fault := range []struct {
		phase string
		after int // times that rank 1 has entered the phase before
		place string
	}{
		{phasePrepare, 0, ""},
		{phaseLoad, 0, ""},
		{phaseCompile, 2, ", attention.cu, kernel file 3"},
		{phasePrefill, 20, "(, layer [1-6] of 6)?"},
		{phaseDispatch, 20, ", layer [1-6] of 6"},
		{phaseCombine, 20, ", layer [1-6] of 6"},
		{phaseRead, 1, ", chunk [0-7]"},
		{phaseCommit, 1, "(, chunk [0-7])?"}, // the last are waited for
		{phaseFinish, 0, ""},
	} {
		for how, says := range map[string]string{
			"panics":   `rank 1 \(.+\) broke in phase ` + fault.phase + fault.place + ": panic: a fault made by a test",
			"is stuck": `rank 1 \(.+\) is stuck: no progress for .+, in phase ` + fault.phase + fault.place + "; .+start the same command again",
		} {
			b := &broken{name: fault.phase + " " + how, phase: fault.phase, place: fault.place, says: says, job: newJob(t, change)}
			all = append(all, b)
			jobs.Go(func() { // together, since most of them mostly wait
				var times atomic.Int32
				b.err = runBroken(b.job, func(phase string) {
					if phase != fault.phase || int(times.Add(1)) <= fault.after {
						return
					}
					if how == "panics" {
						panic("a fault made by a test")
					}
					select {}
				})
			})
		}
	}
	jobs.Wait()
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) {
			if b.err == nil || !regexp.MustCompile(b.says).MatchString(b.err.Error()) {
				t.Fatalf("%v; want %s", b.err, b.says)
			}
			if b.phase != phasePrepare {
				diagnosed(t, b.job.Output, b.phase+b.place)
			}
			before := parts(t, b.job.Output)
			if b.phase == phaseFinish && len(before) != 8 {
				t.Errorf("%d parts before the end, want all", len(before))
			}
			got, err := runRanks(t, 2, b.job, RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got.Digests, whole.Digests) || got.Rows != whole.Rows {
				t.Errorf("after the fault: %v, undisturbed %v", got, whole)
			}
			after := parts(t, b.job.Output)
			for name, digest := range before {
				if after[name] != digest {
					t.Errorf("%s was changed after it had been committed", name)
				}
			}
		})
	}
}

// TestAHelperBreaks: what panics in a thread of the device is told as the rank's, where it was on both sides.
func TestAHelperBreaks(t *testing.T) {
	r := &run{world: mpi.InProcess(1)[0]}
	err := r.guard(func() comm.TaskState { return comm.TaskState{Phase: phaseDecode} }, func() error {
		panic(&kernels.Panic{Value: "a fault", Stack: []byte("goroutine 7: there")})
	})
	says := regexp.MustCompile(`(?s)^rank 0 \(.+\) broke in phase decode: panic: a fault\ngoroutine 7: there\n.+TestAHelperBreaks`)
	if err == nil || !says.MatchString(err.Error()) {
		t.Errorf("%v; want %s", err, says)
	}
}

// runBroken runs a job on 4 ranks, of which the second calls breaks when it enters a phase. It returns what that rank
// says, or what is said of it.
func runBroken(j *config.Job, breaks func(phase string)) error {
	own := make(chan error, 1)
	o := RunOptions{wrap: newCompiles, Phase: func(rank int, phase string) {
		if rank == 1 {
			breaks(phase)
		}
	}}
	err := mpi.Run(4, func(w mpi.World) error {
		_, err := Run(context.Background(), w, j, o)
		if w.Rank() == 1 {
			own <- err
		}
		return err
	})
	select {
	case err = <-own:
	default:
	}
	return err
}

// diagnosed checks that rank 1's phase file tells where it broke.
func diagnosed(t *testing.T, output, place string) {
	t.Helper()
	d, err := results.Diagnose(t.Context(), output, results.Options{})
	if err != nil {
		t.Error(err)
		return
	}
	lines := d.Lines()
	want := regexp.MustCompile(`^rank 1 \(.+, process \d+\): .*in phase ` + place)
	if !slices.ContainsFunc(lines, want.MatchString) {
		t.Errorf("want %s in\n%s", want, strings.Join(lines, "\n"))
	}
}

// parts are the digests of the parts that count, by name.
func parts(t *testing.T, output string) map[string][32]byte {
	t.Helper()
	found := map[string][32]byte{}
	commits, err := filepath.Glob(filepath.Join(output, "_dsbatch", "commits-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commits {
		text, err := os.ReadFile(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`part-\d+\.parquet`).FindAllString(string(text), -1) {
			content, err := os.ReadFile(filepath.Join(output, name))
			if err != nil {
				t.Fatal(err)
			}
			found[name] = sha256.Sum256(content)
		}
	}
	return found
}

// TestStagesOfCompiling: onlookers are told of each file of kernels that is compiled, and then of what goes on.
func TestStagesOfCompiling(t *testing.T) {
	var stages []string
	_, err := runRanks(t, 2, newJob(t, nil), RunOptions{wrap: newCompiles, Stage: func(s string) { stages = append(stages, s) }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{phasePrepare, phaseLoad}
	for _, file := range kernelFiles {
		want = append(want, phaseCompile+" "+file, phaseLoad)
	}
	if want = append(want, "", phaseCommit, phaseFinish); !slices.Equal(stages, want) {
		t.Errorf("stages %q, want %q", stages, want)
	}
}

// compiles is a device that compiles its kernels when a stream is made.
type compiles struct {
	kernels.Device
	begin    func(file string) (done func())
	prepared kernels.Made // what it was told of
}

func newCompiles(d kernels.Device) kernels.Device { return &compiles{Device: d} }

var kernelFiles = []string{"select.cu", "gemm.cu", "attention.cu", "sample.cu"}

func (c *compiles) Prepare(m kernels.Made) { c.prepared = m }

func (c *compiles) OnCompile(begin func(file string) (done func())) { c.begin = begin }

func (c *compiles) NewStream() (kernels.Stream, error) {
	if c.prepared.Weights == 0 || c.prepared.Stored == 0 || c.prepared.HeadDim == 0 {
		return nil, errors.New("nobody has told what will be needed")
	}
	for _, file := range kernelFiles {
		c.begin(file)()
	}
	return c.Device.NewStream()
}
