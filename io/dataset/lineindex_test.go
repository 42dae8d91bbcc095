package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
)

// opened is what ranks find that open a data set together, by rank.
func opened(t *testing.T, ranks int, piece int64, patterns func(rank int) []string, columns Columns) (sets []*Dataset, errs []error) {
	t.Helper()
	sets, errs = make([]*Dataset, ranks), make([]error, ranks)
	var done sync.WaitGroup
	for rank, peers := range meeting(ranks, piece) {
		done.Go(func() {
			sets[rank], errs[rank] = OpenTogether(context.Background(), patterns(rank), columns, peers)
		})
	}
	done.Wait()
	return sets, errs
}

// meeting is ranks that gather once, each waiting for all.
func meeting(ranks int, piece int64) []Peers {
	all, met, peers := make([][]byte, ranks), sync.WaitGroup{}, make([]Peers, ranks)
	met.Add(ranks)
	for rank := range peers {
		gather := func(_ context.Context, mine []byte) ([][]byte, error) {
			all[rank] = mine
			met.Done()
			met.Wait()
			return all, nil
		}
		peers[rank] = Peers{Rank: rank, Size: ranks, Gather: gather, piece: piece}
	}
	return peers
}

// told is a data set's rows, types and ids as text; every file is entered at several rows.
func told(t *testing.T, set *Dataset) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, set.CarrySchema(), set.IDType())
	for i, f := range set.Files() {
		fmt.Fprintln(&b, filepath.Base(f.Path), f.First, f.Rows, f.Identity)
		for _, from := range []int64{0, f.Rows / 3, f.Rows - 1} {
			for row, err := range set.Read(context.Background(), i, max(from, 0), f.Rows) {
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(&b, row.Number, row.ID, row.Prompt, row.Err)
			}
		}
	}
	return b.String()
}

// TestLinesSharedOut: however many ranks open a data set, and wherever the pieces of its files are cut, all find the
// same rows.
func TestLinesSharedOut(t *testing.T) {
	dir := t.TempDir()
	var many strings.Builder
	for i := range 4000 {
		id := fmt.Sprint(i)
		if i == 3777 {
			id = `"late text"` // makes all ids texts
		}
		fmt.Fprintf(&many, `{"prompt": "row %d %s", "id": %s}`+"\n", i, strings.Repeat("x", i%97), id)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.jsonl", many.String())
	write("b.jsonl", "\xef\xbb\xbf\n\n{\"prompt\": \"bom\", \"id\": \"x\"}\r\n  \n\n"+`{"prompt": "`+strings.Repeat("long ", 2000)+`", "id": 2}`+"\n\n\n{broken\n{\"prompt\": \"no end\", \"id\": 3}")
	write("c.jsonl", "")
	write("d.jsonl", "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n")
	packed, err := os.Create(filepath.Join(dir, "e.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(packed)
	_, err = z.Write([]byte(many.String()))
	if err := errors.Join(err, z.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	for _, columns := range []Columns{{Prompt: "prompt"}, {Prompt: "prompt", ID: "id", Carry: []CarryColumn{{"id", "number"}}}} {
		want := ""
		for _, c := range []struct {
			ranks int
			piece int64
		}{{1, 0}, {1, 997}, {1, 61}, {2, 100}, {3, 4096}, {5, 64 << 10}, {4, 0}} {
			if c.piece > 0 && c.piece < 100 && columns.ID == "" {
				continue // the keys of the first lines are those of the first piece
			}
			sets, errs := opened(t, c.ranks, c.piece, func(int) []string { return []string{dir} }, columns)
			for rank, set := range sets {
				if errs[rank] != nil {
					t.Fatalf("%d ranks, pieces of %d: rank %d: %v", c.ranks, c.piece, rank, errs[rank])
				}
				got := told(t, set)
				if want == "" {
					want = got
				} else if got != want {
					t.Fatalf("%d ranks, pieces of %d: rank %d differs\n%s", c.ranks, c.piece, rank, cmp.Diff(want, got))
				}
				if err := set.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestPeersFailTogether: what one rank cannot open, none has.
func TestPeersFailTogether(t *testing.T) {
	dir := t.TempDir()
	good, damaged := filepath.Join(dir, "good.jsonl"), filepath.Join(dir, "damaged.jsonl.gz")
	if err := os.WriteFile(good, []byte(`{"prompt": "a"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		patterns func(rank int) []string
		class    error
		says     string
	}{
		"one does not see the file": {func(rank int) []string { return []string{good, dir + "/absent.jsonl"}[rank/2 : rank/2+1] }, ErrMissing, "absent.jsonl"},
		"one sees another": {func(rank int) []string {
			return []string{good, dir + "/../" + filepath.Base(dir) + "/good.jsonl"}[rank/2 : rank/2+1]
		}, ErrMissing, "other input files"},
		"all see a damaged one": {func(int) []string { return []string{good, damaged} }, ErrDamaged, "damaged.jsonl.gz"},
	} {
		_, errs := opened(t, 3, 0, c.patterns, Columns{Prompt: "prompt"})
		for rank, err := range errs {
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: rank %d: %v", name, rank, err)
			}
		}
	}
}

// TestLinesGivenUp: where the context of one rank ends, all ranks return, and say why.
func TestLinesGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte("{\"prompt\": \"a\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	var done sync.WaitGroup
	peers := meeting(2, 4)
	for rank, ctx := range []context.Context{t.Context(), ended} {
		done.Go(func() {
			if _, err := OpenTogether(ctx, []string{path}, Columns{Prompt: "prompt"}, peers[rank]); !errors.Is(err, context.Canceled) {
				t.Errorf("rank %d: %v", rank, err)
			}
		})
	}
	done.Wait()
}
