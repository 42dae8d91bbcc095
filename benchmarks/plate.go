package benchmarks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/stats"
)

// Plate is one figure: points in groups, drawn as bars.
type Plate struct {
	Name       string     `json:"name"` // of its file, without the ending
	Title      string     `json:"title"`
	Caption    string     `json:"caption"` // what has to be known to read it
	Quantities []Quantity `json:"quantities"`
	Points     []Point    `json:"points"`
}

// Quantity is what a bar's height says.
type Quantity string

// The quantities of figures.
const (
	Latency    Quantity = "latency"    // of a token: the time of a decode step
	Throughput Quantity = "throughput" // generated tokens a second, all ranks together
)

// Point is one bar of each of a figure's quantities.
type Point struct {
	Group    string `json:"group"` // points that are compared first of all
	Bar      string `json:"bar"`
	Model    string `json:"model"`
	Modelled bool   `json:"modelled,omitempty"` // by the planner, not run
	Ranks    int    `json:"ranks"`
	Rows     int    `json:"rows"` // of a rank

	Latency    *Figure `json:"latency,omitempty"`
	Throughput *Figure `json:"throughput,omitempty"`

	Weights       float64  `json:"weights,omitempty"`        // bytes, of the rank that holds most
	Useful        float64  `json:"wire_useful,omitempty"`    // bytes between ranks for a token through the model, prompts' too
	Sent          float64  `json:"wire_sent,omitempty"`      // and what was sent for them
	Exchange      float64  `json:"exchange,omitempty"`       // share of a step's time in dispatch and combine, waiting included
	BusiestExpert float64  `json:"busiest_expert,omitempty"` // its tokens over the mean of its layer's
	BusiestRank   float64  `json:"busiest_rank,omitempty"`   // rows that its experts computed, over the mean
	Outputs       []string `json:"outputs,omitempty"`        // a digest a rank of what its rows became, to the last bit
}

func (p *Point) of(q Quantity) *Figure {
	if q == Latency {
		return p.Latency
	}
	return p.Throughput
}

// sort brings points in the order of their ranks, those of a group together.
func (p *Plate) sort() {
	slices.SortStableFunc(p.Points, func(a, b Point) int { return a.Ranks - b.Ranks })
}

// barColours are the same in all figures; 0 is what the others are compared with.
var barColours = map[string]int{"generic": 3, "specialised": 1, "one job": 1, "MoE-Standard": 1, "PR-MoE": 2}

// chart is the figure as bars.
func (p *Plate) chart() *stats.BarChart {
	c := &stats.BarChart{Name: p.Name, Title: p.Title}
	seriesOf := func(bar string) int {
		return slices.IndexFunc(c.Series, func(s stats.BarSeries) bool { return s.Name == bar })
	}
	for i := range p.Points {
		if bar := p.Points[i].Bar; seriesOf(bar) < 0 {
			c.Series = append(c.Series, stats.BarSeries{Name: bar, Colour: barColours[bar]})
		}
	}
	for _, q := range p.Quantities {
		panel := stats.BarPanel{Title: "Throughput, more is better", Unit: "tokens a second, all ranks together; under it the share of the roofline"}
		switch {
		case q == Latency:
			panel = stats.BarPanel{Title: "Latency of a token, less is better", Unit: "ms, a decode step; under it the share of the roofline"}
		case p.Name == scalingPlate:
			panel.Unit = "tokens a second, all ranks together; under it the share of as many times one rank"
		}
		for i := range p.Points {
			x := &p.Points[i]
			f := x.of(q)
			if f == nil {
				continue
			}
			if n := len(panel.Groups); n == 0 || panel.Groups[n-1].Name != x.Group {
				panel.Groups = append(panel.Groups, stats.BarGroup{Name: x.Group})
			}
			g := &panel.Groups[len(panel.Groups)-1]
			bar := stats.Bar{Series: seriesOf(x.Bar), Value: f.Value, Label: x.share(f), Modelled: x.Modelled}
			if len(f.Rounds) > 1 {
				bar.Low, bar.High = min(f.Best, f.Worst), max(f.Best, f.Worst)
			}
			bar.Title = fmt.Sprintf("%s, %s, %s: %s %s, %s", x.Bar, x.Model, x.Group, number(f.Value), f.Unit, x.shareSays(f))
			g.Bars = append(g.Bars, bar)
		}
		c.Panels = append(c.Panels, panel)
	}
	return c
}

// share is what stands under a bar's value.
func (p *Point) share(f *Figure) string {
	switch {
	case p.Modelled:
		return "modelled"
	case f.Fraction == 0:
		return "–"
	case f.Fraction < 0.095:
		return fmt.Sprintf("%.1f %%", 100*f.Fraction)
	}
	return fmt.Sprintf("%.0f %%", 100*f.Fraction)
}

func (p *Point) shareSays(f *Figure) string {
	switch {
	case p.Modelled:
		return "modelled: the roofline itself"
	case f.Fraction == 0:
		return "of no measured bound"
	}
	return p.share(f) + " of what the machine allows " + f.By
}

// columns are the headings of a figure's table.
var columns = []string{"", "", "latency, ms (worst – best)", "tokens/s (worst – best)", "of the roofline", "weights of a rank", "wire, bytes a token", "exchange, of a step", "busiest expert, rank", "output"}

// rows are the cells of a figure's table.
func (p *Plate) rows() (rows [][]string) {
	for i := range p.Points {
		x := &p.Points[i]
		row := []string{x.Group, x.Bar}
		for _, q := range []Quantity{Latency, Throughput} {
			value := "–"
			if f := x.of(q); f != nil {
				if value = number(f.Value); len(f.Rounds) > 1 {
					value += " (" + number(f.Worst) + " – " + number(f.Best) + ")"
				}
			}
			row = append(row, value)
		}
		share := "modelled: 100 %"
		if !x.Modelled {
			if share = x.share(x.Throughput); x.Throughput.By != "" {
				share += " " + x.Throughput.By
			}
		}
		row = append(row, share, quantity(x.Weights/1e6, "%s MB"), x.wire(), quantity(100*x.Exchange, "%s %%"), x.busiest(), p.sameAs(x))
		rows = append(rows, row)
	}
	return rows
}

func quantity(x float64, format string) string {
	if x == 0 {
		return "–"
	}
	return fmt.Sprintf(format, number(x))
}

func (p *Point) wire() string {
	if p.Sent == 0 {
		return "–"
	}
	return fmt.Sprintf("%s, %.0f %% useful", number(p.Sent), 100*p.Useful/p.Sent)
}

func (p *Point) busiest() string {
	if p.BusiestExpert == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f, %.2f × the mean", p.BusiestExpert, p.BusiestRank)
}

// sameAs tells with which earlier bars of the figure a point's outputs are equal, as far as both had the same rows.
func (p *Plate) sameAs(x *Point) string {
	if len(x.Outputs) == 0 {
		return "–"
	}
	var same []string
	for i := range p.Points {
		y := &p.Points[i]
		n := min(len(x.Outputs), len(y.Outputs))
		if y == x {
			break
		}
		if n > 0 && x.Model == y.Model && x.Rows == y.Rows && slices.Equal(x.Outputs[:n], y.Outputs[:n]) {
			same = append(same, y.Bar+" on "+fmt.Sprint(y.Ranks))
		}
	}
	if len(same) == 0 {
		return x.Outputs[0]
	}
	return "as " + strings.Join(same, ", ")
}
