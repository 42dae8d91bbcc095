package dataset

import (
	"encoding/binary"
	"errors"
)

// flat reads FlatBuffers, in which Arrow keeps schemas, footers and the headers of batches, with every access checked: a
// place outside the bytes reads as zero and marks the buffer bad. Source: flatbuffers.dev, internals.
type flat struct {
	b   []byte
	bad bool
}

var errFlat = errors.New("its metadata is not valid FlatBuffers")

func (f *flat) bytes(at int64, n int64) []byte {
	if at < 0 || n < 0 || at > int64(len(f.b)) || n > int64(len(f.b))-at {
		f.bad = true
		return make([]byte, min(max(n, 0), 16))
	}
	return f.b[at : at+n]
}

func (f *flat) uint32(at int64) int64 { return int64(binary.LittleEndian.Uint32(f.bytes(at, 4))) }

// table is a table or struct at a place; at 0 there is none.
type table struct {
	f  *flat
	at int64
}

// root is the table that a buffer begins with.
func (f *flat) root() table { return table{f, f.uint32(0)} }

// slot is the place of a table's field, 0 when it has its default.
func (t table) slot(i int) int64 {
	if t.at == 0 {
		return 0
	}
	vtable := t.at - int64(int32(t.f.uint32(t.at)))
	size := int64(binary.LittleEndian.Uint16(t.f.bytes(vtable, 2)))
	if entry := int64(4 + 2*i); entry+2 <= size {
		if offset := int64(binary.LittleEndian.Uint16(t.f.bytes(vtable+entry, 2))); offset != 0 {
			return t.at + offset
		}
	}
	return 0
}

func (t table) uint8(i int) uint8 {
	if at := t.slot(i); at != 0 {
		return t.f.bytes(at, 1)[0]
	}
	return 0
}

func (t table) int64(i int) int64 {
	if at := t.slot(i); at != 0 {
		return int64(binary.LittleEndian.Uint64(t.f.bytes(at, 8)))
	}
	return 0
}

// table is the table that a field points to.
func (t table) table(i int) table {
	at := t.slot(i)
	if at == 0 {
		return table{t.f, 0}
	}
	return table{t.f, at + t.f.uint32(at)}
}

// vector is the first place and the length of a vector whose elements take width bytes; all of it lies in the buffer.
func (t table) vector(i int, width int64) (at, n int64) {
	if at = t.slot(i); at == 0 {
		return 0, 0
	}
	at += t.f.uint32(at)
	n = t.f.uint32(at)
	t.f.bytes(at+4, n*width)
	if t.f.bad {
		return 0, 0
	}
	return at + 4, n
}

// tables are the tables of a vector.
func (t table) tables(i int) []table {
	at, n := t.vector(i, 4)
	out := make([]table, n)
	for k := range out {
		out[k] = table{t.f, at + t.f.uint32(at)}
		at += 4
	}
	return out
}

// ints are the 64-bit integers of a vector of structs of k of them, or of single ones.
func (t table) ints(i, k int) []int64 {
	at, n := t.vector(i, int64(8*k))
	out := make([]int64, n*int64(k))
	for j := range out {
		out[j] = int64(binary.LittleEndian.Uint64(t.f.bytes(at+int64(8*j), 8)))
	}
	return out
}
