package comm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/mpi"
)

// meeting is a CPU that says it is a GPU, and whose peers exchange by messages of its ranks.
type meeting struct {
	kernels.Device
	group    mpi.World
	hardware string
	keyless  error
	refuses  error
	met      string // key of the last meeting
}

func (m *meeting) Hardware() string         { return m.hardware }
func (m *meeting) PeerKey() ([]byte, error) { return []byte("under the clock"), m.keyless }
func (m *meeting) Meet(key []byte, rank, ranks int) (kernels.Peers, error) {
	if rank != m.group.Rank() || ranks != m.group.Size() {
		return nil, fmt.Errorf("met as rank %d of %d", rank, ranks)
	}
	m.met = string(key)
	return meetingPeers{m.group}, m.refuses
}

type meetingPeers struct{ group mpi.World }

func (p meetingPeers) Close() error { return nil }
func (p meetingPeers) Gather(s kernels.Stream, parts []kernels.Tensor, own kernels.Tensor) {
	if err := s.Sync(); err != nil {
		panic(err)
	}
	rows := func(t kernels.Tensor, row func(at, size int64)) {
		for i := range t.Rows {
			row(t.RowRange(i, i+1).Offset, int64(t.Cols*t.DType.Size()))
		}
	}
	var mine []byte
	counts, total := []int64(nil), int64(0)
	rows(own, func(at, size int64) { mine = append(mine, own.Mem.(kernels.HostMemory).Bytes()[at:at+size]...) })
	for _, t := range parts {
		counts, total = append(counts, t.Bytes()), total+t.Bytes()
	}
	all := make([]byte, total)
	if err := p.group.AllGatherV(context.Background(), mine, all, counts); err != nil {
		panic(err)
	}
	for _, t := range parts {
		rows(t, func(at, size int64) { copy(t.Mem.(kernels.HostMemory).Bytes()[at:at+size], all); all = all[size:] })
	}
}

func (p meetingPeers) Scatter(s kernels.Stream, recv, send kernels.Tensor, rows []int) {
	from := make([]int, len(rows))
	for r := range from {
		from[r] = rows[p.group.Rank()]
	}
	p.Exchange(s, recv, send, from, rows)
}

func (p meetingPeers) Sum(s kernels.Stream, y, own, room kernels.Tensor, add bool) {
	parts := make([]kernels.Tensor, p.group.Size())
	for r := range parts {
		parts[r] = room.RowRange(r*y.Rows, (r+1)*y.Rows)
	}
	p.Gather(s, parts, own)
	s.Reduce(y, room.RowRange(0, len(parts)*y.Rows), len(parts), add)
}

func (p meetingPeers) Exchange(s kernels.Stream, recv, send kernels.Tensor, from, to []int) {
	if err := s.Sync(); err != nil {
		panic(err)
	}
	counts := func(rows []int) (bytes []int64) {
		for _, n := range rows {
			bytes = append(bytes, int64(n*send.Cols*send.DType.Size()))
		}
		return bytes
	}
	bytes := func(t kernels.Tensor) []byte {
		return t.Mem.(kernels.HostMemory).Bytes()[t.Offset : t.Offset+t.Bytes()]
	}
	if err := p.group.AllToAllV(context.Background(), bytes(send), counts(to), bytes(recv), counts(from)); err != nil {
		panic(err)
	}
}

func newMeeting(group mpi.World) (*meeting, error) {
	d, err := cpu.New(cpu.Options{Threads: 1})
	return &meeting{Device: d, group: group, hardware: fmt.Sprint("GPU-", group.Rank())}, err
}

// overTensors lets the cases of the other all-to-alls drive DispatchRows and CombineRows.
type overTensors struct {
	*DeviceAllToAll
	device kernels.Device
	stream kernels.Stream
}

func newOverTensors(w mpi.World) (AllToAll, error) {
	d, err := newMeeting(w)
	if err != nil {
		return nil, err
	}
	peers, why, err := Meet(context.Background(), w, d)
	if err != nil || peers == nil {
		return nil, fmt.Errorf("no peers: %s, %w", why, err)
	}
	stream, err := d.NewStream()
	return overTensors{NewDeviceAllToAll(w, peers), d, stream}, err
}

func (o overTensors) Dispatch(_ context.Context, recv, send []byte, rowBytes int) error {
	return o.via(recv, send, rowBytes, o.DispatchRows)
}

func (o overTensors) Combine(_ context.Context, recv, send []byte, rowBytes int) error {
	return o.via(recv, send, rowBytes, o.CombineRows)
}

// Finish has nothing to wait for: via has.
func (o overTensors) Finish(context.Context) error { return nil }

func (o overTensors) via(recv, send []byte, rowBytes int, move func(s kernels.Stream, recv, send kernels.Tensor) error) error {
	tensor := func(b []byte) (kernels.Tensor, error) {
		return o.device.Alloc("rows", kernels.I8, len(b)/rowBytes, rowBytes)
	}
	from, err := tensor(send)
	if err != nil {
		return err
	}
	to, err := tensor(recv)
	if err != nil {
		return err
	}
	o.stream.Write(from, send)
	if err := move(o.stream, to, from); err != nil {
		return err
	}
	o.stream.Read(recv, to)
	return o.stream.Sync()
}

func TestMeet(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *meeting)
		why    string // no peers
		err    string // on rank 2
	}{
		"all different":          {func(*meeting) {}, "", ""},
		"two share one":          {func(m *meeting) { m.hardware = fmt.Sprint("GPU-", m.group.Rank()%3) }, "ranks 0 and 3 of the group share GPU-0", ""},
		"one has none":           {func(m *meeting) { m.hardware = strings.Repeat("GPU", (m.group.Rank()+1)%2) }, "cannot reach others", ""},
		"no library":             {func(m *meeting) { m.keyless = errors.New("no library here") }, "key", ""},
		"one of them cannot":     {func(m *meeting) { m.refuses = [4]error{2: errors.New("out of ports")}[m.group.Rank()] }, "", "out of ports"},
		"there is only the host": {nil, "cannot reach others", ""},
	} {
		err := mpi.Run(4, func(w mpi.World) error {
			m, err := newMeeting(w)
			if err != nil {
				return err
			}
			d := m.Device
			if c.change != nil {
				c.change(m)
				d = m
			}
			peers, why, err := Meet(t.Context(), w, d)
			switch {
			case c.err != "" && (err == nil || w.Rank() == 2 && !strings.Contains(err.Error(), c.err)), c.err == "" && err != nil:
				t.Errorf("%s: rank %d: %v, want %q", name, w.Rank(), err, c.err)
			case (c.why == "") != (why == "") || w.Rank() == 0 && !strings.Contains(why, c.why):
				if c.why != "key" || why == "" {
					t.Errorf("%s: rank %d: %q, want %q", name, w.Rank(), why, c.why)
				}
			case (peers != nil) != (c.why == "" && c.err == ""):
				t.Errorf("%s: rank %d: peers %v", name, w.Rank(), peers)
			case peers != nil && m.met != "under the clock":
				t.Errorf("%s: rank %d met under %q", name, w.Rank(), m.met)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
