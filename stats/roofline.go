package stats

// Ceilings are what a rank's machine can do at most, measured there; 0 where nothing was measured.
type Ceilings struct {
	FLOPs float64 `json:"flops"`         // floating-point operations a second, in the job's dtype
	Bytes float64 `json:"bytes"`         // bytes a second of its memory
	Bus   float64 `json:"bus,omitempty"` // bytes a second that come from the host's memory, where weights wait there
}

// bound is the least time that the work could have taken, in seconds.
func (c Ceilings) bound(flops, bytes, brought float64) (seconds float64) {
	if c.FLOPs > 0 {
		seconds = flops / c.FLOPs
	}
	if c.Bytes > 0 {
		seconds = max(seconds, bytes/c.Bytes)
	}
	if c.Bus > 0 {
		seconds = max(seconds, brought/c.Bus)
	}
	return seconds
}

// Work is what the steps of one kind did, summed over steps and ranks.
type Work struct {
	Steps        int64   `json:"steps"`
	Seconds      float64 `json:"seconds"`
	PromptTokens int64   `json:"prompt_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	Rows         int64   `json:"rows"` // rows in flight, summed over steps
	MaxRows      int     `json:"max_rows"`
	FLOPs        float64 `json:"flops"`
	Bytes        float64 `json:"bytes"`
	Brought      float64 `json:"bytes_brought,omitempty"` // of weights, from the host's memory
	// Bound is the time that the ceilings allow for these steps, each by the tightest of them; ComputeBound,
	// MemoryBound and BusBound what each ceiling alone allows. All are 0 without ceilings.
	Bound        float64 `json:"bound"`
	ComputeBound float64 `json:"compute_bound"`
	MemoryBound  float64 `json:"memory_bound"`
	BusBound     float64 `json:"bus_bound,omitempty"`
}

func (w *Work) add(o Work) {
	w.Steps += o.Steps
	w.Seconds += o.Seconds
	w.PromptTokens += o.PromptTokens
	w.OutputTokens += o.OutputTokens
	w.Rows += o.Rows
	w.MaxRows = max(w.MaxRows, o.MaxRows)
	w.FLOPs += o.FLOPs
	w.Bytes += o.Bytes
	w.Bound += o.Bound
	w.ComputeBound += o.ComputeBound
	w.MemoryBound += o.MemoryBound
	w.Brought += o.Brought
	w.BusBound += o.BusBound
}

// Roofline is how near the work came to the ceilings, each from 0 to 1.
type Roofline struct {
	Fraction float64 `json:"fraction"`      // of the tighter ceiling, step by step
	Compute  float64 `json:"compute"`       // of the FLOP rate
	Memory   float64 `json:"memory"`        // of the memory bandwidth
	Bus      float64 `json:"bus,omitempty"` // of the bandwidth from the host's memory, where weights wait there
}

// Roofline divides the bounds by the time taken; false where no ceiling was measured or no step was taken.
func (w Work) Roofline() (Roofline, bool) {
	if w.Bound <= 0 || w.Seconds <= 0 {
		return Roofline{}, false
	}
	return Roofline{w.Bound / w.Seconds, w.ComputeBound / w.Seconds, w.MemoryBound / w.Seconds, w.BusBound / w.Seconds}, true
}
