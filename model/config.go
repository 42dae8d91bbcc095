// Package model is one canonical transformer. A policy maps a family's config and tensor names onto it; Load reads a
// checkpoint's tensors into a device's packed weights; Forward runs one step of ragged sequences over a paged KV
// cache. The package knows no request, no file of rows and no sampling.
package model

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// ErrConfig marks a model whose config cannot be right, or contradicts its tensors.
var ErrConfig = errors.New("bad model config")

// MaxLayers bounds the layers of a model: a config that tells of more is wrong, and is refused before memory is taken.
const MaxLayers = 1 << 16

// Config is the shape and kind of a model in the canonical transformer's own terms. A policy fills it from a
// checkpoint's config.
type Config struct {
	Family  string
	Layers  int
	Hidden  int
	Embed   int // columns of the embeddings, which a linear op widens to Hidden and narrows again; 0: Hidden
	Heads   int
	KVHeads int
	HeadDim int
	FFN     int // of dense layers
	Vocab   int // rows of the embedding, columns of the logits
	Tokens  int // real ids, <= Vocab: the rest is padding and never chosen
	Window  int // most positions

	Order       Order
	Norm        kernels.NormKind
	Eps         float32
	EmbedNorm   bool // what is embedded is normed before the first layer
	NoFinalNorm bool // what the last layer gives is not normed; nor is it with PostNorm
	Act         kernels.Activation
	Limit       float32 // of ClampedSwiGLU
	Gated       bool    // MLPs are act(gate)·up
	Learned     bool    // position embeddings
	FirstRow    int     // of position 0 in their table
	Rope        *Rope
	ALiBi       bool // scores fall with distance, by each head's slope
	QKNorm      QKNorm
	Sinks       bool    // a learned logit a head joins each of its softmaxes, and has no value
	Latent      *Latent // nil: keys and values of each KV head are made of the token itself, and cached
	Bias        Bias
	Sliding     int    // 0, or how many last positions a token sees
	Slides      []bool // of each layer: whether Sliding counts there; nil: in all
	TiedHead    bool   // the output embedding is the input's

	Bidirectional bool // an encoder: a token sees its whole sequence, which is in one step then
	Types         int  // rows of the table of token types; 0: there is none
	Head          Head
	Labels        []string // HeadLabels: what its logits stand for

	// Scale of attention scores in each layer; nil: 1/√HeadDim.
	Scale []float32
	// MoE has an element a layer; Experts 0: a dense layer.
	MoE []MoE

	// Predictors is how many layers the checkpoint has after those of the model, which predict further tokens. They are not run.
	Predictors int

	EOS  []int32 // end tokens, as far as the config tells
	BOS  int32   // -1: none
	Mask int32   // HeadMasks: the token that stands for one to be filled in; -1: the config does not tell
}

// Order is the order of a layer's norms, of its attention and its MLP, and of their sums with the residual stream x.
type Order uint8

// The orders.
const (
	PreNorm        Order = iota // x += attention(norm(x)); x += mlp(norm(x))
	PostNorm                    // x = norm(x + attention(x)); x = norm(x + mlp(x))
	Parallel                    // x += attention(norm(x)) + mlp(norm(x)), by two norms of the same x
	ParallelOfNorm              // the same by one norm, attn.norm
)

// QKNorm tells how queries and keys are normalised before rotation.
type QKNorm uint8

// The kinds: not at all, each head by itself (Qwen3), the whole projection (OLMoE).
const (
	NoQKNorm QKNorm = iota
	QKNormHead
	QKNormFull
)

// Bias tells which linear ops have a bias: the projections to q, k and v, the one of attention's output, those of MLPs, the
// output embedding, and gates of experts.
type Bias struct{ QKV, Out, MLP, Head, Gate bool }

// MoE is the kind of one layer's MLP.
type MoE struct {
	Gate       kernels.Gate // Experts 0: dense
	FFN        int
	Residual   bool // PR-MoE: a dense branch beside the experts, of their size
	Shared     int  // or the inside of one (a shared expert) that the experts' sum is added to; 0: none
	Weighed    bool // the shared expert, by the sigmoid of a gate of its own
	Biased     bool // the gate has a bias of the choice alone, kernels.Gate.Bias
	OutputBias bool // the bias of an expert's and of the residual branch's second linear op counts
}

// Branch is the inside of the dense branch beside the experts; 0: there is none.
func (m MoE) Branch() int {
	if m.Residual {
		return m.FFN
	}
	return m.Shared
}

// Rope is rotary positions as a config describes them.
type Rope struct {
	Theta       float64
	Dim         int // rotated values of a head
	Interleaved bool
	Scaling     Scaling
}

