package stats

// maxSlices is how many pieces of time a series keeps, whatever the job's length.
const maxSlices = 512

// firstWidth is the seconds of a slice at the start; a series that outgrows its slices doubles their width.
const firstWidth = 1.0 / 256

// Series is what happened over time, in slices of equal width from the rank's start on.
type Series struct {
	Width  float64 `json:"width"` // seconds of a slice
	Slices []Slice `json:"slices"`
}

// Slice is one piece of time. Sums of a step are spread evenly over the time that the step took.
type Slice struct {
	Prompt   float64 `json:"prompt"`    // prompt tokens
	Output   float64 `json:"output"`    // output tokens
	Busy     float64 `json:"busy"`      // rank-seconds inside steps
	RowTime  float64 `json:"row_time"`  // rows in flight × seconds inside steps
	KVBlocks float64 `json:"kv_blocks"` // most blocks in use, summed over ranks
}

func (s *Slice) add(x Slice) {
	s.Prompt += x.Prompt
	s.Output += x.Output
	s.Busy += x.Busy
	s.RowTime += x.RowTime
}

func (s Slice) scaled(f float64) Slice {
	return Slice{Prompt: s.Prompt * f, Output: s.Output * f, Busy: s.Busy * f, RowTime: s.RowTime * f}
}

func newSeries() Series { return Series{Width: firstWidth} }

// add spreads x over the seconds from begin to end, and raises the blocks of the slices it touches.
func (s *Series) add(begin, end float64, x Slice) {
	begin = max(begin, 0)
	end = max(end, begin)
	for end >= s.Width*maxSlices {
		s.fold()
	}
	first, last := int(begin/s.Width), int(end/s.Width)
	for len(s.Slices) <= last {
		s.Slices = append(s.Slices, Slice{})
	}
	for i := first; i <= last; i++ {
		share := 1.0
		if end > begin {
			from, to := max(begin, float64(i)*s.Width), min(end, float64(i+1)*s.Width)
			share = (to - from) / (end - begin)
		}
		s.Slices[i].add(x.scaled(share))
		s.Slices[i].KVBlocks = max(s.Slices[i].KVBlocks, x.KVBlocks)
	}
}

// fold doubles the width.
func (s *Series) fold() {
	for i := 0; i < len(s.Slices); i += 2 {
		x := s.Slices[i]
		if i+1 < len(s.Slices) {
			x.add(s.Slices[i+1])
			x.KVBlocks = max(x.KVBlocks, s.Slices[i+1].KVBlocks)
		}
		s.Slices[i/2] = x
	}
	s.Slices = s.Slices[:(len(s.Slices)+1)/2]
	s.Width *= 2
}

// merge adds another rank's series, which began shift seconds after this one. Blocks are summed over ranks.
func (s *Series) merge(other Series, shift float64) {
	all := Series{Width: s.Width}
	for i, x := range other.Slices {
		begin := shift + float64(i)*other.Width
		all.add(begin, begin+other.Width*(1-1e-9), x)
	}
	for s.Width < all.Width {
		s.fold()
	}
	for len(s.Slices) < len(all.Slices) {
		s.Slices = append(s.Slices, Slice{})
	}
	for i, x := range all.Slices {
		s.Slices[i].add(x)
		s.Slices[i].KVBlocks += x.KVBlocks
	}
}
