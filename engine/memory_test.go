package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/mpi"
)

// scarce is a device with so much memory.
type scarce struct {
	kernels.Device
	free int64
}

func (d scarce) Memory() (free, total int64) { return d.free, d.free }

// TestWindows: max_out_tokens shortens a window, and lengthens one that nothing but memory bounds.
func TestWindows(t *testing.T) {
	for _, c := range []struct {
		alibi        bool
		asked, found int
	}{{false, 0, 64}, {false, 48, 48}, {false, 80, 64}, {true, 0, 64}, {true, 48, 48}, {true, 80, 80}} {
		e := &Engine{world: mpi.Alone(), job: newJob(t, nil), shape: model.Config{Window: 64, ALiBi: c.alibi, Tokens: 9}}
		e.job.Inference.MaxOutTokens = c.asked
		if err := e.limits(); err != nil || e.window != c.found || e.shape.Window < c.found {
			t.Errorf("%+v: %d of %d, %v", c, e.window, e.shape.Window, err)
		}
	}
}

// TestAnyRowFitsOrNone: whatever memory is free, the plan has room for a row as long as the window, or it is refused with
// the arithmetic: no row is set aside for what else the machine runs.
func TestAnyRowFitsOrNone(t *testing.T) {
	planned, refused := 0, 0
	for free := int64(1 << 20); free < 1<<31; free += free / 8 {
		e := &Engine{
			world: mpi.Alone(), job: newJob(t, func(j *config.Job) { j.KVMemory = 0 }),
			wrap: func(d kernels.Device) kernels.Device { return scarce{d, free} },
		}
		err := e.prepare(t.Context())
		var size stepSize
		if err == nil {
			size, err = e.plan()
		}
		switch {
		case err == nil && size.blocks < blocksFor(e.window):
			t.Errorf("%d bytes free: KV memory for %d tokens, the window has %d", free, size.blocks*blockTokens, e.window)
		case err == nil:
			planned++
		case !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "that the rank may take"):
			t.Errorf("%d bytes free: %v", free, err)
		default:
			refused++
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if planned == 0 || refused == 0 {
		t.Errorf("%d plans and %d refusals: the sizes tried show nothing", planned, refused)
	}
}
