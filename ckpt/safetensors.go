package ckpt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
)

// maxHeader bounds a safetensors header, as the format's own reader does.
const maxHeader = 100_000_000

// entry is one tensor of a safetensors header. begin and end count bytes from the start of the file.
type entry struct {
	name       string
	dtype      DType
	shape      []int64
	begin, end int64
}

// readHeader parses and checks the header of a whole safetensors file, which is: its length (8 bytes), itself (JSON),
// and the tensors' bytes one after the other without a hole. Entries come in file order. An error says which tensor
// and why, without the file's name; no entry is returned with it.
func readHeader(file []byte) ([]entry, error) {
	if len(file) < 8 {
		return nil, damaged("", "", "has %d bytes, too few for a safetensors file: it was cut short; copy it again", len(file))
	}
	n := binary.LittleEndian.Uint64(file)
	if n > maxHeader {
		return nil, damaged("", "", "claims a header of %d bytes, more than the %d that the format allows: this is no safetensors file, or a damaged one; copy it again", n, maxHeader)
	}
	if n > uint64(len(file)-8) {
		return nil, damaged("", "", "ends inside its header (%d of %d bytes): it was cut short; copy it again", len(file)-8, n)
	}
	base := 8 + int64(n)
	entries, err := parseHeader(file[8:base], base)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if a.begin != b.begin {
			return int(min(max(a.begin-b.begin, -1), 1))
		}
		return int(min(max(a.end-b.end, -1), 1))
	})
	at, before := base, ""
	for _, x := range entries {
		switch {
		case x.begin < at:
			return nil, damaged("", x.name, "overlaps tensor %q (bytes %d to %d of the data, the other ends at %d); copy the file again", before, x.begin-base, x.end-base, at-base)
		case x.begin > at:
			return nil, damaged("", x.name, "leaves a hole of %d bytes before it, which the format does not allow; write the file again", x.begin-at)
		case x.end > int64(len(file)):
			return nil, damaged("", x.name, "ends at byte %d, the file at %d: it was cut short; copy it again", x.end, len(file))
		}
		at, before = x.end, x.name
	}
	if at != int64(len(file)) {
		return nil, damaged("", "", "goes on for %d bytes after its last tensor; copy it again", int64(len(file))-at)
	}
	return entries, nil
}

// parseHeader reads the JSON itself; base is where the data begins. Names are met once, offsets fit type and shape.
func parseHeader(header []byte, base int64) ([]entry, error) {
	dec := json.NewDecoder(bytes.NewReader(header))
	bad := func(err error) error {
		return damaged("", "", "has a broken header (byte %d: %v): this is no safetensors file, or a damaged one; copy it again", 8+dec.InputOffset(), err)
	}
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, bad(orElse(err, fmt.Errorf("no { at the start")))
	}
	var entries []entry
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, bad(err)
		}
		name := tok.(string) // the decoder gives only strings as keys
		if seen[name] {
			return nil, damaged("", name, "stands in the header twice; write the file again")
		}
		seen[name] = true
		if name == "__metadata__" {
			var text map[string]string
			if err := dec.Decode(&text); err != nil {
				return nil, bad(err)
			}
			continue
		}
		var j struct {
			DType   string   `json:"dtype"`
			Shape   []int64  `json:"shape"`
			Offsets *[]int64 `json:"data_offsets"`
		}
		if err := dec.Decode(&j); err != nil {
			return nil, bad(fmt.Errorf("tensor %q: %w", name, err))
		}
		if j.Shape == nil || j.Offsets == nil || len(*j.Offsets) != 2 {
			return nil, damaged("", name, "lacks its shape or its two data_offsets; write the file again")
		}
		x := entry{name: name, shape: j.Shape}
		if x, err = x.placed(j.DType, (*j.Offsets)[0], (*j.Offsets)[1], base); err != nil {
			return nil, err
		}
		entries = append(entries, x)
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad(err)
	}
	if len(bytes.TrimSpace(header[dec.InputOffset():])) != 0 {
		return nil, bad(fmt.Errorf("something follows the last }"))
	}
	return entries, nil
}

// placed checks type, shape and offsets (counted from base) against each other.
func (x entry) placed(dtype string, begin, end, base int64) (entry, error) {
	var ok bool
	if x.dtype, ok = parseDType(dtype); !ok {
		return x, unsupported("", x.name, "has type %q, which is not read here; convert it to F32, BF16 or F16", dtype)
	}
	n, ok := elements(x.shape)
	switch {
	case !ok:
		return x, damaged("", x.name, "has the impossible shape %v; copy the file again", x.shape)
	case begin < 0 || end < begin || end > 1<<62:
		return x, damaged("", x.name, "has the impossible offsets %d to %d; copy the file again", begin, end)
	case end-begin != n*x.dtype.Size():
		return x, damaged("", x.name, "has %d bytes by its offsets, but %v of shape %v needs %d; copy the file again", end-begin, x.dtype, x.shape, n*x.dtype.Size())
	}
	x.begin, x.end = base+begin, base+end
	return x, nil
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// openSafetensors maps a file and lists its tensors in file order.
func openSafetensors(path string, read *atomic.Int64) (*mapping, []Tensor, error) {
	m, err := mapFile(path, read)
	if err != nil {
		return nil, nil, err
	}
	var entries []entry
	var broken error
	if err = m.guard(func() { entries, broken = readHeader(m.data) }); err == nil {
		err = broken
	}
	if err != nil {
		_ = m.close()
		return nil, nil, inFile(err, path)
	}
	tensors := make([]Tensor, len(entries))
	for i, x := range entries {
		p := piece{m, x.begin, x.shape, rowMajor(x.shape)}
		tensors[i] = Tensor{Name: x.name, DType: x.dtype, Shape: x.shape, src: laid{0, []piece{p}}}
	}
	return m, tensors, nil
}

// inFile puts the file's name into an error of ours that lacks it.
func inFile(err error, path string) error {
	if e, ok := err.(*Error); ok && e.File == "" { //nolint:errorlint // only our own, unwrapped
		e.File = path
	}
	return err
}
