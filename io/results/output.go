package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Output is rank 0's hold on an output directory: the lease, and what earlier starts have committed. It is safe for
// use by several goroutines.
type Output struct {
	dir       string
	job       *Job
	layout    Layout
	options   Options
	lease     *lease // nil when it was finished from the first
	committed []bool
	summary   Summary
	finished  bool
	close     func() error
}

// Create makes the output directory dir, or goes on with the one that is there. It is called by rank 0, before any
// rank calls Join, and costs a look at the names and sizes of the parts.
//
// An output that was begun with another fingerprint is refused with a MismatchError before anything is touched, one
// in use by a live job with ErrInUse. A finished output is left as it is: Finished is then true. The chunks must be
// those of the former start (Peek tells), numbered from 0 and without gaps between their rows.
func Create(ctx context.Context, dir string, fp Fingerprint, layout Layout, chunks []Chunk, o Options) (*Output, error) {
	if err := errors.Join(layout.Check(), checkChunks(chunks)); err != nil {
		return nil, err
	}
	out := &Output{
		dir: dir, layout: layout, options: o.withDefaults(), close: func() error { return nil },
		job: &Job{Fingerprint: fp, Columns: layout.columnNames(), Samples: layout.samples(), Chunks: chunks},
	}
	quiet := out.options
	out.options.fs = told{quiet.fs, quiet.Progress}
	if err := out.look(ctx); err != nil {
		return nil, err
	} else if out.finished {
		return out, nil
	}
	if err := dangles(filepath.Clean(dir)); err != nil {
		return nil, err
	}
	if err := out.prepare(); errors.Is(err, fs.ErrNotExist) { // which is said of inputs otherwise, and means another status
		return nil, fmt.Errorf("cannot make %s: %v; give a folder that can be made with --output", dir, err) //nolint:errorlint // see above
	} else if err != nil {
		return nil, diskError("cannot write to", dir, err)
	}
	var err error
	if out.lease, err = acquire(ctx, dir, quiet); errors.Is(err, ErrInUse) || ctx.Err() != nil {
		return nil, err
	} else if err != nil {
		return nil, diskError("cannot write to", dir, err)
	}
	out.close = sync.OnceValue(out.lease.release)
	if err := out.resume(ctx); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	if out.finished { // by the job whose lease we waited for
		return out, out.Close()
	}
	return out, nil
}

// look compares with what is there and changes nothing.
func (out *Output) look(ctx context.Context) error {
	if there, err := out.compare(); err != nil || !there {
		return err
	}
	return out.takeStock(ctx)
}

// takeStock learns what is committed, and whether that is all and said to be.
func (out *Output) takeStock(ctx context.Context) error {
	l, err := out.readLedger(ctx)
	if err != nil {
		return err
	}
	out.committed, out.summary = l.committed(), l.summary()
	success, err := exists(out.options.fs, filepath.Join(out.dir, successName))
	out.finished = success && out.summary.Chunks == len(out.job.Chunks)
	return err
}

// compare holds the job against the one on the disk, if any is there, and takes over what that one alone knows.
func (out *Output) compare() (there bool, err error) {
	was, err := readJob(out.options.fs, out.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, out.refuseForeign()
	} else if err != nil {
		return false, err
	}
	if _, err := was.match(out.dir, out.job, out.options.AcceptVersion); err != nil {
		return false, out.unlessUnbegun(err)
	}
	out.job.Versions = was.Versions
	return true, nil
}

// unlessUnbegun forgives a mismatch with a job that has left nothing behind, such as one whose model was then found to
// be damaged: nothing is lost when another takes its place.
func (out *Output) unlessUnbegun(mismatch error) error {
	for _, folder := range []string{out.dir, filepath.Join(out.dir, stateFolder)} {
		names, err := out.options.fs.ReadDir(folder)
		if err != nil {
			return errors.Join(mismatch, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, ".parquet") || name == successName {
				return mismatch
			}
		}
	}
	return nil
}

// refuseForeign keeps a new job from mixing its parts with those of somebody else.
func (out *Output) refuseForeign() error {
	names, err := out.options.fs.ReadDir(out.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return diskError("cannot use", out.dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".parquet") || name == successName {
			return fmt.Errorf("%s is %w: it holds %s, but no _dsbatch/job.json that tells what made it; give another --output", out.dir, ErrUnusable, name)
		}
	}
	return nil
}

// dangles refuses a folder that is, or lies behind, a link to nothing: no folder can be made there.
func dangles(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		_, err := os.Stat(at)
		if to, linked := os.Readlink(at); linked == nil && errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is a link to %s, which is not there; make that folder, or remove the link", at, to)
		}
		if err == nil || at == filepath.Dir(at) {
			return nil
		}
	}
}

