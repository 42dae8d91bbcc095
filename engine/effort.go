package engine

import (
	"syscall"
	"time"
)

// effort returns a count that grows while this process works: while it uses a twentieth of a core, or has pages read
// in. It is how phases count as progress whose time goes into scanning files, reading metadata or compiling kernels.
func effort() func() int64 {
	var count int64
	used, pages := usage()
	at := time.Now()
	return func() int64 {
		nowUsed, nowPages := usage()
		now := time.Now()
		if nowUsed-used > now.Sub(at)/20 || nowPages != pages {
			count++
		}
		used, pages, at = nowUsed, nowPages, now
		return count
	}
}

// usage is the processor time of this process and the pages that it had to wait for.
func usage() (time.Duration, int64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0 // then nothing is known, and only Progress counts
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), int64(u.Majflt)
}
