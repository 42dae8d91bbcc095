package stats

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// BarChart is bars beside one another, a picture that needs nothing else: text, colours for light and dark, and all.
type BarChart struct {
	Name   string // of the picture's file, without its ending: its patterns are called after it
	Title  string
	Series []BarSeries // of bars, in the order of the key
	Panels []BarPanel
}

// BarSeries is bars of one kind.
type BarSeries struct {
	Name   string
	Colour int // of the palette, 0 to 6: 0 for what the others are compared with
}

// BarPanel is one quantity of all groups, on an axis that begins at 0.
type BarPanel struct {
	Title, Unit string
	Groups      []BarGroup
}

// BarGroup is bars that are compared first of all.
type BarGroup struct {
	Name string
	Bars []Bar
}

// Bar is one value.
type Bar struct {
	Series    int     // its place in BarChart.Series
	Value     float64 // 0 or more
	Low, High float64 // whiskers; both 0: none
	Label     string  // under the value, as its share of a bound
	Title     string  // the whole truth, shown where the pointer rests
	Modelled  bool    // not measured: hatched
}

// Sizes of the picture.
const (
	chartWidth  = 960
	plotLeft    = 66.0
	plotRight   = chartWidth - 14.0
	plotHeight  = 190.0
	panelTop    = 58.0 // of a panel's title and of the labels over its tallest bar
	panelBottom = 34.0
	widestBar   = 64.0
)

// SVG draws the chart.
func (c *BarChart) SVG() string {
	var b strings.Builder
	height := 74 + float64(len(c.Panels))*(panelTop+plotHeight+panelBottom)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 %d %g" role="img" aria-label="%s">`+"\n", chartWidth, height, escape(c.Title))
	fmt.Fprintf(&b, "<style>\n%s\n%s</style>\n<defs>\n", Palette("svg.plot"), chartStyle)
	for i, series := range c.Series {
		fmt.Fprintf(&b, `<pattern id="%s" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="3" height="7" class="c%d"/></pattern>`+"\n",
			c.hatch(i), series.Colour)
	}
	fmt.Fprintf(&b, "</defs>\n"+`<rect class="ground" width="%d" height="%g"/>`+"\n", chartWidth, height)
	fmt.Fprintf(&b, `<text class="title" x="14" y="26">%s</text>`+"\n", escape(c.Title))
	c.key(&b)
	top := 60.0
	for i := range c.Panels {
		c.panel(&b, &c.Panels[i], top+panelTop)
		top += panelTop + plotHeight + panelBottom
	}
	b.WriteString("</svg>\n")
	return b.String()
}

const chartStyle = `svg.plot { font: 13px/1 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
svg.plot text { fill: var(--ink); } svg.plot .soft { fill: var(--soft); } svg.plot .title { font-size: 16px; font-weight: 600; }
svg.plot .panel { font-weight: 600; } svg.plot .value { font-weight: 600; text-anchor: middle; } svg.plot .label { font-size: 12px; fill: var(--soft); text-anchor: middle; }
svg.plot .middle { text-anchor: middle; } svg.plot .end { text-anchor: end; }
svg.plot .ground { fill: var(--card); } svg.plot .grid { stroke: var(--line); fill: none; } svg.plot .whisker { stroke: var(--ink); fill: none; stroke-width: 1.5; }
svg.plot .c0 { fill: var(--c0); stroke: var(--c0); } svg.plot .c1 { fill: var(--c1); stroke: var(--c1); } svg.plot .c2 { fill: var(--c2); stroke: var(--c2); }
svg.plot .c3 { fill: var(--c3); stroke: var(--c3); } svg.plot .c4 { fill: var(--c4); stroke: var(--c4); } svg.plot .c5 { fill: var(--c5); stroke: var(--c5); }
svg.plot .c6 { fill: var(--c6); stroke: var(--c6); }
svg.plot .bar { stroke-width: 1; } svg.plot pattern rect { stroke: none; }
`

func escape(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text)) //nolint:errcheck // a strings.Builder takes everything
	return b.String()
}

func (c *BarChart) hatch(series int) string { return fmt.Sprintf("%s-hatch-%d", c.Name, series) }

