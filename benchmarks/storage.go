package benchmarks

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// weightFiles are a model folder's files of at least a megabyte.
func weightFiles(folder string) (paths []string, bytes int64, err error) {
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Size() >= 1<<20 {
			paths, bytes = append(paths, path), bytes+info.Size()
		}
		return err
	})
	return paths, bytes, err
}

// forget asks the system to drop what it caches of files, so that they come from storage the next time. Pages that
// somebody has mapped stay.
func forget(paths []string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err == nil { // pages not yet written cannot be dropped
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// stream reads files from end to end in large pieces, several at a time.
func stream(paths []string) (time.Duration, error) {
	type piece struct {
		file   *os.File
		offset int64
	}
	const size, readers = 8 << 20, 8
	var pieces []piece
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		defer f.Close() //nolint:errcheck // opened for reading only
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		for at := int64(0); at < st.Size(); at += size {
			pieces = append(pieces, piece{f, at})
		}
	}
	begin, next, reading := time.Now(), atomic.Int64{}, errgroup.Group{}
	for range min(readers, runtime.GOMAXPROCS(0)) {
		reading.Go(func() error {
			buffer := make([]byte, size)
			for {
				i := int(next.Add(1) - 1)
				if i >= len(pieces) {
					return nil
				}
				if _, err := pieces[i].file.ReadAt(buffer, pieces[i].offset); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
			}
		})
	}
	err := reading.Wait()
	return time.Since(begin), err
}
