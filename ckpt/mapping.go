package ckpt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// mapping is the bytes of one file, mapped read-only, or of memory that the caller owns.
// The file is not held open; its pages come when they are first touched, and may go again (see forget).
type mapping struct {
	path string
	data []byte
	file bool // data must be unmapped
	read *atomic.Int64
	once sync.Once // close
}

// mapFile maps a whole regular file. read counts the bytes handed out, for Checkpoint.BytesRead.
func mapFile(path string, read *atomic.Int64) (*mapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{File: path, Kind: err, What: "cannot be opened: " + cause(err)}
	}
	defer f.Close() //nolint:errcheck // opened for reading only; the mapping outlives it
	st, err := f.Stat()
	if err != nil {
		return nil, &Error{File: path, Kind: err, What: "cannot be looked at: " + cause(err)}
	}
	if !st.Mode().IsRegular() {
		return nil, unsupported(path, "", "is no regular file; give the checkpoint's own files or its folder")
	}
	m := &mapping{path: path, read: read}
	if st.Size() == 0 {
		return m, nil
	}
	m.data, err = unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, &Error{File: path, Kind: err, What: fmt.Sprintf("cannot be mapped into memory (%d bytes): %v", st.Size(), err)}
	}
	m.file = true
	pointer := false
	if err = m.guard(func() { pointer = bytes.HasPrefix(m.data, []byte("version https://git-lfs")) }); pointer {
		err = damaged(path, "", "is only the pointer that Git LFS leaves; fetch the file itself with git lfs pull")
	}
	if err != nil {
		_ = m.close()
		return nil, err
	}
	return m, nil
}

// cause is the innermost reason of an error from package os, without the path that stands before it anyway.
func cause(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// close unmaps the file; every view of it is then invalid. A second close does nothing.
func (m *mapping) close() (err error) {
	m.once.Do(func() {
		if m.file {
			err = unix.Munmap(m.data)
		}
		m.data = nil
	})
	return err
}

// fetch brings bytes from..to into memory at the storage's streaming rate and reports a failing disk or a file that was
// cut short meanwhile as an error. Without it the first touch of such a page would end the process with SIGBUS.
func (m *mapping) fetch(from, to int64) error {
	if to > int64(len(m.data)) {
		return &Error{File: m.path, Kind: os.ErrClosed, What: "is read after its checkpoint was closed"}
	}
	if !m.file || from >= to {
		return nil
	}
	page := int64(os.Getpagesize())
	span := m.data[from/page*page : to]
	_ = unix.Madvise(span, unix.MADV_WILLNEED) // a hint: starts the whole read at once
	switch err := unix.Madvise(span, unix.MADV_POPULATE_READ); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL): // Linux before 5.14
		return m.guard(func() { touch(span, page) })
	default:
		return damaged(m.path, "", "bytes %d to %d cannot be read (%v): the file was cut short or its storage fails; check it and start again", from, to, err)
	}
}

// touch reads a byte of every page.
func touch(span []byte, page int64) {
	var sum byte
	for i := int64(0); i < int64(len(span)); i += page {
		sum += span[i]
	}
	touched.Store(uint32(sum))
}

var touched atomic.Uint32 // keeps touch from being optimised away

// forget lets the pages of bytes from..to leave the process; the kernel keeps them as long as it has room.
func (m *mapping) forget(from, to int64) {
	page := int64(os.Getpagesize())
	from, to = (from+page-1)/page*page, to/page*page // whole pages inside only: a neighbour may be in use
	if m.file && from < to {
		_ = unix.Madvise(m.data[from:to], unix.MADV_DONTNEED) // of a read-only file mapping: nothing is lost
	}
}

// guard runs f, which reads the mapping, and turns a page that cannot be read into an error.
func (m *mapping) guard(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, fault := p.(interface{ Addr() uintptr }); !fault {
				panic(p)
			}
			err = damaged(m.path, "", "a page cannot be read: the file was cut short or its storage fails; check it and start again")
		}
	}()
	f()
	return nil
}
