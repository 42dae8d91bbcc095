package stats

import (
	"slices"
	"time"
)

// State is how a start of a job ended.
type State string

// The states of a report.
const (
	Running  State = "running"
	Finished State = "finished" // every row is committed
	Stopped  State = "stopped"  // by a signal or the time limit, to be resumed
	Failed   State = "failed"
)

// Job is what a report says of the job. What is empty is left out.
type Job struct {
	Command  string    `json:"command,omitempty"`
	Version  string    `json:"version,omitempty"`
	Task     string    `json:"task,omitempty"`
	Model    string    `json:"model,omitempty"`
	Output   string    `json:"output,omitempty"`
	DType    string    `json:"dtype,omitempty"`
	Layout   string    `json:"layout,omitempty"` // as "8 ranks, tp 2, ep 4"
	Settings []Setting `json:"settings,omitempty"`

	State     State  `json:"state"`
	Reason    string `json:"reason,omitempty"`     // why it stopped or failed
	RowsTotal int64  `json:"rows_total"`           // of the input
	RowsKept  int64  `json:"rows_kept,omitempty"`  // committed by earlier starts
	Wall      int64  `json:"wall_limit,omitempty"` // seconds that the allocation had; 0: no limit
}

// Setting is one setting of the job.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Given bool   `json:"given"` // by the user, not the default
}

// Report is a job's statistics: the content of stats.json, and all that report.html shows.
type Report struct {
	Format int `json:"format"` // of stats.json: 1
	Job
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"` // from the first rank's start to the last one's snapshot
	Rows    Rows      `json:"rows"`
	Bad     []BadRows `json:"bad_rows"`

	Rates   Rates       `json:"rates"`
	Prefill KindOfStep  `json:"prefill"`
	Decode  KindOfStep  `json:"decode"`
	Phases  []PhaseTime `json:"phases"`
	Bytes   Bytes       `json:"bytes"`
	Layers  []LayerLoad `json:"layers"`
	Ranks   []Rank      `json:"ranks"`
	Series  Series      `json:"series"`

	Earlier []Earlier `json:"earlier,omitempty"` // starts of the same job, oldest first
}

// Rows of the input, by what became of them.
type Rows struct {
	Total int64 `json:"total"`
	Kept  int64 `json:"kept"` // by earlier starts
	Done  int64 `json:"done"` // by this start
	Bad   int64 `json:"bad"`  // set aside by this start
}

// Rates are tokens and rows a second from the end of loading to the end, over all ranks.
type Rates struct {
	Seconds float64 `json:"seconds"` // that these are over
	Load    float64 `json:"load_seconds"`
	Prompt  float64 `json:"prompt_tokens_per_second"`
	Output  float64 `json:"output_tokens_per_second"`
	Rows    float64 `json:"rows_per_second"`
}

// KindOfStep is the work of prefill or decode steps with the fraction of the roofline that it reached.
type KindOfStep struct {
	Work
	Roofline *Roofline `json:"roofline,omitempty"` // nil where no ceiling was measured
}

// PhaseTime is the time of one phase.
type PhaseTime struct {
	Phase string  `json:"phase"`
	Group string  `json:"group"`   // loop, step or beside
	Mean  float64 `json:"seconds"` // of a rank
	Min   float64 `json:"min"`     // over ranks
	Max   float64 `json:"max"`
}

// LayerLoad is an MoE layer's slots on each expert, and how even they are.
type LayerLoad struct {
	Layer
	Balance
}

// Rank is one rank's share of a Report.
type Rank struct {
	Rank     int                `json:"rank"`
	Machine  Machine            `json:"machine"`
	Seconds  float64            `json:"seconds"` // from its start to its snapshot
	Rows     int64              `json:"rows"`    // finished, without bad ones
	Prompt   int64              `json:"prompt_tokens"`
	Output   int64              `json:"output_tokens"`
	Slots    int64              `json:"slots"`                     // that its experts computed
	Phases   map[string]float64 `json:"phases"`                    // seconds
	Read     int64              `json:"weights_read"`              // bytes of the checkpoint
	Weights  int64              `json:"weight_memory"`             // bytes held
	Waiting  int64              `json:"waiting_weights,omitempty"` // bytes in the host's memory, for a GPU
	KV       int64              `json:"kv_memory"`                 // bytes held
	KVBlocks int                `json:"kv_blocks"`
	KVPeak   int                `json:"kv_peak"` // most blocks in use
}

// Earlier is an earlier start of the same job.
type Earlier struct {
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Rows    int64     `json:"rows"`
	Bad     int64     `json:"bad"`
	Ranks   int       `json:"ranks"`
	Prompt  int64     `json:"prompt_tokens"`
	Output  int64     `json:"output_tokens"`
}

