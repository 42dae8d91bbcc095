package cpu

import (
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// storeArgs is one checked Store, its norms apart.
type storeArgs struct {
	q, k, v        matrix[float32]
	position, slot []int32
	cache          *cache
	data           []byte // of the layer
	cos, sin       matrix[float32]
	rotated        int // values of a head that are rotated, 0: none
	interleaved    bool
}

// Store norms and rotates q and k in place and puts k and v into the cache.
func (s *Stream) Store(kv kernels.Cache, layer int, q, k, v kernels.Tensor, b kernels.Batch, how kernels.StoreSpec) {
	const op = "store"
	c := s.openCache(op, kv, layer)
	if s.err != nil {
		return
	}
	if s.note(rules.Store(c.spec, q, k, v, b, how)); s.err != nil || b.Tokens == 0 {
		return
	}
	a := &storeArgs{
		q: view[float32](q), k: view[float32](k),
		slot: vector[int32](b.Slot)[:b.Tokens], cache: c, data: c.layerData(layer),
	}
	if c.spec.Latent == 0 {
		a.v = view[float32](v)
	}
	for t, at := range a.slot {
		if at < -1 || int(at) >= c.spec.Blocks*c.spec.BlockTokens {
			s.fail("%s: slot %d of token %d lies outside a cache of %d blocks of %d", op, at, t, c.spec.Blocks, c.spec.BlockTokens)
			return
		}
	}
	if rope := how.Rope; rope != nil {
		a.position = vector[int32](b.Position)[:b.Tokens]
		a.cos, a.sin = view[float32](rope.Cos), view[float32](rope.Sin)
		a.rotated, a.interleaved = rope.Dim, rope.Interleaved
		s.checkIndex(op, "position", a.position, rope.Cos.Rows)
	}
	var norms []*normArgs
	if how.QNorm != nil {
		norms = append(norms, normOf(q, q, kernels.Tensor{}, *how.QNorm))
	}
	if how.KNorm != nil {
		norms = append(norms, normOf(k, k, kernels.Tensor{}, *how.KNorm))
	}
	if s.err == nil {
		s.rows(b.Tokens, float64(8*(q.Cols+2*k.Cols))*byteTime, func(from, to int) { s.dev.store(a, norms, from, to) })
	}
}

// store does a few rows at a time where they are normed too, so that they are in a cache still when they are rotated.
func (d *Device) store(a *storeArgs, norms []*normArgs, from, to int) {
	rows := to - from
	if len(norms) > 0 {
		rows = 8
	}
	for ; from < to; from += rows {
		next := min(from+rows, to)
		for _, n := range norms {
			d.kernels.norm(n, from, next)
		}
		d.kernels.store(a, from, next)
	}
}

// storeRows is the reference.
func storeRows(a *storeArgs, from, to int) {
	dim := a.cache.spec.HeadDim
	for t := from; t < to; t++ {
		if a.rotated > 0 {
			cos, sin := a.cos.row(int(a.position[t])), a.sin.row(int(a.position[t]))
			for _, row := range [2][]float32{a.q.row(t), a.k.row(t)} {
				for h := 0; h < len(row); h += dim {
					rotate(row[h:h+a.rotated], cos, sin, a.interleaved)
				}
			}
		}
		if a.slot[t] < 0 {
			continue
		}
		for h := range a.cache.spec.KVHeads {
			atK, atV := a.cache.at(int(a.slot[t]), h)
			a.put(atK, a.cache.width, a.k.row(t)[h*dim:(h+1)*dim])
			if a.cache.spec.Latent == 0 {
				a.put(atV, 1, a.v.row(t)[h*dim:(h+1)*dim])
			}
		}
	}
}

// put writes x to elements at, at+stride, … of the cache.
func (a *storeArgs) put(at, stride int, x []float32) {
	if a.cache.spec.DType == kernels.BF16 {
		put(a.data, at, stride, x, toBF16)
	} else {
		put(a.data, at, stride, x, same)
	}
}

func same(x float32) float32 { return x }

// put writes x to elements at, at+stride, … of data.
func put[T any](data []byte, at, stride int, x []float32, narrow func(float32) T) {
	dst := elements[T](data)[at:]
	for i, v := range x {
		dst[i*stride] = narrow(v)
	}
}

// elements is data, which is aligned, as elements of type T.
func elements[T any](data []byte) []T {
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/int(unsafe.Sizeof(t)))
}

// rotate turns the pairs of x: (a, b) becomes (a·cos − b·sin, b·cos + a·sin).
func rotate(x, cos, sin []float32, interleaved bool) {
	half := len(x) / 2
	for i := range half {
		a, b := i, i+half
		if interleaved {
			a, b = 2*i, 2*i+1
		}
		x[a], x[b] = x[a]*cos[i]-x[b]*sin[i], x[b]*cos[i]+x[a]*sin[i]
	}
}
