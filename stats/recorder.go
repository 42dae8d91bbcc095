package stats

import (
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Traffic is a kind of bytes that a rank counts.
type Traffic int

// The kinds of traffic.
const (
	InputBytes  Traffic = iota // of input files, the share of the rows that were read
	OutputBytes                // written to part files
	WeightBytes                // read from checkpoints
	WireUseful                 // payload that ranks exchanged
	WireSent                   // what was sent for it, padding, copies and relays included

	traffics int = iota
)

// Recorder counts what one rank does. All methods may be called from any goroutine, and on a nil Recorder, which counts
// nothing. Phase and AddBytes cost an atomic addition, AddStep and AddExperts a lock that nobody contends.
type Recorder struct {
	seconds [phases]atomic.Int64 // nanoseconds
	bytes   [traffics]atomic.Int64
	now     func() time.Time

	mu   sync.Mutex
	snap Snapshot // but for seconds and bytes
}

// New returns the recorder of a rank; the job's time begins.
func New(rank int) *Recorder { return newAt(rank, time.Now) }

func newAt(rank int, now func() time.Time) *Recorder {
	return &Recorder{now: now, snap: Snapshot{Rank: rank, Start: now(), Series: newSeries()}}
}

// Machine is what a rank runs on.
type Machine struct {
	Host    string   `json:"host"`
	Device  string   `json:"device"` // the processor's or GPU's name
	Threads int      `json:"threads,omitempty"`
	Peak    Ceilings `json:"peak"`
}

// SetMachine tells what the rank runs on. Ceilings count for the steps after it.
func (r *Recorder) SetMachine(m Machine) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Machine = m
}

// SetMemory tells the bytes of weights and KV blocks that the rank holds, and the number of those blocks.
func (r *Recorder) SetMemory(weights, kv int64, blocks int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Weights, r.snap.KV, r.snap.KVBlocks = weights, kv, blocks
}

// SetWaiting tells the bytes of the rank's weights that wait in the host's memory.
func (r *Recorder) SetWaiting(bytes int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Waiting = bytes
}

// SetLayers tells the model's MoE layers: their numbers in the model, their experts, and the ranks that share these.
func (r *Recorder) SetLayers(layers, experts, ep []int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Layers = make([]Layer, min(len(layers), len(experts), len(ep)))
	for i := range r.snap.Layers {
		r.snap.Layers[i] = Layer{Layer: layers[i], EP: ep[i], Tokens: make([]int64, experts[i])}
	}
}

// Phase begins to measure and returns what ends it:
//
//	defer r.Phase(stats.Load)()
func (r *Recorder) Phase(p Phase) func() {
	if r == nil {
		return func() {}
	}
	begin := r.now()
	return func() { r.AddTime(p, r.now().Sub(begin)) }
}

// AddTime adds time that was measured elsewhere, as by a GPU's events.
func (r *Recorder) AddTime(p Phase, d time.Duration) {
	if r != nil && p >= 0 && int(p) < phases {
		r.seconds[p].Add(int64(d))
	}
}

// AddBytes counts traffic.
func (r *Recorder) AddBytes(t Traffic, n int64) {
	if r != nil && t >= 0 && int(t) < traffics {
		r.bytes[t].Add(n)
	}
}

// Step is one forward pass of a rank that has just ended.
type Step struct {
	Duration     time.Duration
	Device       time.Duration // of it, at its end, that the device had it
	Beside       time.Duration // of that, what the host did meanwhile instead of waiting
	PromptTokens int           // more than 0 makes it a prefill step
	OutputTokens int
	Rows         int     // in flight
	KVBlocks     int     // in use after it
	FLOPs        float64 // that the model needs for these tokens
	Bytes        float64 // of weights and KV that it has to touch for them
	Brought      float64 // bytes of weights that came from the host's memory meanwhile
}

