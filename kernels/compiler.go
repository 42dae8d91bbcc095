package kernels

// CompilingDevice is a Device that compiles its kernels for the hardware found, each file of them when it is first needed,
// or before.
type CompilingDevice interface {
	Device
	// Prepare begins to compile, beside what comes, the kernels that such a model is likely to need. Those that are cached are
	// loaded.
	Prepare(m Made)
	// OnCompile has begin told of each file that is waited for from now on while it is compiled, rather than found in a
	// cache, by the goroutine that needs it; what begin returns is called when it is there. nil: nobody is told.
	OnCompile(begin func(file string) (done func()))
}

// Made is what a model is made of, as far as kernels are compiled for it.
type Made struct {
	Weights, Stored DType   // types of the weights: as they are computed with, and as they stand in the checkpoint
	HeadDim, Latent int     // as in CacheSpec
	ALiBi, Sinks    bool    // attention has slopes, or sinks
	Limit           float32 // of experts that end in a ClampedSwiGLU; 0: others
}
