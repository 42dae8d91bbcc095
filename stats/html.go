package stats

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed report.html.tmpl
var reportTemplate string

// page is what the template shows: the report with everything that has to be worked out.
type page struct {
	*Report
	Title   string
	Pill    string // class of the state
	Done    float64
	Tiles   []tile
	Panels  []panel
	Time    []tick
	Loading float64 // percent of the time axis

	Loop, Step []segment
	PhaseRows  []phaseRow
	RankBars   []rankBar
	RankNote   string

	Heat      heatmap
	RankSlots template.HTML
	RankEven  string
	RankWidth int // most CSS pixels

	Roofs   []roof
	Traffic []trafficRow

	Given, Defaults []Setting
}

type tile struct{ Name, Value, Unit, Note string }

// segment is a part of a stacked bar.
type segment struct {
	Class, Name, Title string
	Share              float64 // percent
	Seconds            string
	Percent            string
}

type phaseRow struct {
	Class, Name, Group, Mean, Share, Range string
	Bar                                    float64
}

type rankBar struct {
	Name  string
	Parts []segment
}

type roof struct {
	Name, Note string
	Meters     []meter
}

type meter struct {
	Name, Text string
	Share      float64
}

type trafficRow struct {
	Name, Value, Note string
	Share             float64
}

// writeHTML writes the report as one page that needs nothing else: no script, no font, no picture from elsewhere.
func (r *Report) writeHTML(w io.Writer) error {
	heat, err := newHeatmap(r.Layers)
	if err != nil {
		return fmt.Errorf("tokens per expert: %w", err)
	}
	p := page{Report: r, Title: title(&r.Job), Pill: string(r.State), Heat: heat}
	p.rows()
	p.series()
	p.phases()
	p.ranks()
	p.roofline()
	p.traffic()
	for _, s := range r.Settings {
		if s.Given {
			p.Given = append(p.Given, s)
		} else {
			p.Defaults = append(p.Defaults, s)
		}
	}
	t, err := template.New("report").Funcs(template.FuncMap{
		"count": count, "span": span, "size": size, "times": times, "percent": percent, "short": short, "words": strings.Fields, "palette": Palette,
		"pct": func(x float64) template.CSS { return template.CSS(fmt.Sprintf("%.3f%%", x)) },
	}).Parse(reportTemplate)
	if err != nil {
		return fmt.Errorf("the page's template: %w", err)
	}
	return t.Execute(w, &p)
}

func title(j *Job) string {
	name := strings.TrimRight(j.Model, "/")
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	if name == "" {
		name = "dsbatch"
	}
	return name
}

// rows makes the tiles on top.
func (p *page) rows() {
	finished := p.Rows.Kept + p.Rows.Done + p.Rows.Bad
	if p.Rows.Total > 0 {
		p.Done = min(100*float64(finished)/float64(p.Rows.Total), 100)
	}
	note := ""
	if p.Rows.Total > 0 {
		note = percent(p.Done/100) + " of " + count(p.Rows.Total)
	}
	if p.Rows.Kept > 0 {
		note += ", " + count(p.Rows.Kept) + " before"
	}
	p.Tiles = append(p.Tiles, tile{"Rows", count(finished), "", note})
	perRank := ""
	if n := len(p.Ranks); n > 1 {
		perRank = short(p.Rates.Output/float64(n)) + " a rank, "
	}
	output, prompt := p.Prefill.OutputTokens+p.Decode.OutputTokens, p.Prefill.PromptTokens+p.Decode.PromptTokens
	p.Tiles = append(p.Tiles, tile{"Output tokens", short(p.Rates.Output), "/ s", perRank + count(output) + " in all"})
	if perRank != "" {
		perRank = short(p.Rates.Prompt/float64(len(p.Ranks))) + " a rank, "
	}
	p.Tiles = append(p.Tiles, tile{"Prompt tokens", short(p.Rates.Prompt), "/ s", perRank + count(prompt) + " in all"})
	p.Tiles = append(p.Tiles, tile{"Time", span(p.Seconds), "", span(p.Rates.Load) + " of it loading"})
	if p.Rows.Bad > 0 {
		p.Tiles = append(p.Tiles, tile{"Bad rows", count(p.Rows.Bad), "", "set aside"})
	}
	worst := -1
	for i := range p.Layers {
		if worst < 0 || p.Layers[i].MaxMean > p.Layers[worst].MaxMean {
			worst = i
		}
	}
	if worst >= 0 && p.Layers[worst].Slots > 0 {
		p.Tiles = append(p.Tiles, tile{"Busiest expert", times(p.Layers[worst].MaxMean), "",
			fmt.Sprintf("the even share, in layer %d", p.Layers[worst].Layer.Layer)})
	}
	for _, k := range []struct {
		name string
		*KindOfStep
	}{{"Decode", &p.Decode}, {"Prefill", &p.Prefill}} {
		if k.Roofline != nil {
			p.Tiles = append(p.Tiles, tile{k.name, percent(k.Roofline.Fraction), "", "of the roofline"})
			break
		}
	}
}

