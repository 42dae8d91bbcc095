package cpu

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// panel is how many tokens of K lie side by side, so that one vector holds a dimension of all of them.
const panel = 16

// cache is a paged KV cache. For each layer, block and KV head it holds K, then V: K in panels, [tokens/panel] of
// [dim][panel], and V as [tokens][dim]. Where panel does not divide the block's tokens, K is [tokens][dim] too; so are keys
// that hold the values.
type cache struct {
	spec  kernels.CacheSpec
	mem   *memory
	width int // tokens side by side in K: panel or 1
}

// NewCache makes a cache of zeros. The types are F32 and BF16.
func (d *Device) NewCache(c kernels.CacheSpec) (kernels.Cache, error) {
	if c.DType != kernels.F32 && c.DType != kernels.BF16 {
		return nil, fmt.Errorf("KV cache of %v: this device has fp32 and bf16", c.DType)
	}
	if c.Layers < 0 || c.Blocks < 0 || c.BlockTokens < 1 || c.KVHeads < 1 || c.HeadDim < 1 || c.Latent < 0 || c.Latent > c.HeadDim {
		return nil, fmt.Errorf("KV cache: %d layers × %d blocks of %d tokens, %d heads of %d is no shape", c.Layers, c.Blocks, c.BlockTokens, c.KVHeads, c.HeadDim)
	}
	m, err := allocate("KV cache", c.Bytes())
	if err != nil {
		return nil, err
	}
	width := 1
	if c.BlockTokens%panel == 0 && c.Latent == 0 {
		width = panel
	}
	return &cache{spec: c, mem: m, width: width}, nil
}

func (c *cache) Spec() kernels.CacheSpec { return c.spec }
func (c *cache) Free()                   { c.mem.Free() }

// Warm has the system give the memory of the blocks [from, to).
func (c *cache) Warm(from, to int, each func()) {
	from, to = max(from, 0), min(to, c.spec.Blocks)
	for layer := 0; layer < c.spec.Layers && from < to; layer++ {
		first := layer * c.spec.Blocks
		c.mem.warm((first+from)*c.blockBytes(), (first+to)*c.blockBytes())
		each()
	}
}

// headSize is the number of elements of K, and of V, of one head of a block.
func (c *cache) headSize() int { return c.spec.BlockTokens * c.spec.HeadDim }

// headStep is the number of elements from one head of a block to the next.
func (c *cache) headStep() int { return c.spec.Parts() * c.headSize() }

// valueStep is the number of elements from the key of a token that lies in no panel to its value.
func (c *cache) valueStep() int {
	if c.spec.Latent > 0 {
		return c.spec.HeadDim - c.spec.Latent
	}
	return c.headSize()
}

// layerData is the bytes of a layer, all of its blocks.
func (c *cache) layerData(layer int) []byte {
	n := c.blockBytes() * c.spec.Blocks
	return c.mem.data[layer*n : (layer+1)*n]
}

func (c *cache) blockBytes() int {
	return c.headStep() * c.spec.KVHeads * c.spec.DType.Size()
}

// at is where K of a slot's head begins, in elements from the layer's first; V begins at atV. Dimensions of K are
// c.width elements apart.
func (c *cache) at(slot, head int) (k, v int) {
	block, place := slot/c.spec.BlockTokens, slot%c.spec.BlockTokens
	base := c.headStep() * (block*c.spec.KVHeads + head)
	dim := c.spec.HeadDim
	return base + place/c.width*c.width*dim + place%c.width, base + place*dim + c.valueStep()
}

// openCache opens k for an op on one of its layers.
func (s *Stream) openCache(op string, k kernels.Cache, layer int) *cache {
	c, err := operands.Cache[*cache](op, k, layer)
	s.note(err)
	return c
}
