package mpi_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

func TestMain(m *testing.M) {
	status := m.Run()
	mpitest.RemoveBinary()
	os.Exit(status)
}

func TestAloneConforms(t *testing.T) {
	w := mpi.Alone()
	if err := mpitest.Conform(t.Context(), w, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Barrier(t.Context()); err == nil {
		t.Error("a closed world works")
	}
}

func TestInProcessConforms(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 7, 8} {
		for seed := range uint64(4) {
			mpitest.Run(t, n, func(w mpi.World) error { return mpitest.Conform(t.Context(), w, seed) })
		}
	}
}

// TestEndOfARank ends rank 1 of 4 in several ways while the others wait for it, in the world, in a split of it and in a
// message: every one of them must learn who ended and why.
func TestEndOfARank(t *testing.T) {
	deny := errors.New("no such expert")
	ways := map[string]struct {
		end  func(w mpi.World) error
		says string
		is   error
	}{
		"panic":  {func(mpi.World) error { panic("index out of range") }, "index out of range", nil},
		"error":  {func(mpi.World) error { return deny }, "no such expert", deny},
		"abort":  {func(w mpi.World) error { w.Abort(7, "disk full"); return nil }, "disk full", nil},
		"leave":  {func(mpi.World) error { return nil }, "left", nil},
		"goexit": {func(mpi.World) error { runtime.Goexit(); return nil }, "exited", nil},
		"other call": {func(w mpi.World) error { return w.Bcast(context.Background(), 0, nil) },
			"calls broadcast", nil},
	}
	for name, way := range ways {
		for _, where := range []string{"world", "split", "message"} {
			if name == "other call" && where != "world" || name == "leave" && where == "message" {
				continue
			}
			t.Run(name+" "+where, func(t *testing.T) {
				var mu sync.Mutex
				seen := map[int]error{}
				err := mpi.Run(4, func(w mpi.World) error {
					half, err := w.Split(t.Context(), w.Rank()/2, 0)
					if err != nil {
						return err
					}
					if w.Rank() == 1 {
						return way.end(w)
					}
					switch {
					case where == "split" && w.Rank() == 0:
						err = half.Barrier(t.Context())
					case where == "message":
						err = w.Recv(t.Context(), 1, 3, make([]byte, 4))
					default:
						err = w.Barrier(t.Context())
					}
					mu.Lock()
					seen[w.Rank()] = err
					mu.Unlock()
					return err
				})
				if err == nil || !strings.Contains(err.Error(), way.says) {
					t.Errorf("Run returns %v, want something about %q", err, way.says)
				}
				for rank, err := range seen {
					var e *mpi.Error
					if !errors.As(err, &e) || e.Rank != rank || (name != "other call" && (e.Peer != 1 || !errors.Is(err, mpi.ErrEnded))) {
						t.Errorf("rank %d: %v", rank, err)
					}
					if way.is != nil && !errors.Is(err, way.is) {
						t.Errorf("rank %d: %v doesn't wrap %v", rank, err, way.is)
					}
				}
				if len(seen) != 3 {
					t.Errorf("%d ranks were told, want 3", len(seen))
				}
			})
		}
	}
}

func TestUnequalSizesAreNamed(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, w mpi.World) error{
		"broadcast": func(ctx context.Context, w mpi.World) error {
			return w.Bcast(ctx, 0, make([]byte, 1+w.Rank()))
		},
		"all-gather": func(ctx context.Context, w mpi.World) error {
			return w.AllGather(ctx, make([]byte, w.Rank()), make([]byte, 2*w.Rank()))
		},
		"all-gather of unequal lengths": func(ctx context.Context, w mpi.World) error {
			counts := []int64{5, 5}
			counts[w.Rank()] = 6
			return w.AllGatherV(ctx, make([]byte, 6), make([]byte, 11), counts)
		},
		"all-reduce": func(ctx context.Context, w mpi.World) error {
			return w.AllReduceInt64(ctx, mpi.Sum, make([]int64, w.Rank()))
		},
		"all-to-all": func(ctx context.Context, w mpi.World) error {
			return w.AllToAll(ctx, make([]byte, 2+2*w.Rank()), make([]byte, 2+2*w.Rank()))
		},
		"all-to-all of unequal lengths": func(ctx context.Context, w mpi.World) error {
			sends, expects := []int64{1, 1}, []int64{1, 1}
			expects[1-w.Rank()] = 2
			return w.AllToAllV(ctx, make([]byte, 2), sends, make([]byte, 3), expects)
		},
		"message": func(ctx context.Context, w mpi.World) error {
			if w.Rank() == 0 {
				return w.Send(ctx, 1, 0, make([]byte, 3))
			}
			return w.Recv(ctx, 0, 0, make([]byte, 4))
		},
	} {
		err := mpi.Run(2, func(w mpi.World) error { return call(t.Context(), w) })
		if err == nil || !strings.Contains(err.Error(), "rank 0 ") || !strings.Contains(err.Error(), "rank 1 ") {
			t.Errorf("%s: %v, want both ranks named", name, err)
		}
	}
}