// paint is the attributes of a bar's colour.
func (c *BarChart) paint(series int, modelled bool) string {
	if modelled { // a style wins over the class
		return fmt.Sprintf(`class="bar modelled c%d" style="fill:url(#%s)"`, c.Series[series].Colour, c.hatch(series))
	}
	return fmt.Sprintf(`class="bar c%d"`, c.Series[series].Colour)
}

// key names the series, and what hatching means where some bar is hatched.
func (c *BarChart) key(b *strings.Builder) {
	x := 14.0
	entry := func(paint, name string) {
		fmt.Fprintf(b, `<rect %s x="%g" y="42" width="12" height="12"/><text x="%g" y="53">%s</text>`+"\n", strings.Replace(paint, "bar", "key", 1), x, x+19, escape(name))
		x += 19 + 7.4*float64(len([]rune(name))) + 22
	}
	hatched := map[int]bool{}
	solid := map[int]bool{}
	for _, p := range c.Panels {
		for _, g := range p.Groups {
			for _, bar := range g.Bars {
				if bar.Modelled {
					hatched[bar.Series] = true
				} else {
					solid[bar.Series] = true
				}
			}
		}
	}
	for i, series := range c.Series {
		if solid[i] {
			entry(c.paint(i, false), series.Name)
		}
		if hatched[i] {
			entry(c.paint(i, true), series.Name+", modelled")
		}
	}
}

// panel draws one quantity above a base line; top is where its axis ends.
func (c *BarChart) panel(b *strings.Builder, p *BarPanel, top float64) {
	most := 0.0
	for _, g := range p.Groups {
		for _, bar := range g.Bars {
			most = max(most, bar.Value, bar.High)
		}
	}
	most = ceiling(most)
	base := top + plotHeight
	fmt.Fprintf(b, `<text class="panel" x="14" y="%g">%s<tspan class="soft" font-weight="400">, %s</tspan></text>`+"\n", top-panelTop+22, escape(p.Title), escape(p.Unit))
	for _, at := range []float64{0, 0.5, 1} {
		y := base - at*plotHeight
		fmt.Fprintf(b, `<path class="grid" d="M%g %gH%g"/><text class="soft end" x="%g" y="%g">%s</text>`+"\n", plotLeft, y, plotRight, plotLeft-8, y+4, escape(short(at*most)))
	}
	width := (plotRight - plotLeft) / float64(max(len(p.Groups), 1))
	for i, g := range p.Groups {
		centre := plotLeft + (float64(i)+0.5)*width
		fmt.Fprintf(b, `<text class="middle" x="%g" y="%g">%s</text>`+"\n", centre, base+20, escape(g.Name))
		each := math.Min(widestBar, 0.9*width/float64(max(len(g.Bars), 1)))
		left := centre - each*float64(len(g.Bars))/2
		for j, bar := range g.Bars {
			c.bar(b, bar, left+float64(j)*each, each, base, plotHeight/most)
		}
	}
}

// bar draws one value of so many pixels a unit, in a place of that width.
func (c *BarChart) bar(b *strings.Builder, bar Bar, left, width, base, scale float64) {
	const gap = 6.0
	height, middle := bar.Value*scale, left+width/2
	fmt.Fprintf(b, `<rect %s x="%.2f" y="%.3f" width="%.2f" height="%.3f"><title>%s</title></rect>`+"\n",
		c.paint(bar.Series, bar.Modelled), left+gap/2, base-height, width-gap, height, escape(bar.Title))
	text := base - height
	if bar.Low != bar.High {
		low, high := base-bar.Low*scale, base-bar.High*scale
		fmt.Fprintf(b, `<path class="whisker" d="M%.2f %.3fV%.3fM%.2f %.3fh8M%.2f %.3fh8"/>`+"\n", middle, low, high, middle-4, low, middle-4, high)
		text = math.Min(text, high)
	}
	fmt.Fprintf(b, `<text class="value" x="%.2f" y="%.2f">%s</text>`+"\n", middle, text-20, escape(short(bar.Value)))
	fmt.Fprintf(b, `<text class="label" x="%.2f" y="%.2f">%s</text>`+"\n", middle, text-6, escape(bar.Label))
}
