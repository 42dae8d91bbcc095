package stats

import "fmt"

// Phase is one of the activities that a rank's time is counted by.
type Phase int

// The phases. Load to Wait follow one another in a rank's main loop; Attention to Head lie inside Prefill and Decode;
// Read to Commit run beside the loop, and take no time of it unless it has to wait.
const (
	Load    Phase = iota // reading weights, compiling kernels
	Prefill              // steps with prompt tokens, generated ones among them or not
	Decode               // steps with generated tokens only
	Sample               // choosing tokens, looking for stops
	Wait                 // for rows, for other ranks

	Attention
	Dense // projections and MLPs that every token passes
	Route
	Dispatch
	Experts
	Combine
	Head // logits over the vocabulary

	Read
	Tokenize
	Detokenize
	Write
	Commit

	phases int = iota
)

var phaseNames = [phases]string{
	"load", "prefill", "decode", "sample", "wait",
	"attention", "dense", "route", "dispatch", "experts", "combine", "head",
	"read", "tokenize", "detokenize", "write", "commit",
}

func (p Phase) String() string {
	if p < 0 || int(p) >= phases {
		return fmt.Sprintf("phase %d", int(p))
	}
	return phaseNames[p]
}

// group is where a phase's time belongs.
type group string

const (
	loop   group = "loop"   // adds up to the rank's time, with what is left over
	inStep group = "step"   // adds up to prefill and decode, with what is left over
	beside group = "beside" // overlaps with all of that
)

func (p Phase) group() group {
	switch {
	case p <= Wait:
		return loop
	case p <= Head:
		return inStep
	}
	return beside
}
