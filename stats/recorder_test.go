package stats

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b), 1) }

// TestRecorder counts a small run by hand.
func TestRecorder(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := newAt(3, c.now)
	r.SetMachine(Machine{Host: "a", Peak: Ceilings{FLOPs: 100, Bytes: 10}})
	r.SetMemory(7, 8, 50)
	r.SetLayers([]int{1, 3}, []int{2, 4}, []int{1, 2})
	end := r.Phase(Load)
	c.add(2 * time.Second)
	end()
	c.add(4 * time.Second)
	r.AddStep(Step{Duration: 4 * time.Second, PromptTokens: 30, OutputTokens: 2, Rows: 2, KVBlocks: 9, FLOPs: 200, Bytes: 10})
	c.add(2 * time.Second)
	r.AddStep(Step{Duration: 2 * time.Second, OutputTokens: 2, Rows: 2, KVBlocks: 7, FLOPs: 10, Bytes: 15})
	r.AddExperts(0, []int32{3, 1}, 4, 0)
	r.AddExperts(0, []int32{0, 2}, 2, 1)
	r.AddExperts(1, []int32{0, 0, 0, 8}, 8, 0)
	r.AddExperts(9, []int32{1}, 1, 0) // no such layer
	r.AddBytes(WireUseful, 5)
	r.AddBytes(WireSent, 6)
	r.AddBytes(InputBytes, 1)
	r.AddTime(Attention, time.Second)
	r.AddRows(2)
	for i := range 5 {
		r.AddBadRow(BadRow{File: "f", Row: int64(i), Reason: "empty"})
	}
	s := r.Snapshot()
	want := Snapshot{
		Rank: 3, Machine: Machine{Host: "a", Peak: Ceilings{FLOPs: 100, Bytes: 10}}, Start: time.Unix(1000, 0), Seconds: 8, Rows: 2,
		Bad:     []BadRows{{"empty", 5, []BadRow{{"f", 0, "empty", "empty"}, {"f", 1, "empty", "empty"}, {"f", 2, "empty", "empty"}}}},
		Phases:  map[string]float64{"load": 2, "prefill": 4, "decode": 2, "attention": 1},
		Prefill: Work{Steps: 1, Seconds: 4, PromptTokens: 30, OutputTokens: 2, Rows: 2, MaxRows: 2, FLOPs: 200, Bytes: 10, Bound: 2, ComputeBound: 2, MemoryBound: 1},
		Decode:  Work{Steps: 1, Seconds: 2, OutputTokens: 2, Rows: 2, MaxRows: 2, FLOPs: 10, Bytes: 15, Bound: 1.5, ComputeBound: 0.1, MemoryBound: 1.5},
		Bytes:   Bytes{Input: 1, WireUseful: 5, WireSent: 6},
		Weights: 7, KV: 8, KVBlocks: 50, KVPeak: 9,
		Layers: []Layer{{Layer: 1, EP: 1, Tokens: []int64{3, 3}, Computed: 6, Dropped: 1, StepMax: 5, StepMean: 3}, {Layer: 3, EP: 2, Tokens: []int64{0, 0, 0, 8}, Computed: 8, StepMax: 8, StepMean: 2}},
		Series: s.Series,
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
	line, ok := s.Decode.Roofline()
	if !ok || !near(line.Fraction, 0.75) || !near(line.Compute, 0.05) || !near(line.Memory, 0.75) {
		t.Errorf("roofline of decode %+v, %v", line, ok)
	}
	if _, ok := (Work{Seconds: 1}).Roofline(); ok {
		t.Error("a roofline without ceilings")
	}
	if got := s.Layers[1].Balance(); !reflect.DeepEqual(got, Balance{Slots: 8, Busiest: 3, MaxMean: 4, StepMaxMean: 4, Idle: 3, Histogram: [6]int{3, 0, 0, 0, 0, 1}}) {
		t.Errorf("balance %+v", got)
	}
	s.Layers[0].Tokens[0], s.Series.Slices[0].Output, s.Bad[0].Examples[0].Row = 99, 99, 99
	if again := r.Snapshot(); again.Layers[0].Tokens[0] != 3 || again.Series.Slices[0].Output == 99 || again.Bad[0].Examples[0].Row != 0 {
		t.Error("a snapshot shares memory with the recorder")
	}
}

func TestNilRecorder(t *testing.T) {
	var r *Recorder
	r.Phase(Load)()
	r.AddTime(Load, 1)
	r.AddBytes(WireSent, 1)
	r.AddStep(Step{})
	r.AddExperts(0, nil, 0, 0)
	r.AddRows(1)
	r.AddBadRow(BadRow{})
	r.SetLayers(nil, nil, nil)
	r.SetMachine(Machine{})
	r.SetMemory(0, 0, 0)
	if !reflect.DeepEqual(r.Snapshot(), Snapshot{}) {
		t.Error("a nil recorder counted")
	}
}

// TestSeriesKeepsSums adds steps of any length at any time: nothing is lost, slices stay bounded, and all that a step
// did lies where the step was.
func TestSeriesKeepsSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, want, last := newSeries(), Slice{}, 0.0
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			begin := last + rapid.SampledFrom([]float64{0, 0.001, 0.3, 7, 5000}).Draw(t, "pause")
			end := begin + rapid.SampledFrom([]float64{0, 1e-4, 0.02, 1, 33, 90000}).Draw(t, "length")
			x := Slice{Prompt: rapid.Float64Range(0, 1e6).Draw(t, "prompt"), Output: 1, Busy: end - begin, RowTime: 2, KVBlocks: rapid.Float64Range(0, 100).Draw(t, "blocks")}
			s.add(begin, end, x)
			want.add(x)
			want.KVBlocks = max(want.KVBlocks, x.KVBlocks)
			last = end
		}
		got := Slice{}
		for _, x := range s.Slices {
			got.add(x)
			got.KVBlocks = max(got.KVBlocks, x.KVBlocks)
		}
		if !near(got.Prompt, want.Prompt) || !near(got.Output, want.Output) || !near(got.Busy, want.Busy) || got.KVBlocks != want.KVBlocks {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if len(s.Slices) > maxSlices || s.Width*float64(len(s.Slices)) < last {
			t.Fatalf("%d slices of %v s for %v s", len(s.Slices), s.Width, last)
		}
		for i, x := range s.Slices {
			if x.Busy > s.Width*(1+1e-9) {
				t.Fatalf("slice %d of %v s was busy for %v s", i, s.Width, x.Busy)
			}
		}
	})
}

