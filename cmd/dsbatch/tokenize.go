package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/tokenizer"
)

func tokenizeCommand() *cli.Command {
	return &cli.Command{
		Name: "tokenize", Usage: "turn texts into token ids, or back, a JSON object a line",
		Description: "Reads JSON Lines from standard input.\n" +
			"{\"text\": \"…\", \"special\": true} gives {\"ids\": [...]}; with --decode\n" +
			"{\"ids\": [...], \"skip_special\": false} gives {\"text\": \"…\"}. A line that cannot be used gives {\"error\": \"…\"},\n" +
			"as would set a row of dsbatch run aside: half of a surrogate pair (\\ud800), bytes that are not UTF-8, a key twice.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "`DIR` of the model whose tokenizer is used"},
			&cli.BoolFlag{Name: "decode", Usage: "ids to text"},
			&cli.BoolFlag{Name: "chat", Usage: "render messages by the model's chat template; not built yet"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageErrorf("dsbatch tokenize takes no argument, and got %q; texts come on standard input", c.Args().First())
			}
			if c.String("model") == "" {
				return usageErrorf("--model must be given")
			}
			if c.Bool("chat") {
				return usageErrorf("--chat: chat templates are not built yet; render the messages beforehand and give the text")
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

func encodeLine(t *tokenizer.Tokenizer, line []byte) (any, error) {
	var text *string
	special := true
	if err := read(line, []string{"text", "special"}, &text, &special); err != nil {
		return nil, err
	}
	if text == nil {
		return nil, fmt.Errorf("it has no text")
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
	return struct {
		Text string `json:"text"`
	}{t.Decode(ids, skip)}, nil
}

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
			return fmt.Errorf("%s: %w", names[i], err)
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
