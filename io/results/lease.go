package results

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// A lease says which start may write to an output. There is a file a start, numbered upwards: to take the output over
// is to create the file of the next number, which only one can do (O_EXCL holds on NFS and Lustre, unlike locks). The
// holder counts the beat in its own file up; it never writes into another's, so that one which slept through its
// replacement does no harm: it finds the next number there and stops.
//
// A lease is dead when its holder gave it back, when its process is known to be gone, or when whoever waits has seen
// the same beat for patience of its own time. No clock of another host is ever read.
type lease struct {
	fs     fileSystem
	dir    string
	number int
	handle handle
	held   leaseFile
	beat   time.Duration

	stop chan struct{}  // closed by release
	done sync.WaitGroup // the beating goroutine
	lost chan struct{}  // closed when another has taken over, or when the beat could not be written for endurance
	why  error          // once lost is closed
}

// leaseFile is the content, padded to leaseSize so that it can be written over in place.
type leaseFile struct {
	Holder   process   `json:"holder"`
	Since    time.Time `json:"since"` // by the holder's clock, for people
	Beat     int64     `json:"beat"`
	Released bool      `json:"released"`
}

const (
	leaseSize = 1024
	patience  = 15 // beats after which whoever waits may take over
	endurance = 10 // beats for which a holder goes on that cannot write: it is gone before another takes over
	looks     = 8  // at another's lease, a beat
)

func leaseName(number int) string { return fmt.Sprintf("lease-%06d.json", number) }

// newestStart is the highest number that a lease or a commits file of dir bears; 0: none.
func newestStart(fsys fileSystem, dir string) (lease, start int, err error) {
	names, err := fsys.ReadDir(filepath.Join(dir, stateFolder))
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		if n, ok := numbers(name, "lease-", ".json", 1); ok {
			lease = max(lease, n[0])
			start = max(start, n[0])
		} else if n, ok := numbers(name, "commits-", ".jsonl", 2); ok {
			start = max(start, n[0])
		}
	}
	return lease, start, nil
}

// acquire takes the lease of dir, after watching another's for as long as it takes to know whether that one lives. It
// fails with ErrInUse when it does.
func acquire(ctx context.Context, dir string, o Options) (*lease, error) {
	for {
		newest, start, err := newestStart(o.fs, dir)
		if err != nil {
			return nil, err
		}
		if newest > 0 {
			if err := watch(ctx, dir, newest, o); err != nil {
				return nil, err
			}
		}
		l := &lease{fs: o.fs, dir: dir, number: start + 1, beat: o.Beat, stop: make(chan struct{}),
			lost: make(chan struct{}), held: leaseFile{Holder: *o.self, Since: time.Now().Round(time.Second)}}
		l.handle, err = o.fs.Create(state(dir, leaseName(l.number)), true)
		if errors.Is(err, fs.ErrExist) {
			continue // somebody was quicker
		} else if err != nil {
			return nil, err
		}
		if err := l.begin(); err != nil { // on a full disk, say: nobody need watch a lease that says nothing
			return nil, errors.Join(err, l.handle.Close(), o.fs.Remove(state(dir, leaseName(l.number))))
		}
		if newest, _, err = newestStart(o.fs, dir); err != nil || newest != l.number {
			l.close()
			if err != nil {
				return nil, err
			}
			continue // the list that we saw was out of date
		}
		l.sweep()
		return l, nil
	}
}

