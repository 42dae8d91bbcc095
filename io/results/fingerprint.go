package results

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Setting is one thing that the bits of the output depend on.
type Setting struct {
	Name  string `json:"name"`
	Value any    `json:"value"` // whatever encoding/json can write
}

// Fingerprint lists all of them, in the order in which a person would want to read them. The setting named version is
// the one that Options.AcceptVersion lets differ.
type Fingerprint []Setting

// Difference is a setting, or a member deep in one (input.files[3].rows), that is not the same in two fingerprints.
type Difference struct {
	Name     string
	Was, Now string // as JSON; empty: not there
}

// MismatchError refuses an output that was begun with other settings.
type MismatchError struct {
	Dir         string
	Differences []Difference
}

// freeSettings are those that change no bit.
const freeSettings = "ranks, ep, dp, pp, all-to-all, batch sizes, threads and placement"

func (e *MismatchError) Error() string {
	const shown = 8
	var list []string
	version := true
	for i, d := range e.Differences {
		version = version && d.Name == versionSetting
		if i < shown {
			list = append(list, d.String())
		}
	}
	if more := len(e.Differences) - shown; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	mend := "give another --output, or the former settings"
	if version {
		mend = "--accept-version goes on with it all the same, or give another --output"
	}
	return fmt.Sprintf("%s was begun with other settings: %s; %s (free to change: %s)", e.Dir, strings.Join(list, ", "), mend, freeSettings)
}

func (d Difference) String() string {
	switch {
	case d.Was == "":
		return fmt.Sprintf("%s was not set, is %s", d.Name, brief(d.Now))
	case d.Now == "":
		return fmt.Sprintf("%s was %s, is not set", d.Name, brief(d.Was))
	}
	return fmt.Sprintf("%s was %s, is %s", d.Name, brief(d.Was), brief(d.Now))
}

// sha256Text is the JSON of a SHA-256, of which nobody reads all.
var sha256Text = regexp.MustCompile(`^"[0-9a-f]{64}"$`)

func brief(s string) string {
	if sha256Text.MatchString(s) {
		return s[:13] + "…\""
	}
	if r := []rune(s); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return s
}

const versionSetting = "version"

// Add appends a setting.
func (f *Fingerprint) Add(name string, value any) { *f = append(*f, Setting{name, value}) }

// Get is the value of a setting, or nil. In a fingerprint that Peek read, numbers are json.Number.
func (f Fingerprint) Get(name string) any {
	if i := slices.IndexFunc(f, func(s Setting) bool { return s.Name == name }); i >= 0 {
		return f[i].Value
	}
	return nil
}

// Compare lists how f differs from what it was, in f's order, then what f lacks.
func (f Fingerprint) Compare(was Fingerprint) ([]Difference, error) {
	now, err := normal(f)
	if err != nil {
		return nil, err
	}
	before, err := normal(was)
	if err != nil {
		return nil, err
	}
	var differences []Difference
	for _, s := range now {
		i := slices.IndexFunc(before, func(b Setting) bool { return b.Name == s.Name })
		if i < 0 {
			differences = append(differences, Difference{Name: s.Name, Now: text(s.Value)})
			continue
		}
		differences = compareValues(differences, s.Name, before[i].Value, s.Value)
	}
	for _, b := range before {
		if !slices.ContainsFunc(now, func(s Setting) bool { return s.Name == b.Name }) {
			differences = append(differences, Difference{Name: b.Name, Was: text(b.Value)})
		}
	}
	return differences, nil
}

// normal sends f through JSON, so that a value of Go and the same value read from a file compare alike.
func normal(f Fingerprint) (Fingerprint, error) {
	for i, s := range f {
		if slices.ContainsFunc(f[:i], func(other Setting) bool { return other.Name == s.Name }) {
			return nil, fmt.Errorf("fingerprint: %s is there twice", s.Name)
		}
	}
	raw, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	var out Fingerprint
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return out, d.Decode(&out)
}

// compareValues descends as long as both sides are objects or lists, so that the place that differs is named.
func compareValues(to []Difference, name string, was, now any) []Difference {
	switch now := now.(type) {
	case map[string]any:
		if was, ok := was.(map[string]any); ok {
			for _, key := range unionOfKeys(was, now) {
				switch w, n := was[key], now[key]; {
				case !has(was, key):
					to = append(to, Difference{Name: name + "." + key, Now: text(n)})
				case !has(now, key):
					to = append(to, Difference{Name: name + "." + key, Was: text(w)})
				default:
					to = compareValues(to, name+"."+key, w, n)
				}
			}
			return to
		}
	case []any:
		if was, ok := was.([]any); ok {
			if len(was) != len(now) {
				to = append(to, Difference{name + " (count)", fmt.Sprint(len(was)), fmt.Sprint(len(now))})
			}
			for i := range min(len(was), len(now)) {
				to = compareValues(to, fmt.Sprintf("%s[%d]", name, i), was[i], now[i])
			}
			return to
		}
	}
	if w, n := text(was), text(now); w != n {
		to = append(to, Difference{name, w, n})
	}
	return to
}

func has(m map[string]any, key string) bool { _, ok := m[key]; return ok }

func unionOfKeys(a, b map[string]any) (keys []string) {
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// text is v as JSON; v came from JSON, so it goes back.
func text(v any) string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(out.String(), "\n")
}
