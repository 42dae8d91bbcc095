package stats

// Layer is one MoE layer's load.
type Layer struct {
	Layer  int     `json:"layer"`        // of the model, from 0
	EP     int     `json:"ep,omitempty"` // ranks that share its experts
	Tokens []int64 `json:"tokens"`       // [experts] slots: choices of each expert by this rank's tokens; by all, in a Report
	// Computed is the slots that experts of this rank computed, also for tokens of other ranks.
	Computed int64 `json:"computed,omitempty"`
	// Dropped is the choices that an expert's capacity left out.
	Dropped int64 `json:"dropped,omitempty"`
	// StepMax and StepMean sum, over steps, the slots of the busiest expert and of the average one.
	StepMax  int64   `json:"step_max"`
	StepMean float64 `json:"step_mean"`
}

// add counts one step.
func (l *Layer) add(tokens []int32, computed, dropped int64) {
	var sum, most int64
	for e, n := range tokens[:min(len(tokens), len(l.Tokens))] {
		l.Tokens[e] += int64(n)
		sum += int64(n)
		most = max(most, int64(n))
	}
	l.Computed += computed
	l.Dropped += dropped
	l.StepMax += most
	if len(l.Tokens) > 0 {
		l.StepMean += float64(sum) / float64(len(l.Tokens))
	}
}

func (l *Layer) merge(o Layer) {
	for len(l.Tokens) < len(o.Tokens) {
		l.Tokens = append(l.Tokens, 0)
	}
	for e, n := range o.Tokens {
		l.Tokens[e] += n
	}
	l.Computed += o.Computed
	l.Dropped += o.Dropped
	l.StepMax += o.StepMax
	l.StepMean += o.StepMean
}

// Balance is how evenly a layer's slots fell on its experts.
type Balance struct {
	Slots   int64   `json:"slots"`
	Busiest int     `json:"busiest"`  // the expert with the most
	MaxMean float64 `json:"max_mean"` // its slots over the mean; 1 is even
	// StepMaxMean is the same within a step of a rank, averaged: what a grouped GEMM sees.
	StepMaxMean float64 `json:"step_max_mean"`
	Idle        int     `json:"idle"` // experts without any
	// Histogram counts experts by their slots over the mean: below ¼, ½, 1, 2, 4, and 4 or more.
	Histogram [6]int `json:"histogram"`
}

// Balance sums a layer up.
func (l *Layer) Balance() Balance {
	var x Balance
	for e, n := range l.Tokens {
		x.Slots += n
		if n > l.Tokens[x.Busiest] {
			x.Busiest = e
		}
		if n == 0 {
			x.Idle++
		}
	}
	if x.Slots == 0 {
		return x
	}
	mean := float64(x.Slots) / float64(len(l.Tokens))
	x.MaxMean = float64(l.Tokens[x.Busiest]) / mean
	if l.StepMean > 0 {
		x.StepMaxMean = float64(l.StepMax) / l.StepMean
	}
	for _, n := range l.Tokens {
		bin := 0
		for edge := 0.25; bin < 5 && float64(n)/mean >= edge; edge *= 2 {
			bin++
		}
		x.Histogram[bin]++
	}
	return x
}
