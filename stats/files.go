package stats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// The files that a report is written to, in the output directory.
const (
	statsFile  = "stats.json"
	reportFile = "report.html"
)

// numberLists are the lists of nothing but numbers, which belong on one line.
var numberLists = regexp.MustCompile(`\[[\s\d.,eE+-]*\]`)

// WriteFiles writes stats.json and report.html into dir, each whole or not at all. Starts of the same job that the
// stats.json found there tells of, and that start itself, become Earlier.
func (r *Report) WriteFiles(dir string) error {
	if last, err := ReadReport(dir); err == nil && !last.Start.Equal(r.Start) {
		last.Earlier = append(last.Earlier, last.earlier())
		r.Earlier = last.Earlier
	} else if err == nil {
		r.Earlier = last.Earlier
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", statsFile, err)
	}
	b = numberLists.ReplaceAllFunc(b, func(list []byte) []byte { return bytes.Join(bytes.Fields(list), nil) })
	var page bytes.Buffer
	if err := r.writeHTML(&page); err != nil {
		return fmt.Errorf("%s: %w", reportFile, err)
	}
	if err := replace(dir, statsFile, append(b, '\n')); err != nil {
		return err
	}
	return replace(dir, reportFile, page.Bytes())
}

// ReadReport reads the stats.json of an output directory.
func ReadReport(dir string) (Report, error) {
	path := filepath.Join(dir, statsFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return Report{}, fmt.Errorf("the statistics of a run: %w", err)
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return Report{}, fmt.Errorf("%s: not the statistics of a run: %w", path, err)
	}
	if r.Format != 1 {
		return Report{}, fmt.Errorf("%s: format %d of the statistics; this version reads 1", path, r.Format)
	}
	return r, nil
}

// replace writes a file aside and renames it.
func replace(dir, name string, content []byte) error {
	refused := func(err error) error { // by the system, about a name that only it and we know
		if at := (*fs.PathError)(nil); errors.As(err, &at) {
			err = at.Err
		}
		return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, name), err)
	}
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return refused(err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(refused(err), os.Remove(f.Name()))
	}
	return nil
}
