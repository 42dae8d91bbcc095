package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/chat"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
)

// chats renders rows that are chats.
type chats struct {
	templates *chat.Templates
	variables []chat.Variable // the job's
	answer    bool            // a text ends with what begins the assistant's answer
	time      string          // that templates are told, as chatTime writes it; settled when the output is opened
	now       time.Time       // the same
}

// chatTime is how a job's time is written, by users and in the fingerprint: local, without a zone.
const chatTime = "2006-01-02T15:04:05"

// readChats reads the chat template where rows are chats, and refuses what would set every row aside.
func (e *Engine) readChats(folder string) error {
	if e.job.MessagesColumn == "" {
		return nil
	}
	if e.tokenizer == nil {
		return fmt.Errorf("%w: --messages-column: %s has no tokenizer for what its chat template writes", ErrRefused, folder)
	}
	c := &chats{answer: e.job.Task == config.Generate || e.job.ContinuationColumn != ""}
	var err error
	c.templates, err = chat.Load(folder, e.job.ChatTemplate)
	switch {
	case errors.Is(err, chat.ErrMissing):
		return fmt.Errorf("%w: --messages-column: %w; put the template of its family there, or name it with --chat-template", ErrRefused, err)
	case err != nil:
		return fmt.Errorf("%w: the chat template cannot be used: %w", ErrRefused, err)
	}
	if c.variables, err = chatVariables(e.job.ChatTemplateKwargs); err != nil {
		return fmt.Errorf("%w: --chat-template-kwargs: %w", ErrRefused, err)
	}
	if _, err := time.Parse(chatTime, e.job.Now); e.job.Now != "" && err != nil {
		return fmt.Errorf("%w: --now: %q is no time; write it as 2025-07-06T14:05:09", ErrRefused, e.job.Now)
	}
	e.chats = c
	return nil
}

// chatVariables are those of a JSON object.
func chatVariables(object string) (out []chat.Variable, err error) {
	if object == "" {
		return nil, nil
	}
	fields, err := dataset.Fields([]byte(object))
	if err != nil {
		return nil, fmt.Errorf("give a JSON object, as {\"enable_thinking\": false}; %w", err)
	}
	for _, f := range fields {
		if f.Name == "messages" {
			return nil, errors.New("messages are each row's own; leave them out")
		}
		out = append(out, chat.Variable{Name: f.Name, Value: f.Value})
	}
	return out, nil
}

// render is a row's text.
func (c *chats) render(column string, in *dataset.Row) (string, error) {
	variables := c.variables
	if len(in.Tools) > 0 { // they win over the job's, which come before
		tools, err := json.Marshal(in.Tools)
		if err != nil {
			return "", err
		}
		variables = append(slices.Clone(variables), chat.Variable{Name: "tools", Value: tools})
	}
	text, err := c.templates.RenderWith(variables, chat.Chat{Messages: in.Messages, AddGenerationPrompt: c.answer,
		Now: c.now})
	if refusal := (*chat.Error)(nil); errors.As(err, &refusal) && refusal.Raised() {
		return "", fmt.Errorf("%s: the chat template refuses it: %w", column, err)
	} else if err != nil {
		return "", fmt.Errorf("%s: %w", column, err)
	}
	return text, nil
}

// settleTime settles the time that templates are told: the one asked for, else the one that the output was begun at, which
// its fingerprint keeps, so that a job that goes on makes the same texts.
func (r *run) settleTime() error {
	c := r.engine.chats
	if c == nil {
		return nil
	}
	if c.time = r.job.Now; c.time == "" {
		c.time = time.Now().Format(chatTime)
		was, err := results.Peek(r.job.Output)
		switch {
		case errors.Is(err, fs.ErrNotExist): // begun now
		case err != nil:
			return err
		default:
			if begun, ok := was.Fingerprint.Get(chatTimeSetting).(string); ok {
				c.time = begun
			}
		}
	}
	return c.setTime()
}

func (c *chats) setTime() (err error) {
	c.now, err = time.Parse(chatTime, c.time)
	return err
}

// agreeOnTime gives all ranks the time that rank 0 has settled. All of them call it.
func (r *run) agreeOnTime(ctx context.Context) error {
	c := r.engine.chats
	if c == nil {
		return nil
	}
	var err error
	if r.world.Rank() == 0 {
		err = r.settleTime()
	}
	if c.time, err = share(ctx, r.world, c.time, err); err != nil {
		return err
	}
	return c.setTime()
}
