package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/plan"
)

// Forecast is what a job would be on so many ranks.
type Forecast struct {
	Layout *comm.Layout
	Config model.Config // without the output head where the job makes no logits
	DType  kernels.DType
	Window int
	Block  []string // what was understood of a block that no policy is for, a line each; nil: the family is known
	Ranks  []RankForecast
	Input  InputForecast
}

// RankForecast is the memory of one rank, in bytes, and the size of its steps.
type RankForecast struct {
	Weights, Workspace, Exchange, KV int64
	Model                            int64 // all of its weights
	Waiting                          int64 // those in the host's memory, not among Weights, which come to the GPU in every step
	Offloaded, Layers                int   // layers that these are of, and all of the rank
	Room                             int64 // that the rank may take in all
	TokenKV                          int64 // of one token, in KV
	Tokens, Seqs                     int   // most of a step
}

// Planned is what a prediction of the rate needs of a forecast on such a machine, and the rank with the most weights.
func (f *Forecast) Planned(machine plan.Machine) (plan.Layout, RankForecast) {
	l := plan.Layout{World: len(f.Ranks), DP: f.Layout.DP, TP: f.Layout.TP, Experts: f.Layout.Experts, DType: f.DType, Activation: 2}
	if !machine.GPU || f.DType == kernels.F32 {
		l.Activation = 4
	}
	fullest := f.Ranks[0]
	for _, r := range f.Ranks {
		if r.Model > fullest.Model {
			fullest = r
		}
	}
	l.Weights, l.Waiting, l.KV, l.TokenKV, l.Seqs, l.Tokens = fullest.Model, fullest.Waiting, fullest.KV, fullest.TokenKV, fullest.Seqs, fullest.Tokens
	return l, fullest
}

// Hosts is what a job is foreseen on.
type Hosts struct {
	Ranks   int
	Nodes   int    // that the ranks are on, in runs; 0: one
	Memory  int64  // bytes that a rank may take; 0: not known, and taken to be enough
	Here    bool   // all ranks are on this host, and share the memory that it has free
	GPU     bool   // memory is planned as on one; none need be here
	Version string // of the program, for an output that was begun; "": any
}

// enough is the memory of a rank whose memory is not known.
const enough = 1 << 50

// Foresee lays a job out over ranks, without reading a weight, by the code that Run would go through: what Run would
// refuse is refused, but for what the hosts alone know (their devices, instruction sets and launchers). An output that
// was begun is looked at, not touched.
func Foresee(ctx context.Context, job *config.Job, h Hosts) (*Forecast, error) {
	f, err := foresee(ctx, job, h)
	if errors.Is(err, ErrRefused) && job.ES == 1 && job.Inference.MoE.SliceWith == nil {
		sliced := *job
		sliced.ES = 0
		if _, otherwise := foresee(ctx, &sliced, h); otherwise == nil {
			err = fmt.Errorf("%w; sliced instead of held several times the experts fit: --es auto", err)
		}
	}
	return f, err
}

// Otherwise is the job with its experts the other way: sliced over the ranks that would hold replicas of them, or, where
// it slices them, whole. nil: the layout leaves nothing to choose.
func Otherwise(job *config.Job, l *comm.Layout) *config.Job {
	other := *job
	other.ES = -1
	for _, e := range l.Experts {
		switch {
		case e.ES > 1:
			other.ES = 1
		case other.ES < 0 && len(e.ReplicaGroups[0]) > 1:
			other.ES = 0
		}
	}
	if other.ES < 0 || job.Inference.MoE.SliceWith != nil {
		return nil
	}
	return &other
}

func foresee(ctx context.Context, job *config.Job, h Hosts) (*Forecast, error) {
	asked := *job
	asked.Device, asked.FakeNodes = "cpu", cmp.Or(h.Nodes, 1)
	r := &run{job: &asked, options: RunOptions{Version: h.Version}, world: mpi.Alone(), engine: &Engine{job: &asked}}
	if err := r.openRows(ctx, nil); err != nil {
		return nil, err
	}
	f := &Forecast{Ranks: make([]RankForecast, h.Ranks)}
	wrap := func(d kernels.Device) kernels.Device {
		return planned{Device: d, memory: cmp.Or(h.Memory, enough) * int64(h.Ranks), gpu: h.GPU} // all ranks of this process share it
	}
	if h.Here {
		wrap = nil
	}
	first := &Engine{job: &asked, world: comm.Imagine(0, h.Ranks), wrap: wrap, foreseen: true}
	err := first.inspect()
	var like []int
	if err == nil {
		like = alike(first.layout)
	}
	for rank, other := range like {
		if other < rank {
			f.Ranks[rank] = f.Ranks[other]
			continue
		}
		e := *first // the checkpoint is looked at once, for all
		e.world = comm.Imagine(rank, h.Ranks)
		if err = r.foresee(ctx, &e, f); err != nil {
			break
		}
	}
	if err = errors.Join(err, first.Close(), r.rows.Close()); err != nil {
		return nil, err
	}
	return f, nil
}

