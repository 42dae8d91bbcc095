package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// elsewhere is a process of another host: nobody here can know whether it lives.
func elsewhere(host string) *process {
	return &process{Host: host, PID: 4711, Job: "991", fate: func(process) fate { return unknown }}
}

func leaseOptions(d *crashDisk, self *process) Options {
	return Options{fs: d, self: self}.withDefaults() // beats of 2 s, which synctest makes short
}

func leaseDisk() *crashDisk {
	d := newCrashDisk()
	d.folders["/out/_dsbatch"] = true
	return d
}

func TestLeaseOfALiveJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := leaseDisk(), context.Background()
		l, err := acquire(ctx, "/out", leaseOptions(d, elsewhere("nid001")))
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err = acquire(ctx, "/out", leaseOptions(d, elsewhere("nid002")))
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "process 4711 on host nid001, Slurm job 991, since 20") {
			t.Errorf("%v", err)
		}
		if waited := time.Since(begun); waited > 2500*time.Millisecond {
			t.Errorf("it took %v to see that the job lives", waited)
		}
		if err := l.release(); err != nil {
			t.Fatal(err)
		}
		begun = time.Now()
		next, err := acquire(ctx, "/out", leaseOptions(d, elsewhere("nid002")))
		if err != nil || time.Since(begun) > 0 || next.number != l.number+1 {
			t.Fatalf("a lease given back: %v after %v", err, time.Since(begun))
		}
		if err := next.release(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLeaseOnThisHost: a process that runs here is believed at once, and one that is gone here is replaced at once; one
// that sleeps has as long as any.
func TestLeaseOnThisHost(t *testing.T) {
	for of, want := range map[fate]time.Duration{alive: 0, dead: 0, asleep: 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			d := leaseDisk()
			d.names["/out/_dsbatch/lease-000004.json"] = &inode{now: []byte(`{"holder":{"host":"nid001","pid":4711},"beat":3}`)}
			self := &process{Host: "nid001", PID: 2, fate: func(process) fate { return of }}
			begun := time.Now()
			l, err := acquire(context.Background(), "/out", leaseOptions(d, self))
			if waited := time.Since(begun); waited != want || errors.Is(err, ErrInUse) != (of == alive) {
				t.Errorf("%v: %v after %v, want %v", of, err, waited, want)
			}
			if l != nil {
				if err := l.release(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestWaitingIsProgress: a watcher does not take the wait for a dead job's lease for silence, and a lease that is caught
// half written is given its whole time.
func TestWaitingIsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := leaseDisk()
		name := "/out/_dsbatch/lease-000004.json"
		d.put(name, nil)
		time.AfterFunc(29*time.Second, func() { d.put(name, []byte(`{"holder":{"ho`)) })
		o, begun, last, longest := leaseOptions(d, elsewhere("nid002")), time.Now(), time.Now(), time.Duration(0)
		o.Progress = func() { longest, last = max(longest, time.Since(last)), time.Now() }
		l, err := acquire(context.Background(), "/out", o)
		if waited := time.Since(begun); err != nil || waited < 59*time.Second || waited > 60*time.Second || longest > time.Second {
			t.Fatalf("%v after %v; silent for %v", err, waited, longest)
		}
		if err := l.release(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLeaseOfADeadJob: nobody beats any more; the next takes over after 30 s of its own, whatever the clocks say.
func TestLeaseOfADeadJob(t *testing.T) {
	for name, content := range map[string]string{
		"whole":                `{"holder":{"host":"nid001","pid":4711},"beat":3}`,
		"died creating it":     "",
		"died in its first go": `{"holder":{"ho`,
	} {
		synctest.Test(t, func(t *testing.T) {
			d := leaseDisk()
			d.names["/out/_dsbatch/lease-000004.json"] = &inode{now: []byte(content)}
			begun := time.Now()
			l, err := acquire(context.Background(), "/out", leaseOptions(d, elsewhere("nid002")))
			if waited := time.Since(begun); err != nil || waited != 30*time.Second || l.number != 5 {
				t.Fatalf("%s: %v after %v", name, err, waited)
			}
			if err := l.release(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLeaseTakenFromASleeper: a holder that was stopped and wakes up finds that it has lost, and disturbs nobody.
func TestLeaseTakenFromASleeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := leaseDisk(), context.Background()
		old, err := acquire(ctx, "/out", leaseOptions(d, elsewhere("nid001")))
		if err != nil {
			t.Fatal(err)
		}
		close(old.stop) // it sleeps
		old.done.Wait()
		l, err := acquire(ctx, "/out", leaseOptions(d, elsewhere("nid002")))
		if err != nil {
			t.Fatal(err)
		}
		old.stop = make(chan struct{}) // it wakes up
		old.done.Go(func() { old.keepBeating() })
		old.done.Add(1) // which keepBeating takes off
		<-old.lost
		if !errors.Is(old.why, ErrLost) {
			t.Errorf("the old one is told %v", old.why)
		}
		if err := fence(d, "/out", old.number); !errors.Is(err, ErrLost) {
			t.Errorf("the old start: %v", err)
		}
		if err := fence(d, "/out", l.number); err != nil {
			t.Errorf("the new start: %v", err)
		}
		time.Sleep(time.Minute)
		select {
		case <-l.lost:
			t.Error("the new start has lost the output, too")
		default:
		}
		if err := l.release(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOneTakesOver: of many that wait for a dead job's lease, one gets it.
func TestOneTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := leaseDisk()
		d.names["/out/_dsbatch/lease-000001.json"] = &inode{now: []byte(`{"beat":3}`)}
		var mu sync.Mutex
		var holders []*lease
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				l, err := acquire(context.Background(), "/out", leaseOptions(d, elsewhere("x")))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					holders = append(holders, l)
				} else if !errors.Is(err, ErrInUse) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(holders) != 1 {
			t.Errorf("%d holders", len(holders))
		}
		for _, l := range holders {
			if err := l.release(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestHolderGivesUpBeforeOthersTakeOver: a holder that cannot write its beat stops before patience is over.
func TestHolderGivesUpBeforeOthersTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := leaseDisk()
		l, err := acquire(context.Background(), "/out", leaseOptions(d, elsewhere("nid001")))
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		d.die()
		<-l.lost
		if waited := time.Since(begun); waited >= patience*2*time.Second*3/4 {
			t.Errorf("it held on for %v", waited)
		}
		if says := fmt.Sprint(l.why); errors.Is(l.why, ErrLost) || !strings.Contains(says, "lease-000001.json: ") ||
			!strings.Contains(says, "could not be written") {
			t.Errorf("it says %q", says)
		}
		l.close()
	})
}

func TestWaitingIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := leaseDisk()
		d.names["/out/_dsbatch/lease-000001.json"] = &inode{now: []byte(`{"beat":3}`)}
		ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
		defer cancel()
		if _, err := acquire(ctx, "/out", leaseOptions(d, elsewhere("x"))); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestOldLeasesAreSwept: a hundred starts do not leave a hundred files.
func TestOldLeasesAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := leaseDisk()
		for range 100 {
			l, err := acquire(context.Background(), "/out", leaseOptions(d, elsewhere("x")))
			if err != nil {
				t.Fatal(err)
			}
			if err := l.release(); err != nil {
				t.Fatal(err)
			}
		}
		if names, err := d.ReadDir("/out/_dsbatch"); err != nil || strings.Join(names, " ") != "lease-000099.json lease-000100.json" {
			t.Error(names, err)
		}
	})
}

// TestKnownDead asks the operating system about real processes.
func TestFateOfProcesses(t *testing.T) {
	self := thisProcess()
	if self.Boot == "" || self.Space == "" || self.Started == "" {
		t.Skip("no /proc here: only the beat tells who is dead")
	}
	if self.fateOf(*self) != alive {
		t.Error("this process does not take itself for alive")
	}
	child := exec.Command("sleep", "100")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	other := *self
	other.PID = child.Process.Pid
	var err error
	if other.Started, _, err = processStat(other.PID); err != nil {
		t.Fatal(err)
	}
	waitFor := func(want fate, what string) {
		t.Helper()
		for range 20000 {
			if self.fateOf(other) == want {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%s: %v, want %v", what, self.fateOf(other), want)
	}
	waitFor(alive, "a live child")
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(asleep, "a stopped child")
	for name, change := range map[string]func(*process){
		"of another boot":      func(p *process) { p.Boot = "x"; p.PID = 1 << 30 },
		"of another container": func(p *process) { p.Space = "x"; p.PID = 1 << 30 },
	} {
		p := other
		if change(&p); self.fateOf(p) != unknown {
			t.Errorf("a process %s is known to be %v", name, self.fateOf(p))
		}
	}
	reused := other
	reused.Started = "1"
	if self.fateOf(reused) != dead {
		t.Error("a number used again is taken for the old process")
	}
	if err := child.Process.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	waitFor(dead, "a zombie, which nobody has waited for")
	_ = child.Wait() // killed
	waitFor(dead, "a process that is gone")
}

func TestFenceToleratesNothingElse(t *testing.T) {
	d := leaseDisk()
	d.die()
	if err := fence(d, "/out", 1); err == nil || errors.Is(err, ErrLost) || errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
