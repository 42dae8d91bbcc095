package cuda

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// ErrNCCL: NCCL, through which GPUs exchange rows, is not found.
var ErrNCCL = errors.New("no NCCL (NVIDIA's library for exchanges between GPUs)")

// ncclVariable names an environment variable that holds the path of NCCL's library.
const ncclVariable = "DSBATCH_NCCL"

// ncclNames are the libraries to try, in order.
func ncclNames() []string {
	var names []string
	switch n := os.Getenv(ncclVariable); n {
	case "":
	case "none":
		return nil
	default:
		names = append(names, n)
	}
	names = append(names, "libnccl.so.2", "libnccl.so")
	for _, home := range []string{os.Getenv("NCCL_HOME"), os.Getenv("CUDA_HOME"), "/usr/local/cuda"} {
		if home != "" {
			names = append(names, filepath.Join(home, "lib", "libnccl.so.2"), filepath.Join(home, "lib64", "libnccl.so.2"))
		}
	}
	return names
}

// patience is how long an exchange may take: its ranks have told each other their counts before they begin it.
const patience = 20 * time.Second

// peers are the GPUs of several ranks, met by NCCL. It implements kernels.Peers.
type peers struct {
	dev         *Device
	rank, ranks int

	mu    sync.Mutex // comm, lost: the timer takes them too
	comm  handle
	lost  error
	timer *time.Timer

	room *memory // for what is not in one piece where it goes; nil until something is not
}

var _ kernels.PeerDevice = (*Device)(nil)

// Hardware is the GPU's own number, the same in every process that sees it.
func (d *Device) Hardware() string {
	uuid, err := deviceUUID(d.ordinal)
	if err != nil {
		return d.Name() // the next call of the driver will tell
	}
	return "GPU-" + hex.EncodeToString(uuid)
}

// PeerKey implements kernels.PeerDevice; an error that wraps ErrNCCL tells that there is no library.
func (d *Device) PeerKey() ([]byte, error) {
	if err := openNCCL(ncclNames()); err != nil {
		return nil, fmt.Errorf("%w; `pip install nvidia-nccl-cu13` and point %s at its libnccl.so.2", err, ncclVariable)
	}
	return ncclKey()
}