// series makes the panels over time, of at most so many slices as are drawn.
func (p *page) series() {
	s := Series{Width: p.Series.Width}
	for i, x := range p.Series.Slices { // a copy, since folding changes it
		s.add(float64(i)*s.Width, float64(i)*s.Width, x)
	}
	for len(s.Slices) > drawn {
		s.fold()
	}
	axis := s.Width * float64(len(s.Slices))
	if axis == 0 {
		return
	}
	p.Time = timeTicks(axis)
	p.Loading = min(100*p.Rates.Load/axis, 100)
	pick := func(f func(Slice) float64) (values []float64, top float64) {
		for _, x := range s.Slices {
			v := f(x)
			values, top = append(values, v), max(top, v)
		}
		return values, top
	}
	output, topOutput := pick(func(x Slice) float64 { return x.Output / s.Width })
	prompt, topPrompt := pick(func(x Slice) float64 { return x.Prompt / s.Width })
	rows, topRows := pick(func(x Slice) float64 { return x.RowTime / s.Width })
	p.Panels = append(p.Panels,
		newPanel("Output tokens / s", fmt.Sprintf("mean %s, peak %s", short(p.Rates.Output), short(topOutput)), "c1", output, s.Width, 0, "output tokens / s"),
		newPanel("Prompt tokens / s", fmt.Sprintf("mean %s, peak %s", short(p.Rates.Prompt), short(topPrompt)), "c2", prompt, s.Width, 0, "prompt tokens / s"),
		newPanel("Rows in flight", "peak "+short(topRows), "c3", rows, s.Width, 0, "rows in flight"))
	blocks, peak := 0, 0
	for i := range p.Ranks {
		blocks += p.Ranks[i].KVBlocks
		peak = max(peak, p.Ranks[i].KVPeak)
	}
	if blocks > 0 {
		used, top := pick(func(x Slice) float64 { return 100 * x.KVBlocks / float64(blocks) })
		p.Panels = append(p.Panels, newPanel("KV memory in use, %",
			fmt.Sprintf("peak %s of %s blocks", percent(top/100), count(int64(blocks))), "c4", used, s.Width, 100, "% of the KV blocks"))
	}
}

// colours gives each phase its class, the same in every bar.
var colours = map[string]string{
	"prefill": "c1", "decode": "c2", "sample": "c3", "wait": "c5", "load": "c6",
	"attention": "c1", "dense": "c6", "route": "c3", "dispatch": "c4", "experts": "c2", "combine": "c5", "head": "c7",
}

// phases makes the two stacked bars and the table.
func (p *page) phases() {
	var loopTime, stepTime float64
	for _, t := range p.Phases {
		if t.Phase == Prefill.String() || t.Phase == Decode.String() {
			stepTime += t.Mean
		}
	}
	for i := range p.Ranks {
		loopTime += p.Ranks[i].Seconds / float64(len(p.Ranks))
	}
	whole := map[string]float64{string(loop): loopTime, string(inStep): stepTime, string(beside): loopTime}
	left := map[string]float64{string(loop): loopTime, string(inStep): stepTime}
	names := map[string]string{string(loop): "main loop", string(inStep): "in a step", string(beside): "beside"}
	for _, t := range p.Phases {
		left[t.Group] -= t.Mean
		p.PhaseRows = append(p.PhaseRows, phaseRow{
			Class: colours[t.Phase], Name: t.Phase, Group: names[t.Group], Mean: span(t.Mean), Share: share(t.Mean, whole[t.Group]),
			Range: span(t.Min) + " – " + span(t.Max), Bar: barOf(t.Mean, whole[t.Group]),
		})
		switch t.Group {
		case string(loop):
			p.Loop = append(p.Loop, newSegment(t.Phase, t.Mean, loopTime))
		case string(inStep):
			p.Step = append(p.Step, newSegment(t.Phase, t.Mean, stepTime))
		}
	}
	if rest := left[string(loop)]; rest > 0.001*loopTime && len(p.Loop) > 0 {
		p.Loop = append(p.Loop, newSegment("other", rest, loopTime))
	}
	if rest := left[string(inStep)]; rest > 0.001*stepTime && len(p.Step) > 0 {
		p.Step = append(p.Step, newSegment("other", rest, stepTime))
	}
}