// TestMergeIsOneRecorder splits a run over ranks and finds the sums of one recorder that saw it all.
func TestMergeIsOneRecorder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranks := rapid.IntRange(1, 5).Draw(t, "ranks")
		c := &clock{time.Unix(1, 0)}
		one, all := newAt(0, c.now), make([]*Recorder, ranks)
		for i := range all {
			all[i] = newAt(i, c.now)
			all[i].SetLayers([]int{0, 2}, []int{4, 8}, []int{4, 4})
			c.add(time.Duration(rapid.IntRange(0, 20).Draw(t, "late")) * time.Millisecond)
		}
		one.SetLayers([]int{0, 2}, []int{4, 8}, []int{4, 4})
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			r := all[rapid.IntRange(0, ranks-1).Draw(t, "rank")]
			d := time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond
			step := Step{Duration: d, PromptTokens: rapid.IntRange(0, 3).Draw(t, "prompt"), OutputTokens: 2, Rows: 3, KVBlocks: 1}
			tokens := []int32{1, 0, rapid.Int32Range(0, 9).Draw(t, "tokens"), 4}
			c.add(d)
			for _, r := range []*Recorder{r, one} {
				r.AddStep(step)
				r.AddExperts(0, tokens, 5, 1)
				r.AddExperts(1, append(slices.Clone(tokens), tokens...), 0, 0)
				r.AddBytes(WireSent, 3)
				r.AddRows(1)
			}
		}
		var snaps []Snapshot
		for _, r := range slices.Backward(all) { // in any order
			snaps = append(snaps, throughJSON(t, r.Snapshot()))
		}
		got, want := Merge(Job{}, snaps), Merge(Job{}, []Snapshot{one.Snapshot()})
		if got.Rows != want.Rows || got.Bytes != want.Bytes || !sameWork(got.Prefill.Work, want.Prefill.Work) || !sameWork(got.Decode.Work, want.Decode.Work) || !reflect.DeepEqual(got.Layers, want.Layers) {
			t.Fatalf("\ngot  %+v %+v %+v\nwant %+v %+v %+v", got.Rows, got.Decode, got.Layers, want.Rows, want.Decode, want.Layers)
		}
		var a, b float64
		for _, x := range got.Series.Slices {
			a += x.Output
		}
		for _, x := range want.Series.Slices {
			b += x.Output
		}
		if !near(a, b) || len(got.Ranks) != ranks || !slices.IsSortedFunc(got.Ranks, func(a, b Rank) int { return a.Rank - b.Rank }) {
			t.Fatalf("series %v, want %v; %d ranks", a, b, len(got.Ranks))
		}
	})
}

func sameWork(a, b Work) bool {
	if !near(a.Seconds, b.Seconds) {
		return false
	}
	a.Seconds = b.Seconds
	return a == b
}

