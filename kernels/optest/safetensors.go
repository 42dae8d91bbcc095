package optest

import (
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// safetensor is a tensor of a file of ours, which is trusted: the reader for users' files is ckpt's.
type safetensor struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
	data    []byte
}

// readSafetensors reads a file of tensors, packed by gzip or plain.
func readSafetensors(path string) (map[string]safetensor, error) {
	b, err := readPacked(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(b) < 8 || binary.LittleEndian.Uint64(b) > uint64(len(b)-8) {
		return nil, fmt.Errorf("%s: no safetensors header", path)
	}
	n := binary.LittleEndian.Uint64(b)
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(b[8:8+n], &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	tensors := map[string]safetensor{}
	for name, text := range raw {
		if name == "__metadata__" {
			continue
		}
		var t safetensor
		if err := json.Unmarshal(text, &t); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, name, err)
		}
		t.data = b[8+n:][t.Offsets[0]:t.Offsets[1]]
		tensors[name] = t
	}
	return tensors, nil
}

// readPacked reads a whole file, which gzip has packed where its name says so.
func readPacked(path string) ([]byte, error) {
	if filepath.Ext(path) != ".gz" {
		return os.ReadFile(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// floats are the values of an F32 tensor; of none none.
func (t safetensor) floats() (x []float64) {
	for b := t.data; len(b) > 0; b = b[4:] {
		x = append(x, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
	}
	return x
}

// ints are the values of an I32 or I64 tensor; of none none.
func (t safetensor) ints() (x []int64) {
	for b := t.data; len(b) > 0; {
		if t.DType == "I64" {
			x, b = append(x, int64(binary.LittleEndian.Uint64(b))), b[8:]
		} else {
			x, b = append(x, int64(int32(binary.LittleEndian.Uint32(b)))), b[4:]
		}
	}
	return x
}
