package stats

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// A chart of the report is SVG that stretches to any width, with its labels in HTML beside it, so that text keeps its size.

// tick is a label at a place from 0 to 100 percent.
type tick struct {
	At   float64
	Text string
}

// ceiling is the least of 1, 2, 2.5, 5 × 10ⁿ that is not below x; 1 for nothing.
func ceiling(x float64) float64 {
	if !(x > 0) || math.IsInf(x, 0) {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{1, 2, 2.5, 5} {
		if f*unit >= x*(1-1e-9) {
			return f * unit
		}
	}
	return 10 * unit
}

// timeTicks labels an axis of so many seconds at up to 8 round places.
func timeTicks(seconds float64) []tick {
	if !(seconds > 0) {
		return []tick{{0, "0"}}
	}
	step := ceiling(seconds / 7)
	for _, s := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 4 * 3600, 6 * 3600, 12 * 3600, 24 * 3600} {
		if seconds >= 7 && seconds/s <= 7 {
			step = s
			break
		}
	}
	if seconds/step > 7 {
		step = math.Ceil(seconds/7/86400) * 86400
	}
	var out []tick
	for i := 0; float64(i)*step <= seconds*1.0001; i++ {
		out = append(out, tick{100 * float64(i) * step / seconds, axisTime(float64(i) * step)})
	}
	return out
}

// axisTime is a round time in few letters.
func axisTime(s float64) string {
	switch {
	case s == 0:
		return "0"
	case s < 60:
		return span(s)
	case s < 3600 && math.Mod(s, 60) != 0:
		return fmt.Sprintf("%d:%02d min", int(s)/60, int(s)%60)
	case s < 3600:
		return fmt.Sprintf("%d min", int(s)/60)
	case s < 86400 && math.Mod(s, 3600) != 0:
		return fmt.Sprintf("%d:%02d h", int(s)/3600, int(s)%3600/60)
	case s < 86400:
		return fmt.Sprintf("%d h", int(s)/3600)
	}
	return strings.TrimSuffix(fmt.Sprintf("%d d %d h", int(s)/86400, int(s)%86400/3600), " 0 h")
}

// panel is one quantity over time.
type panel struct {
	Name  string
	Note  string
	Y     []tick
	Image template.HTML
	Color string // a class
}

// drawn is how many steps a panel shows at most.
const drawn = 180

// newPanel draws values, one a slice of the given seconds, against an axis that ends at limit (0: at the data's top).
func newPanel(name, note, color string, values []float64, width, limit float64, unit string) panel {
	top := limit
	for _, v := range values {
		if limit == 0 {
			top = max(top, v)
		}
	}
	if limit == 0 {
		top = ceiling(top)
	}
	p := panel{Name: name, Note: note, Color: color, Y: []tick{{0, short(top)}, {50, short(top / 2)}, {100, "0"}}}
	var line, hover strings.Builder
	for i, v := range values {
		y := 100 - 100*min(v/top, 1)
		if i == 0 {
			fmt.Fprintf(&line, "M0 %.4g", y)
		} else {
			fmt.Fprintf(&line, "V%.4g", y)
		}
		fmt.Fprintf(&line, "H%d", i+1)
		fmt.Fprintf(&hover, `<rect x="%d" y="0" width="1" height="100"><title>%s – %s: %s %s</title></rect>`,
			i, span(float64(i)*width), span(float64(i+1)*width), short(v), template.HTMLEscapeString(unit))
	}
	n := max(len(values), 1)
	fill := ""
	if len(values) > 0 {
		fill = fmt.Sprintf(`<path class="fill" d="%sV100H0Z"/><path class="line" d="%s"/>`, line.String(), line.String())
	}
	p.Image = template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d 100" preserveAspectRatio="none" role="img" aria-label="%s over time"><path class="grid" d="M0 0H%dM0 50H%dM0 100H%d"/>%s<g class="hover">%s</g></svg>`,
		n, template.HTMLEscapeString(name), n, n, n, fill, hover.String()))
	return p
}

// columns draws one bar a value, against the largest.
func columns(values []float64, title func(i int) string) template.HTML {
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	if top == 0 {
		top = 1
	}
	gap := 0.16
	if len(values) > 200 {
		gap = 0
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d 100" preserveAspectRatio="none">`, max(len(values), 1))
	for i, v := range values {
		h := 100 * v / top
		fmt.Fprintf(&b, `<rect class="bar" x="%.4g" y="%.4g" width="%.4g" height="%.4g"/><rect class="over" x="%d" y="0" width="1" height="100"><title>%s</title></rect>`,
			float64(i)+gap/2, 100-h, 1-gap, h, i, template.HTMLEscapeString(title(i)))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}
