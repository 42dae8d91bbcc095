package ckpt

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads a model of 1 GiB in tensors of 8 MiB, from the page cache and from the disk, and prints the
// share of what read(2) into one buffer of 1 MiB reaches on the same file in the same state.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x.safetensors")
	const size, each = 1 << 30, 8 << 20
	data := make([]byte, each)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	var tensors []Tensor
	for i := range size / each {
		x, err := NewTensor(fmt.Sprintf("%04d", i), BF16, []int64{each / 4096, 2048}, data)
		if err != nil {
			b.Fatal(err)
		}
		tensors = append(tensors, x)
	}
	if err := SaveSafetensors(path, tensors); err != nil {
		b.Fatal(err)
	}
	for name, prepare := range map[string]func(*testing.B, string){"cached": func(*testing.B, string) {}, "disk": evict} {
		b.Run(name, func(b *testing.B) {
			prepare(b, path)
			ceiling := streamed(b, path)
			for b.Loop() {
				b.StopTimer()
				prepare(b, path)
				c, err := Open(path, Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				for _, n := range c.Names() {
					x, _ := c.Tensor(n)
					if _, err := x.Bytes(); err != nil {
						b.Fatal(err)
					}
					x.Release()
				}
				b.StopTimer()
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			rate := size * float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate/1e9, "GB/s")
			b.ReportMetric(100*rate/ceiling, "%read(2)")
		})
	}
}

// evict drops a file from the page cache.
func evict(b *testing.B, path string) {
	f, err := os.Open(path)
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		_ = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
}

// streamed is the bytes a second of reading the file from beginning to end.
func streamed(b *testing.B, path string) float64 {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf, n, start := make([]byte, 1<<20), 0, time.Now()
	for {
		k, err := f.Read(buf)
		n += k
		if err == io.EOF {
			return float64(n) / time.Since(start).Seconds()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens checkpoints of many files: all 17 of a trained model; of 960 experts in 15 layers
// one a layer, the others later.
func BenchmarkOpen(b *testing.B) {
	const layers, experts = 15, 64
	dir := b.TempDir()
	write := func(name string, root []item, a *archive) {
		a.root = root
		a.write(b, filepath.Join(dir, "s", name))
	}
	a := &archive{}
	var module []item
	var counts []any
	for l := range layers {
		module = append(module, item{inLayer(l, gateName), a.put(F32, []int64{experts, 8}, make([]byte, 4*experts*8))})
		counts = append(counts, experts)
		for e := range experts {
			x := &archive{}
			name := inLayer(l, fmt.Sprintf("mlp.deepspeed_moe.experts.deepspeed_experts.%d.dense_h_to_4h.weight", e))
			write(fmt.Sprintf("layer_%d_expert_%d_mp_rank_00_model_states.pt", l, e), []item{{name, x.put(F32, []int64{8, 8}, make([]byte, 256))}}, x)
		}
	}
	write("mp_rank_00_model_states.pt", []item{{"module", module}, {"num_experts", counts}}, a)
	for name, path := range map[string]string{"960experts": filepath.Join(dir, "s"), "austen-prmoe": "../../shared/models/austen-prmoe"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c, err := Open(path, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
