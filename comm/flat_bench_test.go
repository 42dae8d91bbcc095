package comm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// The exchange of one MoE layer, dispatch and combine, on 2 ranks: each keeps half of its rows and sends half. Rates count
// the bytes that a rank gets, its own included, since they are copied as well, in the best of many short windows, which
// other work of the machine disturbs least. The ceiling is copy() of as many bytes, on all ranks at once, in the same run.

const (
	windowBytes = 256 << 10 // to each rank, or one layer
	windows     = 40
)

// exchangeRate returns the bytes a second that each rank gets by an AllToAll, and by plain copies.
func exchangeRate(ctx context.Context, w mpi.World, rows, rowBytes int) (exchanged, copied float64, err error) {
	p := w.Size()
	x, send, recv := NewFlat(w), make([]byte, p*rows*rowBytes), make([]byte, p*rows*rowBytes)
	counts := make([]int, p)
	for i := range counts {
		counts[i] = rows
	}
	for i := range send {
		send[i], recv[i] = byte(i), 1
	}
	layer := func() error {
		if _, err := x.Count(ctx, counts); err != nil {
			return err
		}
		if err := x.Dispatch(ctx, recv, send, rowBytes); err != nil {
			return err
		}
		return x.Combine(ctx, send, recv, rowBytes)
	}
	rate := func(round func() error) (float64, error) {
		if err := round(); err != nil {
			return 0, err
		}
		layers, best := max(1, windowBytes/(rows*rowBytes)), time.Duration(1<<62)
		for range windows {
			if err := w.Barrier(ctx); err != nil {
				return 0, err
			}
			begun := time.Now()
			for range layers {
				if err := round(); err != nil {
					return 0, err
				}
			}
			if err := w.Barrier(ctx); err != nil {
				return 0, err
			}
			best = min(best, time.Since(begun))
		}
		return 2 * float64(len(send)) * float64(layers) / best.Seconds(), nil
	}
	if copied, err = rate(func() error { copy(recv, send); copy(send, recv); return nil }); err != nil {
		return 0, 0, err
	}
	exchanged, err = rate(layer)
	return exchanged, copied, err
}

var rateSizes = []struct{ rows, rowBytes int }{{1, 4096}, {16, 4096}, {128, 4096}, {1024, 4096}, {8192, 4096}}

func report(b *testing.B, exchanged, copied float64, layer int) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(exchanged/1e9, "GB/s")
	b.ReportMetric(100*exchanged/copied, "%copy")
	b.ReportMetric(float64(layer)/exchanged*1e6, "µs/layer")
}

func BenchmarkFlatInProcess(b *testing.B) {
	for _, s := range rateSizes {
		b.Run(fmt.Sprintf("rows=%d", s.rows), func(b *testing.B) {
			var exchanged, copied float64
			mpitest.Run(b, 2, func(w mpi.World) error {
				x, c, err := exchangeRate(b.Context(), w, s.rows, s.rowBytes)
				if w.Rank() == 0 {
					exchanged, copied = max(exchanged, x), max(copied, c)
				}
				return err
			})
			report(b, exchanged, copied, 4*s.rows*s.rowBytes)
		})
	}
}

// BenchmarkFlatMPI starts TestRankRates of rank_test.go under mpirun and testdata/alltoallv.c, a plain MPI program, in
// turn, and reports the best of each: the machine's other work disturbs both.
func BenchmarkFlatMPI(b *testing.B) {
	plain := filepath.Join(b.TempDir(), "alltoallv")
	if out, err := exec.Command("mpicc", "-O2", "-o", plain, "testdata/alltoallv.c").CombinedOutput(); err != nil {
		b.Skipf("SKIPPED, no MPI compiler: %v\n%s", err, out)
	}
	args := []string{"--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", "2", plain}
	for _, s := range rateSizes {
		args = append(args, strconv.Itoa(s.rows))
	}
	ours, copied, theirs := make([]float64, len(rateSizes)), make([]float64, len(rateSizes)), make([]float64, len(rateSizes))
	for range 5 {
		out, status := mpitest.Mpirun(b, 2, "TestRankRates", 3*time.Minute)
		if status != 0 {
			b.Fatalf("status %d\n%s", status, out)
		}
		best(b, out, ours, copied)
		cmd := exec.Command("mpirun", args...)
		cmd.Env = append(os.Environ(), "OMPI_MCA_mpi_yield_when_idle=1") // as ours, where ranks take all cores
		raw, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, raw)
		}
		best(b, string(raw), theirs, nil)
	}
	for i, s := range rateSizes {
		b.Run(fmt.Sprintf("rows=%d", s.rows), func(b *testing.B) {
			report(b, ours[i], copied[i], 4*s.rows*s.rowBytes)
			b.ReportMetric(100*ours[i]/theirs[i], "%plainC")
		})
	}
}

// best takes the rates of a run that are higher than those before: the first number of a line, and the second.
func best(b *testing.B, out string, first, second []float64) {
	lines := regexp.MustCompile(`rate \d+ (\S+) ?(\S*)`).FindAllStringSubmatch(out, -1)
	if len(lines) != len(rateSizes) {
		b.Fatalf("%d rates in\n%s", len(lines), out)
	}
	for i, l := range lines {
		for k, to := range [][]float64{first, second} {
			if to != nil {
				x, err := strconv.ParseFloat(l[k+1], 64)
				if err != nil {
					b.Fatal(err)
				}
				to[i] = max(to[i], x)
			}
		}
	}
}
