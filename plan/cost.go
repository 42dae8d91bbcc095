package plan

import (
	"errors"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// Load is the work of a job: rows of so many tokens each, on average.
type Load struct {
	Rows           int64
	Prompt, Output float64
}

// Layout is what the rate depends on of the ranks; the largest of each.
type Layout struct {
	World, DP  int
	Experts    []comm.ExpertRanks // who holds the experts of layers with so many
	Weights    int64              // bytes of a rank
	KV         int64              // bytes of a rank
	TokenKV    int64              // bytes of a token on a rank
	Seqs       int                // most rows in flight of a replica
	DType      kernels.DType
	Activation int // bytes of an activation
}

// Prediction is a bound of what the job can reach, all ranks together.
type Prediction struct {
	InFlight         float64 // rows of a replica
	Step             float64 // seconds of a decode step
	Memory           float64 // of these, reading weights and KV
	Compute          float64 // or computing
	Exchange         float64 // and, besides, exchanging tokens
	PromptRate       float64 // prompt tokens a second
	OutputRate       float64 // output tokens a second
	Seconds          float64 // of the whole job, loading left out
	ActiveParameters float64 // that a token uses
}

// ErrFigures marks a machine whose figures are not known.
var ErrFigures = errors.New("the machine's figures are not known")

// Predict bounds the rate. A decode step reads every weight of the rank once (with many rows in flight every expert is
// some token's) and the KV of its rows, or computes, whichever takes longer, and exchanges the tokens of each MoE layer
// twice. Prompts compute. Nothing overlaps with the exchange, everything else does.
func Predict(c *model.Config, l Layout, m Machine, load Load) (Prediction, error) {
	flops := m.FLOPs[l.DType]
	if flops <= 0 || m.Read <= 0 {
		return Prediction{}, ErrFigures
	}
	p := Prediction{ActiveParameters: Active(c)}
	tokens := load.Prompt + load.Output
	p.InFlight = min(float64(l.Seqs), float64(load.Rows)/float64(l.DP))
	if tokens > 0 && l.TokenKV > 0 {
		p.InFlight = min(p.InFlight, float64(l.KV)/float64(l.TokenKV)/tokens)
	}
	sharing := float64(l.World) / float64(l.DP) // ranks that share a replica's work
	perToken := 2*p.ActiveParameters + 4*(load.Prompt+load.Output/2)*float64(c.Heads*c.HeadDim*c.Layers)
	p.Memory = (float64(l.Weights) + p.InFlight*(load.Prompt+load.Output/2)*float64(l.TokenKV)) / m.Read
	p.Compute = p.InFlight * perToken / sharing / flops
	p.Exchange = exchange(c, l, m, p.InFlight)
	p.Step = max(p.Memory, p.Compute) + p.Exchange
	if p.Step > 0 {
		p.OutputRate = float64(l.DP) * p.InFlight / p.Step
	}
	promptFLOPs := 2*p.ActiveParameters + 2*load.Prompt*float64(c.Heads*c.HeadDim*c.Layers)
	p.PromptRate = 1 / (promptFLOPs/(flops*float64(l.World)) + exchange(c, l, m, 1)/float64(l.DP))
	p.Seconds = float64(load.Rows) * load.Prompt / p.PromptRate
	if load.Output > 0 && p.OutputRate > 0 {
		p.Seconds += float64(load.Rows) * load.Output / p.OutputRate
	}
	return p, nil
}

// exchange is the time of sending a replica's tokens to their experts and back, in all MoE layers: of a token's choices
// all but one in EP leave the rank, over the slower link where the experts do not fit on a node. Where experts are sliced
// a choice goes on to the other slices, and their partial results come back in float32.
func exchange(c *model.Config, l Layout, m Machine, tokens float64) (seconds float64) {
	if m.Link <= 0 {
		return 0
	}
	for _, x := range c.MoE {
		i := slices.IndexFunc(l.Experts, func(e comm.ExpertRanks) bool { return e.Experts == x.Gate.Experts })
		if i < 0 {
			continue // a dense layer
		}
		ep, es := l.Experts[i].EP, l.Experts[i].ES
		inside := float64(min(ep, m.Node)-1) / float64(ep)
		outside := float64(ep-min(ep, m.Node)) / float64(ep)
		toSlices := m.Link
		if ep*es > m.Node { // those of an expert are ep ranks apart
			toSlices = m.Wire
		}
		values := tokens * float64(x.Gate.K*c.Hidden)
		bytes := 2 * values * float64(l.Activation)
		seconds += bytes*inside/m.Link + bytes*outside/m.Wire + values*float64((es-1)*(l.Activation+4))/toSlices
	}
	return seconds
}

// Active is the parameters that a token is multiplied with: attention, the dense or chosen experts' MLPs, and the head.
func Active(c *model.Config) (n float64) {
	hidden, heads, kv := float64(c.Hidden), float64(c.Heads*c.HeadDim), float64(c.KVHeads*c.HeadDim)
	mlp := 2.0
	if c.Gated {
		mlp = 3
	}
	for _, x := range c.MoE {
		n += hidden*(heads+2*kv) + heads*hidden
		switch {
		case x.Gate.Experts == 0:
			n += mlp * hidden * float64(c.FFN)
		case x.Residual:
			n += mlp*hidden*float64(x.FFN)*float64(x.Gate.K+1) + hidden*float64(x.Gate.Experts+2)
		default:
			n += mlp*hidden*float64(x.FFN)*float64(x.Gate.K) + hidden*float64(x.Gate.Experts)
		}
	}
	return n + hidden*float64(c.Vocab)
}
