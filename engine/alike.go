package engine

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/io/results"
)

// startedAlike refuses ranks that were started with different programs or settings, before these make them wait for
// different things.
func (r *run) startedAlike(ctx context.Context) error {
	traits := []comm.Trait{{Name: "version", Value: r.options.Version}, {Name: "DSBATCH_A2A", Value: os.Getenv("DSBATCH_A2A")}}
	for _, s := range r.job.Settings() {
		traits = append(traits, comm.Trait{Name: s.Name, Value: s.Value})
	}
	return comm.Same(ctx, r.world, traits)
}

// sameModel refuses ranks that found different models, before the groups are formed that follow from it. The digests
// stay for the fingerprint.
func (e *Engine) sameModel(ctx context.Context) error {
	digest, err := e.checkpoint.Digest()
	if err := together(ctx, e.world, err); err != nil {
		return err
	}
	e.identity.model = hex.EncodeToString(digest[:])
	if e.tokenizer != nil {
		digest := e.tokenizer.Digest()
		e.identity.tokenizer = hex.EncodeToString(digest[:])
	}
	return comm.Same(ctx, e.world, []comm.Trait{{Name: "model", Value: e.identity.model}, {Name: "tokenizer", Value: e.identity.tokenizer}})
}

// sameJob refuses ranks that found different inputs, or anything else that the output depends on.
func (r *run) sameJob(ctx context.Context, fp results.Fingerprint) error {
	var traits []comm.Trait
	var err error
	for _, s := range fp {
		var text []byte
		if text, err = json.Marshal(s.Value); err != nil {
			break
		}
		traits = append(traits, comm.Trait{Name: s.Name, Value: string(text)})
	}
	if err := together(ctx, r.world, err); err != nil {
		return err
	}
	return comm.Same(ctx, r.world, traits)
}