// prepare makes the folders, and sees to it that they survive a power failure. A folder above one that was there before
// may be one that its user may not read, and so cannot fsync.
func (out *Output) prepare() error {
	fsys, dir := out.options.fs, filepath.Clean(out.dir)
	above := []string{filepath.Dir(dir)} // folders that get a new name
	there, err := exists(fsys, dir)
	for at := filepath.Dir(dir); err == nil && !there && at != filepath.Dir(at); at = filepath.Dir(at) {
		var old bool
		if old, err = exists(fsys, at); old {
			break
		}
		above = append(above, filepath.Dir(at))
	}
	if err != nil {
		return err
	}
	if err := fsys.MkdirAll(filepath.Join(dir, stateFolder)); err != nil {
		return err
	}
	for _, folder := range above {
		if err := fsys.SyncDir(folder); err != nil && !(there && errors.Is(err, fs.ErrPermission)) {
			return err
		}
	}
	return fsys.SyncDir(dir)
}

// resume, under the lease, brings the directory into the state in which writers find it.
func (out *Output) resume(ctx context.Context) error {
	fsys := out.options.fs
	if err := errors.Join(out.sweepTemporaries(), out.sweepPhases()); err != nil {
		return diskError("cannot write to", out.dir, err)
	}
	was, err := readJob(fsys, out.dir)
	changed := errors.Is(err, fs.ErrNotExist)
	if err != nil && !changed {
		return err
	}
	if !changed {
		if changed, err = was.match(out.dir, out.job, out.options.AcceptVersion); err == nil {
			out.job.Versions = was.Versions
		} else if err = out.unlessUnbegun(err); err != nil {
			return err
		} else {
			changed = true
		}
	}
	if changed {
		if err := out.job.write(fsys, out.dir, state(out.dir, out.temporary("job.json")), out.held); err != nil {
			return err
		}
	}
	if err := out.takeStock(ctx); err != nil || out.finished {
		return err
	}
	// A _SUCCESS here is of an output that lost a part since: it is not true until Finish says so again.
	if err := fsys.Remove(filepath.Join(out.dir, successName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("cannot write to", out.dir, err)
	}
	return nil
}

func (out *Output) readLedger(ctx context.Context) (ledger, error) {
	return readLedger(ctx, out.options.fs, out.dir, out.job.Chunks, out.job.Samples, func(problem string) {
		out.options.Log.Warn(problem+"; that chunk is done again", "output", out.dir)
	})
}

// held is nil as long as this start has the output.
func (out *Output) held() error { return fence(out.options.fs, out.dir, out.lease.number) }

// temporary is a name for name while rank 0 writes it, in the same folder.
func (out *Output) temporary(name string) string { return temporaryName(name, out.lease.number, 0) }

func temporaryName(name string, start, rank int) string {
	return fmt.Sprintf(".%s.%d-%d.tmp", name, start, rank)
}

// sweepTemporaries removes what dead starts were writing.
func (out *Output) sweepTemporaries() error {
	for _, folder := range []string{out.dir, filepath.Join(out.dir, stateFolder)} {
		names, err := out.options.fs.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, ".") && strings.HasSuffix(name, ".tmp") {
				if err := out.options.fs.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	return nil
}

// sweepOpen removes what is left of open rows when every chunk is committed.
func (out *Output) sweepOpen() error {
	folder := filepath.Join(out.dir, stateFolder)
	names, err := out.options.fs.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := numbers(name, "open-", ".parquet", 1); !ok {
			continue
		}
		if err := out.options.fs.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Start is the number of this start, which every rank hands to Join; 0 when the output is finished.
func (out *Output) Start() int {
	if out.finished {
		return 0
	}
	return out.lease.number
}

// Committed tells, chunk by chunk, which were committed when Create returned. The rest is to be done.
func (out *Output) Committed() []bool { return append([]bool(nil), out.committed...) }

// Finished tells whether Create found an output in which every row is committed and that says so.
func (out *Output) Finished() bool { return out.finished }

// Summary counts what was committed when Create returned.
func (out *Output) Summary() Summary { return out.summary }

// Lost is why this job may not write to the output any more, nil while it may: another job has taken it over (ErrLost), or
// may soon, since the lease could not be written for a while. Stop then; writers refuse to commit once another has it.
func (out *Output) Lost() error {
	if out.finished {
		return nil
	}
	select {
	case <-out.lease.lost:
		return out.lease.why
	default:
		return nil
	}
}

// Close gives the output back, so that the next start need not wait. A finished one it leaves alone.
func (out *Output) Close() error { return out.close() }
