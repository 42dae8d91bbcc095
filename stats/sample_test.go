package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// job is a made-up run, counted by real recorders on a clock of its own.
type job struct {
	ranks, layers, experts int
	steps                  int
	step                   time.Duration // of a prefill step; decode takes a third
	load                   time.Duration
	rows                   int
	noPeak                 bool
}

// clock is a time that only add moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }

func (j job) report(about Job) Report {
	rng := rand.New(rand.NewPCG(1, 2))
	begin := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	var all []Snapshot
	for rank := range j.ranks {
		c := &clock{begin.Add(time.Duration(rank) * 3 * time.Millisecond)}
		r := newAt(rank, c.now)
		m := Machine{Host: fmt.Sprintf("node%02d", rank/8), Device: "EPYC 9B14, AVX-512", Threads: 2}
		if !j.noPeak {
			m.Peak = Ceilings{FLOPs: 260e9, Bytes: 22e9}
		}
		r.SetMachine(m)
		r.SetMemory(1<<30, 2<<30, 4096)
		layers, experts := make([]int, j.layers), make([]int, j.layers)
		for i := range layers {
			layers[i], experts[i] = 2*i+1, j.experts
			if i < j.layers*2/3 && j.layers < 13 { // a pyramid
				experts[i] = max(j.experts/2, 1)
			}
		}
		r.SetLayers(layers, experts, experts)
		end := r.Phase(Load)
		c.add(j.load)
		end()
		r.AddBytes(WeightBytes, 1<<30)
		for s := range j.steps {
			j.oneStep(r, c, rng, s, rank, experts)
		}
		c.add(j.step / 2)
		r.AddRows(j.rows / j.ranks)
		all = append(all, r.Snapshot())
	}
	return Merge(about, all)
}

func (j job) oneStep(r *Recorder, c *clock, rng *rand.Rand, s, rank int, experts []int) {
	prompt, rows := 0, 64
	d := j.step / 3
	if s%9 == 0 || s < j.steps/8 {
		prompt, d = 512+rng.IntN(256), j.step
	}
	if left := j.steps - s; left < rows*2 {
		rows = max(1, left/2)
	}
	d += time.Duration(float64(d) * 0.2 * rng.Float64())
	end := r.Phase(Wait)
	c.add(d / time.Duration(20-rank%8))
	end()
	end = r.Phase(Tokenize)
	c.add(0)
	end()
	for _, p := range []struct {
		p Phase
		f float64
	}{{Attention, .22}, {Dense, .12}, {Route, .03}, {Dispatch, .07}, {Experts, .37}, {Combine, .06}, {Head, .05}} {
		r.AddTime(p.p, time.Duration(p.f*float64(d)))
	}
	r.AddTime(Read, d/40)
	r.AddTime(Tokenize, d/50)
	r.AddTime(Write, d/30)
	c.add(d)
	r.AddStep(Step{
		Duration: d, PromptTokens: prompt, OutputTokens: rows, Rows: rows, KVBlocks: int(4096 * (0.4 + 0.3*math.Sin(float64(s)/40))),
		FLOPs: float64(prompt+rows) * 334e6 * d.Seconds() / 4, Bytes: 0.6e9 * d.Seconds() * 20,
	})
	end = r.Phase(Sample)
	c.add(d / 50)
	end()
	r.AddBytes(WireUseful, 1<<20)
	r.AddBytes(WireSent, 5<<18)
	r.AddBytes(InputBytes, 1<<16)
	r.AddBytes(OutputBytes, 1<<15)
	for l, n := range experts {
		counts := make([]int32, n)
		for range min(prompt+rows, 64) {
			counts[int(float64(n)*rng.Float64()*(0.2+0.8*rng.Float64()))] += int32((prompt+rows)/64 + 1)
		}
		if n > 4 {
			counts[n/3] = 0
		}
		r.AddExperts(l, counts, (prompt+rows)*2*(100-rank)/100, 0)
	}
}

