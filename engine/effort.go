package engine

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// effort returns a count that grows while this process works: while it uses a twentieth of a core, reads, or has pages
// read in. It is how phases get on that have no place to say so from: scanning files, parsing metadata, compiling kernels.
func effort() func() int64 {
	var count int64
	last, at := usage(), time.Now()
	return func() int64 {
		u, now := usage(), time.Now()
		if u.busy-last.busy > now.Sub(at)/20 || u.pages != last.pages || u.read-last.read > 64<<10 {
			count++
		}
		last, at = u, now
		return count
	}
}

// work is what this process has used so far.
type work struct {
	busy  time.Duration // of all cores
	pages int64         // that it had to wait for
	read  int64         // bytes, from files and from other processes
}

func usage() (w work) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		w.busy, w.pages = time.Duration(u.Utime.Nano()+u.Stime.Nano()), u.Majflt
	}
	text, _ := os.ReadFile("/proc/self/io") // Linux only; elsewhere this is not known
	if _, after, found := bytes.Cut(text, []byte("rchar: ")); found {
		number, _, _ := bytes.Cut(after, []byte("\n"))
		w.read, _ = strconv.ParseInt(string(number), 10, 64)
	}
	return w
}
