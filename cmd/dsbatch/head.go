package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/io/results"
)

func headCommand() *cli.Command {
	return &cli.Command{
		Name: "head", ArgsUsage: "OUTPUT", Usage: "show the first rows of an output, also while its job runs",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "rows", Aliases: []string{"n"}, Value: 10, Usage: "how many `ROWS`"},
			&cli.BoolFlag{Name: "bad", Usage: "the rows that were set aside, and why, in place of the first ones"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object a line, values whole"},
		},
		Action: func(c *cli.Context) error {
			if n := c.Int("rows"); n < 1 {
				return usageErrorf("--rows %d is out of range; use a number at least 1", n)
			}
			dir, err := outputArgument(c)
			if err != nil {
				return err
			}
			read, none := results.Head, "holds no committed row"
			if c.Bool("bad") {
				read, none = results.SetAside, "holds no row that was set aside"
			}
			rows, err := read(c.Context, dir, c.Int("rows"))
			if err != nil {
				return err
			}
			if len(rows.Values) == 0 {
				fmt.Fprintf(c.App.ErrWriter, "dsbatch: %s %s\n", dir, none)
			}
			if c.Bool("json") {
				return headJSON(c.App.Writer, rows)
			}
			headText(c.App.Writer, rows)
			return nil
		},
	}
}

// onlyArgument is the one positional argument of a command.
func onlyArgument(c *cli.Context, what string) (string, error) {
	if c.Args().Len() != 1 {
		return "", usageErrorf("%s takes one %s, and got %d arguments", c.Command.HelpName, what, c.Args().Len())
	}
	if c.Args().First() == "" {
		return "", usageErrorf("%s takes one %s, and got an empty one; is a variable not set?", c.Command.HelpName, what)
	}
	return c.Args().First(), nil
}

// outputArgument is the one positional argument of a command that reads an output, which must be one.
func outputArgument(c *cli.Context) (string, error) {
	dir, err := onlyArgument(c, "OUTPUT")
	if err == nil {
		err = isOutput(dir)
	}
	return dir, err
}

// isOutput tells whether a job has begun to write to dir; where none has, the error wraps fs.ErrNotExist.
func isOutput(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "_dsbatch", "job.json"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return noOutputError(dir)
	}
	return err
}

// noOutputError is the path of what was given for an output.
type noOutputError string

func (e noOutputError) Error() string {
	if _, err := os.Stat(string(e)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("%s: no such folder; give the --output of a dsbatch run", string(e))
	}
	return fmt.Sprintf("%s is no output of dsbatch run: it has no _dsbatch/job.json", string(e))
}

func (e noOutputError) Unwrap() error { return fs.ErrNotExist }

func headJSON(w io.Writer, rows results.Rows) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, values := range rows.Values {
		object := make(map[string]any, len(values))
		for i, v := range values {
			object[rows.Columns[i]] = v
		}
		if err := encoder.Encode(object); err != nil {
			return err
		}
	}
	return nil
}

// longestValue is how much of a value a terminal is shown.
const longestValue = 300

// headText shows a row as a paragraph: its number, the text, and the short values in one line below.
func headText(w io.Writer, rows results.Rows) {
	for _, values := range rows.Values {
		var short []string
		for i, v := range values {
			text := shown(v)
			if rows.Columns[i] == "predictions" && v != nil {
				text = shownPredictions(v)
			}
			switch name := rows.Columns[i]; {
			case i == 0:
				fmt.Fprintf(w, "%s %s", name, text)
			case v == nil || name == "output_ids":
			case name == "output" || name == "error" || name == "predictions":
				fmt.Fprintf(w, "  %s", text)
			default:
				short = append(short, name+" "+text)
			}
		}
		fmt.Fprintln(w)
		if len(short) > 0 { // a row set aside has none
			fmt.Fprintf(w, "    %s\n", strings.Join(short, ", "))
		}
	}
}

// shownPredictions is the candidates for each mask in a few words: 4: Paris 0.91, Lyon 0.02; 9: … A token that has no text
// is shown by its id.
func shownPredictions(v any) string {
	var list []struct {
		Position    int
		TokenID     int `json:"token_id"`
		Token       *string
		Probability float64
	}
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	for i, p := range list {
		switch {
		case i == 0:
			fmt.Fprintf(&text, "%d: ", p.Position)
		case p.Position != list[i-1].Position:
			fmt.Fprintf(&text, "; %d: ", p.Position)
		default:
			text.WriteString(", ")
		}
		name := fmt.Sprint("id ", p.TokenID)
		if p.Token != nil {
			name = *p.Token
		}
		fmt.Fprintf(&text, "%s %.3g", name, p.Probability)
	}
	return shown(text.String())
}

// oneLine shows what a terminal would obey instead.
var oneLine = strings.NewReplacer("\n", "⏎", "\t", "⇥", "\r", "␍", "\x1b", "␛")

// shown is a value on one line, cut where it is long.
func shown(v any) string {
	text, ok := v.(string)
	if !ok {
		data, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		text = string(data)
	}
	return clip(oneLine.Replace(text), longestValue)
}

// clip cuts a text that has more characters than most.
func clip(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
