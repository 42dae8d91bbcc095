package benchmarks

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

// bar is a way to run a model.
type bar struct {
	name  string
	apart bool // every rank is a job of its own, with all experts
	set   func(*config.Job)
}

var no bool

// bars are those of the tutorial where plain operations run; a GPU has none.
func (f *figures) bars() []bar {
	if f.o.Device == "cuda" {
		return []bar{
			{name: "kernel by kernel", set: func(j *config.Job) { j.Inference.CUDAGraph = &no }},
			{name: "specialised", set: func(*config.Job) {}},
		}
	}
	return []bar{
		{name: "baseline", apart: true, set: func(j *config.Job) { j.Reference = true }},
		{name: "generic", set: func(j *config.Job) { j.Inference.KernelInject = &no }},
		{name: "specialised", set: func(*config.Job) {}},
	}
}

func (f *figures) barNames() string {
	if f.o.Device == "cuda" {
		return "kernel by kernel and by graphs"
	}
	return "by plain operations and by fused kernels"
}

// barsSay is what has to be known of the bars.
func (f *figures) barsSay() string {
	if f.o.Device == "cuda" {
		return "Experts are shared out over the ranks. Kernel by kernel: the same fused kernels, each launched by itself (enable_cuda_graph false); specialised: the default. The tutorial's baseline and generic bars are plain operations, which dsbatch runs on a CPU only."
	}
	return "A rank has one core. Baseline: --reference, plain operations on one rank, as many jobs beside one another as there are ranks, each with all experts; generic: replace_with_kernel_inject false, the same plain operations with the experts shared out over the ranks; specialised: the default, fused kernels and shared experts. Plain operations are Go with sums in float64, the yardstick of correctness: how far they are behind says what the kernels are worth, and nothing of PyTorch."
}

// count says how many ranks.
func (f *figures) count(n int) string {
	return count(map[string]string{"cpu": "rank", "cuda": "GPU"}[f.o.Device], n)
}