func barOf(x, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(100*x/whole, 100)
}

func share(x, whole float64) string {
	if whole <= 0 {
		return "–"
	}
	return percent(x / whole)
}

func newSegment(name string, seconds, whole float64) segment {
	class := colours[name]
	if class == "" {
		class = "c0"
	}
	return segment{class, name, fmt.Sprintf("%s: %s, %s", name, span(seconds), share(seconds, whole)),
		barOf(seconds, whole), span(seconds), share(seconds, whole)}
}

// rankBars is how many ranks are drawn one by one.
const rankBars = 128

// ranks makes a bar a rank, and the columns of slots.
func (p *page) ranks() {
	all := p.Ranks
	if len(all) < 2 {
		return
	}
	longest := 0.0
	for i := range all {
		longest = max(longest, all[i].Seconds)
	}
	for i := range all[:min(len(all), rankBars)] {
		b := rankBar{Name: fmt.Sprintf("rank %d", all[i].Rank)}
		if host := all[i].Machine.Host; host != "" {
			b.Name += " on " + host
		}
		for ph := Load; ph <= Wait; ph++ {
			if t := all[i].Phases[ph.String()]; t > 0 {
				b.Parts = append(b.Parts, newSegment(ph.String(), t, longest))
			}
		}
		p.RankBars = append(p.RankBars, b)
	}
	if len(all) > rankBars {
		p.RankNote = fmt.Sprintf("The first %d of %d ranks are drawn; stats.json has all.", rankBars, len(all))
	}
	slots, most, sum := make([]float64, len(all)), 0.0, 0.0
	for i := range all {
		slots[i] = float64(all[i].Slots)
		most, sum = max(most, slots[i]), sum+slots[i]
	}
	if sum > 0 {
		mean := sum / float64(len(all))
		p.RankEven, p.RankWidth = times(most/mean), 44*len(all)
		p.RankSlots = columns(slots, func(i int) string {
			return fmt.Sprintf("rank %d: %s slots, %s the mean", all[i].Rank, count(all[i].Slots), times(slots[i]/mean))
		})
	}
}

// roofline makes the meters of prefill and decode.
func (p *page) roofline() {
	for _, k := range []struct {
		name string
		*KindOfStep
	}{{"Prefill", &p.Prefill}, {"Decode", &p.Decode}} {
		if k.Steps == 0 {
			continue
		}
		note := fmt.Sprintf("%s of %s, %s rows in flight", plural(k.Steps, "step"), span(k.Seconds/float64(k.Steps)),
			short(float64(k.Rows)/float64(k.Steps)))
		r := roof{Name: k.name, Note: note}
		if line := k.Roofline; line != nil {
			r.Meters = []meter{
				{"of the roofline", percent(line.Fraction), 100 * math.Min(line.Fraction, 1)},
				{"of the FLOP rate", percent(line.Compute) + ", " + quantity(k.FLOPs/k.Seconds, "FLOP/s a rank"), 100 * math.Min(line.Compute, 1)},
				{"of the memory bandwidth", percent(line.Memory) + ", " + quantity(k.Bytes/k.Seconds, "B/s a rank"), 100 * math.Min(line.Memory, 1)},
			}
			if line.Bus > 0 {
				r.Meters = append(r.Meters, meter{"of the bus to the GPU, for weights", percent(line.Bus) + ", " + quantity(k.Brought/k.Seconds, "B/s a rank"), 100 * math.Min(line.Bus, 1)})
			}
		}
		p.Roofs = append(p.Roofs, r)
	}
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// traffic makes the table of bytes.
func (p *page) traffic() {
	b := p.Bytes
	for _, x := range []struct {
		name string
		n    int64
		note string
	}{
		{"weights read", b.Weights, ""}, {"input read", b.Input, ""}, {"parts written", b.Output, ""},
		{"exchanged between ranks", b.WireSent, ""}, {"weights brought to GPUs", int64(p.Prefill.Brought + p.Decode.Brought), ""},
	} {
		if x.n == 0 {
			continue
		}
		row := trafficRow{Name: x.name, Value: size(x.n), Note: x.note}
		if p.Rates.Seconds > 0 && x.name != "weights read" {
			row.Note = quantity(float64(x.n)/p.Rates.Seconds, "B/s")
		}
		if x.name == "exchanged between ranks" {
			row.Note += fmt.Sprintf(", %s of it useful", percent(float64(b.WireUseful)/float64(b.WireSent)))
		}
		p.Traffic = append(p.Traffic, row)
	}
}