// crowd is how many ranks in one process are foreseen before they are begun: each would look at model and input for
// itself, on its share of the cores, and a thousand would take a minute to find that they have no room.
const crowd = 32

// foreseeCrowd refuses at once what a crowd of ranks on the CPUs of this process would find out together. All ranks call it.
func (r *run) foreseeCrowd(ctx context.Context) (err error) {
	if r.job.Ranks < crowd {
		return nil
	}
	if r.world.Rank() == 0 {
		if gpus, failed := cuda.Count(); r.job.Device == "cpu" || failed != nil || gpus == 0 {
			_, err = Foresee(ctx, r.job, Hosts{Ranks: r.job.Ranks, Nodes: r.job.FakeNodes, Here: true, Version: r.options.Version})
		}
	}
	return together(ctx, r.world, err)
}

// foresee lays out one rank, and what concerns all of them on rank 0. The engine's checkpoint stays open.
func (r *run) foresee(ctx context.Context, e *Engine, f *Forecast) (err error) {
	defer func() {
		e.checkpoint = nil
		err = errors.Join(err, e.Close())
	}()
	if err := e.lay(ctx, e.unmeasured); err != nil {
		return err
	}
	rank := e.world.Rank()
	if f.Ranks[rank], err = e.forecast(); err != nil || rank != 0 {
		return err
	}
	f.Layout, f.Config, f.DType, f.Window = e.layout, e.shape, e.dtype, e.window
	if e.reading().vocab == 0 && e.shape.Vocabulary() {
		f.Config.Head = model.HeadNone
	}
	if e.injected != nil {
		f.Block = e.injected.Understood
	}
	r.engine = e
	if err := r.settleTime(); err != nil {
		return err
	}
	if err := r.goesOn(); err != nil {
		return err
	}
	f.Input, err = r.sample(ctx)
	return err
}

// alike gives, for each rank of a layout, the first one that takes the same memory: of the same stage, the same slices of
// tensors and of experts. In the first ep group of a stage each is its own, so that every expert's tensors are looked at.
func alike(l *comm.Layout) []int {
	keys := make([]string, l.World)
	add := func(groups [][]int, alike func(group []int) bool) {
		for _, g := range groups {
			same := alike(g)
			for place, rank := range g {
				if same {
					place = 0
				}
				keys[rank] += fmt.Sprint(place, " ")
			}
		}
	}
	never := func([]int) bool { return false }
	add(l.TPGroups, never)
	add(l.PPGroups, never)
	for _, e := range l.Experts {
		add(e.ESGroups, never)
		seen := make([]bool, l.PP)
		add(e.EPGroups, func(group []int) bool {
			stage := group[0] / (l.World / l.PP)
			was := seen[stage]
			seen[stage] = true
			return was
		})
	}
	known, like := map[string]int{}, make([]int, l.World)
	for rank, key := range keys {
		if _, ok := known[key]; !ok {
			known[key] = rank
		}
		like[rank] = known[key]
	}
	return like
}

// goesOn refuses an output that was begun with other settings, as far as they are known here: the back end is not.
func (r *run) goesOn() error {
	was, err := results.Peek(r.job.Output)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	e := r.engine
	if err := e.digests(); err != nil {
		return err
	}
	e.identity.arch, _ = was.Fingerprint.Get(archSetting).(string)
	if version, ok := was.Fingerprint.Get(versionSetting).(string); ok && (r.options.Version == "" || r.job.AcceptVersion) {
		r.options.Version = version
	}
	r.fileRows()
	chunkRows, err := r.chunkRows()
	if err != nil {
		return err
	}
	differences, err := r.fingerprint(chunkRows).Compare(was.Fingerprint)
	if err == nil && len(differences) > 0 {
		r.namedInputs(differences)
		err = &results.MismatchError{Dir: r.job.Output, Differences: differences}
	}
	return err
}

// InputForecast is what the rows of the input are, as far as some of them show.
type InputForecast struct {
	plan.Load        // Rows: texts of the whole input, each sample and window one
	Sampled   int    // rows that were read and encoded
	Bad       int    // of these, those that would be set aside
	Reason    string // of the first one
}

