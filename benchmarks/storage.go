package benchmarks

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

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

// stream reads files from end to end in large pieces.
func stream(paths []string) (time.Duration, error) {
	begin, piece := time.Now(), make([]byte, 8<<20)
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, piece)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}
