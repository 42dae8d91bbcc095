package plan

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// example has one dense layer of 4·(4+2·2)+4·4+2·4·8 = 112 and one of 2 of 4 gated experts of 8; vocabulary 10.
func example() *model.Config {
	moe := model.MoE{FFN: 8}
	moe.Gate.Experts, moe.Gate.K = 4, 2
	return &model.Config{Layers: 2, Hidden: 4, Heads: 2, KVHeads: 1, HeadDim: 2, FFN: 8, Vocab: 10, MoE: []model.MoE{{}, moe}}
}

func TestActive(t *testing.T) {
	attention := 4.0*(4+2*2) + 4*4
	want := (attention + 2*4*8) + (attention + 2*(2*4*8) + 4*4) + 4*10
	if got := Active(example()); got != want {
		t.Errorf("%v parameters, want %v", got, want)
	}
}

// TestActiveDeepSeekV3: the published shape, of which 37 billion parameters are said to be at work for a token, the embedding's 0.9
// among them.
func TestActiveDeepSeekV3(t *testing.T) {
	c := &model.Config{Layers: 61, Hidden: 7168, Heads: 128, KVHeads: 1, HeadDim: 192, FFN: 18432, Vocab: 129280, Gated: true,
		Latent: &model.Latent{Query: 1536, KV: 512, Plain: 128, Value: 128}, Rope: &model.Rope{Dim: 64}, MoE: make([]model.MoE, 61)}
	for i := range c.MoE[3:] {
		c.MoE[3+i] = model.MoE{FFN: 2048, Shared: 2048, Biased: true, Gate: kernels.Gate{Experts: 256, K: 8}}
	}
	attention := 7168*1536 + 1536*128*192 + 7168*(512+64) + 512*128*(128+128) + 128*128*7168
	want := 61*attention + 3*(3*7168*18432) + 58*(3*7168*2048*(8+1)+7168*256) + 7168*129280
	if got := Active(c); got != float64(want) || math.Abs(got/1e9-36.6) > 0.1 {
		t.Errorf("%v parameters, want %d", got, want)
	}
	if got := c.PositionFLOPs(128); got != 2*128*(576+512) {
		t.Errorf("%v FLOPs a position", got)
	}
}

// TestPredictEncoder: a token of an encoder attends to its whole text, and one without a vocabulary's head multiplies with
// none.
func TestPredictEncoder(t *testing.T) {
	rate := func(bidirectional bool) float64 {
		c := example()
		c.Bidirectional = bidirectional
		p, err := Predict(c, Layout{World: 1, DP: 1, DType: kernels.F32}, Machine{Read: 1, FLOPs: map[kernels.DType]float64{kernels.F32: 1}}, Load{Rows: 1, Prompt: 100})
		if err != nil {
			t.Fatal(err)
		}
		return p.PromptRate
	}
	if more, want := 1/rate(true)-1/rate(false), 2.0*100*2*2*2; math.Abs(more-want) > 1e-9*want {
		t.Errorf("seeing later tokens costs %v operations a token, want %v", more, want)
	}
	bare := example()
	bare.Head = model.HeadNone
	if less := Active(example()) - Active(bare); less != 4*10 {
		t.Errorf("without a head there are %v parameters less, want 40", less)
	}
}

