package plan

import (
	"errors"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// Load is the work of a job.
type Load struct {
	Rows           int64
	Prompt, Output float64 // tokens of a row, on average; Output 0: nothing is generated
}

// Layout is what a rate depends on: how the ranks share the model, and what the rank that holds most has to hold.
type Layout struct {
	World, DP  int                // ranks, and replicas of the model among them
	TP         int                // ranks that hold slices of the same tensors; 0: 1
	Experts    []comm.ExpertRanks // for each number of experts that a layer has, the ranks that share them
	Weights    int64              // bytes of a rank
	Waiting    int64              // of these, bytes that come from the host's memory in every step
	KV         int64              // bytes that a rank has for KV
	TokenKV    int64              // bytes of KV that a token takes on a rank
	Seqs       int                // most rows in flight in a replica
	Tokens     int                // most tokens of a step
	DType      kernels.DType      // of the weights
	Activation int                // bytes of an activation
}

// Prediction bounds what a job can reach. Step is the longest of Memory, Compute and Bus, and Exchange on top.
type Prediction struct {
	InFlight         float64 // rows that a replica has in flight
	Step             float64 // seconds of a decode step
	Memory           float64 // seconds of a step to read weights and KV
	Compute          float64 // seconds of a step to compute
	Bus              float64 // seconds of a step to bring weights from the host's memory
	Exchange         float64 // seconds of a step to send tokens to their experts and back, and to put slices together
	PromptRate       float64 // prompt tokens a second, all ranks together
	OutputRate       float64 // output tokens a second, all ranks together
	Seconds          float64 // of the whole job, loading left out
	ActiveParameters float64 // as Active counts them
}

// ErrFigures marks a machine whose figures are not known.
var ErrFigures = errors.New("the machine's figures are not known")

// Predict bounds the rate by a roofline. A decode step reads every weight of the rank once (with many rows in flight every
// expert is some token's) and the KV of its rows, or computes, whichever takes longer; then it exchanges the tokens of each
// MoE layer twice, and what tp peers hold slices of. Prompts compute and exchange. Nothing overlaps with the exchange. Weights that
// wait in the host's memory come once a step, beside that: they bound steps of prompts, too, of as many tokens as a step has.
//
// Arithmetic of a token: 2 FLOPs for each active parameter, and 4·heads·dim·layers for each position that it attends to (a
// product and a sum in q·kᵀ, and in the weighted sum of v; of latent attention as Config.PositionFLOPs has it). A prompt's token attends to half of the prompt on average, an
// encoder's to all of it, an output's to the prompt and half of the output.
// A machine whose figures are not known is ErrFigures.
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
	perToken := 2*p.ActiveParameters + (load.Prompt+load.Output/2)*c.PositionFLOPs(c.Heads)*float64(c.Layers)
	p.Memory = (float64(l.Weights) + p.InFlight*(load.Prompt+load.Output/2)*float64(l.TokenKV)) / m.Read
	p.Compute = p.InFlight * perToken / sharing / flops
	p.Exchange = exchange(c, l, m, p.InFlight) + together(c, l, m, p.InFlight, p.InFlight)
	if m.Bus > 0 {
		p.Bus = float64(l.Waiting) / m.Bus
	}
	p.Step = max(p.Memory, p.Compute, p.Bus) + p.Exchange
	if p.Step > 0 {
		p.OutputRate = float64(l.DP) * p.InFlight / p.Step
	}
	halves := 1.0 // of the prompt that a token sees
	if c.Bidirectional {
		halves = 2
	}
	promptFLOPs := 2*p.ActiveParameters + halves/2*load.Prompt*c.PositionFLOPs(c.Heads)*float64(c.Layers)
	p.PromptRate = 1 / (promptFLOPs/(flops*float64(l.World)) + (exchange(c, l, m, 1)+together(c, l, m, 1, 0))/float64(l.DP))
	prompts := float64(load.Rows) * load.Prompt
	p.Seconds = prompts / p.PromptRate // and of decode steps: weights come once for prompts and outputs of a step
	if load.Output > 0 && p.OutputRate > 0 {
		p.Seconds += float64(load.Rows) * load.Output / p.OutputRate
	}
	if p.Bus > 0 {
		p.PromptRate = min(p.PromptRate, float64(l.DP*l.Tokens)/p.Bus)
		p.Seconds = max(p.Seconds, prompts/p.PromptRate)
	}
	return p, nil
}

// exchange is the time of sending a replica's tokens to their experts and back, in all MoE layers: of a token's choices
// all but one in EP leave the rank, over the slower link where the experts do not fit on a node. Where experts are sliced
// a choice goes on to the other slices, and their partial results come back in float32. Of tp peers each sends a share of the tokens.
func exchange(c *model.Config, l Layout, m Machine, tokens float64) (seconds float64) {
	if m.Link <= 0 {
		return 0
	}
	tokens /= float64(max(l.TP, 1))
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

// together is the time in which tp peers put together what each has a slice of, from GPU to GPU: the partial results of attention and
// of each dense MLP in float32, to each peer or, among more than two, to the one that adds up these tokens and then gives them to all;
// q and k where a norm looks at all heads; logits of so many rows. How messages wait for each other is not in it.
func together(c *model.Config, l Layout, m Machine, tokens, rows float64) float64 {
	link, peers := m.Link, float64(l.TP)
	if l.TP > m.Node {
		link = m.Wire
	}
	if l.TP < 2 || link <= 0 {
		return 0
	}
	act := float64(l.Activation)
	ofValue := 4.0
	if l.TP > 2 {
		ofValue = min(ofValue, (4+act)/peers)
	}
	var bytes float64 // to each of the others
	for _, x := range c.MoE {
		bytes += tokens * ofValue * float64(c.Hidden)
		if x.Gate.Experts == 0 || x.Branch() > 0 {
			bytes += tokens * ofValue * float64(c.Hidden)
		}
		if x.Gate.Experts > 0 { // the experts' results of each peer's share of the tokens
			bytes += tokens * act * float64(c.Hidden) / peers
		}
		if c.QKNorm == model.QKNormFull {
			bytes += tokens * act * float64((c.Heads+c.KVHeads)*c.HeadDim) / peers
		}
	}
	if c.Vocabulary() {
		bytes += rows * 4 * float64(c.Vocab) / peers
	}
	return bytes * (peers - 1) / link
}

// Active is the parameters that a token is multiplied with: attention, the dense or chosen experts' MLPs, and the head.
func Active(c *model.Config) (n float64) {
	hidden := float64(c.Hidden)
	ofHeads, whole := c.AttentionWeights()
	mlp := 2.0
	if c.Gated {
		mlp = 3
	}
	for _, x := range c.MoE {
		n += float64(ofHeads + whole)
		switch {
		case x.Gate.Experts == 0:
			n += mlp * hidden * float64(c.FFN)
		default:
			n += mlp*hidden*float64(x.FFN*x.Gate.K+x.Branch()) + hidden*float64(x.Gate.Experts)
			switch {
			case x.Residual:
				n += 2 * hidden // coefficients
			case x.Weighed:
				n += hidden
			}
		}
	}
	if c.Width() != c.Hidden {
		n += 2 * hidden * float64(c.Width())
	}
	if c.Vocabulary() {
		n += float64(c.Width()) * float64(c.Vocab)
	}
	return n
}
