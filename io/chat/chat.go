// Package chat turns chats, lists of messages, into the text that a model was trained on, by the model's chat template.
//
// A template is a Jinja2 program that comes with the model. It is run here as transformers runs it (Jinja2 3.1's sandbox
// with trim_blocks, lstrip_blocks, loop controls and the generation tag; raise_exception, strftime_now and a tojson of its
// own), with Python's values: what is printed, and what is an error, is the same. A template is foreign: it sees the chat
// and nothing else, no file, no environment and no value of Go, and its steps, memory and depth are bounded (limit.go).
//
// The parts: lexer, parser and expression make a tree (node), bind gives its names their places, run, loop and eval walk it
// over values (value, dict); the rest is what Python and Jinja2 bring along.
package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// Template is a chat template that can be rendered, by several goroutines at once.
type Template struct {
	source string
	body   []stmt
	top    *layout
}

// Parse reads the text of a template. The error is an *Error.
func Parse(source string) (t *Template, err error) {
	defer recovered(&err, nil)
	if len(source) > maxSource {
		fail("LimitError", "it has %d bytes, above the %d of any template in use", len(source), maxSource)
	}
	t = &Template{source: source, body: parse(source)}
	t.top = bind(t.body)
	return t, nil
}

// recovered makes an error of what fail threw. What breaks by our own fault is an error of the row too, and says so.
func recovered(err *error, r *render) {
	thrown := recover()
	if thrown == nil {
		return
	}
	e, ok := thrown.(*Error)
	if broken, isRuntime := thrown.(runtime.Error); isRuntime {
		e, ok = fault("InternalError", "the renderer broke, which is a mistake in dsbatch: %v", broken), true
	}
	if !ok {
		panic(thrown)
	}
	if r != nil && e.Line == 0 {
		e.Line = r.line
	}
	*err = e
}

// Chat is one chat and what else the template is given.
type Chat struct {
	Messages            []json.RawMessage // at least one; JSON objects
	Tools, Documents    json.RawMessage   // JSON; nil: none
	AddGenerationPrompt bool              // end with what begins the assistant's answer
	ContinueLast        bool              // end where the last message's content ends, to be gone on with
	Now                 time.Time         // that strftime_now gives the template
	Variables           []Variable        // of the template's own: enable_thinking and the like
}

// Variable is one of the template's variables.
type Variable struct {
	Name  string
	Value json.RawMessage
}

// render gives the text of a chat, with the tokens that the model's folder names.
func (t *Template) render(c *Chat, tokens *dict) (text string, err error) {
	r := &render{budget: budget{steps: maxSteps, made: maxMade}, now: c.Now}
	defer recovered(&err, r)
	messages := &list{items: make([]value, len(c.Messages))}
	for i, raw := range c.Messages {
		v, err := parseJSON(raw)
		if err != nil {
			return "", fmt.Errorf("message %d %w", i, err)
		}
		if _, ok := v.(*dict); !ok {
			return "", fmt.Errorf("message %d is no object with a role and content", i)
		}
		messages.items[i] = v
	}
	if len(messages.items) == 0 {
		return "", errEmpty
	}
	given := &dict{}
	for i, k := range tokens.keys {
		given.set(k, tokens.values[i])
	}
	for _, v := range append(c.Variables, Variable{"tools", c.Tools}, Variable{"documents", c.Documents}) {
		var x value = none
		if v.Value != nil {
			if x, err = parseJSON(v.Value); err != nil {
				return "", fmt.Errorf("%s %w", v.Name, err)
			}
		}
		given.set(v.Name, x)
	}
	given.set("add_generation_prompt", c.AddGenerationPrompt)
	var last string
	if c.ContinueLast {
		if last, err = t.mark(messages); err != nil {
			return "", err
		}
	}
	given.set("messages", messages)
	r.given = given
	r.names, r.top = t.top, nil
	top := r.enter(t.top, nil)
	r.top = top
	r.statements(t.body, top)
	if c.ContinueLast {
		return cutAtMark(string(r.out), last)
	}
	return string(r.out), nil
}

var errEmpty = errors.New("a chat needs at least one message")

// continueMark is what the reference puts behind the message that is to be gone on with, to find its end in the text. A
// template that trims contents takes its blank away, and the text is trimmed then too.
const continueMark = "CONTINUE_FINAL_MESSAGE_TAG "

// mark puts the mark behind the last message's content, and returns the content.
func (t *Template) mark(messages *list) (string, error) {
	final := messages.items[len(messages.items)-1].(*dict)
	content := final.text("content")
	if content == nil || content == none {
		return "", errors.New("continue_final_message: the last message has no content to go on with")
	}
	if !strings.Contains(t.source, "content") {
		return "", errors.New("continue_final_message: the chat template uses no content")
	}
	if s, ok := content.(string); ok {
		final.set("content", s+continueMark)
		return s, nil
	}
	if blocks, ok := content.(*list); ok {
		for i := len(blocks.items) - 1; i >= 0; i-- {
			if block, ok := blocks.items[i].(*dict); ok {
				if s, ok := block.text("text").(string); ok {
					block.set("text", s+continueMark)
					return s, nil
				}
			}
		}
	}
	return "", errors.New("continue_final_message: the last message has no text to go on with")
}

func cutAtMark(text, content string) (string, error) {
	at := strings.LastIndex(text, strings.TrimSpace(continueMark))
	if at < 0 || !strings.Contains(text, strings.TrimFunc(content, isSpace)) {
		return "", errors.New("continue_final_message: the chat template leaves part of the last message out")
	}
	if strings.HasPrefix(text[at:], continueMark) {
		return text[:at], nil
	}
	return strings.TrimRightFunc(text[:at], isSpace), nil
}
