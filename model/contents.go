package model

import (
	"context"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
)

// Contents is what a checkpoint holds for the model that its config describes, told without reading a weight.
type Contents struct {
	// Read is what each rank of the tp group reads of the tensors that are no experts', in the order of a load: whole
	// tensors, and parts of those that are cut. A tensor may be there more than once.
	Read [][]ckpt.Tensor
	// Experts are the tensors of the experts, those that a load skips among them.
	Experts map[string]Expert
	// Linear are the weights of linear operations, by name: what a run's --dtype rounds. Gates, coefficients of residual
	// layers, norms, biases and embeddings that ids are looked up in are none of them.
	Linear map[string]bool
	// Transposed: these are stored [in, out].
	Transposed bool
	// Faults are all contradictions between config and tensors: missing ones, wrong shapes and types, such as no part of
	// the model uses. Each wraps ErrTensor.
	Faults []error

	ignored  []string
	predicts func(name string) bool
}

// Ignored tells whether the model has no use for a tensor of its checkpoint: a mask, a table of positions, a layer that predicts
// further tokens.
func (y *Contents) Ignored(name string) bool {
	return y.predicts(name) || slices.ContainsFunc(y.ignored, func(end string) bool { return strings.HasSuffix(name, end) })
}

// Expert is which of the experts of a layer a tensor belongs to.
type Expert struct{ Layer, Number, Of int }

// Look tells what a checkpoint holds, for tp ranks. An error is that of a config that cannot be, of a model that cannot be
// sliced so, or of ctx.
func Look(ctx context.Context, c *ckpt.Checkpoint, p Policy, config Config, tp int) (*Contents, error) {
	y := &Contents{Experts: experts(p, &config), Linear: map[string]bool{}, Transposed: p.Transposed, ignored: p.Ignored,
		predicts: func(name string) bool { return p.Tensors.predicts(&config, name) }}
	for rank := range tp {
		l := &loader{ckpt: c, policy: p, config: &config, model: &Model{Config: config}, contents: y}
		if err := l.survey(ctx, place{rank, tp}); err != nil {
			return nil, err
		}
		l.wanted = slices.DeleteFunc(l.wanted, func(t ckpt.Tensor) bool { _, is := y.Experts[t.Name]; return is })
		y.Read = append(y.Read, l.wanted)
	}
	return y, nil
}

// experts lists the tensors that the experts of a model may have.
func experts(p Policy, c *Config) map[string]Expert {
	list := map[string]Expert{}
	for layer, m := range c.MoE {
		for e := range m.Gate.Experts {
			for _, kind := range []string{"expert.gate", "expert.up", "expert.down"} {
				if name := p.Tensors.name(kind, layer, e); name != "" {
					at := Expert{layer, e, m.Gate.Experts}
					list[name], list[biasOf(name)] = at, at
				}
			}
		}
	}
	return list
}

// noteLinear notes for Look whether a weight is a linear operation's, of those that are rounded to a run's type.
func (l *loader) noteLinear(name string, rounded bool) {
	if l.contents == nil || !rounded {
		return
	}
	if t, there := l.lookUp(name); there {
		l.contents.Linear[t.Name] = true
	}
}

// noteFault takes an error for Look's list and tells whether it did: then the survey goes on.
func (l *loader) noteFault() bool {
	if l.err == nil || l.contents == nil {
		return false
	}
	text := l.err.Error()
	if !slices.ContainsFunc(l.contents.Faults, func(err error) bool { return err.Error() == text }) {
		l.contents.Faults = append(l.contents.Faults, l.err)
	}
	l.err = nil
	return true
}
