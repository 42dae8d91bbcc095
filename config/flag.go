package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Flag is one setting of a job: what the command line, the job file, the help and the docs know of it.
type Flag struct {
	Name     string            // on the command line; in a job file with '_' (or '-') between the words
	Help     string            // one line; the word in backquotes stands for the value
	Category string            // the heading it stands under in the help
	Unit     string            // of a number: rows, tokens, bytes, …; "" where it has none
	Default  string            // as a user would write it; "" for none
	Choices  []string          // the words it accepts, where there are only a few
	Meant    map[string]string // what words that lie near another choice stand for
	Range    string            // of a number, as an interval: "[1, 64]", "(0, 1]", "[0, )"
	Zero     string            // the word for the value 0: auto, all or off
	Tasks    []Task            // the tasks that it means something to; none: all
	Many     bool              // may be repeated; in a job file a list
	Bits     bool              // part of the output's fingerprint: another value gives other bytes, so a resumed job keeps it
	OnlyCLI  bool              // cannot stand in a job file
	Built    []string          // the values that a run of this version acts on, the others being refused; nil: all
	Until    string            // what to do instead of those others; "": use one of Built, or leave it out

	field func(*Job) any // where the value is kept
}

// Bool tells whether the flag needs no value on the command line.
func (f *Flag) Bool() bool {
	_, ok := f.field(new(Job)).(*bool)
	return ok
}

// Usage is the help with the words that the flag accepts, the task that it is for, and what of it is not built yet.
func (f *Flag) Usage() string {
	text := f.Help
	if len(f.Choices) > 0 {
		text += ": " + strings.Join(f.Choices, ", ")
	}
	if len(f.Tasks) > 0 {
		text += f.tasks()
	}
	if only := f.built(); only != "" {
		text += "; " + only
	}
	return text
}

// tasks tells which tasks the flag is for.
func (f *Flag) tasks() string {
	var names []string
	for _, t := range f.Tasks {
		names = append(names, string(t))
	}
	if len(names) == 1 {
		return " (task " + names[0] + ")"
	}
	return " (tasks " + strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + ")"
}

// Key is the flag's name in a job file.
func (f *Flag) Key() string { return strings.ReplaceAll(f.Name, "-", "_") }

// lookup finds a flag by its name on the command line or in a job file; nil when there is none.
func lookup(name string) *Flag {
	name = strings.ReplaceAll(name, "_", "-")
	if i := slices.IndexFunc(Flags, func(f Flag) bool { return f.Name == name }); i >= 0 {
		return &Flags[i]
	}
	return nil
}

// set parses the values given, one unless Many, into the job's field.
func (f *Flag) set(j *Job, values ...string) error {
	if f.Many {
		return f.setList(j, values)
	}
	if len(values) != 1 {
		return fmt.Errorf("given %d times; give it once", len(values))
	}
	value := values[0]
	if len(f.Choices) > 0 && !slices.Contains(f.Choices, value) {
		meant := didYouMean(value, f.Choices, "use one of these")
		if word := f.Meant[value]; word != "" {
			meant = "did you mean " + word + "?"
		}
		return fmt.Errorf("%q is not one of %s; %s", value, strings.Join(f.Choices, ", "), meant)
	}
	switch {
	case f.Zero != "" && value == f.Zero:
		value = "0"
	case f.Zero == "all" && value == "0": // who types it wants none, not all
		return fmt.Errorf("0 is out of range%s", f.rangeWords())
	}
	switch p := f.field(j).(type) {
	case *string:
		*p = values[0]
	case *Task:
		*p = Task(value)
	case *bool:
		return parseBool(p, value)
	case *DType:
		return parseInto(p, values[0], ParseDType)
	case *Bytes:
		return parseInto(p, value, parseBytes)
	case *time.Duration:
		return f.ranged(parseInto(p, value, parseDuration), p.Seconds())
	case *float64:
		return f.ranged(parseInto(p, value, f.number), *p)
	case *int:
		return f.ranged(parseInto(p, value, f.whole), float64(*p))
	case *int64:
		return f.ranged(parseInto(p, value, func(s string) (int64, error) { i, err := f.whole(s); return int64(i), err }), float64(*p))
	case *uint64:
		u, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number from 0 to 2⁶⁴-1", value)
		}
		*p = u
	}
	return nil
}

