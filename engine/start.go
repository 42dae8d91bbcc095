package engine

import "time"

// Start is where the time of a start went, on this rank.
type Start struct {
	Device   time.Duration // to find and open it, with all ranks
	Load     time.Duration // to read and pack the weights and take the rest of the memory
	Compile  time.Duration // to wait for kernels that were not in the cache, in Load or at their first use
	Compiled int           // files of kernels that were waited for
}

// Start tells what the start took; Compile may grow with the first steps.
func (e *Engine) Start() Start { return e.start }

// since begins to measure a part of the start; what it returns ends that.
func since(part *time.Duration) (end func()) {
	begin := time.Now()
	return func() { *part += time.Since(begin) }
}

// compile is told that a file of kernels is waited for, and returns what its end is told to.
func (e *Engine) compile(file string) (done func()) {
	begin, told := time.Now(), func() {}
	if e.compiling != nil {
		told = e.compiling(file)
	}
	return func() {
		told()
		e.start.Compile += time.Since(begin)
		e.start.Compiled++
	}
}
