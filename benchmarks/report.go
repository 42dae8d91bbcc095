// Package benchmarks measures what dsbatch reaches on the machine at hand, beside what that machine can do at most: its
// ops (Kernels), the engine on a model (Engine), the files (IO). It reproduces every figure that results/ publishes.
//
// A figure is one measured number with its bound, a round one timed repetition, a ceiling the rate that no op of this
// machine exceeds, measured in the same run. Machines are noisy: the value of a figure is the median of its rounds, and
// its fraction compares the best round with the best ceiling, since whatever else runs disturbs both alike.
package benchmarks

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the figures of one run of a benchmark.
type Report struct {
	Command string    `json:"command"`
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Machine Machine   `json:"machine"`
	Groups  []Group   `json:"groups"`
}

// Group is figures that belong together.
type Group struct {
	Name    string   `json:"name"`
	Note    string   `json:"note,omitempty"` // what has to be known to read them
	Figures []Figure `json:"figures"`
}

// Figure is one measured number.
type Figure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"` // median of the rounds
	Best    float64 `json:"best"`  // best round
	Unit    string  `json:"unit"`
	Seconds float64 `json:"seconds,omitempty"` // median time of one repetition
	// Bound is the same unit at the ceiling that By names, 0 where nothing bounds it; Fraction is Best over Bound, or
	// Bound over Best where less is better: 1 is as good as it can be.
	Bound    float64 `json:"bound,omitempty"`
	By       string  `json:"bound_by,omitempty"`
	Fraction float64 `json:"fraction,omitempty"`
}

// rate is a figure of which more is better: work units of it are done in each of the rounds, and least is the seconds
// that the ceiling named by allows for them; 0: no ceiling.
func rate(name, unit string, work float64, rounds []time.Duration, least float64, by string) Figure {
	took := sorted(rounds)
	median, best := took[len(took)/2], took[0]
	f := Figure{Name: name, Unit: unit, Value: work / median, Best: work / best, Seconds: median}
	f.limit(work, least, by)
	return f
}

// limit says that work takes least seconds at the ceiling named by; 0: no ceiling.
func (f *Figure) limit(work, least float64, by string) {
	if least > 0 {
		f.Bound, f.By = work/least, by
		f.Fraction = f.Best / f.Bound
	}
}

// cost is a figure of which less is better, with the most that it should be; 0: nothing is said.
func cost(name, unit string, value, most float64, by string) Figure {
	f := Figure{Name: name, Unit: unit, Value: value, Best: value}
	if most > 0 && value > 0 {
		f.Bound, f.By, f.Fraction = most, by, most/value
	}
	return f
}

// sorted is rounds in seconds, ascending.
func sorted(rounds []time.Duration) []float64 {
	s := make([]float64, len(rounds))
	for i, d := range rounds {
		s[i] = d.Seconds()
	}
	slices.Sort(s)
	return s
}

// JSON writes the report for programs.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n%s, %s\n%v\n", r.Command, r.Version, r.Time.UTC().Format(time.RFC3339), r.Machine)
	for _, g := range r.Groups {
		if err := g.table(w); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) table(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n", g.Name)
	if g.Note != "" {
		fmt.Fprintf(w, "  %s\n", g.Note)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\ttime\tmedian\tbest\tbound\tof bound\t")
	for _, f := range g.Figures {
		bound, fraction := "", ""
		if f.Bound > 0 {
			bound, fraction = number(f.Bound)+" "+f.By, fmt.Sprintf("%.0f %%", 100*f.Fraction)
		}
		took := ""
		if f.Seconds > 0 {
			took = duration(f.Seconds)
		}
		best := ""
		if f.Best != f.Value {
			best = number(f.Best)
		}
		fmt.Fprintf(t, "%s\t%s\t%s %s\t%s\t%s\t%s\t\n", f.Name, took, number(f.Value), f.Unit, best, bound, fraction)
	}
	return t.Flush()
}

// number is x with three digits, or whole where it has more.
func number(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

// duration is seconds with three digits and the unit that suits.
func duration(seconds float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1, "s"}, {1e-3, "ms"}, {1e-6, "µs"}} {
		if seconds >= u.of {
			return number(seconds/u.of) + " " + u.name
		}
	}
	return strings.TrimSpace(number(seconds/1e-9) + " ns")
}
