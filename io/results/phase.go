package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Activity is something that a rank does.
type Activity struct {
	Phase string    `json:"phase"`           // in a word: "load", "dispatch", "commit"
	Place string    `json:"place,omitempty"` // how far in it: "layer 3 of 24"
	Since time.Time `json:"since"`           // its begin, by the rank's own clock like all times here
	Moved time.Time `json:"moved"`           // the last sign of progress
}

// Phase is what one rank of a start was doing when it last told, for people who look for what became of a job. It lies
// in a small file of its own, which is replaced whole and never fsynced: it may be some seconds old, and after a power
// failure it may be missing.
type Phase struct {
	Start    int        `json:"start"`
	Rank     int        `json:"rank"`
	Ranks    int        `json:"ranks"`
	Process  process    `json:"process"`
	Activity            // its main line of work
	Waits    string     `json:"waits,omitempty"`  // the call in which it waits for other ranks
	Beside   []Activity `json:"beside,omitempty"` // what else it does: reading, committing
	Asked    string     `json:"asked,omitempty"`  // why it was asked to stop
	Ended    string     `json:"ended,omitempty"`  // how it says that it ended; "": it has not said so
	Told     time.Time  `json:"told"`             // when this was written
}

// same tells whether p says what other says.
func (p Phase) same(other Phase) bool {
	p.Told = other.Told
	a, errA := json.Marshal(p)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && string(a) == string(b)
}

func phaseName(start, rank int) string { return fmt.Sprintf("phase-%06d-%05d.json", start, rank) }

// Tell replaces this rank's phase file, unless p says what it has said already. Start, Rank, Process and Told are filled
// in. It is called by one goroutine at a time.
func (w *Writer) Tell(p Phase) error {
	p.Start, p.Rank, p.Process, p.Told = w.start, w.rank, *w.options.self, time.Now()
	if w.told != nil && w.told.same(p) {
		return nil
	}
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	fsys, name := w.options.fs, phaseName(w.start, w.rank)
	temporary := state(w.dir, temporaryName(name, w.start, w.rank))
	f, err := fsys.Create(temporary, false)
	if err != nil {
		return err
	}
	_, err = f.Write(append(content, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = fsys.Rename(temporary, state(w.dir, name))
	}
	if err == nil {
		w.told = &p
	}
	return err
}

// Untell removes this rank's phase file: the job is done, and nobody will ask.
func (w *Writer) Untell() error {
	err := w.options.fs.Remove(state(w.dir, phaseName(w.start, w.rank)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sweepPhases removes the phase files of earlier starts.
func (out *Output) sweepPhases() error {
	names, err := out.options.fs.ReadDir(filepath.Join(out.dir, stateFolder))
	if err != nil {
		return err
	}
	for _, name := range names {
		if n, ok := numbers(name, "phase-", ".json", 2); ok && n[0] < out.lease.number {
			if err := out.options.fs.Remove(state(out.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// readPhases reads what the ranks of the last start that told anything have told, by rank. A file that is not whole
// tells nothing.
func readPhases(fsys fileSystem, dir string) (phases []Phase, err error) {
	names, err := fsys.ReadDir(filepath.Join(dir, stateFolder))
	if err != nil {
		return nil, err
	}
	last := 0
	for _, name := range names { // sorted, so by start and then by rank
		n, ok := numbers(name, "phase-", ".json", 2)
		if !ok {
			continue
		}
		if n[0] > last {
			last, phases = n[0], nil
		}
		content, err := readAll(fsys, state(dir, name))
		if errors.Is(err, fs.ErrNotExist) { // its rank has just ended
			continue
		} else if err != nil {
			return nil, err
		}
		var p Phase
		if json.Unmarshal(content, &p) != nil || p.Start != n[0] || p.Rank != n[1] {
			continue
		}
		phases = append(phases, p)
	}
	return phases, nil
}
