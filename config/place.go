package config

import (
	"fmt"
	"strings"
)

// place is where a value was written: on the command line, on a line of a file, or in a map given from Go.
type place struct {
	file string // as the user named it, or "config" and "kwargs" for maps; "" on the command line
	line int    // from 1; 0 where there are no lines
}

func (p place) String() string {
	switch {
	case p.file == "":
		return "command line"
	case p.line > 0:
		return fmt.Sprintf("%s:%d", p.file, p.line)
	}
	return p.file
}

// Error is a setting that has to be changed, with the place where it was written. File tells bad usage (exit status 64)
// from a bad configuration file (78).
type Error struct {
	File string // as the user named it; "" on the command line
	Line int    // from 1; 0: the file as a whole
	Key  string // as it was written there, without dashes in front; "" when the sentence names several
	Err  error  // what is wrong, and the mend
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s: ", place{e.File, e.Line})
	}
	switch {
	case e.Key != "" && e.File == "":
		fmt.Fprintf(&b, "--%s: ", e.Key)
	case e.Key != "":
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	return b.String() + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// errorAt makes an Error of a sentence.
func (p place) errorAt(key, format string, args ...any) error {
	return &Error{File: p.file, Line: p.line, Key: key, Err: fmt.Errorf(format, args...)}
}

// Warning is a setting that was accepted although the user should change it, or that has no effect unless a column of
// the input says otherwise. Whoever asked for the parse logs it.
type Warning struct {
	Place string // file:line, or "command line"
	Text  string
}

func (w Warning) String() string { return w.Place + ": " + w.Text }