// Scaling stretches rotary positions; Type "" or "default": none. "linear" divides positions by Factor; "llama3"
// divides low frequencies, keeps high ones, and blends between (Llama 3.1's config); so does "yarn" (arXiv 2309.00071), by
// how often a pair turns in the original window.
type Scaling struct {
	Type      string
	Factor    float64
	Low       float64 // low_freq_factor
	High      float64 // high_freq_factor
	Original  float64 // original_max_position_embeddings
	Fast      float64 // yarn's beta_fast: pairs that turn more often keep their frequency
	Slow      float64 // yarn's beta_slow: those that turn less often have it divided
	Fraction  bool    // yarn blends from and to fractions of a pair (truncate: false), else whole ones
	Magnitude float64 // yarn's: cosines and sines are multiplied by it; 0 stands for 1
}

// frequencies are the Dim/2 angles of one position step.
func (r Rope) frequencies() ([]float64, error) {
	if !(r.Theta > 0) {
		return nil, fmt.Errorf("%w: the base of the rotary positions (rope_theta) is %g; it must be above 0", ErrConfig, r.Theta)
	}
	if s := r.Scaling; s.Type != "" && s.Type != "default" && !(s.Factor > 0) {
		return nil, fmt.Errorf("%w: the factor of the rotary positions' scaling %q is %g; it must be above 0", ErrConfig, s.Type, s.Factor)
	}
	f := make([]float64, r.Dim/2)
	for i := range f {
		f[i] = math.Pow(r.Theta, -float64(2*i)/float64(r.Dim))
	}
	switch s := r.Scaling; s.Type {
	case "", "default":
	case "linear":
		for i := range f {
			f[i] /= s.Factor
		}
	case "llama3":
		for i := range f {
			wavelength := 2 * math.Pi / f[i]
			// 0 where the wavelength is long (divided), 1 where short (kept), linear between.
			keep := (s.Original/wavelength - s.Low) / (s.High - s.Low)
			keep = min(max(keep, 0), 1)
			f[i] = (1-keep)*f[i]/s.Factor + keep*f[i]
		}
	case "yarn":
		return f, r.yarn(f)
	default:
		return nil, fmt.Errorf("%w: rope type %q is not supported; default, linear, llama3 and yarn are", ErrConfig, s.Type)
	}
	return f, nil
}

