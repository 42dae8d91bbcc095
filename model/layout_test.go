package model_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/windowtest"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
)

// layout is how ranks share a model, and how its work is cut. Sizes of 0 stand for 1, an ep of 0 for as many as can be.
type layout struct {
	tp, es, pp, ep, dp int
	slices             int  // model.LoadOptions.Slices
	split              bool // tokens divided among all tp peers
	coordinated        bool // rows travel among peers of equal tp rank, and are gathered over tp
	piece              int  // tokens of each text in a step; 0: all
	placed             bool // experts not in order
	copies             int  // placed: of experts, on each rank, at most
	boards             bool // slices are put together by the ranks' devices, not through the hosts
	dtype              kernels.DType
	wrongOrder         bool // partial results added in another order on each step, as they might arrive
}

func (y layout) world() int { return max(y.tp, 1) * max(y.pp, 1) * max(y.dp, 1) }

func (y layout) String() string {
	s := fmt.Sprintf("world %d", y.world())
	for _, n := range []struct {
		name string
		n    int
	}{{"tp", y.tp}, {"es", y.es}, {"pp", y.pp}, {"ep", y.ep}, {"slices", y.slices}, {"by", y.piece}} {
		if n.n > 0 {
			s += fmt.Sprintf(", %s %d", n.name, n.n)
		}
	}
	if y.split {
		s += ", split"
	}
	if y.coordinated {
		s += ", coordinated"
	}
	if y.boards {
		s += ", over boards"
	}
	if y.placed {
		s += fmt.Sprintf(", placed, %d copies", y.copies)
	}
	return s
}

// outcome is the logits of every text, and the bytes that each rank has read of the checkpoint and sent for slices.
type outcome struct {
	logits [][]float32
	read   []int64
	sent   []int64
}

// run runs texts through the model in dir, dealt out to the replicas: with fewer texts than replicas some have none.
func (y layout) run(t *testing.T, dir string, texts [][]int32) (outcome, error) {
	o := outcome{make([][]float32, len(texts)), make([]int64, y.world()), make([]int64, y.world())}
	var lock sync.Mutex
	house := windowtest.NewHouse()
	err := mpi.Run(y.world(), func(w mpi.World) error {
		q := &layoutRank{layout: y, world: w, texts: texts, house: house}
		err := q.open(t, dir)
		lock.Lock()
		o.read[w.Rank()] = q.read
		lock.Unlock()
		if err != nil {
			return err
		}
		logits, err := q.run(t)
		lock.Lock()
		defer lock.Unlock()
		o.sent[w.Rank()] = q.model.Traffic(q.workspace).Sent
		for i, got := range logits {
			if o.logits[i] != nil && !sameBits(o.logits[i], got) {
				return fmt.Errorf("text %d: tp peers hold different logits", i)
			}
			o.logits[i] = got
		}
		return err
	})
	return o, err
}

// layoutRank is one rank of a layout.
type layoutRank struct {
	layout
	*runner
	world  mpi.World
	groups *comm.Groups
	texts  [][]int32
	read   int64
	house  *windowtest.House
}