// AddStep counts a step and its time as Prefill or Decode.
func (r *Recorder) AddStep(s Step) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	phase, work := Decode, &r.snap.Decode
	if s.PromptTokens > 0 {
		phase, work = Prefill, &r.snap.Prefill
	}
	r.AddTime(phase, s.Duration)
	seconds, peak := s.Duration.Seconds(), r.snap.Machine.Peak
	work.add(Work{
		Steps: 1, Seconds: seconds, PromptTokens: int64(s.PromptTokens), OutputTokens: int64(s.OutputTokens),
		Rows: int64(s.Rows), MaxRows: s.Rows, FLOPs: s.FLOPs, Bytes: s.Bytes, Brought: s.Brought, Bound: peak.bound(s.FLOPs, s.Bytes, s.Brought),
		ComputeBound: Ceilings{FLOPs: peak.FLOPs}.bound(s.FLOPs, 0, 0), MemoryBound: Ceilings{Bytes: peak.Bytes}.bound(0, s.Bytes, 0),
		BusBound: Ceilings{Bus: peak.Bus}.bound(0, 0, s.Brought),
	})
	r.snap.KVPeak = max(r.snap.KVPeak, s.KVBlocks)
	end := r.now().Sub(r.snap.Start).Seconds()
	r.snap.Series.add(end-seconds, end, Slice{
		Prompt: float64(s.PromptTokens), Output: float64(s.OutputTokens), Busy: seconds,
		RowTime: float64(s.Rows) * seconds, KVBlocks: float64(s.KVBlocks),
	})
}

// AddExperts counts what one MoE layer did in a step: the choices [experts] that this rank's tokens made, the slots that
// this rank's experts computed, and the choices dropped for want of capacity. layer counts MoE layers as SetLayers did.
func (r *Recorder) AddExperts(layer int, tokens []int32, computed, dropped int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if layer >= 0 && layer < len(r.snap.Layers) {
		r.snap.Layers[layer].add(tokens, int64(computed), int64(dropped))
	}
}

// AddRows counts finished rows, bad ones not among them.
func (r *Recorder) AddRows(n int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Rows += int64(n)
}

// AddKept counts rows that an earlier start has finished in chunks that it left open.
func (r *Recorder) AddKept(n int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Kept += int64(n)
}

// BadRow is a row that was set aside.
type BadRow struct {
	File   string `json:"file"`
	Row    int64  `json:"row"`    // global, from 0
	Kind   string `json:"kind"`   // a few words that many rows share
	Reason string `json:"reason"` // the whole sentence
}

// badExamples is how many bad rows of a kind are kept; all are counted, and all lie in bad-rows.parquet.
const badExamples = 3

// badKinds bounds the kinds told apart; the rest are counted as "other".
const badKinds = 32

// kindOf is what the reasons of many rows have in common: all before the mend, without the numbers.
func kindOf(reason string) string {
	kind, _, _ := strings.Cut(reason, "; ")
	return numbers.ReplaceAllString(kind, "${1}N")
}

var numbers = regexp.MustCompile(`(^|[ (\[])-?\d+(?:\.\d+)?\b`) // as words; not the 8 of UTF-8

// AddBadRow counts a row set aside. Rows are counted by their Kind, or by what is general in their Reason where that is empty.
func (r *Recorder) AddBadRow(b BadRow) {
	if r == nil {
		return
	}
	if b.Kind == "" {
		b.Kind = kindOf(b.Reason)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snap.Bad = addBad(r.snap.Bad, BadRows{Kind: b.Kind, Count: 1, Examples: []BadRow{b}})
}

// BadRows counts the bad rows of one kind.
type BadRows struct {
	Kind     string   `json:"kind"`
	Count    int64    `json:"count"`
	Examples []BadRow `json:"examples"` // the first few
}

// addBad adds x to the entry of its kind, keeping the order of first sight.
func addBad(all []BadRows, x BadRows) []BadRows {
	at := -1
	for i := range all {
		if all[i].Kind == x.Kind || i == badKinds-1 {
			at = i
			break
		}
	}
	if at < 0 {
		if len(all) == badKinds-1 {
			x.Kind = "other"
		}
		return append(all, x)
	}
	b := &all[at]
	b.Count += x.Count
	b.Examples = append(b.Examples, x.Examples[:min(len(x.Examples), badExamples-len(b.Examples))]...)
	return all
}

// Snapshot returns all counts up to now; what it returns is the caller's.
func (r *Recorder) Snapshot() Snapshot {
	if r == nil {
		return Snapshot{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.snap.clone()
	s.Seconds = r.now().Sub(s.Start).Seconds()
	s.Phases = make(map[string]float64, phases)
	for p := range phases {
		if t := r.seconds[p].Load(); t > 0 {
			s.Phases[Phase(p).String()] = time.Duration(t).Seconds()
		}
	}
	s.Bytes = Bytes{r.bytes[InputBytes].Load(), r.bytes[OutputBytes].Load(), r.bytes[WeightBytes].Load(),
		r.bytes[WireUseful].Load(), r.bytes[WireSent].Load()}
	return s
}
