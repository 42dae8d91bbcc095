package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/mpi"
)

// diary keeps a rank's phase file: written when a stage begins and when a stop is asked for, else every few seconds
// where there is something new. A disk that does not answer holds up only the diary. A nil diary keeps nothing.
type diary struct {
	run   *run
	every time.Duration
	turns chan struct{} // a stage has begun
	ends  chan string   // the last word; "": the file is removed
	done  chan struct{}
	once  sync.Once
}

const (
	diaryEvery = 5 * time.Second        // at most, between two entries
	diaryLook  = 200 * time.Millisecond // at whether a stop was asked for; a launcher kills a second after it asks
	diaryClose = 2 * time.Second        // for the last entry
)

// keepDiary starts the diary of a rank that has joined the output.
func (r *run) keepDiary() *diary {
	d := &diary{
		run: r, every: min(r.job.RankTimeout/6, diaryEvery), turns: make(chan struct{}, 1), ends: make(chan string),
		done: make(chan struct{}),
	}
	if d.every <= 0 {
		d.every = diaryEvery
	}
	go d.keep()
	return d
}

func (d *diary) keep() {
	defer close(d.done)
	look := time.NewTicker(min(d.every, diaryLook))
	defer look.Stop()
	asked, written, warned := "", time.Time{}, false
	nap := d.run.job.RankTimeout / 3 // a rank that slept as long has probably been given up by the others
	woken := time.Time{}
	for {
		last, ending, before := "", false, time.Now()
		select {
		case last = <-d.ends:
			ending = true
		case <-d.turns:
		case <-look.C:
			if reason := d.run.options.Stop.Reason(); reason == asked && time.Since(written) < d.every {
				continue
			}
		}
		if time.Since(before) > nap && nap > 0 {
			woken = time.Now()
		}
		if !ending && time.Since(woken) < 2*nap { // where it fell asleep is what matters
			continue
		}
		asked, written = d.run.options.Stop.Reason(), time.Now()
		var err error
		if ending && last == "" {
			err = d.run.writer.Untell()
		} else {
			err = d.run.writer.Tell(d.run.phaseNow(asked, last))
		}
		if err != nil && !warned {
			slog.Warn("cannot write the file that tells what this rank does", "rank", d.run.world.Rank(), "error", err)
			warned = true
		}
		if ending {
			return
		}
	}
}

// phaseNow is what the rank is at.
func (r *run) phaseNow(asked, ended string) results.Phase {
	s := r.watcher.Status()
	p := results.Phase{Ranks: r.world.Size(), Activity: activity(s.Main), Waits: s.Waits, Asked: asked, Ended: ended}
	for _, t := range s.Beside {
		p.Beside = append(p.Beside, activity(t))
	}
	return p
}

func activity(t comm.TaskState) results.Activity {
	return results.Activity{Phase: t.Phase, Place: t.Place(), Since: t.Begun, Moved: t.Moved}
}

// turn has the diary written soon: a stage has begun.
func (d *diary) turn() {
	if d == nil {
		return
	}
	select {
	case d.turns <- struct{}{}:
	default:
	}
}

// close writes how the run has ended, or removes the file of one that has done all.
func (d *diary) close(ended error) {
	if d == nil {
		return
	}
	d.end(d.lastWord(ended))
}

func (d *diary) lastWord(ended error) string {
	if ended == nil {
		return ""
	}
	if p := panicked(ended); p != nil {
		return p.short()
	}
	what, other := "failed", (*comm.RankError)(nil)
	switch {
	case errors.Is(ended, ErrStopped):
		what = "ended"
	case errors.As(ended, &other), errors.Is(ended, mpi.ErrEnded):
		what = "ended because of another rank,"
	}
	why, _, _ := strings.Cut(ended.Error(), "\ngoroutine ") // another's panic
	return fmt.Sprintf("%s %v: %s", what, activity(d.run.watcher.Status().Main), strings.ReplaceAll(why, "\n", "; "))
}

// end writes the last word, for which a disk that hangs gets a moment. Words after it are dropped.
func (d *diary) end(word string) {
	if d == nil {
		return
	}
	d.once.Do(func() {
		moment := time.NewTimer(diaryClose)
		defer moment.Stop()
		select {
		case d.ends <- word:
		case <-moment.C:
			return
		}
		select {
		case <-d.done:
		case <-moment.C:
		}
	})
}
