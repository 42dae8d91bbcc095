package kernels

// CompilingDevice is a Device that compiles its kernels for the hardware found, each file of them when it is first needed.
type CompilingDevice interface {
	Device
	// OnCompile has begin told of each file that is compiled from now on, rather than found in a cache, by the goroutine
	// that needs it; what begin returns is called when that is done. nil: nobody is told.
	OnCompile(begin func(file string) (done func()))
}
