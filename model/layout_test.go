package model_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// layout is how ranks share a model, and how its work is cut. Sizes of 0 stand for 1, an ep of 0 for as many as can be.
type layout struct {
	tp, es, pp, ep, dp int
	slices             int  // model.LoadOptions.Slices
	split              bool // tokens divided among all tp peers
	coordinated        bool // rows travel among peers of equal tp rank, and are gathered over tp
	piece              int  // tokens of each text in a step; 0: all
	placed             bool // experts not in order
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
	if y.placed {
		s += ", placed"
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
	err := mpi.Run(y.world(), func(w mpi.World) error {
		q := &layoutRank{layout: y, world: w, texts: texts}
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
	device, err := openRankDevice()
	if err != nil {
		return err
	}
	o := model.LoadOptions{DType: q.dtype, TP: q.groups.TP, Slices: q.slices, Stage: q.groups.PP.Rank(), Stages: q.groups.PP.Size(),
		Experts: func(experts int) (*moe.Exchange, error) {
			g := q.groups.Expert(experts)
			x := &moe.Exchange{Rank: g.EP.Rank(), Ranks: g.EP.Size(), Rows: comm.NewFlat(g.EP), Slice: g.ES}
			if q.split {
				x.Split = q.groups.TP
			}
			if q.coordinated && experts > 2 { // the pyramid's first layer has too few to be on two ranks of a tp group
				rows, share, err := g.AllToAll(comm.AllToAllOptions{Algorithm: comm.Coordinated})
				if x.Rows = rows; share != nil {
					x.Split = g.Share
				}
				return x, err
			}
			return x, nil
		}}
	if q.placed {
		o.Placement = func(layer int) []int {
			return rand.New(rand.NewPCG(5, uint64(layer))).Perm(config.MoE[layer].Gate.Experts)
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

// run does the steps of this rank; on the last stage it returns the logits of its texts.
func (q *layoutRank) run(t *testing.T) (map[int][]float32, error) {
	replica, replicas := q.groups.DP.Rank(), q.groups.DP.Size()
	longest, logits := 0, map[int][]float32{}
	for _, text := range q.texts {
		longest = max(longest, len(text))
	}
	each := q.piece
	if each == 0 {
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
			if n := (p.to - p.from) * q.model.Config.Vocab; rows != nil {
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
	logits, err := q.device.Alloc("logits", kernels.F32, h.Rows, q.model.Config.Vocab)
	if err != nil {
		return nil, err
	}
	defer logits.Mem.Free()
	if err := q.model.Logits(t.Context(), q.stream, logits, h); err != nil {
		return nil, err
	}
	return q.floats(logits), nil
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

// texts are of many lengths; with four replicas one has none.
var texts = [][]int32{{1, 5, 9, 2, 7, 3, 11, 4, 8, 150, 33}, {17}, {90, 12, 12, 12, 12, 12, 64}}

// layouts are those of worlds of 1 to 8 ranks, by tp and es: the bits of a model are to depend on these two alone.
var layouts = []layout{
	{}, {pp: 2}, {dp: 2}, {dp: 2, ep: 1, piece: 3}, {dp: 4, ep: 2, piece: 4}, {pp: 2, dp: 2, piece: 5}, {dp: 3, ep: 1},
	{tp: 2}, {tp: 2, ep: 1, split: true}, {tp: 2, ep: 2, split: true, piece: 1}, {tp: 2, dp: 2}, {tp: 2, dp: 2, ep: 4, split: true, piece: 3},
	{tp: 2, pp: 2, ep: 1}, {tp: 2, pp: 2, dp: 2, ep: 2, split: true, piece: 5}, {tp: 2, dp: 3, ep: 1, split: true},
	{tp: 4, ep: 1}, {tp: 4, ep: 2, split: true, piece: 6}, {tp: 4, ep: 4, pp: 2, split: true}, {tp: 4, dp: 2, ep: 2, piece: 2},
	{es: 2, dp: 2, ep: 1}, {es: 2, dp: 4, ep: 2}, {es: 2, dp: 4, ep: 1, piece: 3}, {es: 2, dp: 2, ep: 1, pp: 2, piece: 4}, {es: 2, dp: 8, ep: 4, piece: 7},
	{tp: 2, es: 2, ep: 1}, {tp: 2, es: 2, ep: 1, split: true, piece: 3}, {tp: 2, es: 2, dp: 2, ep: 2, split: true}, {tp: 2, es: 2, dp: 2, ep: 2, piece: 2}, {tp: 2, es: 2, dp: 2, ep: 1, pp: 2, split: true},
	{tp: 2, ep: 2, coordinated: true}, {tp: 2, dp: 2, ep: 4, coordinated: true, piece: 3}, {tp: 2, dp: 2, ep: 2, coordinated: true},
	{dp: 4, placed: true}, {dp: 2, pp: 2, placed: true, piece: 3}, {es: 2, dp: 4, ep: 2, placed: true}, {tp: 2, dp: 2, ep: 4, coordinated: true, placed: true},
	{tp: 4, ep: 4, coordinated: true, piece: 2}, {tp: 4, dp: 2, ep: 2, coordinated: true},
	{tp: 4, es: 4, ep: 1, split: true}, {tp: 4, es: 4, dp: 2, ep: 2, piece: 5}, {tp: 4, es: 4, dp: 2, ep: 2, split: true},
}

// slicedModels are one of each kind of attention, of MLP and of checkpoint.
var slicedModels = []string{"gpt2", "llama", "megatron-v1-mp2", "ds-moe-old-files", "ds-moe-hoisted", "mixtral", "olmoe", "qwen3_moe"}

// TestSameBitsOnEveryLayout is promise 1: logits have the same bits whatever pp, ep, dp, the all-to-all's split and the
// cut into steps are, and are near those of one rank whatever tp and es are.
func TestSameBitsOnEveryLayout(t *testing.T) {
	models := slicedModels
	if device, err := openRankDevice(); err == nil {
		if device.Arch() == "cpu/reference" { // slow, and the same road through the ranks
			models = []string{"llama", "ds-moe-hoisted"}
		}
		check(t, device.Close())
	}
	for _, name := range models {
		t.Run(name, func(t *testing.T) {
			whole, first := layout{}.logits(t, name), map[[2]int][][]float32{}
			for _, y := range layouts {
				got, key := y.logits(t, name), [2]int{max(y.tp, 1), max(y.es, 1)}
				for i := range texts {
					nearLogits(t, fmt.Sprintf("%v: text %d", y, i), got[i], whole[i])
				}
				if first[key] == nil {
					first[key] = got
				}
				compareBits(t, y, got, first[key])
			}
		})
	}
}

// TestUnevenSlices: heads, KV heads, MLPs and vocabularies that ranks cannot share out evenly.
func TestUnevenSlices(t *testing.T) {
	for name, list := range map[string][]layout{
		"gpt2":         {{tp: 3}, {tp: 3, pp: 2, piece: 4}},                           // 4 heads; a vocabulary of 160
		"llama":        {{tp: 3}, {tp: 3, dp: 2}, {tp: 6}, {tp: 6, piece: 5}},         // 8 heads, 2 of K and V
		"qwen3_moe":    {{tp: 3, ep: 1}, {tp: 3, ep: 1, split: true, piece: 5}},       // 4 heads, 2 of K and V; 16 experts
		"mixtral":      {{es: 5, dp: 5, ep: 1}, {es: 5, dp: 10, ep: 2, piece: 4}},     // experts of 48
		"austen-prmoe": {{tp: 4, ep: 2}, {tp: 4, ep: 4, coordinated: true, piece: 3}}, // 6 heads; trained
	} {
		t.Run(name, func(t *testing.T) {
			whole, first := layout{}.logits(t, name), map[[2]int][][]float32{}
			for _, y := range list {
				got, key := y.logits(t, name), [2]int{y.tp, y.es}
				for i := range texts {
					nearLogits(t, fmt.Sprintf("%v: text %d", y, i), got[i], whole[i])
				}
				if first[key] == nil {
					first[key] = got
				}
				compareBits(t, y, got, first[key])
			}
		})
	}
}

// TestInvariantSlices is --tp-invariant: with a fixed number of slices logits have the same bits whatever tp and es are.
func TestInvariantSlices(t *testing.T) {
	for _, c := range []struct {
		name    string
		layouts []layout
	}{
		{"llama", []layout{{}, {tp: 2}, {tp: 4, piece: 3}, {tp: 8}, {tp: 2, pp: 2}}},
		{"ds-moe-hoisted", []layout{{}, {tp: 2, ep: 1}, {es: 2, dp: 2, ep: 1}, {tp: 4, es: 2, ep: 2, split: true}, {tp: 2, es: 4, dp: 4, ep: 2, piece: 3}}},
		{"mixtral", []layout{{}, {tp: 4, ep: 2, split: true}, {es: 8, dp: 8, ep: 1}, {tp: 2, es: 4, dp: 2, ep: 1, split: true}, {dp: 8, ep: 4, es: 2, piece: 2}}},
		{"olmoe", []layout{{}, {tp: 4, ep: 2}, {tp: 2, es: 2, ep: 1, split: true}, {es: 8, dp: 8, ep: 1}, {tp: 2, pp: 2, dp: 2, ep: 4, piece: 4}}},
		{"qwen3_moe", []layout{{}, {tp: 4, es: 4, ep: 1, split: true}, {tp: 2, ep: 2}, {es: 4, dp: 4, ep: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, want := layout{}.logits(t, c.name), [][]float32(nil)
			for _, y := range c.layouts {
				y.slices = 8
				got := y.logits(t, c.name)
				if want == nil {
					want = got
				}
				for i := range texts {
					nearLogits(t, fmt.Sprintf("%v: text %d", y, i), got[i], whole[i])
				}
				compareBits(t, y, got, want)
			}
		})
	}
}

// TestNarrowWeightsKeepTheBits is both promises for weights of 16 and 8 bits, whose kernels sum in other orders.
func TestNarrowWeightsKeepTheBits(t *testing.T) {
	for _, d := range []kernels.DType{kernels.BF16, kernels.F16, kernels.I8} {
		for _, c := range [][]layout{
			{{tp: 2}, {tp: 2, pp: 2, piece: 3}, {tp: 2, dp: 2, ep: 2, split: true}},
			{{es: 2, dp: 2, ep: 1}, {es: 2, dp: 4, ep: 2, piece: 4}},
			{{slices: 4}, {slices: 4, tp: 4}, {slices: 4, tp: 2, es: 2, ep: 1}, {slices: 4, es: 4, dp: 4, ep: 1, piece: 5}},
		} {
			for _, name := range []string{"olmoe", "mixtral"} {
				t.Run(fmt.Sprintf("%s, %v", name, d), func(t *testing.T) {
					var want [][]float32
					for _, y := range c {
						y.dtype = d
						got := y.logits(t, name)
						if want == nil {
							want = got
						}
						compareBits(t, y, got, want)
					}
				})
			}
		}
	}
}

// TestOrderOfArrivalShows: partial results added as they come, not in the order of the ranks, change bits; so the tests
// above would notice.
func TestOrderOfArrivalShows(t *testing.T) {
	right, wrong := layout{tp: 4, ep: 1, piece: 3}, layout{tp: 4, ep: 1, piece: 3, wrongOrder: true}
	want, got := right.logits(t, "llama"), wrong.logits(t, "llama")
	for i := range texts {
		if !sameBits(got[i], want[i]) {
			return
		}
	}
	t.Error("partial results in another order give the same bits: the layouts' tests could not fail")
}

func (y layout) logits(t *testing.T, name string) (logits [][]float32) {
	t.Helper()
	t.Run(y.String(), func(t *testing.T) {
		dir := filepath.Join("testdata", "golden", name)
		if strings.HasPrefix(name, "austen") {
			dir = trainedModel(t, name)
		}
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

// TestARankReadsItsOwnBytes: stages read each their layers, ep ranks each their experts, tp ranks each their slices.
func TestARankReadsItsOwnBytes(t *testing.T) {
	sum := func(n []int64) (s int64) {
		for _, x := range n {
			s += x
		}
		return s
	}
	read := func(name string, y layout) (bytes []int64) {
		t.Run(name+", "+y.String(), func(t *testing.T) {
			o, err := y.run(t, filepath.Join("testdata", "golden", name), nil)
			check(t, err)
			bytes = o.read
		})
		return bytes
	}
	for _, name := range []string{"gpt2", "olmoe", "ds-moe-hoisted"} {
		if one, two := read(name, layout{}), read(name, layout{pp: 2}); sum(two) != one[0] || two[0] == 0 || two[1] == 0 {
			t.Errorf("%s: two stages read %v bytes, one rank %v", name, two, one)
		}
	}
	one, two, four := read("olmoe", layout{}), read("olmoe", layout{dp: 2}), read("olmoe", layout{dp: 4})
	if experts := 4 * (two[0] - four[0]); one[0]-two[0] != experts/2 || experts < one[0]/2 || two[0] != two[1] {
		t.Errorf("olmoe: ranks read %v, %v and %v bytes with ep 1, 2 and 4", one, two, four)
	}
	one, two, four = read("megatron-v2-mp4", layout{}), read("megatron-v2-mp4", layout{tp: 2}), read("megatron-v2-mp4", layout{tp: 4})
	if same := sum(two) - one[0]; sum(four)-sum(two) != 2*same || same > one[0]/3 {
		t.Errorf("megatron-v2-mp4: ranks read %v, %v and %v bytes with tp 1, 2 and 4", one, two, four)
	}
	one, two = read("mixtral", layout{dp: 2, ep: 1}), read("mixtral", layout{dp: 2, ep: 1, es: 2})
	if _, _, config, err := describe(filepath.Join("testdata", "golden", "mixtral")); err != nil {
		t.Error(err)
	} else if experts := int64(4 * config.Layers * 8 * 3 * config.Hidden * config.MoE[0].FFN); one[0]-two[0] != experts/2 && one[0]-two[0] != experts/4 {
		t.Errorf("mixtral: ranks read %v and %v bytes with es 1 and 2; the experts are %d", one, two, experts)
	}
}

// TestTrafficOfSlices: each tp rank sends the others two partial results a layer and token, and its columns of the logits.
func TestTrafficOfSlices(t *testing.T) {
	tokens := 0
	for _, text := range texts {
		tokens += len(text)
	}
	o, err := layout{tp: 2}.run(t, filepath.Join("testdata", "golden", "llama"), texts)
	check(t, err)
	want := int64(tokens * 4 * (3*2*32 + 160/2)) // layers, hidden, half of the vocabulary
	if o.sent[0] != want || o.sent[1] != want {
		t.Errorf("%v bytes sent, want %d", o.sent, want)
	}
}

// TestPlacementThatIsNone: a placement that loses an expert is refused.
func TestPlacementThatIsNone(t *testing.T) {
	device, err := openRankDevice()
	check(t, err)
	_, err = openRunner(t, device, filepath.Join("testdata", "golden", "mixtral"), 16, model.LoadOptions{
		Placement: func(int) []int { return []int{0, 1, 2, 3, 4, 5, 6, 6} },
		Experts: func(int) (*moe.Exchange, error) {
			return &moe.Exchange{Ranks: 1, Rows: comm.NewFlat(mpi.Alone())}, nil
		}})
	if !errors.Is(err, model.ErrSlices) || !strings.Contains(err.Error(), "layer 0: the placement [0 1 2 3 4 5 6 6] does not name each of 8 experts once") {
		t.Error(err)
	}
}

// TestInt8GroupsThatSlicesCut are refused.
func TestInt8GroupsThatSlicesCut(t *testing.T) {
	device, err := openRankDevice()
	check(t, err)
	_, err = openRunner(t, device, filepath.Join("testdata", "golden", "mixtral"), 16, model.LoadOptions{DType: kernels.I8, Group: 16, Slices: 4})
	if !errors.Is(err, model.ErrSlices) || !strings.Contains(err.Error(), "layer 0 attention output: a slice of 8 of 32 inputs is no multiple of the int8 groups of 16") {
		t.Error(err)
	}
}

// TestModelThatCannotBeSliced: the error tells how it can be, and no weight is read.
func TestModelThatCannotBeSliced(t *testing.T) {
	for name, c := range map[string]struct {
		layout
		model string
		want  []string
	}{
		"more ranks than heads":                          {layout{tp: 8, ep: 1}, "mixtral", []string{"tp 8", "4 attention heads", "use 1 to 4"}},
		"more stages than layers":                        {layout{pp: 4}, "llama", []string{"pp 4", "3 layers", "use 1 to 3"}},
		"slices that do not divide the inside of an MLP": {layout{slices: 16}, "llama", []string{"the inside of an MLP, 56", "16 equal slices", "use 2, 4 or 8"}},
		"slices that are no power of two":                {layout{slices: 6}, "llama", []string{"6 slices", "use 2, 4, 8"}},
		"fewer slices than ranks":                        {layout{slices: 2, tp: 4}, "llama", []string{"2 slices", "4 ranks"}},
		"heads over 3 ranks, invariant":                  {layout{slices: 8, tp: 3}, "llama", []string{"8 slices", "3 ranks", "use 1, 2, 4 or 8"}},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := c.run(t, filepath.Join("testdata", "golden", c.model), texts)
			if !errors.Is(err, model.ErrSlices) {
				t.Fatalf("%v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v: no %q", err, part)
				}
			}
			if slices.Max(o.read) > 0 {
				t.Errorf("%v bytes were read", o.read)
			}
		})
	}
}
