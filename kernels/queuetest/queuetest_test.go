package queuetest

import (
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
)

// TestNothingComesEarly: results are there after Sync, and what was written is what it was then.
func TestNothingComesEarly(t *testing.T) {
	d, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var events []Event
	late := &Device{Device: d, Told: func(e Event) { events = append(events, e) }}
	s, err := late.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	x, err := late.Alloc("x", kernels.I32, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	from, to := []byte{1, 2, 3, 4}, make([]byte, 4)
	s.Write(x, from)
	s.Read(to, x)
	from[0] = 9
	s.Submit()
	if to[0] != junk {
		t.Errorf("%v was read before anybody waited", to)
	}
	if err := s.Sync(); err != nil || to[0] != 1 || to[3] != 4 {
		t.Errorf("read %v, %v", to, err)
	}
	s.Read(to, x)
	if err := s.Sync(); err != nil {
		t.Error(err)
	}
	if len(events) != 3 || events[0] != Submit || events[1] != Wait || events[2] != WaitUnsubmitted {
		t.Errorf("told of %v", events)
	}
}
