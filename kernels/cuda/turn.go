package cuda

import (
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	turnPatience = time.Minute           // for one that compiles: longer than any program takes
	turnLook     = 10 * time.Millisecond // at whether it is done
)

// turn is the right to make one file of a folder that several processes, and goroutines of this one, want at a time. It is
// a lock on a byte of the folder's file named lock, which the system takes from a process that dies. Where there can be no lock,
// all take their turn at once: that costs time, and files are written aside.
type turn struct{ lock *os.File }

// takeTurn waits until nobody else makes the file, or it is there, or patience is at its end.
func takeTurn(path string, patience time.Duration) turn {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return turn{}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return turn{}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(path)) // never fails
	for begun := time.Now(); ; time.Sleep(turnLook) {
		byteOf := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(h.Sum32()), Len: 1}
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &byteOf)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) || time.Since(begun) > patience {
			return turn{f}
		}
		if _, err := os.Stat(path); err == nil {
			return turn{f}
		}
	}
}

// end lets the next one have its turn.
func (t turn) end() {
	if t.lock != nil {
		_ = t.lock.Close() // read and written by nobody
	}
}