func count(what string, n int) string {
	if n > 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func (f *figures) places() string {
	if f.o.Device == "cuda" {
		return "GPUs"
	}
	return "ranks of one core"
}

// setup is one bar of a figure, to be measured.
type setup struct {
	bar         bar
	shape       Shape
	ranks, rows int
	point       Point

	rounds  []round // of throughput
	latency []float64
}

// measure adds a point for each setup, measured in turn: on a machine that others use too neighbours have the same
// neighbours. A GPU is this process's own, and a model takes long to reach it: there a setup's rounds follow one another.
// What the machine has no memory for is left out.
func (f *figures) measure(ctx context.Context, all []*setup, p *Plate) error {
	turns, each := f.o.Rounds, 1
	if f.o.Device == "cuda" {
		turns, each = 1, f.o.Rounds
	}
	gone := map[*setup]bool{}
	for turn := range turns {
		for _, s := range all {
			if gone[s] {
				continue
			}
			f.progress("%s: %s, %s, round %d of %d", p.Title, s.point.Group, s.bar.name, turn+1, turns)
			err := f.run(ctx, s, each)
			if errors.Is(err, engine.ErrRefused) && f.o.Device == "cuda" {
				f.leaveOut("%s, %s, %s: %v", p.Title, s.point.Group, s.bar.name, err)
				gone[s] = true
			} else if err != nil {
				return err
			}
		}
	}
	for _, s := range all {
		if gone[s] {
			continue
		}
		s.point.Ranks, s.point.Rows = s.ranks, s.rows
		tokens := float64(s.ranks * s.rows)
		throughput := rate(s.bar.name, "tokens/s", tokens, s.rounds...)
		latency := Figure{Name: s.bar.name, Unit: "ms", Rounds: s.latency, Fraction: throughput.Fraction, By: throughput.By}
		latency.Best, latency.Value, latency.Worst = spread(s.latency)
		s.point.Throughput, s.point.Latency = &throughput, &latency
		p.Points = append(p.Points, s.point)
	}
	return nil
}

// rankRound is what one rank saw of one round.
type rankRound struct {
	meter    meter
	steps    [][]int32 // choices of every step that counts, all layers one after the other
	experts  int64     // rows that its experts computed in these
	traffic  comm.Traffic
	tokens   int // that went through the model
	digest   string
	weights  int64
	dtype    int // bytes of a weight
	ceilings [2]float64
	device   string
}

// run measures some rounds of a setup.
func (f *figures) run(ctx context.Context, s *setup, rounds int) error {
	if f.weights[s.shape] == nil {
		w, err := NewWeights("random", s.shape, 1)
		if err != nil {
			return err
		}
		f.weights[s.shape] = w
	}
	for f.o.Device == "cpu" && len(f.looks) < s.ranks {
		d, err := cpu.New(cpu.Options{Threads: 1})
		if err != nil {
			return err
		}
		c, err := newCeilings(d)
		if err != nil {
			return errors.Join(err, d.Close())
		}
		f.looks, f.lookers = append(f.looks, c), append(f.lookers, d)
	}
	seen := make([][]rankRound, s.ranks)
	var refused error
	var mu sync.Mutex
	err := mpi.Run(s.ranks, func(w mpi.World) (err error) {
		seen[w.Rank()], err = f.rank(ctx, w, s, rounds)
		if errors.Is(err, engine.ErrRefused) {
			mu.Lock()
			refused = err // the world's error is that of whoever came first
			mu.Unlock()
		}
		return err
	})
	if refused != nil {
		return refused
	} else if err != nil {
		return err
	}
	for i := range rounds {
		ranks := make([]*rankRound, s.ranks)
		for r := range ranks {
			ranks[r] = &seen[r][i]
		}
		if err := s.add(ranks); err != nil {
			return err
		}
	}
	f.device = seen[0][0].device
	return nil
}

// rank runs a setup as one of its ranks.
func (f *figures) rank(ctx context.Context, w mpi.World, s *setup, rounds int) (seen []rankRound, err error) {
	world := w
	if s.bar.apart {
		world = mpi.Alone()
	}
	m := f.o.model
	job := config.New()
	job.Device, job.MaxSeqs = f.o.Device, s.rows
	if f.o.Device == "cpu" {
		job.Threads = 1
	}
	s.bar.set(job)
	e, err := engine.OpenCheckpoint(ctx, world, job, f.weights[s.shape].Open())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	fresh := m.tokens + s.rows*m.prompt/512 + 2 // rows whose prompts come first generate while the others are read
	generate := func(prompt, fresh int) ([]engine.Result, error) {
		r := rand.New(rand.NewPCG(11, uint64(w.Rank()))) // the same rows for every bar
		ids := make([][]int32, s.rows)
		for i := range ids {
			ids[i] = make([]int32, prompt)
			for t := range ids[i] {
				ids[i][t] = r.Int32N(int32(s.shape.Vocab))
			}
		}
		results, err := e.GenerateIDs(ctx, ids, engine.GenerateOptions{MaxNewTokens: fresh, IgnoreEOS: true, InStep: true,
			Temperature: float64(s.shape.Hidden) / 4}) // with less the likeliest token of random weights is the last one, for ever
		return results, firstError(results, err)
	}
	warm, new := 2, 2
	look := (*ceilings)(nil)
	if f.o.Device == "cuda" { // graphs are made of what comes twice
		warm, new = m.prompt, fresh
		if look, err = newCeilings(e.Device()); err != nil {
			return nil, err
		}
	} else {
		look = f.looks[w.Rank()]
	}
	if _, err := generate(warm, new); err != nil {
		return nil, err
	}
	for range rounds {
		var x rankRound
		if err := w.Barrier(ctx); err != nil {
			return nil, err
		}
		look.measure(e.DType(), true)
		x.ceilings = [2]float64{look.now.products, look.now.read}
		before := e.Traffic()
		var choices []int32
		var computed int64
		o := x.meter.observer(func(step stats.Step) int {
			if step.PromptTokens > 0 || step.Rows != s.rows {
				return 0
			}
			return step.OutputTokens
		}, m.tokens)
		o.Experts = func(layers [][]int32, rows []int) {
			choices, computed = slices.Concat(layers...), 0
			for _, n := range rows {
				computed += int64(n)
			}
		}
		whole := o.Step
		o.Step = func(step stats.Step) {
			n := len(x.meter.steps)
			whole(step)
			if len(x.meter.steps) > n {
				x.steps, x.experts = append(x.steps, choices), x.experts+computed
			}
		}
		e.Observe(o)
		if err := w.Barrier(ctx); err != nil {
			return nil, err
		}
		results, err := generate(m.prompt, fresh)
		e.Observe(engine.Observer{})
		if err != nil {
			return nil, err
		}
		if len(x.meter.steps) == 0 {
			return nil, fmt.Errorf("%s, %s: no step had all %d rows in it", s.point.Group, s.bar.name, s.rows)
		}
		after := e.Traffic()
		x.traffic.Bytes, x.traffic.Sent = after.Bytes-before.Bytes, after.Sent-before.Sent
		x.tokens, x.digest, x.dtype, x.device = s.rows*(m.prompt+fresh-1), digest(results), e.DType().Size(), e.Device().Name()
		x.weights, _ = e.Memory()
		seen = append(seen, x)
	}
	if f.o.Device == "cuda" && w.Rank() == 0 {
		f.set.Peaks = look.group()
	}
	return seen, nil
}

// digest is one of the ids and the bits of the log-probabilities of rows.
func digest(results []engine.Result) string {
	h := sha256.New()
	for _, r := range results {
		binary.Write(h, binary.LittleEndian, r.OutputIDs)         //nolint:errcheck // a hash takes everything
		binary.Write(h, binary.LittleEndian, r.CumulativeLogprob) //nolint:errcheck // as above
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// add takes a round in, as all ranks saw it.
func (s *setup) add(ranks []*rankRound) error {
	n := float64(len(ranks))
	var latency, throughput, took, weights, exchange, tokens float64
	var traffic comm.Traffic
	outputs := make([]string, len(ranks))
	rows := make([]float64, len(ranks))
	slowest := 0.0
	for i, x := range ranks {
		seconds := x.meter.took.Seconds()
		latency += 1e3 * seconds / float64(len(x.meter.steps)) / n
		throughput += float64(x.meter.tokens) / seconds
		took, slowest, weights = took+seconds/n, max(slowest, seconds), max(weights, float64(x.weights))
		for _, phase := range []stats.Phase{stats.Dispatch, stats.Combine} {
			exchange += x.meter.sections[phase.String()].Seconds() / seconds / n
		}
		traffic, tokens = traffic.Plus(x.traffic), tokens+float64(x.tokens)
		outputs[i], rows[i] = x.digest, float64(x.experts)
	}
	if !s.bar.apart { // they step together
		throughput *= took / slowest
	}
	least, by := s.least(ranks)
	all := float64(s.ranks * s.rows)
	s.latency = append(s.latency, latency)
	s.rounds = append(s.rounds, round{all / throughput, all / throughput * least / took, by})
	p := &s.point
	if p.Outputs != nil && !slices.Equal(p.Outputs, outputs) {
		return fmt.Errorf("%s, %s: what the same rows became differs from round to round", p.Group, s.bar.name)
	}
	p.Outputs, p.Weights, p.Exchange = outputs, weights, exchange
	p.Useful, p.Sent = float64(traffic.Bytes)/tokens, float64(traffic.Sent)/tokens
	p.BusiestExpert, p.BusiestRank = s.busiest(ranks), overMean(rows)
	return nil
}

// least is the time of the steps by the ceilings, were the ranks' work even, and which of them bounds most. A rank's count
// has each expert's weights read that its own tokens chose; where experts are shared out each is read once, for all
// ranks' tokens.
func (s *setup) least(ranks []*rankRound) (seconds float64, by string) {
	n := float64(len(ranks))
	expert := float64(2 * s.shape.Hidden * s.shape.FFN * ranks[0].dtype)
	var c ceilings
	for _, x := range ranks {
		c.now.products, c.now.read = c.now.products+x.ceilings[0]/n, c.now.read+x.ceilings[1]/n
	}
	votes := map[string]int{}
	for step := range ranks[0].meter.steps {
		var flops, bytes, own float64
		union := map[int]bool{}
		for _, x := range ranks {
			if step >= len(x.meter.steps) {
				continue
			}
			flops, bytes = flops+x.meter.steps[step].FLOPs/n, bytes+x.meter.steps[step].Bytes/n
			for e, chosen := range x.steps[step] {
				if chosen > 0 {
					union[e] = true
					own++
				}
			}
		}
		if !s.bar.apart {
			bytes += expert * (float64(len(union)) - own) / n
		}
		least, why := c.bound(flops, bytes)
		seconds += least
		votes[why]++
	}
	return seconds, most(votes)
}

// busiest is the most choices that an expert got in the steps that count, over the mean of its layer's, in the mean of the
// layers.
func (s *setup) busiest(ranks []*rankRound) float64 {
	var sum []float64
	for _, x := range ranks {
		for _, step := range x.steps {
			if sum == nil {
				sum = make([]float64, len(step))
			}
			for e, n := range step {
				sum[e] += float64(n)
			}
		}
	}
	total, layers, at := 0.0, 0.0, 0
	for l := range s.shape.Layers {
		if n := s.shape.expertsOf(l); n > 0 && at+n <= len(sum) {
			total, layers, at = total+overMean(sum[at:at+n]), layers+1, at+n
		}
	}
	if layers == 0 {
		return 0
	}
	return total / layers
}