// TestContextLeavesACollective: the rank that is called off leaves at once, the others learn of it.
func TestContextLeavesACollective(t *testing.T) {
	var mu sync.Mutex
	errs := map[int]error{}
	_ = mpi.Run(3, func(w mpi.World) error {
		ctx := t.Context()
		if w.Rank() == 2 {
			limited, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			ctx = limited
		}
		if w.Rank() == 0 { // never comes: it waits for a message that nobody sends
			err := w.Recv(ctx, 1, 0, make([]byte, 1))
			mu.Lock()
			errs[0] = err
			mu.Unlock()
			return err
		}
		err := w.Barrier(ctx)
		mu.Lock()
		errs[w.Rank()] = err
		mu.Unlock()
		return err
	})
	if !errors.Is(errs[2], context.DeadlineExceeded) {
		t.Errorf("rank 2: %v", errs[2])
	}
	for _, r := range []int{0, 1} {
		var e *mpi.Error
		if !errors.As(errs[r], &e) || e.Peer != 2 {
			t.Errorf("rank %d: %v, want rank 2 named", r, errs[r])
		}
	}
}

// TestMessageOrNot calls off sends and receives at the moment when they meet: either both ends have the message or neither.
// TestRankFailsWhileBytesTravel: a rank that ends between the begin and the end of an all-to-all ends those that wait.
func TestRankFailsWhileBytesTravel(t *testing.T) {
	for _, way := range []string{"error", "panic", "return"} {
		err := mpi.Run(3, func(w mpi.World) error {
			each := []int64{1, 1, 1}
			if err := w.BeginAllToAllV(t.Context(), make([]byte, 3), each, make([]byte, 3), each); err != nil {
				return err
			}
			if w.Rank() == 1 {
				switch way {
				case "error":
					return errors.New("broken")
				case "panic":
					panic("broken")
				case "return":
					return nil
				}
			}
			if err := w.EndAllToAllV(t.Context()); !errors.Is(err, mpi.ErrEnded) {
				return fmt.Errorf("rank %d: %w, want rank 1's end", w.Rank(), err)
			}
			return nil
		})
		if want := map[string]string{"return": "begun and not ended"}[way]; err == nil || !strings.Contains(err.Error(), cmp.Or(want, "broken")) {
			t.Errorf("%s: %v", way, err)
		}
	}
}

func TestMessageOrNot(t *testing.T) {
	met, missed := 0, 0
	mpitest.Run(t, 2, func(w mpi.World) error {
		for round := range 3000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(round%50)*time.Microsecond)
			b := []byte{byte(round), byte(round >> 8)}
			var err error
			if w.Rank() == 0 {
				err = w.Send(ctx, 1, 1, b)
			} else {
				b = []byte{0xA5, 0xA5}
				err = w.Recv(ctx, 0, 1, b)
			}
			cancel()
			got := []int64{0}
			if err == nil {
				got[0] = 1
			}
			if err := w.AllReduceInt64(t.Context(), mpi.Sum, got); err != nil {
				return err
			}
			if got[0] == 1 || got[0] == 2 && b[0] != byte(round) || got[0] == 0 && w.Rank() == 1 && b[0] != 0xA5 {
				return fmt.Errorf("round %d: %d ends have the message, bytes %v, %w", round, got[0], b, err)
			}
			if w.Rank() == 0 {
				met, missed = met+int(got[0]/2), missed+1-int(got[0]/2)
			}
		}
		return nil
	})
	if met == 0 || missed == 0 {
		t.Logf("%d messages met, %d missed: this run shows little", met, missed)
	}
}

func ExampleRun() {
	err := mpi.Run(3, func(w mpi.World) error {
		rows := []int64{int64(10 * (w.Rank() + 1))}
		if err := w.AllReduceInt64(context.Background(), mpi.Sum, rows); err != nil {
			return err
		}
		if w.Rank() == 0 {
			fmt.Println("rows in all:", rows[0])
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// rows in all: 60
	// <nil>
}
