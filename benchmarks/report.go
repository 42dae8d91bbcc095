// Package benchmarks measures what dsbatch reaches on the machine at hand, beside what that machine can do at most: its
// ops (Kernels), the engine on a model (Engine), the files (IO), and what is drawn of all that (Figures). It reproduces every figure that results/ publishes.
//
// A figure is one measured number with its bound, a round one timed repetition, a ceiling the rate that no op of this
// machine exceeds. Machines are noisy: a ceiling is looked at beside each round, a fraction compares the two, and what is
// told is the median of the rounds.
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
	Best    float64 `json:"best"`  // and the best and the worst of them
	Worst   float64 `json:"worst"`
	Unit    string  `json:"unit"`
	Seconds float64 `json:"seconds,omitempty"` // median time of one repetition
	// Bound is the same unit at the ceiling that By names, the median of the rounds' own, 0 where nothing bounds it.
	// Fraction is the median of the rounds' shares of their bounds: 1 is as good as it can be.
	Bound    float64 `json:"bound,omitempty"`
	By       string  `json:"bound_by,omitempty"`
	Fraction float64 `json:"fraction,omitempty"`
	Bytes    float64 `json:"bytes_per_second,omitempty"` // that the work touches at least, where both rates are of interest
	// Rounds are the values of the rounds, in their order, where there were some.
	Rounds []float64 `json:"rounds,omitempty"`
}

// round is one timed repetition: its seconds, and those that the ceiling named by allowed for it then; 0: none is known.
type round struct {
	seconds, least float64
	by             string
}

// rate is a figure of which more is better: work units of it are done in each of the rounds.
func rate(name, unit string, work float64, all ...round) Figure {
	var rates, shares, bounds []float64
	for _, r := range all {
		rates = append(rates, work/r.seconds)
		if r.least > 0 {
			shares, bounds = append(shares, r.least/r.seconds), append(bounds, work/r.least)
		}
	}
	f := Figure{Name: name, Unit: unit, Rounds: rates}
	f.Worst, f.Value, f.Best = spread(rates)
	f.Seconds = work / f.Value
	if len(shares) > 0 {
		_, f.Fraction, _ = spread(shares)
		_, f.Bound, _ = spread(bounds)
		f.By = all[len(all)/2].by
	}
	return f
}

// plain is a figure that was measured once.
func plain(name, unit string, value float64) Figure {
	return Figure{Name: name, Unit: unit, Value: value, Best: value, Worst: value}
}

// several is a figure that was measured in each round.
func several(name, unit string, all []float64) (f Figure) {
	f = Figure{Name: name, Unit: unit}
	f.Worst, f.Value, f.Best = spread(all)
	return f
}

// spread is the least, the median and the most of some numbers.
func spread(x []float64) (least, median, most float64) {
	x = slices.Sorted(slices.Values(x))
	return x[0], x[len(x)/2], x[len(x)-1]
}

// cost is a figure of which less is better, with the most that it should be; 0: nothing is said.
func cost(name, unit string, value, most float64, by string) Figure {
	f := plain(name, unit, value)
	if most > 0 && value > 0 {
		f.Bound, f.By, f.Fraction = most, by, most/value
	}
	return f
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
	both := slices.ContainsFunc(g.Figures, func(f Figure) bool { return f.Bytes > 0 })
	heading := "\ttime\tmedian\tworst – best\tbound\tof bound\t"
	if both {
		heading += "moves\t"
	}
	fmt.Fprintln(t, heading)
	for _, f := range g.Figures {
		bound, fraction := "", ""
		if f.Bound > 0 {
			bound, fraction = number(f.Bound)+" "+f.By, fmt.Sprintf("%.0f %%", 100*f.Fraction)
		}
		took := ""
		if f.Seconds > 0 {
			took = duration(f.Seconds)
		}
		extent := ""
		if f.Best != f.Worst {
			extent = number(f.Worst) + " – " + number(f.Best)
		}
		fmt.Fprintf(t, "%s\t%s\t%s %s\t%s\t%s\t%s\t", f.Name, took, number(f.Value), f.Unit, extent, bound, fraction)
		if moves := ""; both {
			if f.Bytes > 0 {
				moves = number(f.Bytes/1e9) + " GB/s"
			}
			fmt.Fprintf(t, "%s\t", moves)
		}
		fmt.Fprintln(t)
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