// yarn blends frequencies from those that are kept to those that are divided.
func (r Rope) yarn(f []float64) error {
	s := r.Scaling
	if !(s.Original > 0) || !(s.Fast > 0) || !(s.Slow > 0) || s.Fast < s.Slow || r.Theta == 1 {
		return fmt.Errorf("%w: yarn's original window of %g, beta_fast of %g and beta_slow of %g, with a base of %g, blend nothing; beta_fast is the larger, and all are above 0",
			ErrConfig, s.Original, s.Fast, s.Slow, r.Theta)
	}
	// pair is the one, from 0, that turns so often in the original window.
	pair := func(turns float64) float64 {
		return float64(r.Dim) * math.Log(s.Original/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	from, to := pair(s.Fast), pair(s.Slow)
	if !s.Fraction {
		from, to = math.Floor(from), math.Ceil(to)
	}
	from, to = max(from, 0), min(to, float64(r.Dim-1))
	if from == to {
		to += 0.001
	}
	for i := range f {
		divided := min(max((float64(i)-from)/(to-from), 0), 1)
		f[i] = divided*f[i]/s.Factor + (1-divided)*f[i]
	}
	return nil
}

// magnitude is what cosines and sines are multiplied by.
func (r Rope) magnitude() float64 { return cmp.Or(r.Scaling.Magnitude, 1) }

// activation is what MLPs do with their first linear op's result.
func (c *Config) activation() kernels.Epilogue { return kernels.Epilogue{Act: c.Act, Limit: c.Limit} }

// Made is what the model is made of for a device that compiles its kernels, with weights of type w that come as stored.
func (c *Config) Made(w, stored kernels.DType) kernels.Made {
	m := kernels.Made{Weights: w, Stored: stored, HeadDim: c.keyDim(), Latent: c.latentValues(), ALiBi: c.ALiBi, Sinks: c.Sinks}
	if c.Act == kernels.ClampedSwiGLU {
		m.Limit = c.Limit
	}
	return m
}

// scale is the factor of layer's attention scores.
func (c *Config) scale(layer int) float32 {
	if c.Scale != nil {
		return c.Scale[layer]
	}
	return float32(1 / math.Sqrt(float64(c.HeadDim)))
}

// Width is the columns of the embeddings, and of what Forward gives in the end.
func (c *Config) Width() int { return cmp.Or(c.Embed, c.Hidden) }

// finalNorm tells whether there is a norm after the last layer.
func (c *Config) finalNorm() bool { return !c.NoFinalNorm && c.Order != PostNorm }

// window is how many last positions a token sees in a layer; 0: all.
func (c *Config) window(layer int) int {
	if c.Slides != nil && !c.Slides[layer] {
		return 0
	}
	return c.Sliding
}

// slopes are ALiBi's of all heads (arXiv 2108.12409): for 2ⁿ heads the powers of 2 to the −8/2ⁿ from the first on; for
// others those of the next lower 2ⁿ, then every second one of the next higher, as its authors have it.
func (c *Config) slopes() []float32 {
	below := 1
	for below*2 <= c.Heads {
		below *= 2
	}
	s := make([]float32, c.Heads)
	for i := range s {
		exponent := -8 * float64(i+1) / float64(below)
		if i >= below {
			exponent = -4 * float64(2*(i-below)+1) / float64(below)
		}
		s[i] = float32(math.Exp2(exponent))
	}
	return s
}

// maxExperts bounds the lists that are made for a layer's experts before a tensor is looked for.
const maxExperts = 1 << 16

// check refuses what no tensor could fit.
func (c *Config) check() error {
	for _, v := range []struct {
		what    string
		n, most int
	}{
		{"number of layers", c.Layers, MaxLayers}, {"hidden size", c.Hidden, 1 << 24}, {"number of attention heads", c.Heads, 1 << 20},
		{"number of key-value heads", c.KVHeads, 1 << 20}, {"head size", c.HeadDim, 1 << 20}, {"vocabulary", c.Vocab, 1 << 28},
		{"window", c.Window, 1 << 24}, {"width of the embeddings", c.Width(), 1 << 24},
	} {
		if v.n < 1 || v.n > v.most {
			return fmt.Errorf("%w: the %s is %d; 1 to %d can be", ErrConfig, v.what, v.n, v.most)
		}
	}
	if c.Eps < 0 {
		return fmt.Errorf("%w: the epsilon of the norms is %g; it cannot be negative", ErrConfig, c.Eps)
	}
	if c.Sliding < 0 {
		return fmt.Errorf("%w: the sliding window is %d; 0 and null stand for none", ErrConfig, c.Sliding)
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("%w: %d attention heads are no multiple of %d key-value heads", ErrConfig, c.Heads, c.KVHeads)
	}
	if len(c.MoE) != c.Layers {
		return fmt.Errorf("%w: %d layers, but %d are described", ErrConfig, c.Layers, len(c.MoE))
	}
	if c.Slides != nil && len(c.Slides) != c.Layers || c.Scale != nil && len(c.Scale) != c.Layers {
		return fmt.Errorf("%w: %d layers, but the attention of %d is described", ErrConfig, c.Layers, max(len(c.Slides), len(c.Scale)))
	}
	if c.Tokens <= 0 || c.Tokens > c.Vocab {
		return fmt.Errorf("%w: %d tokens, but the embedding has %d rows", ErrConfig, c.Tokens, c.Vocab)
	}
	if c.Rope != nil && (c.Rope.Dim <= 0 || c.Rope.Dim > c.HeadDim || c.Rope.Dim%2 != 0) {
		return fmt.Errorf("%w: %d of %d values of a head are rotated; an even number of them can be", ErrConfig, c.Rope.Dim, c.HeadDim)
	}
	if err := c.checkLatent(); err != nil {
		return err
	}
	for layer, m := range c.MoE {
		if m.Gate.Experts > maxExperts {
			return fmt.Errorf("%w: layer %d has %d experts; at most %d can be", ErrConfig, layer, m.Gate.Experts, maxExperts)
		}
		if m.Gate.Experts == 0 {
			if c.FFN <= 0 {
				return fmt.Errorf("%w: layer %d is dense, but the ffn size of dense layers is %d", ErrConfig, layer, c.FFN)
			}
			continue
		}
		if c.Order != PreNorm {
			return fmt.Errorf("%w: layer %d has experts; they are run in layers that norm before each part", ErrConfig, layer)
		}
		if m.Gate.K < 1 || m.Gate.K > m.Gate.Experts {
			return fmt.Errorf("%w: layer %d gives each token %d of %d experts", ErrConfig, layer, m.Gate.K, m.Gate.Experts)
		}
		if g := m.Gate; g.Groups > 1 && (g.Experts%g.Groups != 0 || g.TopGroups < 1 || g.TopGroups > g.Groups || g.TopGroups*(g.Experts/g.Groups) < g.K || g.GroupBest > g.Experts/g.Groups) {
			return fmt.Errorf("%w: layer %d gives each token %d of %d experts, of %d of %d groups; groups are equal, and hold as many", ErrConfig, layer, g.K, g.Experts, g.TopGroups, g.Groups)
		}
		if m.Shared < 0 || m.Shared > 0 && m.Residual {
			return fmt.Errorf("%w: the shared expert of layer %d has an ffn size of %d", ErrConfig, layer, m.Shared)
		}
		if m.FFN <= 0 {
			return fmt.Errorf("%w: the experts of layer %d have an ffn size of %d", ErrConfig, layer, m.FFN)
		}
	}
	return nil
}
