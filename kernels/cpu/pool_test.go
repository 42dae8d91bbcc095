package cpu

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

func TestPoolRunsEachTaskOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 8} {
		p := newPool(threads)
		for round := range 300 {
			n := round % 37
			ran := make([]atomic.Int32, n)
			p.run(n, func(task int) { ran[task].Add(1) })
			for i := range ran {
				if ran[i].Load() != 1 {
					t.Fatalf("%d threads, round %d: task %d of %d ran %d times", threads, round, i, n, ran[i].Load())
				}
			}
			if round%100 == 99 {
				time.Sleep(time.Millisecond) // let the workers fall asleep
			}
		}
		p.close()
	}
}

// A task may wait for one below it, as a product waits for its packed rows: the lower one is already running.
func TestPoolTasksMayWaitForLowerOnes(t *testing.T) {
	p := newPool(3)
	defer p.close()
	for range 100 {
		var done atomic.Int32
		p.run(20, func(task int) {
			if task < 5 {
				runtime.Gosched()
				done.Add(1)
				return
			}
			for done.Load() < 5 {
				runtime.Gosched()
			}
		})
	}
}

func TestPoolServesSeveralCallers(t *testing.T) {
	p := newPool(4)
	defer p.close()
	var callers sync.WaitGroup
	var sum atomic.Int64
	for range 6 {
		callers.Go(func() {
			for range 50 {
				p.run(9, func(task int) { sum.Add(int64(task)) })
			}
		})
	}
	callers.Wait()
	if want := int64(6 * 50 * 36); sum.Load() != want {
		t.Errorf("sum %d, want %d", sum.Load(), want)
	}
}

// A panic on any thread is the caller's, who sees where it was; it harms no later run.
func TestPoolTaskPanics(t *testing.T) {
	p := newPool(3)
	defer p.close()
	for round := range 200 {
		at, n := round%20, 20
		if round%10 == 0 { // the last task, so that others wait for the one that panics
			at = n - 1
		}
		func() {
			defer func() {
				broken, ok := recover().(*kernels.Panic)
				if !ok || broken.Value != at || !strings.Contains(string(broken.Stack), "TestPoolTaskPanics") {
					t.Fatalf("round %d: %v", round, broken)
				}
			}()
			p.run(n, func(task int) {
				if task == at {
					panic(task)
				}
				runtime.Gosched()
			})
			t.Fatalf("round %d: no panic", round)
		}()
		var ran atomic.Int32
		p.run(n, func(int) { ran.Add(1) })
		if ran.Load() != int32(n) {
			t.Fatalf("round %d: %d tasks of %d afterwards", round, ran.Load(), n)
		}
	}
}

func TestPoolAllocatesNothing(t *testing.T) {
	p := newPool(2)
	defer p.close()
	var sum atomic.Int64
	f := func(task int) { sum.Add(int64(task)) }
	if n := testing.AllocsPerRun(100, func() { p.run(8, f) }); n != 0 {
		t.Errorf("%g allocations a run", n)
	}
}

func TestPoolCloseEndsItsGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	for i := range 20 {
		p := newPool(5)
		p.run(i, func(int) {})
		p.close()
	}
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func BenchmarkPoolRun(b *testing.B) {
	p := newPool(2)
	defer p.close()
	f := func(int) {}
	for b.Loop() {
		p.run(2, f)
	}
}
