package kernels

// CompilingDevice is a Device that compiles its kernels for the hardware found, each file of them when it is first needed,
// or before.
type CompilingDevice interface {
	Device
	// Prepare begins to compile, beside what comes, the kernels that a model with weights of type w is likely to need whose
	// checkpoint is of type from. Those that are cached are loaded.
	Prepare(w, from DType)
	// OnCompile has begin told of each file that is waited for from now on while it is compiled, rather than found in a
	// cache, by the goroutine that needs it; what begin returns is called when it is there. nil: nobody is told.
	OnCompile(begin func(file string) (done func()))
}