func (q *layoutRank) open(t *testing.T, dir string) error {
	c, _, config, err := describe(dir)
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	s := comm.Sizes{World: q.layout.world(), TP: q.tp, PP: q.pp}
	for _, m := range config.MoE {
		if m.Gate.Experts > 0 {
			s.Experts, s.EP, s.ES = append(s.Experts, m.Gate.Experts), q.ep, q.es
		}
	}
	table, err := comm.Ranks(s)
	if err != nil {
		return err
	}
	if q.groups, err = comm.Form(t.Context(), q.world, table); err != nil {
		return err
	}
	device, err := openRankDevice(q.world.Rank())
	if err != nil {
		return err
	}
	if q.boards {
		if device, err = q.openBoards(t, device); err != nil {
			return err
		}
	}
	rows := map[int]comm.AllToAll{}
	o := model.LoadOptions{DType: q.dtype, TP: q.groups.TP, Slices: q.slices, Stage: q.groups.PP.Rank(), Stages: q.groups.PP.Size(),
		Experts: func(experts int) (*moe.Exchange, error) {
			g := q.groups.Expert(experts)
			x := &moe.Exchange{Rank: g.EP.Rank(), Ranks: g.EP.Size(), Rows: comm.NewFlat(g.EP), Slice: g.ES}
			if q.split {
				x.Split = q.groups.TP
			}
			if q.coordinated && experts > 2 { // the pyramid's first layer has too few to be on two ranks of a tp group
				rows, share, err := g.AllToAll(comm.AllToAllOptions{Algorithm: comm.Coordinated})
				if err != nil {
					return nil, err
				}
				if x.Rows = rows; share != nil {
					x.Split = g.Share
				}
			}
			rows[experts] = x.Rows
			return x, nil
		}}
	if q.placed {
		o.Placement = func(layer int) []shard.Place {
			experts := config.MoE[layer].Gate.Experts
			i := slices.IndexFunc(table.Experts, func(x comm.ExpertRanks) bool { return x.Experts == experts })
			return q.place(layer, &table.Experts[i], rows[experts])
		}
	}
	if q.wrongOrder {
		o.TP = &comm.Group{World: &shuffled{World: o.TP.World}, Ranks: o.TP.Ranks}
	}
	q.runner, err = openRunner(t, poisoned{device}, dir, 128, o)
	if q.checkpoint != nil {
		q.read = q.checkpoint.BytesRead()
	}
	return err
}

// openBoards makes teams of the devices of this rank's groups; GPUs that ranks share are none.
func (q *layoutRank) openBoards(t *testing.T, device kernels.Device) (kernels.Device, error) {
	_, own := device.(kernels.BoardDevice)
	if !own {
		device = q.house.NewDevice(device, fmt.Sprint("GPU ", q.world.Rank()), "")
	}
	groups := []*comm.Group{q.groups.TP}
	for i := range q.groups.Experts {
		groups = append(groups, q.groups.Experts[i].Share, q.groups.Experts[i].ES)
	}
	for _, g := range groups {
		if g.Size() == 1 || g.Team != nil {
			continue
		}
		team, why, err := comm.OpenTeam(t.Context(), g, device, kernels.BoardSpec{Room: 1 << 16, DType: device.Activations(q.dtype), Patience: time.Minute})
		if err != nil || why != "" && !own {
			return device, fmt.Errorf("no boards: %s %w", why, err)
		}
		g.Team = team
	}
	return device, nil
}

// place packs the experts of a layer for loads at random; the copies lie on two nodes.
func (q *layoutRank) place(layer int, table *comm.ExpertRanks, rows comm.AllToAll) []shard.Place {
	random, loads := rand.New(rand.NewPCG(5, uint64(layer))), make([]int64, table.Experts)
	for e := range loads {
		loads[e] = random.Int64N(1000)
	}
	held, err := shard.Pack(loads, table.EP, min(q.copies, table.Experts-table.Experts/table.EP))
	if err != nil {
		panic(err)
	}
	ep := q.groups.Expert(table.Experts).EP
	s := shard.Sources{Senders: table.Senders(rows, ep.Ranks)}
	for r := range table.EP {
		s.Nodes = append(s.Nodes, r*2/table.EP)
	}
	mine := slices.IndexFunc(s.Senders, func(ranks []int) bool { return slices.Contains(ranks, ep.Rank()) })
	return shard.Divide(held, table.Experts, s)[mine]
}

