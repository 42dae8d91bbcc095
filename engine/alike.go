package engine

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// startAlike is what mends ranks that were not.
const startAlike = "give all ranks the same command, program and files"

// startedAlike refuses ranks that were started with different programs or settings, before these make them wait for
// different things.
func (r *run) startedAlike(ctx context.Context) error {
	return comm.Same(ctx, r.world, append(settings(r.job), comm.Trait{Name: "version", Value: r.options.Version}), startAlike)
}

// settings are the traits that a job's settings are, and what in the environment counts as one.
func settings(j *config.Job) []comm.Trait {
	traits := []comm.Trait{{Name: "DSBATCH_A2A", Value: os.Getenv("DSBATCH_A2A")}}
	for _, s := range j.Settings() {
		traits = append(traits, comm.Trait{Name: s.Name, Value: s.Value})
	}
	return traits
}

// sameModel refuses ranks that found different models, or placements of their experts, before the groups are formed that
// follow from them. The digests stay for the fingerprint.
func (e *Engine) sameModel(ctx context.Context) error {
	if err := together(ctx, e.world, e.digests()); err != nil {
		return err
	}
	return comm.Same(ctx, e.world, []comm.Trait{{Name: "model", Value: e.identity.model},
		{Name: "tokenizer", Value: e.identity.tokenizer}, {Name: "chat template", Value: e.identity.chat},
		{Name: "expert placement by layer", Value: fmt.Sprint(e.placement)}}, startAlike)
}

// digests settles what the fingerprint says of model and tokenizer.
func (e *Engine) digests() error {
	digest, err := e.checkpoint.Digest()
	if err != nil {
		return err
	}
	e.identity.model = hex.EncodeToString(digest[:])
	if e.tokenizer != nil {
		digest := e.tokenizer.Digest()
		e.identity.tokenizer = hex.EncodeToString(digest[:])
	}
	if e.chats != nil {
		digest := e.chats.templates.Digest()
		e.identity.chat = hex.EncodeToString(digest[:])
	}
	return nil
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
	return comm.Same(ctx, r.world, traits, startAlike)
}
