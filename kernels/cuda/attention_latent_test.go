package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// TestLatentTilesFit: whatever a card has room for, there is a tile, and the narrow one fits where a card of the compute
// capabilities that are supported has 99 KiB for a block.
func TestLatentTilesFit(t *testing.T) {
	const ofKernels = 256 // bytes
	for _, c := range []card{
		{major: 8, shared: 166912}, {major: 8, minor: 6, shared: 101376}, {major: 8, minor: 9, shared: 101376},
		{major: 9, shared: 232448}, {major: 10, shared: 232448}, {major: 12, shared: 101376},
	} {
		for _, rows := range []int{1, 16, 17, 40, 128} {
			tile := latentTileFor(c, rows)
			if tile.shared()+ofKernels > c.shared {
				t.Errorf("%s: %d rows: a tile of %d takes %d bytes of %d", c.arch(), rows, tile.rows, tile.shared(), c.shared)
			}
			if rows <= 16 && tile.rows != 16 {
				t.Errorf("%s: %d rows have a tile of %d", c.arch(), rows, tile.rows)
			}
		}
	}
}

// latentChunk is tokens [from, to) of a sequence in a step.
type latentChunk struct{ from, to int }

// latentRunner is a step of latent attention over a cache of random keys, in blocks of 16 tokens in disorder.
type latentRunner struct {
	device *Device
	stream *Stream
	cache  kernels.Cache
	out, q kernels.Tensor
	batch  kernels.Batch
	spec   kernels.AttentionSpec
	zeros  kernels.Tensor // slopes, which lead to the kernel for any types
	owned  []kernels.Memory
}

const latentLayers = 2

func openLatent(t testing.TB, d *Device, dtype kernels.DType, heads int, chunks []latentChunk) *latentRunner {
	t.Helper()
	const block = 16
	random := rand.New(rand.NewPCG(1, 2))
	l := &latentRunner{device: d, spec: kernels.AttentionSpec{Heads: heads, KVHeads: 1, HeadDim: latentKey, Scale: 0.05, Causal: true}}
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	l.stream, err = d.newStream()
	fatal(err)
	alloc := func(dtype kernels.DType, rows, cols int) kernels.Tensor {
		x, err := d.Alloc("a test's tensor", dtype, rows, cols)
		fatal(err)
		l.owned = append(l.owned, x.Mem)
		return x
	}
	ints := func(values []int32) kernels.Tensor {
		x := alloc(kernels.I32, 1, len(values))
		data := make([]byte, 0, 4*len(values))
		for _, v := range values {
			data = binary.LittleEndian.AppendUint32(data, uint32(v))
		}
		l.stream.Write(x, data)
		return x
	}
	noise := func(rows, cols int) kernels.Tensor { // as float32, rounded on its way
		x, wide := alloc(dtype, rows, cols), alloc(kernels.F32, rows, cols)
		data := make([]byte, 0, 4*rows*cols)
		for range rows * cols {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(random.NormFloat64())))
		}
		l.stream.Write(wide, data)
		l.stream.Copy(x, wide)
		return x
	}
	var position, seq, start, table []int32
	columns, blocks := 0, 0
	for _, c := range chunks {
		columns = max(columns, ceilDiv(c.to, block))
	}
	for i, c := range chunks {
		start = append(start, int32(len(position)))
		for p := c.from; p < c.to; p++ {
			position, seq = append(position, int32(p)), append(seq, int32(i))
		}
		for b := range columns {
			table = append(table, -1)
			if b*block < c.to {
				table[len(table)-1] = int32(blocks)
				blocks++
			}
		}
		l.batch.MaxContext = max(l.batch.MaxContext, c.to)
	}
	order := random.Perm(blocks)
	for i, b := range table {
		if b >= 0 {
			table[i] = int32(order[b])
		}
	}
	n := len(position)
	l.batch.Tokens, l.batch.Seqs = n, len(chunks)
	l.batch.Position, l.batch.Seq, l.batch.Start = ints(position), ints(seq), ints(append(start, int32(n)))
	l.batch.Blocks = ints(table).Reshape(len(chunks), columns)
	l.cache, err = d.NewCache(kernels.CacheSpec{DType: dtype, Layers: latentLayers, Blocks: blocks, BlockTokens: block, KVHeads: 1,
		HeadDim: latentKey, Latent: latentValue})
	fatal(err)
	const keys = 1024 // of random ones, which come again
	k := noise(keys, latentKey)
	for from := 0; from < blocks*block; from += keys {
		rows := min(keys, blocks*block-from)
		var slots []int32
		for i := range rows {
			slots = append(slots, int32(from+i))
		}
		for layer := range latentLayers {
			some := k.RowRange(0, rows)
			l.stream.Store(l.cache, layer, some, some, kernels.Tensor{}, kernels.Batch{Tokens: rows, Slot: ints(slots)}, kernels.StoreSpec{})
		}
	}
	const queries = 64 // tokens whose queries are random, and come again
	l.q, l.out = alloc(dtype, n, heads*latentKey), alloc(dtype, n, heads*latentValue)
	some := noise(min(n, queries), heads*latentKey)
	for from := 0; from < n; from += queries {
		rows := min(queries, n-from)
		l.stream.Copy(l.q.RowRange(from, from+rows), some.RowRange(0, rows))
	}
	l.zeros = alloc(kernels.F32, 1, heads)
	l.stream.Write(l.zeros, make([]byte, 4*heads))
	fatal(l.stream.Sync())
	return l
}

func (l *latentRunner) attend(layer int, plain bool) {
	spec := l.spec
	if plain {
		spec.Slopes = l.zeros
	}
	l.stream.Attention(l.out, l.q, l.cache, layer, l.batch, spec)
}

