package benchmarks

import (
	"bytes"
	"math/rand/v2"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
)

// Weights are those of a random model that lies in no file: its matrices but the embedding are windows onto one block of
// noise, so that a model of any size takes the memory of little more than its largest matrix and the embedding.
type Weights struct {
	name    string
	config  map[string]any
	tensors []ckpt.Tensor
}

const (
	noiseBytes   = 64 << 20     // of it that do not repeat, nearly: a window of any other size begins elsewhere
	windowOffset = 2 * 15485863 // bytes from the beginning of one matrix to that of the next
)

// NewWeights invents the weights of a shape; name stands for the model's path.
func NewWeights(name string, s Shape, seed uint64) (*Weights, error) {
	w := &Weights{name: name}
	var err error
	if w.config, err = s.config(); err != nil {
		return nil, err
	}
	all, most := s.tensors(), 0
	for _, t := range all {
		if !t.vector() {
			most = max(most, 2*t.values())
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	block := repeated(noise(r, noiseBytes/2+1, deviation), most+noiseBytes)
	var numbers []byte
	begin := 0
	for _, t := range all {
		var data []byte
		dtype := ckpt.BF16
		switch {
		case strings.HasSuffix(t.name, scalesSuffix):
			dtype, data = ckpt.U8, bytes.Repeat([]byte{mxfp4Scale}, t.values())
		case strings.HasSuffix(t.name, numbersSuffix):
			if numbers == nil {
				numbers = repeated(randomBytes(r, noiseBytes+1), most+noiseBytes)
			}
			dtype, data = ckpt.U8, numbers[begin:begin+t.values()]
			begin = (begin + windowOffset) % noiseBytes
		case t.vector():
			data = t.fill()
		case t.deviation() != deviation:
			data = noise(r, t.values(), t.deviation())
		default:
			data = block[begin : begin+2*t.values()]
			begin = (begin + windowOffset) % noiseBytes
		}
		shape := make([]int64, len(t.shape))
		for i, n := range t.shape {
			shape[i] = int64(n)
		}
		made, err := ckpt.NewTensor(t.name, dtype, shape, data)
		if err != nil {
			return nil, err
		}
		w.tensors = append(w.tensors, made)
	}
	return w, nil
}

// repeated is so many bytes, once again and again.
func repeated(once []byte, n int) []byte {
	all := make([]byte, n)
	for at := 0; at < n; {
		at += copy(all[at:], once)
	}
	return all
}

// Open is a checkpoint of the weights. Ranks of one process may each have their own.
func (w *Weights) Open() *ckpt.Checkpoint { return ckpt.InMemory(w.name, w.config, w.tensors) }
