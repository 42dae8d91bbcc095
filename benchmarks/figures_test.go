package benchmarks

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/engine"
)

// tinyFigures is a model of which all bars are measured in a moment.
func tinyFigures() figureModel {
	return figureModel{"tiny", "a tiny model", Shape{Family: DSMoE, Hidden: 32, Layers: 6, Heads: 2, Experts: 8, Active: 1, FFN: 64, Vocab: 96, Window: 64}, 3, 5, 4, 3}
}

// TestFiguresMeasured: what the bars' rows became is equal to the last bit wherever promise 1 says so: plain operations apart
// and with shared experts, and any way on one rank and on two, as far as the rows are the same. Speed is the machine's affair.
func TestFiguresMeasured(t *testing.T) {
	set, err := Figures(t.Context(), FiguresOptions{Device: "cpu", Ranks: []int{2, 1}, Rounds: 2, Only: []string{"inference", "prmoe"}, cores: 2, model: tinyFigures()})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Plates) != 2 || !strings.Contains(set.Machine.Device, "cpu") {
		t.Fatalf("%d figures, device %q", len(set.Plates), set.Machine.Device)
	}
	for _, p := range set.Plates {
		want := map[string]int{"inference": 2 * 3, "prmoe": 2 * 2 * 3}[p.Name]
		if len(p.Points) != want {
			t.Fatalf("%s has %d bars, want %d", p.Name, len(p.Points), want)
		}
		firsts := map[string]string{} // what rank 0's rows became
		for _, x := range p.Points {
			if len(x.Throughput.Rounds) != 2 || x.Throughput.Value <= 0 || len(x.Latency.Rounds) != 2 || x.Latency.Value <= 0 || x.Weights <= 0 {
				t.Errorf("%s, %s: %+v, %+v", x.Group, x.Bar, x.Throughput, x.Latency)
			}
			if len(x.Outputs) != x.Ranks || x.BusiestExpert < 1 || x.BusiestRank < 1 {
				t.Errorf("%s, %s: %+v", x.Group, x.Bar, x)
			}
			if travels := x.Ranks > 1 && x.Bar != "baseline"; travels != (x.Sent > 0) || x.Useful > x.Sent {
				t.Errorf("%s, %s: %v bytes a token sent, %v useful", x.Group, x.Bar, x.Sent, x.Useful)
			}
			ops := map[string]string{"baseline": "plain", "generic": "plain", "specialised": "fused"}[x.Bar]
			key := fmt.Sprintf("%s operations, %s, %d rows", ops, x.Model, x.Rows)
			if first, known := firsts[key]; known && first != x.Outputs[0] {
				t.Errorf("%s, %s: the rows became others than before by %s", x.Group, x.Bar, key)
			}
			firsts[key] = x.Outputs[0]
		}
	}
	if all := set.Plates[1].Points; all[0].Outputs[0] == all[3].Outputs[0] {
		t.Errorf("%s and %s gave the same: nothing is compared", all[0].Group, all[3].Group)
	}
	two := set.Plates[0].Points[3:]
	if two[0].Group != "2 ranks" || !slices.Equal(two[0].Outputs, two[1].Outputs) || two[0].Outputs[0] == two[0].Outputs[1] {
		t.Errorf("apart %v, together %v", two[0].Outputs, two[1].Outputs)
	}
	if two[0].Weights <= two[1].Weights {
		t.Errorf("a rank with all experts holds %v bytes, one with its share %v", two[0].Weights, two[1].Weights)
	}
	folder := t.TempDir()
	if err := set.Write(folder); err != nil {
		t.Fatal(err)
	}
	textsOf(t, filepath.Join(folder, "figures.html"))
}

// TestFiguresModelled: the planner foresees the tutorial's model without a weight of it; every bar is marked as not run.
func TestFiguresModelled(t *testing.T) {
	set, err := Figures(t.Context(), FiguresOptions{Device: "cpu", Only: []string{"modelled"}})
	if err != nil {
		t.Fatal(err)
	}
	p := set.Plates[0]
	if len(p.Points) != 2*len(modelledRanks) {
		t.Fatalf("%d bars: %+v, left out %v", len(p.Points), p.Points, set.LeftOut)
	}
	for i, x := range p.Points {
		if !x.Modelled || x.Ranks != modelledRanks[i/2] || x.Throughput.Value <= 0 || x.share(x.Throughput) != "modelled" {
			t.Errorf("%+v", x)
		}
		if i >= 2 && x.Throughput.Value <= p.Points[i-2].Throughput.Value {
			t.Errorf("%s on %d GPUs is predicted no faster than on fewer", x.Model, x.Ranks)
		}
		// A GPU of 64 holds 2 experts in each of 12 layers; of a PR-MoE 1 in 10 and 2 in two, and 12 dense branches of their size.
		if fewer := x.Ranks < 64; i%2 == 1 && fewer != (x.Weights < p.Points[i-1].Weights) {
			t.Errorf("%d GPUs: PR-MoE holds %v bytes, the standard model %v", x.Ranks, x.Weights, p.Points[i-1].Weights)
		}
	}
}

