// Package results keeps the output of a job: parts in Parquet, and the commit lines that say which of them count.
//
// A chunk is a run of consecutive rows of one input file, a part the Parquet file that holds a chunk's rows, a commit
// the checksummed, fsynced line that makes a part count. A start is one process group working on an output directory;
// starts are numbered from 1, and one at a time holds the lease. A writer is one rank of one start. A record is one
// output row: a row of the input, or one of its samples.
//
// A chunk counts when its commit line is whole and its part is there with the bytes that the line names. Whatever else
// a dead job leaves behind (temporary files, parts without a line, torn lines) is done again or swept away, so that a
// kill at any instant neither loses a row nor doubles one.
//
//	DIR/part-0000003.parquet                  chunk 3
//	DIR/.part-0000003.parquet.2-0.tmp         the same being written by rank 0 of start 2
//	DIR/_dsbatch/job.json                     fingerprint, columns and chunks; written once
//	DIR/_dsbatch/commits-000002-00000.jsonl   the commit lines of rank 0 of start 2
//	DIR/_dsbatch/open-0000004.parquet         rows finished in chunk 4, which was open at a clean stop
//	DIR/_dsbatch/lease-000002.json            who holds the output; its beat counts up while the holder lives
//	DIR/_dsbatch/phase-000002-00000.json      what rank 0 of start 2 was doing when it last told; gone at the end
//	DIR/_dsbatch/bad-rows.parquet             rows set aside, with their reasons; made at the end
//	DIR/_SUCCESS                              every row is committed
//
// The package knows Arrow and files; no tensor, no model, no reader of data sets. Arrow v15 is what its callers speak;
// Parquet is written and read by v18 (see adopt.go).
package results

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Chunk is a run of consecutive rows of one input file. Its rows are numbered First…First+To−From−1 among all rows.
type Chunk struct {
	Index    int   // from 0, ascending with First
	File     int   // number of the input file, from 0
	From, To int64 // rows of that file: From included, To not
	First    int64 // global number of row From
}

// Rows counts the chunk's input rows.
func (c Chunk) Rows() int64 { return c.To - c.From }

// Options of Create and Join. The zero value is the default.
type Options struct {
	AcceptVersion bool          // go on with an output that another version began; job.json then names both
	Beat          time.Duration // how often the lease is refreshed; a lease still for 15 beats is dead; 0: 2 s
	RowGroupRows  int           // most records in a row group; 0: 65536
	RowGroupBytes int64         // about the most bytes, uncompressed, in a row group, one record at least; 0: 64 MiB
	Log           *slog.Logger  // nil: nothing is logged
	Progress      func()        // called as Create and Finish get on, and while Create waits; nil: nobody is told

	fs   fileSystem // nil: the operating system's
	self *process   // nil: this process
}

func (o Options) withDefaults() Options {
	if o.Beat <= 0 {
		o.Beat = 2 * time.Second
	}
	if o.RowGroupRows <= 0 {
		o.RowGroupRows = 1 << 16
	}
	if o.RowGroupBytes <= 0 {
		o.RowGroupBytes = 64 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func() {}
	}
	if o.fs == nil {
		o.fs = disk{}
	}
	if o.self == nil {
		o.self = thisProcess()
	}
	return o
}

// Errors to match with errors.Is. A directory that holds no output is fs.ErrNotExist, a full disk syscall.ENOSPC.
var (
	ErrInUse = errors.New("the output is in use by another job")
	ErrLost  = errors.New("another job has taken this output over")
	// ErrDamaged marks a file of the output's own that is not what its format says, ErrUnusable a folder or format that
	// this version cannot go on with.
	ErrDamaged  = errors.New("damaged")
	ErrUnusable = errors.New("not usable")
	// ErrColumns marks columns that were asked for and that no output can have, ErrUnlike two outputs whose records do not
	// correspond.
	ErrColumns = errors.New("columns that no output can have")
	ErrUnlike  = errors.New("cannot be compared")
)

const stateFolder = "_dsbatch"

func state(dir, name string) string { return filepath.Join(dir, stateFolder, name) }

func partName(chunk int) string { return fmt.Sprintf("part-%07d.parquet", chunk) }
func openName(chunk int) string { return fmt.Sprintf("open-%07d.parquet", chunk) }

// numbers reads the decimal numbers of a file name between prefix and suffix, joined by '-'. ok only when the name
// has exactly as many as wanted.
func numbers(name, prefix, suffix string, wanted int) (n []int, ok bool) {
	rest, found := strings.CutPrefix(name, prefix)
	if !found {
		return nil, false
	}
	if rest, found = strings.CutSuffix(rest, suffix); !found {
		return nil, false
	}
	for field := range strings.SplitSeq(rest, "-") {
		v, err := strconv.Atoi(field)
		if err != nil || v < 0 {
			return nil, false
		}
		n = append(n, v)
	}
	return n, len(n) == wanted
}

// diskError names the file and, where the system's reason has a known mend, the mend.
func diskError(what, path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: %w; make room there and start the same command again: what is committed stays", what, path, err)
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s %s: %w; give a folder that you may write to with --output", what, path, err)
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%s %s: %w; a file is in the way: give a folder with --output", what, path, err)
	}
	return fmt.Errorf("%s %s: %w", what, path, err)
}
