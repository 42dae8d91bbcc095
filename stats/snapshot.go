package stats

import (
	"slices"
	"time"
)

// Snapshot is what one rank counted, as it travels to rank 0 in JSON.
type Snapshot struct {
	Rank    int       `json:"rank"`
	Machine Machine   `json:"machine"`
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"` // from Start to the snapshot

	Rows int64     `json:"rows"`           // finished by this start of the job, without bad ones
	Kept int64     `json:"kept,omitempty"` // finished by earlier starts, in chunks that are committed by this one
	Bad  []BadRows `json:"bad,omitempty"`

	Phases   map[string]float64 `json:"phases"` // seconds
	Prefill  Work               `json:"prefill"`
	Decode   Work               `json:"decode"`
	Bytes    Bytes              `json:"bytes"`
	Weights  int64              `json:"weight_memory"`             // bytes held
	Waiting  int64              `json:"waiting_weights,omitempty"` // bytes in the host's memory, for a GPU
	KV       int64              `json:"kv_memory"`                 // bytes held
	KVBlocks int                `json:"kv_blocks"`
	KVPeak   int                `json:"kv_peak"` // most blocks in use
	Layers   []Layer            `json:"layers,omitempty"`
	Series   Series             `json:"series"`
}

// Bytes is the traffic of a rank, or of all.
type Bytes struct {
	Input      int64 `json:"input"`       // of input files, the share of the rows that were read
	Output     int64 `json:"output"`      // written to part files
	Weights    int64 `json:"weights"`     // read from checkpoints
	WireUseful int64 `json:"wire_useful"` // payload exchanged between ranks
	WireSent   int64 `json:"wire_sent"`   // with padding, copies and relays
}

func (b *Bytes) add(o Bytes) {
	b.Input += o.Input
	b.Output += o.Output
	b.Weights += o.Weights
	b.WireUseful += o.WireUseful
	b.WireSent += o.WireSent
}

// clone copies what the recorder goes on changing.
func (s Snapshot) clone() Snapshot {
	s.Bad = slices.Clone(s.Bad)
	for i := range s.Bad {
		s.Bad[i].Examples = slices.Clone(s.Bad[i].Examples)
	}
	s.Layers = slices.Clone(s.Layers)
	for i := range s.Layers {
		s.Layers[i].Tokens = slices.Clone(s.Layers[i].Tokens)
	}
	s.Series.Slices = slices.Clone(s.Series.Slices)
	return s
}
