package results

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

// Job is what _dsbatch/job.json says: the output's fingerprint, columns and chunks.
type Job struct {
	Fingerprint Fingerprint
	Columns     []string // "name: type", in order
	Samples     int      // records a row, at least 1
	Chunks      []Chunk
	Versions    []string // versions accepted since, oldest first, as JSON; empty: one version made it all
}

// jobFile is Job on the disk.
type jobFile struct {
	Format      int         `json:"format"`
	Fingerprint Fingerprint `json:"fingerprint"`
	Versions    []string    `json:"accepted_versions,omitempty"`
	Columns     []string    `json:"columns"`
	Samples     int         `json:"samples"`
	Chunks      [][3]int64  `json:"chunks"` // file, from, to
}

const jobFormat = 1

// Peek reads the job of an output without touching it. Where there is none the error is fs.ErrNotExist.
func Peek(dir string) (*Job, error) { return readJob(disk{}, dir) }

func readJob(fsys fileSystem, dir string) (*Job, error) {
	name := state(dir, "job.json")
	content, err := readAll(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no dsbatch output: %w", dir, err)
	} else if err != nil {
		return nil, diskError("cannot read", name, err)
	}
	var f jobFile
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s is %w: %w; give another --output", name, ErrDamaged, err)
	}
	if f.Format != jobFormat {
		return nil, fmt.Errorf("%s is %w: it is of format %d, this dsbatch knows %d; use the version that made it, or another --output",
			name, ErrUnusable, f.Format, jobFormat)
	}
	job := &Job{f.Fingerprint, f.Columns, f.Samples, make([]Chunk, len(f.Chunks)), f.Versions}
	first := int64(0)
	for i, c := range f.Chunks {
		job.Chunks[i] = Chunk{i, int(c[0]), c[1], c[2], first}
		first += job.Chunks[i].Rows()
	}
	err = checkChunks(job.Chunks)
	if err == nil && f.Samples < 1 {
		err = fmt.Errorf("%d samples", f.Samples)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is %w: %w; give another --output", name, ErrDamaged, err)
	}
	return job, nil
}

// write puts job.json in its place; temporary and ready are writeAside's.
func (j *Job) write(fsys fileSystem, dir, temporary string, ready func() error) error {
	f := jobFile{jobFormat, j.Fingerprint, j.Versions, j.Columns, j.Samples, make([][3]int64, len(j.Chunks))}
	for i, c := range j.Chunks {
		f.Chunks[i] = [3]int64{int64(c.File), c.From, c.To}
	}
	name := state(dir, "job.json")
	_, err := writeAside(fsys, temporary, name, func(w io.Writer) error {
		return json.NewEncoder(w).Encode(f)
	}, ready)
	if err != nil {
		return diskError("cannot write", name, err)
	}
	return nil
}

// checkChunks sees to it that chunks are numbered from 0 and cover all rows, each once.
func checkChunks(chunks []Chunk) error {
	first := int64(0)
	for i, c := range chunks {
		if c.Index != i || c.First != first || c.From < 0 || c.To <= c.From || c.File < 0 {
			return fmt.Errorf("chunk %d is %+v; want index %d, first row %d and at least one row", i, c, i, first)
		}
		first += c.Rows()
	}
	return nil
}

// match says whether now may go on with the job j; accept lets the version differ. When it did, changed is true and
// j has taken the new version.
func (j *Job) match(dir string, now *Job, accept bool) (changed bool, err error) {
	differences, err := now.Fingerprint.Compare(j.Fingerprint)
	if err != nil {
		return false, err
	}
	if accept && len(differences) == 1 && differences[0].Name == versionSetting {
		j.Versions = append(j.Versions, differences[0].Was)
		j.Fingerprint, differences, changed = now.Fingerprint, nil, true
	}
	if len(differences) == 0 { // then these follow from the settings, unless the caller forgot one
		differences = compareValues(differences, "columns", anyList(j.Columns), anyList(now.Columns))
		differences = compareValues(differences, "chunks", chunkList(j.Chunks), chunkList(now.Chunks))
	}
	if len(differences) > 0 {
		return false, &MismatchError{filepath.Clean(dir), differences}
	}
	return changed, nil
}

func anyList(s []string) []any {
	list := make([]any, len(s))
	for i := range s {
		list[i] = s[i]
	}
	return list
}

func chunkList(chunks []Chunk) []any {
	list := make([]any, len(chunks))
	for i, c := range chunks {
		list[i] = fmt.Sprintf("rows %d to %d of file %d", c.From, c.To, c.File)
	}
	return list
}

func (l Layout) columnNames() (names []string) {
	for _, f := range l.Schema().Fields() {
		names = append(names, f.Name+": "+strings.TrimSpace(f.Type.String()))
	}
	return names
}
