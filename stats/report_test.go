package stats

import (
	"bytes"
	"encoding/xml"
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// pages leaves the sample pages in a folder, to be looked at: go test ./stats -run Pages -pages /tmp/pages
var pages = flag.String("pages", "", "write the sample reports into this folder")

func TestPages(t *testing.T) {
	for name, r := range samples() {
		var b bytes.Buffer
		if err := r.writeHTML(&b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		page := b.String()
		for _, wrong := range []string{"<script", "ZgotmplZ", "NaN", "+Inf", "%!", "http://", "https://", "<no value>", "-0 "} {
			if i := strings.Index(page, wrong); i >= 0 {
				t.Errorf("%s: holds %q: …%s…", name, wrong, page[max(i-60, 0):min(i+60, len(page))])
			}
		}
		if err := wellFormed(page); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(page) > 700<<10 {
			t.Errorf("%s: %d bytes", name, len(page))
		}
		t.Logf("%s: %d bytes", name, len(page))
		if *pages != "" {
			if err := os.WriteFile(filepath.Join(*pages, name+".html"), b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestMerge works a job of two ranks out by hand: the second begins 2 s after the first.
func TestMerge(t *testing.T) {
	start := time.Unix(100, 0)
	series := func(output, blocks float64) Series {
		return Series{Width: 1, Slices: []Slice{{Output: output, KVBlocks: blocks}}}
	}
	a := Snapshot{Rank: 0, Start: start, Seconds: 10, Rows: 6, Phases: map[string]float64{"load": 4, "decode": 5, "attention": 2}, Series: series(5, 3),
		Decode: Work{Steps: 5, Seconds: 5, OutputTokens: 30, Bound: 1, MemoryBound: 1}, Bad: []BadRows{{"null", 2, nil}}}
	b := Snapshot{Rank: 1, Start: start.Add(2 * time.Second), Seconds: 10, Rows: 4, Phases: map[string]float64{"load": 2, "decode": 7}, Series: series(7, 4),
		Decode: Work{Steps: 5, Seconds: 7, OutputTokens: 18, PromptTokens: 0, Bound: 2, ComputeBound: 2}}
	r := Merge(Job{State: Finished, RowsTotal: 20, RowsKept: 8}, []Snapshot{b, a})
	if want := (Rows{Total: 20, Kept: 8, Done: 10, Bad: 2}); r.Rows != want {
		t.Errorf("rows %+v, want %+v", r.Rows, want)
	}
	if want := (Rates{Seconds: 8, Load: 4, Output: 6, Rows: 1.25}); r.Rates != want || r.Seconds != 12 {
		t.Errorf("rates %+v of %v s, want %+v of 12 s", r.Rates, r.Seconds, want)
	}
	want := []PhaseTime{{"load", "loop", 3, 2, 4}, {"decode", "loop", 6, 5, 7}, {"attention", "step", 1, 0, 2}}
	if !slices.Equal(r.Phases, want) {
		t.Errorf("phases %v, want %v", r.Phases, want)
	}
	if line := (Roofline{0.25, 2.0 / 12, 1.0 / 12, 0}); r.Decode.Roofline == nil || *r.Decode.Roofline != line || r.Prefill.Roofline != nil {
		t.Errorf("rooflines %v and %v, want %v and none", r.Decode.Roofline, r.Prefill.Roofline, line)
	}
	for i, x := range r.Series.Slices {
		at, wantOutput, wantBlocks := float64(i)*r.Series.Width, 0.0, 0.0
		switch {
		case at < 1:
			wantOutput, wantBlocks = 5*r.Series.Width, 3
		case at >= 2 && at < 3:
			wantOutput, wantBlocks = 7*r.Series.Width, 4
		}
		if math.Abs(x.Output-wantOutput) > 1e-6 || x.KVBlocks != wantBlocks {
			t.Fatalf("at %v s: %+v, want output %v, blocks %v", at, x, wantOutput, wantBlocks)
		}
	}
	both := Merge(Job{}, []Snapshot{a, a})
	if got := both.Series.Slices[0].KVBlocks; got != 6 {
		t.Errorf("two ranks hold %v blocks, want 6", got)
	}
	page := text(t, &r)
	for _, want := range []string{"Rows 20 100 % of 20, 8 before", "load 30 %", "decode 60 %", "other 10 %", "attention 17 %", "other 83 %", "2 rows set aside", "25 % of the roofline", "rank 0 rank 1", "8.3 %, 0 B/s a rank"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
}

// text is what a reader sees of a page, in words.
func text(t *testing.T, r *Report) string {
	var b bytes.Buffer
	if err := r.writeHTML(&b); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(b.String(), "<body>")
	plain := regexp.MustCompile(`<title>[^<]*</title>|<[^>]*>`).ReplaceAllString(body, " ")
	return strings.Join(strings.Fields(plain), " ")
}

// wellFormed finds tags that do not match.
func wellFormed(page string) error {
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta", "img", "br"}, xml.HTMLEntity
	for {
		if _, err := d.Token(); err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return err
		}
	}
}
