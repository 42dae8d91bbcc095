package dataset

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// What Open, Read and Carry return wraps one of these, or the context's error, or what the system said of a file.
var (
	ErrMissing = errors.New("missing input")              // no such file, an empty folder, a pattern without a match
	ErrColumn  = errors.New("columns do not fit")         // a column is missing, has the wrong type, or differs between files
	ErrDamaged = errors.New("damaged or unreadable data") // the bytes are not what their format says
	ErrUsage   = errors.New("wrong request")              // columns or ranges that no data could satisfy
)

// RowError is an input row that cannot be used: the job sets it aside with the reason and goes on.
type RowError struct {
	File string // as the user wrote it
	Row  int64  // global, from 0
	Err  error  // what is wrong, and the mend
}

func (e *RowError) Error() string { return fmt.Sprintf("%s: row %d: %v", e.File, e.Row, e.Err) }

// Unwrap gives the reason alone.
func (e *RowError) Unwrap() error { return e.Err }

// refusal is a sentence about a file that wraps its class without repeating it.
type refusal struct {
	class error // one of the four above
	text  string
	cause error // may be nil
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() []error {
	if e.cause == nil {
		return []error{e.class}
	}
	return []error{e.class, e.cause}
}

func refuse(class error, format string, args ...any) error {
	e := &refusal{class: class, text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.cause = err
		}
	}
	return e
}

// place says where in a file something is wrong; the parts that are unknown are -1 or empty.
type place struct {
	file   string
	group  int   // row group or record batch
	row    int64 // global number of the first row that cannot be read
	column string
	unit   string // what group counts: "row group", "record batch"
}

// unread is why a file that may well be whole is not read: it says so itself.
type unread string

func (u unread) Error() string { return string(u) }

// damaged is the sentence for bytes that cannot be what was written, or are not read here, or that the system cannot read.
func (p place) damaged(cause error) error {
	var b strings.Builder
	b.WriteString(p.file)
	if p.group >= 0 {
		fmt.Fprintf(&b, ": %s %d", p.unit, p.group)
	}
	if p.row >= 0 {
		fmt.Fprintf(&b, ": from row %d", p.row)
	}
	if p.column != "" {
		fmt.Fprintf(&b, ": column %s", p.column)
	}
	var system *os.PathError
	if errors.As(cause, &system) { // the bytes may be sound: this is no damage of theirs
		return fmt.Errorf("%s: cannot be read (%w); see to its storage, and start again", b.String(), system.Err)
	}
	mend := "; the file is damaged: copy or write it again"
	if u := unread(""); errors.As(cause, &u) {
		mend = ""
	}
	return &refusal{class: ErrDamaged, cause: cause, text: fmt.Sprintf("%s: %v%s", b.String(), cause, mend)}
}

// guard turns a panic of a library into an error. Deferred, with the address of the function's error.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("cannot be decoded (%v)", p)
	}
}
