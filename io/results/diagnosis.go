package results

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Diagnosis is how the last start on an output stands, as far as its files and this host's processes tell.
type Diagnosis struct {
	Dir    string
	Report         // what is committed, by the commit lines alone
	Open   int64   // rows, with --n samples of rows, that are finished in chunks that are not whole
	Start  int     // 0: none has begun
	Phases []Phase // of its ranks that have told, by rank
	fates  []fate  // of theirs
	lease  fate    // of the job as a whole
	now    time.Time
}

// Diagnose looks at the output dir. Where the job runs on another host it waits for up to two beats of its lease to see
// whether it lives. The error is of what kept it from looking (fs.ErrNotExist: no output there).
func Diagnose(ctx context.Context, dir string, o Options) (*Diagnosis, error) {
	o = o.withDefaults()
	d := &Diagnosis{Dir: dir}
	var err error
	if d.Report, err = Verify(ctx, dir, VerifyOptions{Quick: true, fs: o.fs}); err != nil {
		return nil, err
	}
	if d.Open, err = countOpen(ctx, o.fs, dir); err != nil {
		return nil, err
	}
	lease, _, err := newestStart(o.fs, dir)
	if err != nil {
		return nil, err
	}
	if d.lease, err = heartbeat(ctx, dir, lease, o); err != nil {
		return nil, err
	}
	phases, err := readPhases(o.fs, dir)
	if err != nil {
		return nil, err
	}
	for _, p := range phases {
		if p.Start == lease { // of another, it has been taken over from
			d.Phases, d.fates = append(d.Phases, p), append(d.fates, o.self.fateOf(p.Process))
		}
	}
	d.Start, d.now = lease, time.Now()
	return d, nil
}

// countOpen counts what the files of open rows say that they hold. What cannot be read is done again, and not counted.
func countOpen(ctx context.Context, fsys fileSystem, dir string) (rows int64, err error) {
	names, err := fsys.ReadDir(filepath.Join(dir, stateFolder))
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if _, ok := numbers(name, "open-", ".parquet", 1); !ok {
			continue
		}
		if t, err := openTable(ctx, fsys, state(dir, name)); err == nil {
			rows += t.rows
			if err := t.close(); err != nil {
				return 0, err
			}
		}
	}
	return rows, nil
}

// heartbeat tells the fate of the job that holds lease number of dir. One that was given back is dead.
func heartbeat(ctx context.Context, dir string, number int, o Options) (fate, error) {
	if number == 0 {
		return dead, nil
	}
	name := state(dir, leaseName(number))
	_, first, err := readLease(o.fs, name)
	if err != nil || first.Released {
		return dead, err
	}
	if f := o.self.fateOf(first.Holder); f != unknown {
		return f, nil
	}
	tick := time.NewTicker(o.Beat / looks)
	defer tick.Stop()
	for range 2 * looks {
		select {
		case <-ctx.Done():
			return unknown, context.Cause(ctx)
		case <-tick.C:
		}
		_, then, err := readLease(o.fs, name)
		switch {
		case err != nil:
			return unknown, err
		case then.Released:
			return dead, nil
		case then.Beat > first.Beat && first.Beat > 0:
			return alive, nil
		}
		first = then
	}
	return unknown, nil
}

// Lines say it in sentences: what is committed, what each rank was doing, where and since when, and what to do next.
func (d *Diagnosis) Lines() []string {
	lines := []string{fmt.Sprintf("%s: %d of %d rows are committed, in %d parts", d.Dir, d.Rows, d.Expected, d.Chunks)}
	if d.Open > 0 && !d.Finished {
		lines[0] += fmt.Sprintf(", and %d more are finished in chunks that are not whole yet (samples of rows, with --n)", d.Open)
	}
	if d.Start > 0 && !d.Finished {
		lines[0] += fmt.Sprintf("; its start number %d %s", d.Start, map[fate]string{
			alive: "runs", asleep: "was put to sleep", dead: "has ended", unknown: "has not been heard of for some seconds",
		}[d.lease])
	}
	for i, p := range d.Phases {
		lines = append(lines, d.line(p, d.fates[i]))
	}
	if missing := d.missing(); missing != "" {
		lines = append(lines, missing)
	}
	return append(lines, "next: "+d.next())
}

