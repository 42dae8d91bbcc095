package store

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
)

// Report is what Verify has found.
type Report struct {
	ckpt.Checked
	// Unknown says why the tensors were not compared with the config, where they were not: a family without a policy.
	Unknown error
}

// Verify reads a checkpoint whole and holds it against its config: every file that a start would open, every checksum
// that a file has, every tensor's name, shape and type, every number. All faults are listed, not only the first. An error
// is that of a missing path, of a tag that names nothing, of what is no checkpoint, or of ctx.
func Verify(ctx context.Context, path string, o ckpt.Options, progress func(bytes int64)) (Report, error) {
	c, err := ckpt.Open(path, o)
	switch {
	case err == nil:
	case errors.Is(err, ckpt.ErrTag), errors.Is(err, ckpt.ErrUnknown), !there(path):
		return Report{}, err
	default:
		return Report{Checked: ckpt.CheckFiles(path, err)}, nil
	}
	defer c.Close() //nolint:errcheck // of memory that was read only
	var y Report
	var faults []error
	counts := func(string) bool { return true }
	held, err := look(ctx, c, 1)
	switch {
	case err == nil:
		faults = held.Faults
		counts = func(name string) bool { return !held.Ignored(name) }
	case errors.Is(err, errUnknownFamily):
		y.Unknown = err
	case ctx.Err() != nil:
		return Report{}, err
	default:
		faults = []error{err}
	}
	if y.Checked, err = c.Check(ctx, runtime.GOMAXPROCS(0), counts, progress); err != nil {
		return Report{}, err
	}
	for _, fault := range faults {
		if !strings.Contains(fault.Error(), path) {
			fault = &ckpt.Error{File: path, Kind: fault, What: fault.Error()}
		}
		y.Faults = append(y.Faults, fault)
	}
	return y, nil
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
