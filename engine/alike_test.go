package engine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestUnlikeRanksAreNamed starts one rank of three otherwise than the others: all refuse, and name it and what differs,
// whatever the differing setting would have made them do.
func TestUnlikeRanksAreNamed(t *testing.T) {
	parquet := func(from string) string { // other rows under the same name, as on another node's disk
		path := filepath.Join(t.TempDir(), "rows.parquet")
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(path, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(to string) string { // a folder of links to a model's files
		folder := t.TempDir()
		entries, err := os.ReadDir(to)
		if err != nil {
			t.Fatal(err)
		}
		absolute, err := filepath.Abs(to)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.Symlink(filepath.Join(absolute, e.Name()), filepath.Join(folder, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		return folder
	}
	same, other := link(bundled), link(bundled)
	description, err := os.ReadFile(filepath.Join(other, "model.json"))
	if err == nil {
		err = errors.Join(os.Remove(filepath.Join(other, "model.json")),
			os.WriteFile(filepath.Join(other, "model.json"), bytes.Replace(description, []byte("1e-05"), []byte("1e-06"), 1), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*config.Job, *RunOptions)
		say    string
	}{
		"a sampling setting":      {func(j *config.Job, _ *RunOptions) { j.Temperature = 0.7 }, `temperature ("0.7", rank 0 has "0.8")`},
		"a layout":                {func(j *config.Job, _ *RunOptions) { j.EP = 1 }, `ep ("1", rank 0 has "auto")`},
		"an output":               {func(j *config.Job, _ *RunOptions) { j.Output += "2" }, "output ("},
		"a version":               {func(_ *config.Job, o *RunOptions) { o.Version = "2" }, `version ("2", rank 0 has "1")`},
		"a model behind one name": {func(*config.Job, *RunOptions) {}, "model ("},
		"rows behind one name":    {func(*config.Job, *RunOptions) {}, "sees other input files than rank"},
	} {
		t.Run(name, func(t *testing.T) {
			output := filepath.Join(t.TempDir(), "out")
			inputs := []string{parquet(prompts), parquet(passages)}
			err := mpi.Run(3, func(w mpi.World) error {
				j, o := newJob(t, nil), RunOptions{Version: "1"}
				j.Output = output
				if w.Rank() == 1 {
					c.change(j, &o)
				}
				r := &run{job: j, options: o, world: w}
				if err := r.startedAlike(context.Background()); err != nil {
					return err
				}
				// what the names stand for differs, not the names
				if name == "a model behind one name" {
					if j.Model = same; w.Rank() == 1 {
						j.Model = other
					}
				}
				if name == "rows behind one name" {
					j.PromptColumn = "prompt"
					if j.Input = inputs[:1]; w.Rank() == 1 {
						j.Input = inputs[1:]
					}
				}
				return r.opened(context.Background())
			})
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v; it does not say %q", err, c.say)
			}
			if strings.HasPrefix(c.say, "sees") { // said by openRows, before traits are compared
				return
			}
			if !errors.Is(err, comm.ErrUnlike) || !strings.Contains(err.Error(), "rank 1 (") {
				t.Errorf("%v: it does not name the rank", err)
			}
			if _, err := os.Stat(output); err == nil {
				t.Error("the output was made")
			}
		})
	}
}

// opened is what do does up to where the output is opened.
func (r *run) opened(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	_, err := r.open(ctx)
	return err
}
