package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What this version reads but does not act on is marked in the table itself (Flag.Built), from which
// come the refusal of a run, the help and docs/config.md: whoever builds it deletes the mark, and all three follow.

// RefuseUnbuilt refuses the flags' values that this version does not act on. Errors are *Error.
func (j *Job) RefuseUnbuilt() error {
	var errs []error
	for i := range Flags {
		f := &Flags[i]
		value := f.text(j)
		if f.Built == nil || slices.Contains(f.Built, value) {
			continue
		}
		at, key := j.given[f.Name], f.Name
		if at.file != "" {
			key = f.Key()
		}
		errs = append(errs, at.errorAt(key, "%s is not built yet; %s", value, f.until()))
	}
	return errors.Join(errs...)
}

// until is what to do as long as the other values are not built.
func (f *Flag) until() string {
	switch {
	case f.Until != "":
		return f.Until
	case len(f.Built) == 1 && (f.Built[0] == f.Default || f.Built[0] == f.Zero || f.Built[0] == ""):
		return "leave it out"
	}
	return "use " + strings.Join(f.Built, " or ")
}

// built is what help and docs say of the values that are not; "" when all are.
func (f *Flag) built() string {
	var words []string
	for _, v := range f.Built {
		if v != "" && v != f.Default {
			words = append(words, v)
		}
	}
	switch {
	case f.Built == nil:
		return ""
	case len(f.Choices) > 0:
		return fmt.Sprintf("only %s are built yet", strings.Join(f.Built, " and "))
	case len(words) > 0:
		return fmt.Sprintf("only %s and %s are built yet", f.Default, strings.Join(words, ", "))
	}
	return "not built yet"
}
