package results

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// fileSystem is what this package asks of a disk. Tests put one in its place that dies after the k-th operation,
// forgets what was not fsynced, or is full.
type fileSystem interface {
	Open(name string) (handle, error)                   // to read
	Create(name string, exclusive bool) (handle, error) // to write; exclusive: fails with fs.ErrExist when it is there
	Rename(from, to string) error
	Remove(name string) error
	MkdirAll(name string) error
	ReadDir(name string) ([]string, error) // names, sorted
	Stat(name string) (size int64, err error)
	SyncDir(name string) error // the names in a folder are on the disk when it returns
}

type handle interface {
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Sync() error
}

// disk is the operating system's file system.
type disk struct{}

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (disk) Open(name string) (handle, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Create(name string, exclusive bool) (handle, error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_TRUNC
	if exclusive {
		flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(name, flags, 0o666)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(name string) error     { return os.Remove(name) }
func (disk) MkdirAll(name string) error   { return os.MkdirAll(name, 0o777) }

func (disk) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (disk) Stat(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (disk) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // some network and FUSE file systems have no fsync of folders; their renames are synchronous
	}
	return errors.Join(err, d.Close())
}

// told is a file system that tells of each look at it: thousands of them may take a while.
type told struct {
	fileSystem
	progress func()
}

func (t told) Open(name string) (handle, error) {
	defer t.progress()
	return t.fileSystem.Open(name)
}

func (t told) Stat(name string) (int64, error) {
	defer t.progress()
	return t.fileSystem.Stat(name)
}

func (t told) Remove(name string) error {
	defer t.progress()
	return t.fileSystem.Remove(name)
}

// writeAside writes a whole file so that name either keeps its former content or has all of the new one, now and after
// a power failure: the content goes to temporary (in the same folder) and is fsynced, then renamed, then the folder is
// fsynced. On an error, of ready too, which is asked right before the rename, the temporary file is removed.
func writeAside(fsys fileSystem, temporary, name string, write func(io.Writer) error, ready func() error) (size int64, err error) {
	f, err := fsys.Create(temporary, false)
	if err != nil {
		return 0, err
	}
	renamed := false
	defer func() {
		if err != nil && !renamed {
			_ = fsys.Remove(temporary) // the first error is the one to tell
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<20)
	err = write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		size, err = f.Size()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if err = ready(); err != nil {
		return 0, err
	}
	if err = fsys.Rename(temporary, name); err != nil {
		return 0, err
	}
	renamed = true
	return size, fsys.SyncDir(filepath.Dir(name))
}

// readAll reads a small file.
func readAll(fsys fileSystem, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	content, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	return content, errors.Join(err, f.Close())
}

func exists(fsys fileSystem, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
