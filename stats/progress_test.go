package stats

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// screen shows what a terminal would after these bytes: lines, with carriage returns and erased lines obeyed.
func screen(b []byte) []string {
	lines := []string{""}
	for _, part := range strings.SplitAfter(string(b), "\n") {
		for i, text := range strings.Split(strings.TrimSuffix(part, "\n"), clearLine) {
			if i > 0 {
				lines[len(lines)-1] = ""
			}
			lines[len(lines)-1] += text
		}
		if strings.HasSuffix(part, "\n") {
			lines = append(lines, "")
		}
	}
	return lines
}

func TestBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(ProgressOptions{Mode: "bar", Out: &out, Total: 10000, Kept: 2000})
		p.Stage("loading weights")
		time.Sleep(time.Second)
		p.Stage("")
		for i := range 40 {
			p.Set(Totals{Rows: int64(i+1) * 25, Prompt: int64(i+1) * 3000, Output: int64(i+1) * 800, Bad: 3})
			time.Sleep(drawEvery)
			synctest.Wait()
		}
		if _, err := io.WriteString(p.Above(), "a line of the log\n"); err != nil {
			t.Fatal(err)
		}
		p.Close()
		p.Close()
		got := screen(out.Bytes())
		if len(got) != 3 || got[0] != "a line of the log" || got[2] != "" {
			t.Fatalf("%q", got)
		}
		// 1000 rows in the 11 s of the window: 91/s, 7000 to go
		want := " 30 % ███████████▋░░░░░░░░░░░░░░░░░░░░░░░░░░ 3\u202f000 of 10\u202f000 rows"
		if !strings.HasPrefix(got[1], " 30 % ██") || !strings.Contains(got[1], "3\u202f000 of 10\u202f000 rows · 2.91\u202fk output/s · 1 min 17 s left") || len([]rune(got[1])) > 79 {
			t.Errorf("%q, want something like %q", got[1], want)
		}
		if !strings.Contains(out.String(), "loading weights …") {
			t.Errorf("no stage in %q", out.String())
		}
	})
}

// TestBarOfAStage: of a stage that a job ends in nothing stays on the terminal.
func TestBarOfAStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(ProgressOptions{Mode: "bar", Out: &out, Total: 10})
		p.Stage("finish")
		time.Sleep(2 * drawEvery)
		p.Close()
		if got := screen(out.Bytes()); !strings.Contains(out.String(), "finish …") || len(got) != 1 || got[0] != "" {
			t.Errorf("%q", got)
		}
	})
}

func TestLogLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}}))
		p := NewProgress(ProgressOptions{Mode: "auto", Out: &out, Log: log})
		p.Stage("loading weights")
		time.Sleep(logEvery + time.Second)
		p.Stage("")
		p.SetRows(1000, 0)
		p.Set(Totals{Rows: 60, Prompt: 30000, Output: 6000})
		time.Sleep(logEvery)
		p.Set(Totals{Rows: 60, Prompt: 30000, Output: 12000, Bad: 1})
		time.Sleep(logEvery)
		p.Close()
		want := `msg="loading weights"
msg=progress rows=60 of=1000 output_tokens_per_s=200 prompt_tokens_per_s=1000 left=15m40s
msg=progress rows=60 of=1000 output_tokens_per_s=200 prompt_tokens_per_s=0 bad=1 left=23m30s
`
		if out.String() != want {
			t.Errorf("got\n%s\nwant\n%s", out.String(), want)
		}
	})
}

func TestProgressOffAndNil(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(ProgressOptions{Mode: "off", Out: &out})
	p.Set(Totals{Rows: 1})
	p.Close()
	if out.Len() > 0 {
		t.Errorf("%q", out.String())
	}
	p = nil
	p.Set(Totals{})
	p.SetRows(1, 1)
	p.Stage("x")
	p.Close()
}

func TestLineFitsAnyWidth(t *testing.T) {
	p := &Progress{o: ProgressOptions{Total: 1_000_000_000}, totals: Totals{Rows: 999_999_999, Bad: 5}, samples: []sample{{}, {at: time.Time{}.Add(time.Second), Totals: Totals{Rows: 1, Output: 123456789, Prompt: 1e9}}}}
	for width := range 200 {
		if n := len([]rune(p.line(width))); n > max(width-1, 0) {
			t.Errorf("%d columns for a terminal of %d: %q", n, width, p.line(width))
		}
	}
	if line := p.line(120); !strings.HasPrefix(line, " 99 % ") {
		t.Errorf("not all rows are done, but %q", line)
	}
}