// result is what a tile of so many rows gives (0: what suits), or the kernel for any types.
func (l *latentRunner) result(t testing.TB, rows int, plain bool) []byte {
	t.Helper()
	defer func() { l.device.forced.latent = 0 }()
	l.device.forced.latent = rows
	got := bytes.Repeat([]byte{0xff}, int(l.out.Bytes()))
	l.stream.Write(l.out, got)
	l.attend(1, plain)
	l.stream.Read(got, l.out)
	if err := l.stream.Sync(); err != nil {
		t.Fatal(err)
	}
	return got
}

func (l *latentRunner) close(t testing.TB) {
	for _, m := range l.owned {
		m.Free()
	}
	l.cache.Free()
	if err := l.stream.Close(); err != nil {
		t.Error(err)
	}
}

// TestLatentTiles: narrow and wide tiles give the same bits, again and again, and what the kernel for any types gives but for
// rounding: of prompts, of tokens alone, of both, with contexts of many pieces, shared among blocks and not.
func TestLatentTiles(t *testing.T) {
	d := open(t, Options{})
	for _, c := range []struct {
		heads  int
		chunks []latentChunk
	}{
		{16, []latentChunk{{0, 1}, {0, 5}, {3, 70}}},
		{16, []latentChunk{{1100, 1101}, {513, 516}, {1030, 1031}, {0, 600}}},
		{128, []latentChunk{{700, 703}, {2600, 2601}, {5, 6}}},
		{40, []latentChunk{{1023, 1024}, {1024, 1026}, {9, 10}}},
		{5, []latentChunk{{4000, 4001}}},
		{1, []latentChunk{{0, 130}, {510, 514}}},
		{16, slicesOf(latentChunk{1023, 1024}, 300)},
		{128, slicesOf(latentChunk{2047, 2048}, 70)},
	} {
		for _, dtype := range []kernels.DType{kernels.BF16, kernels.F16} {
			what := fmt.Sprintf("%v, %d heads, %d sequences, the first %v", dtype, c.heads, len(c.chunks), c.chunks[0])
			l := openLatent(t, d, dtype, c.heads, c.chunks)
			tiles := latentTiles(d.card)
			narrow, wide := l.result(t, tiles[0].rows, false), l.result(t, tiles[1].rows, false)
			if !bytes.Equal(narrow, wide) {
				t.Errorf("%s: tiles of %d and %d rows: other bits", what, tiles[0].rows, tiles[1].rows)
			}
			if again := l.result(t, 0, false); !bytes.Equal(again, narrow) {
				t.Errorf("%s: other bits the next time", what)
			}
			if far := farthest(dtype, narrow, l.result(t, 0, true)); !(far < 0.03) { // of sums of weights of normal numbers
				t.Errorf("%s: %g from the kernel for any types", what, far)
			}
			l.close(t)
		}
	}
}

func slicesOf(c latentChunk, n int) (all []latentChunk) {
	for range n {
		all = append(all, c)
	}
	return all
}

// farthest is the largest difference of two results.
func farthest(dtype kernels.DType, x, y []byte) (far float64) {
	value := func(b []byte) float64 {
		bits := binary.LittleEndian.Uint16(b)
		if dtype == kernels.BF16 {
			return float64(math.Float32frombits(uint32(bits) << 16))
		}
		sign, exponent, fraction := 1-2*float64(bits>>15), int(bits>>10&31), float64(bits&1023)
		if exponent == 0 {
			return sign * math.Ldexp(fraction, -24)
		}
		if exponent == 31 {
			return math.NaN()
		}
		return sign * math.Ldexp(1024+fraction, exponent-25)
	}
	for i := 0; i < len(x); i += 2 {
		d := math.Abs(value(x[i:]) - value(y[i:]))
		if !(d <= far) {
			far = d
		}
		if d != d {
			return d
		}
	}
	return far
}

// BenchmarkLatentAttention measures keys of 576 that hold their values, by both tiles and by the kernel for any types.
func BenchmarkLatentAttention(b *testing.B) {
	d := open(b, Options{})
	tiles := latentTiles(d.card)
	for _, c := range []struct{ seqs, tokens, context, heads int }{
		{64, 1, 1024, 16}, {256, 1, 1024, 16}, {16, 512, 512, 16}, {2, 4096, 4096, 16}, {64, 1, 1024, 128}, {64, 1, 4096, 128}, {4, 512, 512, 128},
	} {
		l := openLatent(b, d, kernels.BF16, c.heads, slicesOf(latentChunk{c.context - c.tokens, c.context}, c.seqs))
		for _, rows := range []int{tiles[0].rows, tiles[1].rows, 0} {
			name := fmt.Sprintf("tiles of %d", rows)
			if rows == 0 {
				name = "any types"
			}
			b.Run(fmt.Sprintf("%d×%d of %d, %d heads, %s", c.seqs, c.tokens, c.context, c.heads, name), func(b *testing.B) {
				const calls = 4
				d.forced.latent = rows
				defer func() { d.forced.latent = 0 }()
				step := func() {
					for i := range calls {
						l.attend(i%latentLayers, rows == 0)
					}
					if err := l.stream.Sync(); err != nil {
						b.Fatal(err)
					}
				}
				step()
				for b.Loop() {
					step()
				}
				took := b.Elapsed().Seconds() / float64(b.N*calls)
				pairs := float64(c.seqs*c.tokens) * (float64(c.context) - float64(c.tokens-1)/2)
				b.ReportMetric(took*1e6, "µs/op")
				b.ReportMetric(2*pairs*float64(c.heads)*(latentKey+latentValue)/took/1e12, "TFLOP/s")
				b.ReportMetric(float64(c.seqs*c.context*latentKey*2)/took/1e9, "GB/s")
			})
		}
		l.close(b)
	}
}