func throughJSON(t *rapid.T, s Snapshot) (out Snapshot) {
	b, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBadRowsAreBounded(t *testing.T) {
	r := New(0)
	for i := range 1000 {
		r.AddBadRow(BadRow{Row: int64(i), Reason: strings.Repeat("x", i%100)})
	}
	bad, sum := r.Snapshot().Bad, int64(0)
	for _, b := range bad {
		sum += b.Count
		if len(b.Examples) > badExamples {
			t.Errorf("%d examples of %s", len(b.Examples), b.Kind)
		}
	}
	if len(bad) != badKinds || sum != 1000 || bad[len(bad)-1].Kind != "other" {
		t.Errorf("%d kinds, %d rows, the last kind %q", len(bad), sum, bad[len(bad)-1].Kind)
	}
}

// TestBadRowsAreCountedByKind: texts of different lengths are too long for one reason.
func TestBadRowsAreCountedByKind(t *testing.T) {
	r := New(0)
	for i := range 100 {
		r.AddBadRow(BadRow{Row: int64(i), Reason: fmt.Sprintf("the text has %d tokens, the window holds 513; use --stride %d", 600+i, i)})
		r.AddBadRow(BadRow{Row: int64(i), Reason: fmt.Sprintf("temperature is -%d.5; it must be 0 or above", i)})
		r.AddBadRow(BadRow{Row: int64(i), Reason: fmt.Sprintf("prompt is no UTF-8 from byte %d on", i)})
	}
	var kinds []string
	for _, b := range r.Snapshot().Bad {
		kinds = append(kinds, fmt.Sprint(b.Count, " ", b.Kind))
	}
	want := []string{"100 the text has N tokens, the window holds N", "100 temperature is N", "100 prompt is no UTF-8 from byte N on"}
	if !slices.Equal(kinds, want) {
		t.Errorf("%q, want %q", kinds, want)
	}
}

func TestRecorderFromManyGoroutines(t *testing.T) {
	r := New(0)
	r.SetLayers([]int{0}, []int{2}, []int{1})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				end := r.Phase(Write)
				r.AddStep(Step{Duration: time.Microsecond, OutputTokens: 1})
				r.AddExperts(0, []int32{1, 1}, 2, 0)
				r.AddBytes(OutputBytes, 1)
				r.AddRows(1)
				end()
				r.Snapshot()
			}
		})
	}
	wg.Wait()
	if s := r.Snapshot(); s.Decode.Steps != 1600 || s.Rows != 1600 || s.Bytes.Output != 1600 || s.Layers[0].Tokens[1] != 1600 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkStep(b *testing.B) {
	r := New(0)
	r.SetMachine(Machine{Peak: Ceilings{FLOPs: 1, Bytes: 1}})
	for b.Loop() {
		r.AddStep(Step{Duration: time.Millisecond, OutputTokens: 64, Rows: 64, KVBlocks: 3, FLOPs: 1e9, Bytes: 1e9})
	}
}

func BenchmarkPhase(b *testing.B) {
	r := New(0)
	for b.Loop() {
		r.Phase(Experts)()
	}
}

func BenchmarkExperts(b *testing.B) {
	r := New(0)
	r.SetLayers([]int{0}, []int{64}, []int{1})
	tokens := make([]int32, 64)
	for b.Loop() {
		r.AddExperts(0, tokens, 64, 0)
	}
}

// TestWeightsFromTheHost: bytes that a step brings over the bus bound its time, and the report shows the share of the bus.
func TestWeightsFromTheHost(t *testing.T) {
	r := newAt(0, func() time.Time { return time.Unix(1000, 0) })
	r.SetMachine(Machine{Peak: Ceilings{FLOPs: 100, Bytes: 10, Bus: 2}})
	r.SetWaiting(8)
	r.AddStep(Step{Duration: 5 * time.Second, OutputTokens: 1, Rows: 1, FLOPs: 100, Bytes: 20, Brought: 8})
	report := Merge(Job{}, []Snapshot{r.Snapshot()})
	if line := (Roofline{0.8, 0.2, 0.4, 0.8}); report.Decode.Roofline == nil || *report.Decode.Roofline != line || report.Decode.Brought != 8 || report.Ranks[0].Waiting != 8 {
		t.Errorf("%+v, %+v", report.Decode.Roofline, report.Ranks[0])
	}
	dir := t.TempDir()
	if err := report.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	for _, want := range []string{"of the bus to the GPU, for weights", "80 %", "weights brought to GPUs"} {
		if err != nil || !strings.Contains(string(page), want) {
			t.Errorf("the report lacks %q; %v", want, err)
		}
	}
}
