package ckpt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Folder is a checkpoint in the making. Its files are written and fsynced under another name, to's with .partial behind
// it, and what makes a checkpoint of them, the facts, comes last: whatever ends it, nothing that looks whole is left
// under to, and where it can still act it leaves nothing at all. Write may be called from several goroutines.
type Folder struct {
	To   string // where it will be
	path string // where it is until then
	done bool
}

// partial is what the name of an unfinished folder ends with.
const partial = ".partial"

// CreateFolder begins a checkpoint of about so many bytes at to, which must not be there yet, or be empty. A disk
// without so much room is refused before the first byte.
func CreateFolder(to string, bytes int64) (*Folder, error) {
	if err := Vacant(to); err != nil {
		return nil, err
	}
	to = filepath.Clean(to)
	parent := filepath.Dir(to)
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return nil, cannotWrite(to, err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(parent, &disk); err == nil && bytes > 0 && uint64(bytes) > disk.Bavail*uint64(disk.Bsize) {
		return nil, cannotWrite(to, fmt.Errorf("it takes %d bytes, and %d are free there: %w", bytes, disk.Bavail*uint64(disk.Bsize), unix.ENOSPC))
	}
	f := &Folder{To: to, path: to + partial}
	switch err := os.Mkdir(f.path, 0o777); {
	case errors.Is(err, fs.ErrExist):
		return nil, &Error{File: f.path, Kind: ErrExists, What: "is what an interrupted command has left, or another one is writing; if none is, remove it and start again"}
	case err != nil:
		return nil, cannotWrite(to, err)
	}
	return f, nil
}

// Vacant refuses a place that is taken: by anything but an empty folder.
func Vacant(to string) error {
	entries, err := os.ReadDir(to)
	if len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &Error{File: filepath.Clean(to), Kind: ErrExists, What: "is there already, and nothing is overwritten; give another place, or remove it"}
	}
	return nil
}

func cannotWrite(path string, err error) error {
	return fmt.Errorf("%s: cannot be written: %w", path, unwrapPath(err))
}

// unwrapPath is the error below the path that package os puts in front.
func unwrapPath(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// JoinFolder is a Folder that another rank has begun at to, for more files to be written into it.
func JoinFolder(to string) *Folder {
	to = filepath.Clean(to)
	return &Folder{To: to, path: to + partial}
}

// Tensors writes tensors as one safetensors file of the folder.
func (f *Folder) Tensors(ctx context.Context, name string, tensors []Output) error {
	return writeFile(filepath.Join(f.path, name), func(w io.Writer) error { return writeSafetensors(ctx, w, tensors) })
}

// File writes a file of the folder.
func (f *Folder) File(name string, content []byte) error {
	return writeFile(filepath.Join(f.path, name), func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// Copy copies files of another folder, those that it has.
func (f *Folder) Copy(from string, names ...string) error {
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &Error{File: filepath.Join(from, name), Kind: err, What: "cannot be read: " + cause(err)}
		}
		if err := f.File(name, content); err != nil {
			return err
		}
	}
	return nil
}

// Commit makes the folder what it was meant to be, all of it at once.
func (f *Folder) Commit() error {
	if err := syncFolder(f.path); err != nil {
		return cannotWrite(f.path, err)
	}
	if err := unix.Rename(f.path, f.To); err != nil { // unlike package os it takes an empty folder's place
		return cannotWrite(f.To, err)
	}
	f.done = true
	if err := syncFolder(filepath.Dir(f.To)); err != nil {
		return cannotWrite(f.To, err)
	}
	return nil
}

// Discard removes what was written, unless it has been committed.
func (f *Folder) Discard() {
	if !f.done {
		_ = os.RemoveAll(f.path)
	}
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return orElse(d.Sync(), d.Close())
}
