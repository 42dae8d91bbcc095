package stats

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

// drawnBar is a bar as a reader of the picture finds it.
type drawnBar struct {
	height         float64
	hatched        bool
	title, pattern string
}

// readBars parses a picture: its bars, all its texts, and the names of its patterns.
func readBars(t *testing.T, svg string) (bars []drawnBar, texts []string, patterns map[string]bool) {
	t.Helper()
	patterns = map[string]bool{}
	d := xml.NewDecoder(strings.NewReader(svg))
	var text strings.Builder
	bar := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return bars, texts, patterns
		} else if err != nil {
			t.Fatalf("no XML: %v\n%s", err, svg)
		}
		switch x := token.(type) {
		case xml.StartElement:
			a := map[string]string{}
			for _, at := range x.Attr {
				a[at.Name.Local] = at.Value
			}
			switch x.Name.Local {
			case "text", "title":
				text.Reset()
			case "pattern":
				patterns[a["id"]] = true
			case "rect":
				if bar = strings.HasPrefix(a["class"], "bar"); bar {
					height, err := strconv.ParseFloat(a["height"], 64)
					if err != nil {
						t.Fatal(err)
					}
					_, pattern, _ := strings.Cut(a["style"], "url(#")
					bars = append(bars, drawnBar{height: height, hatched: strings.Contains(a["class"], "modelled"), pattern: strings.TrimSuffix(pattern, ")")})
				}
			}
		case xml.CharData:
			text.Write(x)
		case xml.EndElement:
			switch {
			case x.Name.Local == "title" && bar:
				bars[len(bars)-1].title = text.String()
			case x.Name.Local == "text":
				texts = append(texts, text.String())
			}
		}
	}
}

// TestBarChart: heights are as the values are, modelled bars are hatched by a pattern that exists, every bar has its value and
// its label beside it, and the picture needs nothing else.
func TestBarChart(t *testing.T) {
	c := BarChart{Name: "example", Title: "a < b & \"c\"", Series: []BarSeries{{"plain", 0}, {"fused", 1}}, Panels: []BarPanel{
		{Title: "Throughput", Unit: "rows/s", Groups: []BarGroup{
			{Name: "1 rank", Bars: []Bar{{Series: 0, Value: 12.5, Low: 11, High: 19, Label: "3.1 %", Title: "first <bar>"}, {Series: 1, Value: 100, Label: "80 %", Title: "second"}}},
			{Name: "8 ranks", Bars: []Bar{{Series: 1, Value: 800, Label: "modelled", Title: "third", Modelled: true}, {Series: 0, Label: "–", Title: "nothing"}}},
		}},
		{Title: "Latency", Unit: "ms", Groups: []BarGroup{{Name: "1 rank", Bars: []Bar{{Series: 1, Value: 0.004, Label: "7 %", Title: "fourth"}}}}},
	}}
	svg := c.SVG()
	bars, texts, patterns := readBars(t, svg)
	first, second := c.Panels[0].Groups[0].Bars, c.Panels[0].Groups[1].Bars
	want := []Bar{first[0], first[1], second[0], second[1], c.Panels[1].Groups[0].Bars[0]}
	if len(bars) != len(want) {
		t.Fatalf("%d bars, want %d", len(bars), len(want))
	}
	all := strings.Join(texts, "\n")
	for i, bar := range want {
		got := bars[i]
		if i < 4 && math.Abs(got.height-bar.Value*bars[1].height/100) > 0.01 {
			t.Errorf("%s: %v high, and 100 is %v", bar.Title, got.height, bars[1].height)
		}
		if got.title != bar.Title || got.hatched != bar.Modelled || got.hatched != patterns[got.pattern] {
			t.Errorf("%+v is drawn as %+v; patterns %v", bar, got, patterns)
		}
		if !strings.Contains(all, short(bar.Value)+"\n"+bar.Label) {
			t.Errorf("%s: %s and %q do not stand together in %q", bar.Title, short(bar.Value), bar.Label, texts)
		}
	}
	for _, text := range []string{"a < b & \"c\"", "Throughput, rows/s", "Latency, ms", "8 ranks", "fused, modelled"} {
		if !strings.Contains(all, text) {
			t.Errorf("%q is not in the picture: %q", text, texts)
		}
	}
	if n := strings.Count(svg, `class="whisker"`); n != 1 {
		t.Errorf("%d whiskers, want one", n)
	}
	alone := strings.NewReplacer("http://www.w3.org/2000/svg", "", "url(#example-hatch-", "").Replace(svg)
	for _, outside := range []string{"http:", "https:", "url("} {
		if strings.Contains(alone, outside) {
			t.Errorf("the picture needs something else: %s", outside)
		}
	}
	if fmt.Sprint(patterns) != "map[example-hatch-0:true example-hatch-1:true]" {
		t.Errorf("patterns %v", patterns)
	}
}
