package cpu

// kernelSet is the inner loops that a level may bring in C. The reference set is Go and complete; a level replaces
// what it has. A loop gives each row the same bits whichever rows it is called for.
type kernelSet struct {
	norm         func(a *normArgs, from, to int)
	store        func(a *storeArgs, from, to int)
	attention    func(a *attentionArgs, items []attentionItem)
	gate         func(a *gateArgs, from, to int)
	combine      func(a *combineArgs, from, to int)
	mix          func(a *mixArgs, from, to int)
	score        func(a *scoreArgs, from, to int)
	logSum       func(logits []float32) (argmax int, logSum float64)
	tokenWeights func(dst, logits []float32, top, temperature float32)
}

// kernelsOf is the set of a level.
func kernelsOf(l Level) kernelSet {
	set := kernelSet{
		norm:         normRows,
		store:        storeRows,
		attention:    attendItems,
		gate:         gateRows,
		combine:      combineRows,
		mix:          mixRows,
		score:        scoreRows,
		logSum:       logSumOf,
		tokenWeights: tokenWeights,
	}
	return set
}