// Merge makes the report of a job of what its ranks counted. Ranks that sent nothing are missing from it, and no more.
func Merge(job Job, ranks []Snapshot) Report {
	ranks = slices.Clone(ranks)
	slices.SortFunc(ranks, func(a, b Snapshot) int { return a.Rank - b.Rank })
	r := Report{Format: 1, Job: job, Series: newSeries(), Bad: []BadRows{}, Layers: []LayerLoad{}, Ranks: []Rank{}}
	r.Rows = Rows{Total: job.RowsTotal, Kept: job.RowsKept}
	for i := range ranks {
		if s := &ranks[i]; i == 0 || s.Start.Before(r.Start) {
			r.Start = s.Start
		}
	}
	for i := range ranks {
		r.add(&ranks[i])
	}
	for i := range r.Layers {
		r.Layers[i].Balance = r.Layers[i].Layer.Balance()
	}
	r.phases()
	r.rates()
	for _, k := range []*KindOfStep{&r.Prefill, &r.Decode} {
		if line, ok := k.Work.Roofline(); ok {
			k.Roofline = &line
		}
	}
	return r
}

// add takes one rank in.
func (r *Report) add(s *Snapshot) {
	shift := s.Start.Sub(r.Start).Seconds()
	r.Seconds = max(r.Seconds, shift+s.Seconds)
	r.Rows.Done += s.Rows
	r.Rows.Kept += s.Kept
	for _, b := range s.Bad {
		b.Examples = slices.Clone(b.Examples)
		r.Bad = addBad(r.Bad, b)
		r.Rows.Bad += b.Count
	}
	r.Prefill.add(s.Prefill)
	r.Decode.add(s.Decode)
	r.Bytes.add(s.Bytes)
	r.Series.merge(s.Series, shift)
	rank := Rank{
		Rank: s.Rank, Machine: s.Machine, Seconds: s.Seconds, Rows: s.Rows, Phases: s.Phases,
		Prompt: s.Prefill.PromptTokens + s.Decode.PromptTokens, Output: s.Prefill.OutputTokens + s.Decode.OutputTokens,
		Read: s.Bytes.Weights, Weights: s.Weights, Waiting: s.Waiting, KV: s.KV, KVBlocks: s.KVBlocks, KVPeak: s.KVPeak,
	}
	for i := range s.Layers {
		if i == len(r.Layers) {
			r.Layers = append(r.Layers, LayerLoad{Layer: Layer{Layer: s.Layers[i].Layer, EP: s.Layers[i].EP}})
		}
		r.Layers[i].merge(s.Layers[i])
		rank.Slots += s.Layers[i].Computed
	}
	r.Ranks = append(r.Ranks, rank)
}

// phases lists the phases that took time, in the order of their declaration.
func (r *Report) phases() {
	r.Phases = []PhaseTime{}
	for p := range Phase(phases) {
		t := PhaseTime{Phase: p.String(), Group: string(p.group())}
		for i := range r.Ranks {
			x := r.Ranks[i].Phases[t.Phase]
			t.Mean += x / float64(len(r.Ranks))
			t.Max = max(t.Max, x)
			if i == 0 || x < t.Min {
				t.Min = x
			}
		}
		if t.Max > 0 {
			r.Phases = append(r.Phases, t)
		}
	}
}

// rates counts from the end of loading: of the slowest rank, since none can begin before.
func (r *Report) rates() {
	for i := range r.Ranks {
		r.Rates.Load = max(r.Rates.Load, r.Ranks[i].Phases[Load.String()])
	}
	r.Rates.Seconds = r.Seconds - r.Rates.Load
	if r.Rates.Seconds <= 0 {
		r.Rates.Seconds = 0
		return
	}
	r.Rates.Prompt = float64(r.Prefill.PromptTokens+r.Decode.PromptTokens) / r.Rates.Seconds
	r.Rates.Output = float64(r.Prefill.OutputTokens+r.Decode.OutputTokens) / r.Rates.Seconds
	r.Rates.Rows = float64(r.Rows.Done) / r.Rates.Seconds
}

// earlier is what a later start's report keeps of this one.
func (r *Report) earlier() Earlier {
	return Earlier{
		Start: r.Start, Seconds: r.Seconds, State: r.State, Reason: r.Reason, Rows: r.Rows.Done, Bad: r.Rows.Bad, Ranks: len(r.Ranks),
		Prompt: r.Prefill.PromptTokens + r.Decode.PromptTokens, Output: r.Prefill.OutputTokens + r.Decode.OutputTokens,
	}
}