func (f *Flag) setList(j *Job, values []string) error {
	p, ok := f.field(j).(*[]string)
	if !ok {
		return fmt.Errorf("given %d times; give it once", len(values))
	}
	*p = nil
	for _, v := range values {
		if f.commas() {
			for _, name := range splitNames(v) {
				*p = append(*p, strings.TrimSpace(name))
			}
			continue
		}
		*p = append(*p, v)
	}
	if slices.Contains(*p, "") {
		return fmt.Errorf("has an empty entry; leave it out")
	}
	return nil
}

// splitNames cuts at commas, but for those behind a backslash, which belong to a name.
func splitNames(s string) (names []string) {
	from := 0
	for i := range len(s) {
		if s[i] == ',' && (i == 0 || s[i-1] != '\\') {
			names, from = append(names, s[from:i]), i+1
		}
	}
	return append(names, s[from:])
}

// commas tells whether one occurrence may hold several values: column names may, texts and paths may hold commas.
func (f *Flag) commas() bool { return f.Name == "carry" }

func (f *Flag) whole(value string) (int, error) {
	i, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number%s", value, f.rangeWords())
	}
	return i, nil
}

func (f *Flag) number(value string) (float64, error) {
	x, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number%s", value, f.rangeWords())
	}
	return x, nil
}

// rangeWords is the end of a sentence: "; use a number at least 1, or auto".
func (f *Flag) rangeWords() string {
	switch {
	case f.Range == "":
		return ""
	case f.Zero != "":
		return "; use a number " + interval(f.Range).words() + ", or " + f.Zero
	}
	return "; use a number " + interval(f.Range).words()
}

// ranged checks a number that was parsed without error. The word for zero lies outside the range and passes.
func (f *Flag) ranged(err error, x float64) error {
	if err != nil || f.Range == "" || f.Zero != "" && x == 0 || interval(f.Range).holds(x) {
		return err
	}
	return fmt.Errorf("%s is out of range%s", strconv.FormatFloat(x, 'f', -1, 64), f.rangeWords())
}

func parseBool(p *bool, value string) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", value)
	}
	*p = b
	return nil
}

func parseInto[T any](p *T, value string, parse func(string) (T, error)) error {
	x, err := parse(value)
	if err == nil {
		*p = x
	}
	return err
}

// text is the value that the job has, as a user would write it.
func (f *Flag) text(j *Job) string {
	word := func(zero bool, s string) string {
		if zero && f.Zero != "" {
			return f.Zero
		}
		return s
	}
	switch p := f.field(j).(type) {
	case *string:
		return *p
	case *Task:
		return string(*p)
	case *bool:
		return strconv.FormatBool(*p)
	case *DType:
		return word(*p == "", string(*p))
	case *Bytes:
		return word(*p == 0, p.String())
	case *time.Duration:
		return word(*p == 0, shortDuration(*p))
	case *float64:
		return word(*p == 0, strconv.FormatFloat(*p, 'g', -1, 64))
	case *int:
		return word(*p == 0, strconv.Itoa(*p))
	case *int64:
		return word(*p == 0, strconv.FormatInt(*p, 10))
	case *uint64:
		return strconv.FormatUint(*p, 10)
	case *[]string:
		return strings.Join(*p, ", ")
	}
	return ""
}

// Values holds what a command line gave: for each flag's name the values of its occurrences, in order.
type Values map[string][]string

// Collect returns a value for package flag and for cli.GenericFlag that checks each occurrence of f and keeps it in v.
func (v Values) Collect(f *Flag) *Collector { return &Collector{values: v, flag: f} }

// Collector is one flag's place on a command line.
type Collector struct {
	values Values
	flag   *Flag
}

// Set takes one occurrence; the error is a sentence without the flag's name, which the command line adds.
func (c *Collector) Set(value string) error {
	if err := c.flag.set(new(Job), value); err != nil {
		return err
	}
	if given := c.values[c.flag.Name]; len(given) > 0 && !c.flag.Many {
		return fmt.Errorf("given twice, as %q and %q; give it once", given[0], value)
	}
	c.values[c.flag.Name] = append(c.values[c.flag.Name], value)
	return nil
}

// String is the default, which the help shows.
func (c *Collector) String() string {
	if c == nil || c.flag == nil { // package flag asks a zero value
		return ""
	}
	return c.flag.Default
}

// IsBoolFlag tells package flag that the flag may stand without a value.
func (c *Collector) IsBoolFlag() bool { return c.flag.Bool() }
