// Package windowtest has a device with windows and boards where there is no GPU: memory of this process, into which the streams of
// other ranks, goroutines, write. What a layer or an engine does with them is tested through it.
package windowtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// House is where the windows and boards of a test are, by the number on their tickets.
type House struct {
	mu      sync.Mutex
	changed sync.Cond
	windows []*window
	boards  []*board
	ops     int // of boards
	waits   int // of hosts, for what they had not submitted before
}

// NewHouse returns an empty one.
func NewHouse() *House {
	h := new(House)
	h.changed.L = &h.mu
	return h
}

// Device is one of those whose windows are in a house.
type Device struct {
	kernels.Device
	house *House
	name  string
	arch  string
}

// NewDevice gives a device of the host's memory windows. name is that of its hardware; arch, where not empty, what it says
// to be.
func (h *House) NewDevice(d kernels.Device, name, arch string) *Device {
	return &Device{d, h, name, arch}
}

// Hardware implements kernels.WindowDevice.
func (d *Device) Hardware() string { return d.name }

// Arch is the given one.
func (d *Device) Arch() string {
	if d.arch != "" {
		return d.arch
	}
	return d.Device.Arch()
}

// NewStream makes a queue whose Sync tells of ranks that did not come.
func (d *Device) NewStream() (kernels.Stream, error) {
	s, err := d.Device.NewStream()
	return &stream{Stream: s, house: d.house}, err
}

type stream struct {
	kernels.Stream
	house     *House
	submitted bool
	err       error
}

func (s *stream) Submit() {
	s.submitted = true
	s.Stream.Submit()
}

func (s *stream) Sync() error {
	if !s.submitted {
		s.house.mu.Lock()
		s.house.waits++
		s.house.mu.Unlock()
	}
	s.submitted = false
	if err := s.Stream.Sync(); err != nil {
		return err
	}
	return s.err
}

// window has a mutex of the house over what others see.
type window struct {
	*Device
	kernels.WindowSpec
	number            int
	rows, back        kernels.Tensor
	offsets           [][]int // of each source
	arrived, returned []int   // exchanges
	peers             []*window
	exchange          int
	lost              error
	index             []int // of the rows of the exchange under way
	closed            bool
}

// NewWindow implements kernels.WindowDevice.
func (d *Device) NewWindow(s kernels.WindowSpec) (_ kernels.Window, err error) {
	w := &window{Device: d, WindowSpec: s, offsets: make([][]int, s.Ranks), arrived: make([]int, s.Ranks), returned: make([]int, s.Ranks)}
	if w.rows, err = d.Alloc("window", s.DType, s.Ranks*s.Rows, s.Cols); err != nil {
		return nil, err
	}
	if w.back, err = d.Alloc("window", s.DType, s.Rows, s.Cols); err != nil {
		return nil, err
	}
	poison(w.rows)
	poison(w.back)
	h := d.house
	h.mu.Lock()
	defer h.mu.Unlock()
	w.number = len(h.windows)
	h.windows = append(h.windows, w)
	return w, nil
}

func (w *window) Ticket() []byte { return binary.LittleEndian.AppendUint32(nil, uint32(w.number)) }

func (w *window) Join(tickets [][]byte) error {
	w.house.mu.Lock()
	defer w.house.mu.Unlock()
	for _, t := range tickets {
		w.peers = append(w.peers, w.house.windows[binary.LittleEndian.Uint32(t)])
	}
	return nil
}

func (w *window) Close() error {
	w.house.mu.Lock()
	defer w.house.mu.Unlock()
	if w.closed {
		return errors.New("a window was closed twice")
	}
	w.closed = true
	return nil
}

// begin waits for what is enqueued, and tells whether a step goes on.
func (w *window) begin(s kernels.Stream) bool {
	if err := s.(*stream).Stream.Sync(); err != nil || w.lost != nil {
		return false
	}
	w.house.mu.Lock()
	return true
}

func (w *window) end() {
	w.house.changed.Broadcast()
	w.house.mu.Unlock()
}

func (w *window) Send(s kernels.Stream, x kernels.Tensor, r kernels.Routing) {
	if !w.begin(s) {
		return
	}
	defer w.end()
	w.exchange++
	poison(w.back)
	offsets, choices, local := ints(r.Offsets), ints(r.Choices), r.Experts/w.Ranks
	for to, p := range w.peers {
		p.offsets[w.Rank] = offsets[to*local : (to+1)*local+1]
		for slot := offsets[to*local]; slot < offsets[(to+1)*local]; slot++ {
			copy(row(p.rows, w.Rank*w.Rows+slot), row(x, choices[slot]/r.K))
		}
		p.arrived[w.Rank] = w.exchange
	}
}

// await waits for all ranks; false: one did not come. Its caller holds the mutex.
func (w *window) await(s kernels.Stream, came []int) bool {
	late := false
	timer := time.AfterFunc(w.Patience, func() {
		w.house.mu.Lock()
		late = true
		w.end()
	})
	defer timer.Stop()
	for r, n := range came {
		for ; n < w.exchange; n = came[r] {
			if late {
				w.lost = fmt.Errorf("%s took no part in an exchange of rows for %v", w.Names[r], w.Patience)
				s.(*stream).err = w.lost
				return false
			}
			w.house.changed.Wait()
		}
	}
	return true
}

func (w *window) Arrive(s kernels.Stream, offsets, index kernels.Tensor, rows int) kernels.Tensor {
	clear(bytesOf(offsets))
	if !w.begin(s) {
		return w.rows
	}
	defer w.end()
	if !w.await(s, w.arrived) {
		return w.rows
	}
	w.index = w.index[:0]
	for e := range offsets.Cols - 1 {
		for source, o := range w.offsets {
			for slot := o[e]; slot < o[e+1]; slot++ {
				if len(w.index) == rows {
					s.(*stream).err = fmt.Errorf("more than %d rows arrive", rows)
					return w.rows
				}
				binary.LittleEndian.PutUint32(bytesOf(index)[4*len(w.index):], uint32(source*w.Rows+slot))
				w.index = append(w.index, source*w.Rows+slot)
			}
		}
		binary.LittleEndian.PutUint32(bytesOf(offsets)[4*(e+1):], uint32(len(w.index)))
	}
	return w.rows
}

func (w *window) Return(s kernels.Stream, y, _, _ kernels.Tensor) {
	if !w.begin(s) {
		return
	}
	defer w.end()
	poison(w.rows)
	for i, at := range w.index {
		copy(row(w.peers[at/w.Rows].back, at%w.Rows), row(y, i))
	}
	for _, p := range w.peers {
		p.returned[w.Rank] = w.exchange
	}
}

func (w *window) Collect(s kernels.Stream) kernels.Tensor {
	if w.begin(s) {
		defer w.end()
		w.await(s, w.returned)
	}
	return w.back
}

func bytesOf(t kernels.Tensor) []byte { return t.Mem.(kernels.HostMemory).Bytes()[t.Offset:] }

func row(t kernels.Tensor, i int) []byte {
	size := t.DType.Size()
	return bytesOf(t)[i*t.Stride*size:][:t.Cols*size]
}

func poison(t kernels.Tensor) { copy(bytesOf(t), bytes.Repeat([]byte{0xff}, int(t.Bytes()))) }

func ints(t kernels.Tensor) []int {
	v := make([]int, t.Cols)
	for i := range v {
		v[i] = int(int32(binary.LittleEndian.Uint32(bytesOf(t)[4*i:])))
	}
	return v
}