// run does the steps of this rank; on the last stage it returns the logits of its texts.
func (q *layoutRank) run(t *testing.T) (map[int][]float32, error) {
	replica, replicas := q.groups.DP.Rank(), q.groups.DP.Size()
	longest, logits := 0, map[int][]float32{}
	for _, text := range q.texts {
		longest = max(longest, len(text))
	}
	each := q.piece
	if each == 0 || q.model.Config.Bidirectional {
		each = longest
	}
	for from := 0; from < longest; from += each { // as many steps on all replicas
		var pieces []piece
		var of []int
		for i := replica; i < len(q.texts); i += replicas {
			if to := min(from+each, len(q.texts[i])); to > from {
				pieces, of = append(pieces, piece{q.texts[i], from, to, i / replicas * blocksOf(longest)}), append(of, i)
			}
		}
		rows, err := q.step(t, pieces)
		if err != nil {
			return nil, err
		}
		for j, p := range pieces {
			n := (p.to - p.from) * q.model.Config.Vocab
			if q.model.Config.Classifies() {
				n = len(q.model.Config.Labels)
			}
			if rows != nil {
				logits[of[j]] = append(logits[of[j]], rows[:n]...)
				rows = rows[n:]
			}
		}
	}
	return logits, nil
}

// step runs one step through this rank's stage and hands it on; the last stage returns the logits.
func (q *layoutRank) step(t *testing.T, pieces []piece) ([]float32, error) {
	step, release := q.pieces(pieces)
	defer release()
	stage, act := q.groups.PP.Rank(), q.device.Activations(q.model.DType)
	if stage > 0 {
		in, err := q.device.Alloc("from the stage before", act, step.Batch.Tokens, q.model.Config.Hidden)
		if err != nil {
			return nil, err
		}
		defer in.Mem.Free()
		data := make([]byte, in.Bytes())
		if err := q.groups.PP.Recv(t.Context(), stage-1, 1, data); err != nil {
			return nil, err
		}
		q.stream.Write(in, data)
		step.In = in
	}
	h, err := q.model.Forward(t.Context(), q.stream, step, q.workspace)
	if err != nil {
		return nil, err
	}
	if stage+1 < q.groups.PP.Size() {
		return nil, q.groups.PP.Send(t.Context(), stage+1, 1, q.bytes(h))
	}
	logits, _, err := q.heads(h, step)
	return logits, err
}

// poisoned is a device whose memory is not a number until it is written.
type poisoned struct{ kernels.Device }

func (p poisoned) Alloc(what string, d kernels.DType, rows, cols int) (kernels.Tensor, error) {
	t, err := p.Device.Alloc(what, d, rows, cols)
	if m, ok := t.Mem.(kernels.HostMemory); ok {
		for i := range m.Bytes() {
			m.Bytes()[i] = 0xff
		}
	}
	return t, err
}

// shuffled is a world that hands over what it gathers in another order every time.
type shuffled struct {
	mpi.World
	calls int
}

func (s *shuffled) AllGather(ctx context.Context, send, recv []byte) error {
	err := s.World.AllGather(ctx, send, recv)
	s.calls++
	if n := len(send); s.calls%2 == 0 && n > 0 {
		parts := slices.Collect(slices.Chunk(slices.Clone(recv), n))
		slices.Reverse(parts[1:])
		copy(recv, slices.Concat(parts...))
	}
	return err
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

func (y layout) logits(t *testing.T, name string) (logits [][]float32) {
	t.Helper()
	folder := golden
	if strings.HasPrefix(name, "austen") {
		folder = trainedModel
	}
	dir := folder(t, name)
	t.Run(y.String(), func(t *testing.T) {
		o, err := y.run(t, dir, texts)
		check(t, err)
		logits = o.logits
	})
	if logits == nil {
		t.FailNow()
	}
	return logits
}

func compareBits(t *testing.T, y layout, got, want [][]float32) {
	t.Helper()
	for i := range want {
		if !sameBits(got[i], want[i]) {
			t.Errorf("%v: text %d has other bits", y, i)
		}
	}
}

func nearLogits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d logits, want %d", what, len(got), len(want))
	}
	near(t, what, got, want, 160)
}