// line is one rank's: "rank 1 (node07, process 4711): in phase load, layer 3 of 24, since 05:14:01; …".
func (d *Diagnosis) line(p Phase, f fate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rank %d (%s, process %d): ", p.Rank, p.Process.Host, p.Process.PID)
	if p.Ended != "" {
		fmt.Fprintf(&b, "%s, at %s", p.Ended, clock(p.Told))
		return b.String()
	}
	fmt.Fprintf(&b, "%s, since %s", p.Activity, clock(p.Since))
	if p.Waits != "" {
		fmt.Fprintf(&b, ", waiting for other ranks in %s", p.Waits)
	}
	for _, a := range p.Beside {
		fmt.Fprintf(&b, "; beside that %s, since %s", a, clock(a.Since))
	}
	if p.Asked != "" {
		fmt.Fprintf(&b, "; it was asked to stop (%s)", p.Asked)
	}
	fmt.Fprintf(&b, "; told at %s (%s ago); ", clock(p.Told), max(0, d.now.Sub(p.Told)).Round(time.Second))
	switch f {
	case alive:
		b.WriteString("its process runs")
	case asleep:
		b.WriteString("its process is stopped")
	case dead:
		b.WriteString("its process is gone, without a word about its end")
	default:
		fmt.Fprintf(&b, "whether its process runs can be asked on %s only", p.Process.Host)
	}
	return b.String()
}

// String is "in phase load, layer 3 of 24".
func (a Activity) String() string {
	if a.Place == "" {
		return "in phase " + a.Phase
	}
	return "in phase " + a.Phase + ", " + a.Place
}

func clock(t time.Time) string { return t.Local().Format(time.DateTime) }

// missing names the ranks that have told nothing.
func (d *Diagnosis) missing() string {
	if len(d.Phases) == 0 || d.Finished {
		return ""
	}
	var silent []string
	for rank := range d.Phases[0].Ranks {
		if !slices.ContainsFunc(d.Phases, func(p Phase) bool { return p.Rank == rank }) {
			silent = append(silent, fmt.Sprint(rank))
		}
	}
	if len(silent) == 0 {
		return ""
	}
	return fmt.Sprintf("rank %s: has told nothing, or was done", strings.Join(silent, ", "))
}

// next is what to do.
func (d *Diagnosis) next() string {
	gone := d.suspects()
	var sleepers, ended []string
	for i, p := range d.Phases {
		if p.Ended != "" {
			ended = append(ended, fmt.Sprint(p.Rank))
		} else if d.fates[i] == asleep {
			sleepers = append(sleepers, fmt.Sprintf("kill -CONT %d on %s", p.Process.PID, p.Process.Host))
		}
	}
	again := "start the same command again: what is committed stays"
	switch {
	case d.Finished:
		return "nothing: every row is committed"
	case len(sleepers) > 0:
		return fmt.Sprintf("wake what sleeps (%s), or end the job and %s", strings.Join(sleepers, ", "), again)
	case d.lease == alive && len(gone) == 0:
		return "wait for it; where a rank stays at one place, look at its host and at the disks that it reads and writes"
	case d.lease == alive:
		return fmt.Sprintf("end the job, whose %s is gone, and %s", strings.Join(gone, ", "), again)
	case len(ended) > 0:
		return fmt.Sprintf("see what rank %s tells of its end, mend that where it needs mending, and %s", strings.Join(ended, ", "), again)
	case len(gone) > 0:
		return fmt.Sprintf("find out what ended %s (out of memory: dmesg and %s tell), and %s", strings.Join(gone, ", "), d.accounts(), again)
	case d.lease == unknown:
		return "see that its ranks have ended on their hosts, and " + again
	}
	return again
}

// suspects are the ranks that may have ended the job by being gone. A launcher ends the others because of them: those it
// asked to stop first, and those that waited for others while some did not, are none.
func (d *Diagnosis) suspects() (ranks []string) {
	var gone, busy []Phase
	for i, p := range d.Phases {
		if p.Ended != "" || p.Asked != "" || d.fates[i] != dead {
			continue
		}
		gone = append(gone, p)
		if p.Waits == "" || len(p.Beside) > 0 {
			busy = append(busy, p)
		}
	}
	if len(busy) > 0 {
		gone = busy
	}
	for _, p := range gone {
		ranks = append(ranks, fmt.Sprintf("rank %d (%s, process %d)", p.Rank, p.Process.Host, p.Process.PID))
	}
	return ranks
}

// accounts is where a batch system tells of a job's end.
func (d *Diagnosis) accounts() string {
	if job := d.Phases[0].Process.Job; job != "" {
		return "sacct -j " + job
	}
	return "the launcher's message"
}
