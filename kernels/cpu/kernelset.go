package cpu

import "github.com/dsbatch/dsbatch/kernels"

// kernelSet is the inner loops of all ops but the linear ones. The reference set is Go and complete; a level brings
// its own in C. A loop gives each row the same bits whichever rows it is called for.
type kernelSet struct {
	norm         func(a *normArgs, from, to int)
	convert      func(dst, src kernels.Tensor, from, to int)
	embed        func(a *embedArgs, from, to int)
	store        func(a *storeArgs, from, to int)
	attention    func(a *attentionArgs, items []attentionItem)
	gate         func(a *gateArgs, from, to int)
	combine      func(a *combineArgs, from, to int)
	mix          func(a *mixArgs, from, to int)
	add          func(y, x matrix[float32], from, to int)
	reduce       func(a *reduceArgs, from, to int)
	score        func(a *scoreArgs, from, to int)
	logSum       func(logits []float32) (argmax int, logSum float64)
	tokenWeights func(dst, logits []float32, top, temperature float32) (sum float64)
	nextAbove    func(x []float32, from int, bound float32) int // the first index >= from above bound, or len(x)
	massesAbove  func(w []float32, bound [3]float32) massesAbove
	between      func(to, from weighted, low, high float32) (found int)
}

// kernelsOf is the set of a level.
func kernelsOf(l Level) kernelSet {
	if l > Reference {
		return nativeKernels(l)
	}
	return kernelSet{
		norm:         normRows,
		convert:      convertRows,
		embed:        embedRows,
		store:        storeRows,
		attention:    attendItems,
		gate:         gateRows,
		combine:      combineRows,
		mix:          mixRows,
		add:          addRows,
		reduce:       reduceRows,
		score:        scoreRows,
		logSum:       logSumOf,
		tokenWeights: tokenWeights,
		nextAbove:    nextAbove,
		massesAbove:  massesOf,
		between:      weightsBetween,
	}
}