// TestPredict works one case by hand: reading bounds the step, with an exchange on top.
func TestPredict(t *testing.T) {
	c := example()
	m := Machine{Read: 1000, FLOPs: map[kernels.DType]float64{kernels.F32: 1e9}, Link: 100, Wire: 10, Node: 2}
	l := Layout{World: 4, DP: 4, Experts: []comm.ExpertRanks{{Experts: 4, EP: 4, ES: 1}}, Weights: 5000, KV: 1200, TokenKV: 1, Seqs: 1000, DType: kernels.F32, Activation: 4}
	p, err := Predict(c, l, m, Load{Rows: 1e6, Prompt: 100, Output: 20})
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("rows in flight", p.InFlight, 10)                 // 1200 of 120 tokens each
	near("reading", p.Memory, (5000+10*110)/1000.0)        // weights, and 110 tokens of each row half-way
	bytes := 2 * 10.0 * 2 * 4 * 4                          // there and back, 10 rows of 2 choices of 4 values
	near("exchange", p.Exchange, bytes/4/100+bytes*2/4/10) // one of 4 stays, one is near, two are far
	near("step", p.Step, p.Memory+p.Exchange)              // computing is less than reading
	near("rate", p.OutputRate, 4*10/p.Step)
	near("time", p.Seconds, 1e8/p.PromptRate+2e7/p.OutputRate)

	l.Experts[0].ES = 2 // 4 ranks apart: on other nodes
	p2, err := Predict(c, l, m, Load{Rows: 1e6, Prompt: 100, Output: 20})
	if err != nil {
		t.Fatal(err)
	}
	near("exchange of slices", p2.Exchange, p.Exchange+10*2*4*(4+4)/10) // each choice there, its float32 partial result back
	l.Experts[0].ES = 1

	// Of 10 rows: partial results of 2 attentions and an MLP, 4 values of 4 bytes; a share of the experts' results; logits of 10.
	for tp, want := range map[int]float64{2: 10 * (3*4*4 + 4*4/2.0 + 4*10/2.0) / 100, 4: 3 * 10 * (3*4*2 + 4*4/4.0 + 4*10/4.0) / 10} {
		l.TP = tp
		cut, err := Predict(c, l, m, Load{Rows: 1e6, Prompt: 100, Output: 20})
		if err != nil {
			t.Fatal(err)
		}
		near(fmt.Sprint("exchange of tp ", tp), cut.Exchange, p.Exchange/float64(tp)+want)
	}
	l.TP = 0

	offloaded, bus := l, m
	offloaded.Waiting, offloaded.Tokens, bus.Bus = 4000, 5, 100
	p3, err := Predict(c, offloaded, bus, Load{Rows: 1e6, Prompt: 100, Output: 20})
	if err != nil {
		t.Fatal(err)
	}
	near("bringing", p3.Bus, 4000/100.0)
	near("a step that brings weights", p3.Step, p3.Bus+p3.Exchange) // which takes longer than to read them
	near("prompts beside", p3.PromptRate, 4*5/p3.Bus)               // 5 tokens of each replica a step
	near("time that brings weights", p3.Seconds, 1e8/p3.PromptRate)

	if slower, err := Predict(c, l, Machine{Read: 1000, FLOPs: map[kernels.DType]float64{kernels.F32: 1}}, Load{Rows: 10, Prompt: 100, Output: 20}); err != nil ||
		slower.Step != slower.Compute || slower.Compute <= slower.Memory {
		t.Errorf("a slow processor does not bound the step: %+v, %v", slower, err)
	}
	if _, err := Predict(c, l, Machine{}, Load{Rows: 1}); !errors.Is(err, ErrFigures) {
		t.Errorf("unknown figures: %v", err)
	}
}

func TestMachines(t *testing.T) {
	for _, name := range []string{"h100", "h200", "a100"} {
		if m, err := GPU(name); err != nil || m.Read <= 0 || m.Memory <= 0 || m.FLOPs[kernels.BF16] <= m.FLOPs[kernels.F32] {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if _, err := GPU("b999"); err == nil {
		t.Error("b999 is known")
	}
}

func TestPlace(t *testing.T) {
	layers := []Tokens{{1, 0, []int64{9, 8, 1, 1}}, {3, 0, []int64{10, 10, 10, 10, 1, 1, 1, 1}}}
	p, evened, err := Place(layers, 2, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Layers) != 2 || p.Layers[1].Layer != 3 || !slices.Equal(p.Layers[0].Ranks[0], []int{0, 3}) {
		t.Errorf("%+v", p)
	}
	for i, want := range []Evened{{1, 4, 2, 2, 17 / 9.5, 10 / 9.5}, {3, 8, 2, 4, 40 / 22.0, 1}} {
		if evened[i] != want {
			t.Errorf("%+v, want %+v", evened[i], want)
		}
	}
	if _, _, err := Place(layers, 3, 3, 0); err == nil {
		t.Error("4 experts over 3 ranks")
	}
	_, evened, err = Place(layers, 2, 0, 3) // more copies than the first layer has room for
	if err != nil || evened[0].Held != 4 || evened[0].After != 1 || evened[1].Held != 7 {
		t.Errorf("%+v, %v", evened, err)
	}
	layers[0].EP, layers[1].EP = 1, 4 // as in the run
	p, _, err = Place(layers, 2, 0, 0)
	if err != nil || len(p.Layers[0].Ranks) != 1 || len(p.Layers[1].Ranks) != 4 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, _, err := Place(layers, 2, 1, 1); err == nil || !strings.Contains(err.Error(), "--gpus") {
		t.Errorf("copies on ranks that hold all: %v", err)
	}
	for _, replicas := range []int{-1, 7} {
		if _, _, err := Place(layers, 2, 0, replicas); err == nil {
			t.Errorf("%d replicas on each rank", replicas)
		}
	}
}
