package ckpt

import (
	"errors"
	"fmt"
)

// What is wrong with a checkpoint, for errors.Is. A missing folder or file is fs.ErrNotExist.
var (
	ErrDamaged     = errors.New("damaged checkpoint")                 // bytes missing, overlapping, out of the file, cut short
	ErrUnsupported = errors.New("unsupported checkpoint")             // whole, but of a kind that is not read, or a foreign class
	ErrMismatch    = errors.New("checkpoint contradicts itself")      // facts or shards that do not agree with the tensors
	ErrTag         = errors.New("no such tag in the checkpoint")      // --tag, latest or the iteration names nothing
	ErrExists      = errors.New("there already")                      // what would be written, and nothing is overwritten
	ErrUnknown     = errors.New("not a checkpoint of any known kind") // the path holds none of the layouts
)

// Error is a checkpoint that cannot be used: where, what, and the mend.
type Error struct {
	File   string // as opened
	Tensor string // "" where the whole file is meant
	Kind   error  // one of the errors above, or a cause such as fs.ErrNotExist
	What   string // what is wrong and the mend, one sentence
}

func (e *Error) Error() string {
	if e.Tensor == "" {
		return fmt.Sprintf("%s: %s", e.File, e.What)
	}
	return fmt.Sprintf("%s: tensor %q: %s", e.File, e.Tensor, e.What)
}

func (e *Error) Unwrap() error { return e.Kind }

func damaged(file, tensor, format string, args ...any) error {
	return &Error{file, tensor, ErrDamaged, fmt.Sprintf(format, args...)}
}

func unsupported(file, tensor, format string, args ...any) error {
	return &Error{file, tensor, ErrUnsupported, fmt.Sprintf(format, args...)}
}

func mismatch(file, tensor, format string, args ...any) error {
	return &Error{file, tensor, ErrMismatch, fmt.Sprintf(format, args...)}
}