// A sample of the input: so many rows at so many places, evenly apart.
const (
	sampleRows   = 32
	samplePlaces = 8
)

// sample reads and encodes some rows of the input.
func (r *run) sample(ctx context.Context) (in InputForecast, err error) {
	files := r.fileRows()
	texts := 0
	for place := range samplePlaces {
		at := r.total * int64(place) / samplePlaces
		until := min(at+sampleRows, r.total*int64(place+1)/samplePlaces)
		for file, rows := range files {
			if to := min(until, rows); at < to {
				for row, err := range r.rows.Read(ctx, file, at, to) {
					if err != nil {
						return in, err
					}
					texts += in.count(r.engine.newRow(row))
				}
			}
			at, until = max(at-rows, 0), until-rows
		}
	}
	if texts > 0 {
		in.Prompt, in.Output = in.Prompt/float64(texts), in.Output/float64(texts)
	}
	in.Rows = r.total * int64(r.engine.samples())
	if good := in.Sampled - in.Bad; good > 0 {
		in.Rows = int64(math.Round(float64(r.total) * float64(texts) / float64(in.Sampled)))
	}
	return in, nil
}

// count adds a row's tokens to the sums, and tells how many texts it has.
func (in *InputForecast) count(row *rowState) int {
	in.Sampled++
	if row.bad != "" {
		if in.Bad++; in.Bad == 1 {
			in.Reason = row.bad
		}
	}
	for _, q := range row.seqs {
		in.Prompt += float64(len(q.tokens))
		in.Output += float64(q.limit - len(q.tokens))
	}
	return len(row.seqs)
}

// unmeasured is the way of rows where no GPUs meet and nothing is measured: those of a node are taken to reach each other.
func (e *Engine) unmeasured(context.Context) (o comm.AllToAllOptions, err error) {
	if o.Algorithm, err = comm.ParseAlgorithm(e.job.AllToAll); err != nil {
		return o, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if o.Nodes, err = comm.FakeNodes(e.world.Size(), e.job.FakeNodes); err == nil && e.onGPU() {
		e.foreseeTeams(o.Nodes)
	}
	if err != nil || !e.onGPU() || o.Algorithm != comm.Auto && o.Algorithm != comm.Flat {
		return o, err
	}
	e.windows = map[*comm.Group]kernels.Window{}
	for i := range e.groups.Experts {
		x := &e.groups.Experts[i]
		elsewhere := func(rank int) bool { return o.Nodes.Of(rank) != o.Nodes.Of(x.EP.Ranks[0]) }
		if e.suitsWindow(x) && !slices.ContainsFunc(x.EP.Ranks, elsewhere) {
			e.windows[x.EP] = nil
		}
	}
	return o, nil
}

// forecast is what survey has found.
func (e *Engine) forecast() (RankForecast, error) {
	z, err := e.plan()
	if err != nil {
		return RankForecast{}, err
	}
	arriving := 0
	if !e.place.first() {
		arriving = e.shape.Hidden * e.device.Activations(e.dtype).Size()
	}
	weights, waiting := e.model.Offloaded(e.offloaded, e.job.Inference.Offload.Buffers)
	return RankForecast{
		Weights: weights, Model: e.model.Bytes(), Waiting: waiting, Offloaded: e.offloaded, Layers: e.layersHere(), Workspace: e.model.WorkspaceBytes(z.tokens) + z.bytes(&e.shape, arriving),
		Exchange: e.exchangeBytes(z.tokens), KV: e.model.CacheSpec(z.blocks, blockTokens).Bytes(),
		TokenKV: e.model.CacheSpec(1, 1).Bytes(), Room: e.room, Tokens: z.tokens, Seqs: z.seqs,
	}, nil
}

// planned is a device whose memory is another's.
type planned struct {
	kernels.Device
	memory int64
	gpu    bool
}

func (d planned) Memory() (free, total int64) { return d.memory, d.memory }

func (d planned) Name() string { return "a planned " + d.Arch() }

func (d planned) Arch() string {
	if d.gpu {
		return "cuda/planned"
	}
	return d.Device.Arch()
}

// Activations on a GPU are of the weights' own type, and of 16 bits for int8.
func (d planned) Activations(w kernels.DType) kernels.DType {
	switch {
	case !d.gpu:
		return d.Device.Activations(w)
	case w == kernels.I8, w == kernels.MXFP4:
		return kernels.BF16
	}
	return w
}
