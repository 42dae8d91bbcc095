package benchmarks

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
)

// The exchange of one MoE layer, counts, dispatch and combine: each rank keeps its own share of the rows and sends the
// others theirs. Rates count the bytes that a rank gets, its own included, since they are copied as well, in the best of
// many short windows, which other work of the machine disturbs least.
const (
	exchangeRow = 4096      // bytes: hidden 2048 in 16 bits
	windowBytes = 256 << 10 // to each rank in a window, or one layer
	windows     = 40
)

// exchangeRows are the rows from each rank to each, from a decoding step to a prefill.
var exchangeRows = []int{1, 16, 128, 1024, 8192}

//go:embed plainmpi/alltoallv.c
var plainMPI []byte

// CommOptions of Comm.
type CommOptions struct {
	Program string // that prints CommRank's rates under mpirun when it is run with Args
	Args    []string
	Ranks   int // 0: 2
	Rounds  int // 0: 5
}

// Comm measures the flat exchange over the shared memory of this host, between processes and between goroutines, beside
// copies and beside a plain MPI program in C, in turn.
func Comm(ctx context.Context, o CommOptions) ([]Group, error) {
	if o.Ranks == 0 {
		o.Ranks = 2
	}
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	launch, err := newLauncher(o.Ranks, "none") // a rank has several threads
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "dsbatch-bench-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // a temporary folder
	plain, err := compilePlainMPI(ctx, folder)
	if err != nil {
		return nil, err
	}
	sizes := make([]string, len(exchangeRows))
	for i, rows := range exchangeRows {
		sizes[i] = strconv.Itoa(rows)
	}
	seen := make([]exchangeRates, len(exchangeRows))
	for range o.Rounds {
		ours, err := launch.rates(ctx, o.Program, o.Args...)
		if err != nil {
			return nil, err
		}
		theirs, err := launch.rates(ctx, plain, sizes...)
		if err != nil {
			return nil, err
		}
		for i := range seen {
			seen[i].processes, seen[i].plain = append(seen[i].processes, ours[i]), append(seen[i].plain, theirs[i])
		}
		if err := inProcessRates(ctx, o.Ranks, seen); err != nil {
			return nil, err
		}
	}
	return commGroups(o.Ranks, seen), nil
}

// exchangeRates are bytes a second of one size, a round each.
type exchangeRates struct{ processes, plain, goroutines, copies []float64 }

func commGroups(ranks int, seen []exchangeRates) []Group {
	total := func(i int) float64 { return 2 * float64(ranks*exchangeRows[i]*exchangeRow) }
	all := func(i int, rates, bounds []float64, by string) Figure {
		rounds := make([]round, len(rates))
		for r := range rates {
			rounds[r] = round{total(i) / rates[r], total(i) / bounds[r], by}
		}
		return rate(fmt.Sprintf("%d rows, %s to each", exchangeRows[i], bytesText(exchangeRows[i]*exchangeRow)),
			"GB/s", total(i)/1e9, rounds...)
	}
	note := "what a rank gets of one MoE layer, counts, dispatch and combine; rows of 4096 bytes; time is that of a layer"
	processes := Group{Name: fmt.Sprintf("flat exchange, %d processes", ranks), Note: note + "; the bound is MPI_Alltoallv in a C program run in turn"}
	goroutines := Group{Name: fmt.Sprintf("flat exchange, %d goroutines", ranks), Note: note + "; the bound is copying as many bytes on all ranks"}
	for i, s := range seen {
		processes.Figures = append(processes.Figures, all(i, s.processes, s.plain, "plain C"))
		goroutines.Figures = append(goroutines.Figures, all(i, s.goroutines, s.copies, "copies"))
	}
	return []Group{processes, goroutines}
}

