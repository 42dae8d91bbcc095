package model

import (
	"fmt"

	"github.com/dsbatch/dsbatch/shard"
)

// stage is the layers of one pipeline stage. The first also embeds; the last also norms and has the output embedding.
type stage struct {
	shard.Range
	first, last bool
}

// newStage cuts the layers into contiguous stages so that the weights that a rank of the largest stage holds are as few
// as can be: of a layer its share of attention and MLP under tp, and its share of the experts; the first stage's
// embeddings and the last stage's output embedding count too. All ranks compute the same cut from the config alone.
func newStage(c *Config, o LoadOptions, local func(layer int) (held, slices int)) (stage, error) {
	if o.Stages <= 1 {
		return stage{shard.Range{To: c.Layers}, true, true}, nil
	}
	if o.Stage < 0 || o.Stage >= o.Stages {
		return stage{}, fmt.Errorf("%w: pipeline stage %d of %d", ErrSlices, o.Stage, o.Stages)
	}
	tp := int64(placeIn(o.TP).ranks)
	sizes := make([]int64, c.Layers)
	for i := range sizes {
		sizes[i] = c.layerWeights(i, tp, local)
	}
	sizes[0] += int64(c.Vocab) * int64(c.Width())
	if c.Learned {
		sizes[0] += int64(c.Window) * int64(c.Hidden)
	}
	sizes[c.Layers-1] += int64(c.Vocab) * int64(c.Width()) / tp
	if c.Width() != c.Hidden {
		sizes[0] += int64(c.Width()) * int64(c.Hidden)
		sizes[c.Layers-1] += int64(c.Width()) * int64(c.Hidden)
	}
	cut, err := shard.Stages(sizes, o.Stages)
	if err != nil {
		return stage{}, fmt.Errorf("%w: pp %d: %w", ErrSlices, o.Stages, err)
	}
	return stage{cut[o.Stage], o.Stage == 0, o.Stage == o.Stages-1}, nil
}

// layerWeights is how many weights of a layer a rank holds, about.
func (c *Config) layerWeights(layer int, tp int64, local func(layer int) (held, slices int)) int64 {
	hidden, matrices := int64(c.Hidden), int64(2)
	if c.Gated {
		matrices = 3
	}
	ofHeads, whole := c.AttentionWeights()
	n := ofHeads/tp + whole
	m := c.MoE[layer]
	if m.Gate.Experts == 0 {
		return n + matrices*hidden*int64(c.FFN)/tp
	}
	held, slices := local(layer)
	n += int64(m.Gate.Experts)*hidden + matrices*hidden*int64(m.FFN)*int64(held)/int64(slices)
	n += matrices * hidden * int64(m.Branch()) / tp
	return n
}