// Meet implements kernels.PeerDevice. The first exchange, of a few bytes, makes the connections.
func (d *Device) Meet(key []byte, rank, ranks int) (kernels.Peers, error) {
	if err := openNCCL(ncclNames()); err != nil {
		return nil, err
	}
	c, err := ncclJoin(d.ctx, key, rank, ranks)
	if err != nil {
		return nil, fmt.Errorf("rank %d of %d: %w", rank, ranks, err)
	}
	p := &peers{dev: d, rank: rank, ranks: ranks, comm: c}
	p.timer = time.AfterFunc(patience, p.abort)
	p.timer.Stop()
	if err := p.greet(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *peers) greet() error {
	t, err := p.dev.Alloc("greetings of peers", kernels.I32, 2*p.ranks, 1)
	if err != nil {
		return err
	}
	defer t.Mem.Free()
	one := make([]int, p.ranks)
	for r := range one {
		one[r] = 1
	}
	return p.dev.now(func(s *Stream) { p.Exchange(s, t.RowRange(0, p.ranks), t.RowRange(p.ranks, 2*p.ranks), one, one) })
}

// Exchange implements kernels.Peers: after what the stream holds, outside of its graphs.
func (p *peers) Exchange(stream kernels.Stream, recv, send kernels.Tensor, from, to []int) {
	const op = opExchange
	s := p.on(stream)
	s.note(rules.Tensor(op.String(), "send", send, send.DType, operands.Any, operands.Any))
	s.note(rules.Tensor(op.String(), "recv", recv, send.DType, operands.Any, send.Cols))
	if s.err == nil && (len(from) != p.ranks || len(to) != p.ranks) {
		s.fail("%s: counts of %d and %d ranks among %d peers", op, len(from), len(to), p.ranks)
	}
	if s.err == nil && (send.Rows > 1 && send.Stride != send.Cols || recv.Rows > 1 && recv.Stride != recv.Cols) {
		s.fail("%s: rows of %v or %v are not adjacent", op, send, recv)
	}
	if s.err != nil {
		return
	}
	width := uint64(send.Cols * send.DType.Size())
	fromBytes, received := byteCounts(from, width)
	toBytes, sent := byteCounts(to, width)
	if received != uint64(recv.Bytes()) || sent != uint64(send.Bytes()) {
		s.fail("%s: counts say %d and %d bytes for %v and %v", op, sent, received, send, recv)
		return
	}
	p.call(s, op, func(comm handle) error {
		return ncclExchange(p.dev.ctx, s.handle, comm, address(recv), fromBytes, address(send), toBytes)
	})
}

func (p *peers) on(stream kernels.Stream) *Stream {
	s, ok := stream.(*Stream)
	if !ok || s.dev != p.dev {
		panic(fmt.Sprintf("cuda: peers of %s on a stream of another device", p.dev.Name()))
	}
	return s
}

// call has NCCL do something after what the stream holds.
func (p *peers) call(s *Stream, op opNumber, do func(comm handle) error) {
	s.flush()
	p.mu.Lock()
	err, comm := p.lost, p.comm
	p.mu.Unlock()
	if err == nil {
		s.peers = p
		p.timer.Reset(patience)
		err = do(comm)
	}
	if err != nil {
		s.fail("%s: %w", op, err)
	}
}

// Gather implements kernels.Team: each rank sends to each. What goes to rows that are not adjacent lies in room before.
func (p *peers) Gather(stream kernels.Stream, parts []kernels.Tensor, own kernels.Tensor) {
	const op = opGather
	s := p.on(stream)
	if len(parts) != p.ranks {
		s.fail("%s: %d parts of %d peers", op, len(parts), p.ranks)
		return
	}
	mine := parts[p.rank]
	s.note(rules.Tensor(op.String(), "own", own, own.DType, mine.Rows, mine.Cols))
	var strewn int64 // bytes that come in pieces
	for r, part := range parts {
		s.note(rules.Tensor(op.String(), "part", part, own.DType, operands.Any, operands.Any))
		if !adjacent(part) && r != p.rank {
			strewn += part.Bytes()
		}
	}
	send := own
	if !adjacent(own) {
		strewn += own.Bytes()
	}
	room := p.roomFor(s, op, strewn)
	if s.err != nil {
		return
	}
	take := func(t kernels.Tensor) kernels.Tensor {
		to := kernels.Tensor{Mem: p.room, Offset: room, DType: t.DType, Rows: t.Rows, Cols: t.Cols, Stride: t.Cols}
		room += t.Bytes()
		return to
	}
	if !adjacent(own) {
		send = take(own)
		s.Copy(send, own)
	}
	come, to, bytes := make([]kernels.Tensor, p.ranks), make([]handle, p.ranks), make([]uint64, p.ranks)
	for r, part := range parts {
		come[r] = part
		if !adjacent(part) && r != p.rank {
			come[r] = take(part)
		}
		to[r], bytes[r] = address(come[r]), uint64(part.Bytes())
	}
	p.call(s, op, func(comm handle) error {
		return ncclGather(p.dev.ctx, s.handle, comm, p.rank, to, bytes, address(send))
	})
	for r, part := range parts {
		switch {
		case r != p.rank && address(come[r]) != address(part):
			s.Copy(part, come[r])
		case r == p.rank && address(part) != address(own):
			s.Copy(part, own)
		}
	}
}

func adjacent(t kernels.Tensor) bool { return t.Rows <= 1 || t.Stride == t.Cols }

// roomFor makes the room large enough, where something comes in pieces, and returns its beginning.
func (p *peers) roomFor(s *Stream, op opNumber, bytes int64) int64 {
	if s.err != nil || bytes == 0 || p.room != nil && p.room.size >= bytes {
		return 0
	}
	if p.room != nil {
		if err := s.Sync(); err != nil { // what uses the smaller one
			return 0
		}
		p.room.Free()
		p.room = nil
	}
	m, err := p.dev.memory.allocate("slices of other ranks on their way", bytes+bytes/4)
	if err != nil {
		s.fail("%s: %w", op, err)
		return 0
	}
	p.room = m
	return 0
}

// Scatter implements kernels.Team.
func (p *peers) Scatter(stream kernels.Stream, recv, send kernels.Tensor, rows []int) {
	from := make([]int, p.ranks)
	for r := range from {
		from[r] = rows[p.rank]
	}
	p.Exchange(stream, recv, send, from, rows)
}

// Sum implements kernels.Team: all get the partial results of all, and add them up themselves.
func (p *peers) Sum(stream kernels.Stream, y, own, room kernels.Tensor, add bool) {
	parts := make([]kernels.Tensor, p.ranks)
	for r := range parts {
		parts[r] = room.RowRange(r*y.Rows, (r+1)*y.Rows)
	}
	p.Gather(stream, parts, own)
	stream.Reduce(y, room.RowRange(0, p.ranks*y.Rows), p.ranks, add)
}

func byteCounts(rows []int, width uint64) (bytes []uint64, sum uint64) {
	for _, n := range rows {
		bytes = append(bytes, uint64(n)*width)
		sum += uint64(n) * width
	}
	return bytes, sum
}

// settled is called when the exchanges of a stream are done, or have been ended: the error tells which.
func (p *peers) settled() error {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// abort ends the line: what waits for a peer on the GPU or in NCCL returns.
func (p *peers) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.comm == 0 || p.lost != nil {
		return
	}
	p.lost = fmt.Errorf("a peer of rank %d took no part in an exchange of rows for %v: its process has ended or hangs", p.rank, patience)
	if err := ncclAbort(p.dev.ctx, p.comm); err != nil {
		p.lost = errors.Join(p.lost, err)
	}
	p.comm = 0
}

// Close implements kernels.Peers.
func (p *peers) Close() error {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.comm == 0 {
		return nil
	}
	if p.room != nil {
		p.room.Free()
		p.room = nil
	}
	c := p.comm
	p.comm = 0
	return ncclLeave(p.dev.ctx, c)
}
