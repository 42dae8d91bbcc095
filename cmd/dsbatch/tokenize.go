package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/io/chat"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/tokenizer"
)

func tokenizeCommand() *cli.Command {
	return &cli.Command{
		Name: "tokenize", Usage: "turn texts into token ids, or back, or chats into texts, a JSON object a line",
		Description: "Reads JSON Lines from standard input.\n" +
			"{\"text\": \"…\", \"special\": true} gives {\"ids\": [...]}, and with a second text, \"pair\": \"…\",\n" +
			"{\"ids\": [...], \"types\": [...]} of the two as run --pair-column reads them; with --decode\n" +
			"{\"ids\": [...], \"skip_special\": false} gives {\"text\": \"…\"}, and \"unknown\": [...] where ids are none\n" +
			"of the vocabulary and left out; with --chat {\"messages\": [{\"role\": \"user\",\n" +
			"\"content\": \"…\"}], \"add_generation_prompt\": true, \"tools\": […], \"continue_final_message\": false,\n" +
			"\"now\": \"2025-07-06T14:05:09\"} and any other variables of the chat template give {\"text\": \"…\"}. A line that cannot be used gives {\"error\": \"…\"},\n" +
			"as would set a row of dsbatch run aside: half of a surrogate pair (\\ud800), bytes that are not UTF-8, a key twice.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "`DIR` of the model whose tokenizer is used"},
			&cli.BoolFlag{Name: "decode", Usage: "ids to text"},
			&cli.BoolFlag{Name: "chat", Usage: "render messages by the model's chat template"},
			&cli.StringFlag{Name: "chat-template", Usage: "`FILE` with the chat template to use in place of the model folder's"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageErrorf("dsbatch tokenize takes no argument, and got %q; texts come on standard input", c.Args().First())
			}
			if c.String("model") == "" {
				return usageErrorf("--model must be given")
			}
			switch {
			case c.Bool("chat") && c.Bool("decode"):
				return usageErrorf("--chat makes texts of messages, --decode texts of ids; give one of them")
			case c.Bool("chat"):
				return renderLines(c)
			case c.IsSet("chat-template"):
				return usageErrorf("--chat-template is for chats; add --chat, or leave it out")
			}
			t, err := tokenizer.Load(c.String("model"))
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; give the model's folder with --model", err)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", engine.ErrRefused, err)
			}
			line := encodeLine
			if c.Bool("decode") {
				line = decodeLine
			}
			return eachLine(c.App.Reader, c.App.Writer, func(in []byte) (any, error) { return line(t, in) })
		},
	}
}

// renderLines answers chats with their texts.
func renderLines(c *cli.Context) error {
	templates, err := chat.Load(c.String("model"), c.String("chat-template"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case errors.Is(err, chat.ErrMissing):
		return fmt.Errorf("%w: %w; put the template of its family there, or name it with --chat-template", engine.ErrRefused, err)
	case err != nil:
		return fmt.Errorf("%w: %w", engine.ErrRefused, err)
	}
	return eachLine(c.App.Reader, c.App.Writer, func(line []byte) (any, error) { return renderLine(templates, line) })
}

func renderLine(templates *chat.Templates, line []byte) (any, error) {
	fields, err := dataset.Fields(line)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var variables []chat.Variable
	for _, f := range fields {
		if f.Name != "now" {
			variables = append(variables, chat.Variable{Name: f.Name, Value: f.Value})
			continue
		}
		var s string
		if json.Unmarshal(f.Value, &s) == nil {
			now, err = time.Parse("2006-01-02T15:04:05", s)
		}
		if s == "" || err != nil {
			return nil, fmt.Errorf("now: %s is no time; write it as \"2025-07-06T14:05:09\"", f.Value)
		}
	}
	text, err := templates.RenderWith(variables, chat.Chat{Now: now})
	return struct {
		Text string `json:"text"`
	}{text}, err
}

func encodeLine(t *tokenizer.Tokenizer, line []byte) (any, error) {
	var text, pair *string
	special := true
	if err := read(line, []string{"text", "special", "pair"}, &text, &special, &pair); err != nil {
		return nil, err
	}
	switch {
	case text == nil:
		return nil, fmt.Errorf("it has no text")
	case pair != nil && !special:
		return nil, fmt.Errorf("special is false, and special tokens are what joins a pair; leave one of the two out")
	case pair != nil:
		ids, types, err := t.EncodePair(*text, *pair)
		return struct {
			IDs   []int32 `json:"ids"`
			Types []int32 `json:"types"`
		}{ids, types}, err
	}
	ids, err := t.Encode(*text, special)
	if ids == nil {
		ids = []int32{}
	}
	return struct {
		IDs []int32 `json:"ids"`
	}{ids}, err
}

func decodeLine(t *tokenizer.Tokenizer, line []byte) (any, error) {
	var ids []int32
	skip := false
	if err := read(line, []string{"ids", "skip_special"}, &ids, &skip); err != nil {
		return nil, err
	}
	var unknown []int32
	for _, id := range ids {
		if _, known := t.Token(id); !known && !slices.Contains(unknown, id) {
			unknown = append(unknown, id)
		}
	}
	return struct {
		Text    string  `json:"text"`
		Unknown []int32 `json:"unknown,omitempty"`
	}{t.Decode(ids, skip), unknown}, nil
}

// lineTypes says what the values of a line are.
var lineTypes = map[string]string{"text": "a text", "pair": "a text", "special": "true or false", "ids": "a list of token ids", "skip_special": "true or false"}

// read gives each name's value to its place, where the line has one. What sets a row of dsbatch run aside is an error.
func read(line []byte, names []string, places ...any) error {
	values, err := dataset.Values(line, names...)
	if err != nil {
		return err
	}
	for i, v := range values {
		if v == nil {
			continue
		}
		if err := json.Unmarshal(v, places[i]); err != nil {
			return fmt.Errorf("%s is not %s", names[i], lineTypes[names[i]])
		}
	}
	return nil
}

// eachLine answers each line of r with one of w.
func eachLine(r io.Reader, w io.Writer, answer func([]byte) (any, error)) error {
	in, out := bufio.NewReader(r), bufio.NewWriter(w)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			v, wrong := answer(line)
			if wrong != nil {
				v = struct {
					Error string `json:"error"`
				}{wrong.Error()}
			}
			if err := encoder.Encode(v); err != nil {
				return err
			}
			if in.Buffered() == 0 { // somebody may wait for the answer
				if err := out.Flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return out.Flush()
		} else if err != nil {
			return err
		}
	}
}
