package results

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestCannotWrite: an output that cannot be made is named, with what stands in its way and the mend.
func TestCannotWrite(t *testing.T) {
	folder := t.TempDir()
	file, closed := filepath.Join(folder, "file"), filepath.Join(folder, "closed")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil { // so that others can come as far as closed
		t.Fatal(err)
	}
	for output, want := range map[string][]string{
		file:                         {file, "not a directory"},
		filepath.Join(closed, "out"): {closed, "permission denied", "give a folder that you may write to with --output"},
	} {
		var err error
		asNobody(t, func() {
			job := newTestJob()
			_, err = Create(context.Background(), output, job.fp, job.layout, job.chunks, Options{})
		})
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v; it does not say %q", err, part)
			}
		}
	}
}

// TestFolderAboveThatCannotBeRead: an output folder that is there serves, though those above it may only be passed
// through, as is usual for the folders of projects on clusters.
func TestFolderAboveThatCannotBeRead(t *testing.T) {
	above := filepath.Join(t.TempDir(), "projects")
	mine := filepath.Join(above, "mine")
	if err := os.MkdirAll(mine, 0o777); err != nil {
		t.Fatal(err)
	}
	for folder, mode := range map[string]os.FileMode{filepath.Dir(filepath.Dir(above)): 0o755, mine: 0o777, above: 0o311} {
		if err := os.Chmod(folder, mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(above, 0o755) // so that it can be removed; that tells
	asNobody(t, func() {
		job := newTestJob()
		out, err := Create(context.Background(), mine, job.fp, job.layout, job.chunks, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
}

// asNobody runs f without root's right to write anywhere. The user of file operations belongs to a thread; this one
// ends with its goroutine, which never lets go of it.
func asNobody(t *testing.T, f func()) {
	const nobody = 65534
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := syscall.Setfsuid(nobody); err != nil {
				ended <- err
				return
			}
		}
		f()
		ended <- nil
	}()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