// settings are what a report shows of a job.
func settings() []Setting {
	return []Setting{
		{"model", "/lustre/models/austen-prmoe", true}, {"input", "/lustre/data/prompts-*.parquet", true}, {"output", "/lustre/runs/2026-11-22", true},
		{"task", "generate", false}, {"prompt-column", "prompt", false}, {"max-new-tokens", "256", true}, {"temperature", "0.8", true},
		{"top-k", "40", true}, {"top-p", "1", false}, {"seed", "0", false}, {"device", "cpu", true}, {"dtype", "bf16", true}, {"tp", "1", false},
		{"ep", "auto", false}, {"es", "1", false}, {"dp", "auto", false}, {"pp", "1", false}, {"all-to-all", "auto", false}, {"threads", "auto", false},
		{"rank-timeout", "30s", false}, {"progress", "auto", false}, {"inference.moe.moe_experts", "[4,4,8,8]", true},
	}
}

func about(state State, reason string, total int64) Job {
	return Job{
		Command: "dsbatch run --model /lustre/models/austen-prmoe --input '/lustre/data/prompts-*.parquet' --output /lustre/runs/2026-11-22 --dtype bf16 --temperature 0.8 --top-k 40 --max-new-tokens 256",
		Version: "0.1.0", Task: "generate", Model: "/lustre/models/austen-prmoe", Output: "/lustre/runs/2026-11-22", DType: "bf16", Layout: "8 ranks, ep 8",
		Settings: settings(), State: state, Reason: reason, RowsTotal: total,
	}
}

// samples are reports of every kind that the page has to carry.
func samples() map[string]Report {
	bad := job{ranks: 2, layers: 6, experts: 8, steps: 900, step: 90 * time.Millisecond, load: 2 * time.Second, rows: 9000}.report(about(Finished, "", 9004))
	bad.Bad = []BadRows{
		{Kind: "prompt is null", Count: 3, Examples: []BadRow{{File: "/lustre/data/prompts-03.parquet", Row: 120417, Reason: "prompt is null; give it a text, or name another column with --prompt-column"}}},
		{Kind: "<script>alert(1)</script> is no UTF-8", Count: 1, Examples: []BadRow{{File: "a&b.jsonl", Row: 7, Reason: "prompt is not UTF-8 from byte 3 on; mend the file"}}},
	}
	bad.Rows.Bad = 4
	bad.Earlier = []Earlier{
		{Start: bad.Start.Add(-2 * time.Hour), Seconds: 3600, State: Stopped, Reason: "SIGUSR1: the allocation ends in 120 s", Rows: 3000, Ranks: 2, Prompt: 1200300, Output: 555000},
		{Start: bad.Start.Add(-time.Hour), Seconds: 61, State: Failed, Reason: "rank 1 (node00) is silent for 30 s, in decode", Rows: 20, Bad: 1, Ranks: 4, Prompt: 1300, Output: 555},
	}
	return map[string]Report{
		"usual":    bad,
		"one-step": job{ranks: 1, layers: 3, experts: 4, steps: 1, step: 40 * time.Millisecond, load: 120 * time.Millisecond, rows: 1}.report(about(Finished, "", 1)),
		"ten-hours": job{ranks: 8, layers: 12, experts: 64, steps: 4000, step: 15 * time.Second, load: 4 * time.Minute, rows: 4_000_000}.
			report(about(Stopped, "SIGUSR1 from Slurm: the allocation ends in 120 s; the same command goes on from here", 12_000_000)),
		"huge":   job{ranks: 64, layers: 48, experts: 512, steps: 40, step: 800 * time.Millisecond, load: 30 * time.Second, rows: 100_000, noPeak: true}.report(about(Failed, "rank 17 (node02) died in dispatch, 12 s after its last step: killed by signal 9", 1_000_000_000)),
		"zero":   Merge(Job{State: Finished}, nil),
		"loaded": job{ranks: 1, load: 3 * time.Second, step: time.Millisecond}.report(about(Failed, "out of memory: 12.3 GiB of weights and 2 GiB of KV blocks do not fit into 8 GiB; lower --kv-memory", 100)),
		"dense":  job{ranks: 1, steps: 50, step: 90 * time.Millisecond, rows: 100}.report(about(Finished, "", 100)),
	}
}