// TestFiguresDrawnAgain: a stored figures.json becomes the same file again, with pictures and a page that are XML and say
// every bar's value and share.
func TestFiguresDrawnAgain(t *testing.T) {
	const stored = "testdata/figures.json"
	set, err := ReadFigures(stored)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "new", "folder")
	if err := PrepareFigures(folder); err != nil {
		t.Fatal(err)
	}
	if err := set.Write(folder); err != nil {
		t.Fatal(err)
	}
	if was, is := values(t, stored), values(t, filepath.Join(folder, "figures.json")); was != is {
		t.Errorf("figures.json is\n%s\nand was\n%s", is, was)
	}
	picture := textsOf(t, filepath.Join(folder, "inference.svg"))
	for _, want := range []string{"27.4\n84 %", "56.5\n4.0 %", "13.1\nmodelled", "292\n84 %", "64 GPUs", "specialised, modelled", "specialised, MoE-Standard, 1 GPU: 27.4 ms, 84 % of what the machine allows by bytes"} {
		if !strings.Contains(picture, want) {
			t.Errorf("inference.svg lacks %q:\n%s", want, picture)
		}
	}
	page := textsOf(t, filepath.Join(folder, "figures.html"))
	for _, want := range []string{"a <made-up> machine", "no mpirun", "1.25, 1.10 × the mean", "2048, 75 % useful", "as baseline on 1", "modelled: 100 %", "27.4 (29 – 26)"} {
		if !strings.Contains(page, want) {
			t.Errorf("figures.html lacks %q:\n%s", want, page)
		}
	}
	if err := PrepareFigures(folder); err != nil {
		t.Errorf("the folder of an earlier run: %v", err)
	}
}

// values are those of a JSON file, in one form.
func values(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var x any
	if err := json.Unmarshal(text, &x); err != nil {
		t.Fatal(err)
	}
	if text, err = json.MarshalIndent(x, "", " "); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// textsOf gives the texts of an XML file, a line each.
func textsOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var texts []string
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return strings.Join(texts, "\n")
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if text, ok := token.(xml.CharData); ok && strings.TrimSpace(string(text)) != "" {
			texts = append(texts, strings.TrimSpace(string(text)))
		}
	}
}

func TestFiguresRefused(t *testing.T) {
	odd := figureModel{name: "odd", shape: Shape{Family: DSMoE, Experts: 6}}
	for want, o := range map[string]FiguresOptions{
		"no such figure":            {Device: "cpu", Only: []string{"inference", "infrence"}},
		"these are known: small":    {Device: "cpu", Shape: "1b"},
		"--ranks 4096: this host":   {Device: "cpu", Ranks: []int{1, 4096}},
		"--ranks 0: this host has ": {Device: "cpu", Ranks: []int{0}},
		"measured on cpu or cuda":   {Device: "tpu"},
		"cannot be shared evenly":   {Device: "cpu", Ranks: []int{2}, cores: 2, model: odd},
	} {
		var wrong *FiguresError
		if _, err := Figures(t.Context(), o); !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	if err := (FiguresOptions{Device: "cuda"}).Check(); err != nil && !errors.Is(err, engine.ErrRefused) { // nil: there is a GPU
		t.Errorf("no GPU: %v", err)
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := PrepareFigures(folder); err == nil || !strings.Contains(err.Error(), "give a new folder") {
		t.Errorf("a folder of other things: %v", err)
	}
	for content, want := range map[string]string{
		"{":             "holds no figures",
		`{"format": 9}`: "format is 9",
		`{"format": 1, "figures": [{"name": "../x"}]}`:                                      "names no file",
		`{"format": 1, "figures": [{"name": "x", "quantities": ["speed"]}]}`:                `"speed" is not known`,
		`{"format": 1, "figures": [{"name": "x", "points": [{"group": "1", "bar": "a"}]}]}`: "has no throughput",
	} {
		path := filepath.Join(t.TempDir(), "figures.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFigures(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", content, err, want)
		}
	}
}