// watch returns nil when lease number of dir is dead, ErrInUse when it is alive: at once where the holder runs on this
// host, else with its next beat.
func watch(ctx context.Context, dir string, number int, o Options) error {
	name := state(dir, leaseName(number))
	first, holder, err := readLease(o.fs, name)
	if err != nil {
		return err
	}
	inUse := func(l leaseFile) error {
		since := ""
		if !l.Since.IsZero() {
			since = ", since " + l.Since.Format(time.DateTime)
		}
		return fmt.Errorf("%s: %w: %s%s; wait for it, stop it, or give another --output", dir, ErrInUse, l.Holder, since)
	}
	fate := o.self.fateOf(holder.Holder)
	switch {
	case holder.Released || fate == dead:
		return nil
	case fate == alive:
		return inUse(holder)
	}
	o.Log.Info("waiting to see whether the job that holds the output is alive", "output", dir, "holder", holder.Holder.String(), "at most", patience*o.Beat)
	tick := time.NewTicker(o.Beat / looks)
	defer tick.Stop()
	for still := 0; still < patience*looks; still++ {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		o.Progress()
		now, then, err := readLease(o.fs, name)
		switch {
		case err != nil:
			return err
		case then.Released:
			return nil
		case bytes.Equal(now, first):
		case then.Beat == 0: // caught in the middle of being written; the next look tells more
			first, still = now, -1
		default:
			return inUse(then)
		}
	}
	o.Log.Warn("taking the output over from a job that is dead", "output", dir, "holder", holder.Holder.String())
	return nil
}

// readLease gives the bytes of a lease and, as far as they are whole, what they say.
func readLease(fsys fileSystem, name string) ([]byte, leaseFile, error) {
	content, err := readAll(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, leaseFile{Released: true}, nil // swept by a later start, which the next look finds
	} else if err != nil {
		return nil, leaseFile{}, err
	}
	var l leaseFile
	if json.Unmarshal(content, &l) != nil { // its holder is in the middle of writing, or died there
		l = leaseFile{}
	}
	return content, l, nil
}

// begin writes the lease for the first time and starts its beat.
func (l *lease) begin() error {
	if err := l.write(); err != nil {
		return err
	}
	l.done.Add(1)
	go l.keepBeating()
	return nil
}

func (l *lease) write() error {
	l.held.Beat++
	content, err := json.Marshal(l.held)
	if err != nil {
		return err
	}
	if len(content) > leaseSize {
		return fmt.Errorf("a lease of %d bytes, more than %d", len(content), leaseSize)
	}
	content = append(content, bytes.Repeat([]byte(" "), leaseSize-len(content))...)
	if _, err := l.handle.WriteAt(content, 0); err != nil {
		return err
	}
	return l.handle.Sync()
}

func (l *lease) keepBeating() {
	defer l.done.Done()
	tick := time.NewTicker(l.beat)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		// Whoever waits may take over after patience; be gone before, also where the disk does not answer.
		err := l.write()
		if err == nil {
			last = time.Now()
		}
		if taken := fence(l.fs, l.dir, l.number); errors.Is(taken, ErrLost) {
			l.why = taken
		} else if since := time.Since(last); since > endurance*l.beat && err != nil {
			l.why = diskError(fmt.Sprintf("for %v the lease could not be written, without which another job may take the output over: cannot write",
				since.Round(time.Second)), state(l.dir, leaseName(l.number)), err)
		}
		if l.why != nil {
			close(l.lost)
			return
		}
	}
}

// fence is ErrLost when start number of dir is not the latest any more.
func fence(fsys fileSystem, dir string, number int) error {
	own, err := exists(fsys, state(dir, leaseName(number)))
	if err != nil {
		return err
	}
	next, err := exists(fsys, state(dir, leaseName(number+1)))
	if err != nil {
		return err
	}
	if !own || next {
		return fmt.Errorf("%s: %w", dir, ErrLost)
	}
	return nil
}

// release gives the lease back, unless it is lost.
func (l *lease) release() error {
	close(l.stop)
	l.done.Wait()
	l.held.Released = true
	return errors.Join(l.write(), l.handle.Close())
}

// close ends the beat without a word: the file stays as a dead job leaves it.
func (l *lease) close() {
	close(l.stop)
	l.done.Wait()
	_ = l.handle.Close() // nothing was promised
}

// sweep removes the leases before the last one. That one stays: fence of its holder looks for it.
func (l *lease) sweep() {
	names, err := l.fs.ReadDir(filepath.Join(l.dir, stateFolder))
	if err != nil {
		return // the next start sweeps
	}
	for _, name := range names {
		if n, ok := numbers(name, "lease-", ".json", 1); ok && n[0] < l.number-1 {
			_ = l.fs.Remove(state(l.dir, name))
		}
	}
}
