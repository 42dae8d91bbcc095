package cuda

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// cache is a paged KV cache: [layer][block][KV head]{K [tokens][dim], V [tokens][dim]}; no V where keys hold the values.
type cache struct {
	spec kernels.CacheSpec
	mem  *memory
}

// NewCache makes a cache of zeros, of any float type.
func (d *Device) NewCache(c kernels.CacheSpec) (kernels.Cache, error) {
	if !c.DType.IsFloat() {
		return nil, fmt.Errorf("KV cache of %v: this device has fp32, bf16 and fp16", c.DType)
	}
	if c.Layers < 0 || c.Blocks < 0 || c.BlockTokens < 1 || c.KVHeads < 1 || c.HeadDim < 1 || c.Latent < 0 || c.Latent > c.HeadDim {
		return nil, fmt.Errorf("KV cache: %d layers × %d blocks of %d tokens, %d heads of %d is no shape", c.Layers, c.Blocks, c.BlockTokens, c.KVHeads, c.HeadDim)
	}
	m, err := d.memory.allocate("KV cache", c.Bytes())
	if err != nil {
		return nil, err
	}
	if c.Bytes() > 0 {
		if err := zero(d.ctx, m.address, c.Bytes()); err != nil {
			m.Free()
			return nil, fmt.Errorf("KV cache: %w", err)
		}
	}
	return &cache{spec: c, mem: m}, nil
}

func (c *cache) Spec() kernels.CacheSpec { return c.spec }
func (c *cache) Free()                   { c.mem.Free() }

// blockBytes is the size of one block of one layer.
func (c *cache) blockBytes() int64 {
	return int64(c.spec.Parts()) * int64(c.spec.BlockTokens) * int64(c.spec.HeadDim) * int64(c.spec.KVHeads) * int64(c.spec.DType.Size())
}

// layer is where a layer begins.
func (c *cache) layer(i int) handle {
	return c.mem.address + handle(int64(i)*c.blockBytes()*int64(c.spec.Blocks))
}

// openCache opens k for an op on one of its layers.
func (s *Stream) openCache(op opNumber, k kernels.Cache, layer int) *cache {
	c, err := operands.Cache[*cache](op.String(), k, layer)
	s.note(err)
	return c
}