func bytesText(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// CommRank measures as one of the ranks of w, and prints what rank 0 sees.
func CommRank(ctx context.Context, w mpi.World, out io.Writer) error {
	for _, rows := range exchangeRows {
		exchanged, _, err := exchangeRate(ctx, w, rows)
		if err != nil {
			return err
		}
		if w.Rank() == 0 {
			fmt.Fprintf(out, "rate %d %g\n", rows, exchanged)
		}
	}
	return nil
}

func inProcessRates(ctx context.Context, ranks int, seen []exchangeRates) error {
	return mpi.Run(ranks, func(w mpi.World) error {
		for i, rows := range exchangeRows {
			exchanged, copied, err := exchangeRate(ctx, w, rows)
			if err != nil {
				return err
			}
			if w.Rank() == 0 {
				seen[i].goroutines, seen[i].copies = append(seen[i].goroutines, exchanged), append(seen[i].copies, copied)
			}
		}
		return nil
	})
}

// exchangeRate returns the bytes a second that each rank gets by an AllToAll, and by plain copies.
func exchangeRate(ctx context.Context, w mpi.World, rows int) (exchanged, copied float64, err error) {
	p := w.Size()
	x, send, recv := comm.NewFlat(w), make([]byte, p*rows*exchangeRow), make([]byte, p*rows*exchangeRow)
	counts := make([]int, p)
	for i := range counts {
		counts[i] = rows
	}
	for i := range send {
		send[i], recv[i] = byte(i), 1
	}
	layer := func() error {
		if err := x.Count(ctx, counts); err != nil {
			return err
		}
		if _, err := x.Counted(ctx); err != nil {
			return err
		}
		if err := x.Dispatch(ctx, recv, send, exchangeRow); err != nil {
			return err
		}
		if err := x.Finish(ctx); err != nil {
			return err
		}
		if err := x.Combine(ctx, send, recv, exchangeRow); err != nil {
			return err
		}
		return x.Finish(ctx)
	}
	best := func(work func() error) (float64, error) {
		if err := work(); err != nil {
			return 0, err
		}
		layers, least := max(1, windowBytes/(rows*exchangeRow)), time.Duration(1<<62)
		for range windows {
			if err := w.Barrier(ctx); err != nil {
				return 0, err
			}
			begun := time.Now()
			for range layers {
				if err := work(); err != nil {
					return 0, err
				}
			}
			if err := w.Barrier(ctx); err != nil {
				return 0, err
			}
			least = min(least, time.Since(begun))
		}
		return 2 * float64(len(send)) * float64(layers) / least.Seconds(), nil
	}
	if copied, err = best(func() error { copy(recv, send); copy(send, recv); return nil }); err != nil {
		return 0, 0, err
	}
	exchanged, err = best(layer)
	return exchanged, copied, err
}

// compilePlainMPI makes the C program.
func compilePlainMPI(ctx context.Context, folder string) (program string, err error) {
	source, program := filepath.Join(folder, "alltoallv.c"), filepath.Join(folder, "alltoallv")
	if err := os.WriteFile(source, plainMPI, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "mpicc", "-O2", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mpicc: %w: %s; install Open MPI's compiler (on Debian: apt-get install libopenmpi-dev)", err, out)
	}
	return program, nil
}

// launcher starts programs under mpirun on this host.
type launcher struct{ args []string }

// newLauncher binds each rank to a "core", or to "none".
func newLauncher(ranks int, bind string, more ...string) (launcher, error) {
	path, err := exec.LookPath("mpirun")
	if err != nil {
		return launcher{}, errors.New("no mpirun; install Open MPI (on Debian: apt-get install openmpi-bin)")
	}
	args := []string{path, "--oversubscribe", "--bind-to", bind, "-n", strconv.Itoa(ranks)}
	if os.Geteuid() == 0 {
		args = append(args, "--allow-run-as-root")
	}
	return launcher{append(args, more...)}, nil
}

func (l launcher) run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.args[0], append(append(l.args[1:len(l.args):len(l.args)], program), args...)...)
	// as dsbatch sets it where ranks take all cores: the same for all
	cmd.Env = append(os.Environ(), "OMPI_MCA_mpi_yield_when_idle=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("mpirun %s: %w\n%s", filepath.Base(program), err, out)
	}
	return string(out), err
}

var rateLine = regexp.MustCompile(`(?m)^rate \d+ (\S+)$`)

// rates runs a program that prints a rate for each size.
func (l launcher) rates(ctx context.Context, program string, args ...string) ([]float64, error) {
	out, err := l.run(ctx, program, args...)
	if err != nil {
		return nil, err
	}
	lines := rateLine.FindAllStringSubmatch(out, -1)
	if len(lines) != len(exchangeRows) {
		return nil, fmt.Errorf("%s printed %d rates, want %d:\n%s", program, len(lines), len(exchangeRows), out)
	}
	rates := make([]float64, len(lines))
	for i, line := range lines {
		if rates[i], err = strconv.ParseFloat(line[1], 64); err != nil {
			return nil, err
		}
	}
	return rates, nil
}
