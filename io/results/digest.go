package results

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// digest of a column: the sum, mod 2^64, of a hash of each value with the global number of its record. So it tells
// values, order and place; it does not tell how records are cut into batches, row groups or chunks, since sums of
// pieces add up to the sum of the whole. Any single changed value changes it for sure, several but for one case in
// 2^64. It guards against accidents, not against forgers.
//
// Values are hashed by what they say, not by how they are laid out: a dictionary's entry as the value it stands for,
// a large list as a list, seconds as the milliseconds that Parquet makes of them.
type digest uint64

func (d digest) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, binary.BigEndian.AppendUint64(nil, uint64(d))), nil
}

func (d *digest) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != 8 {
		return fmt.Errorf("digest %q: want 16 hexadecimal digits", text)
	}
	*d = digest(binary.BigEndian.Uint64(raw))
	return nil
}

// digests of a part or an output, by column name.
type digests map[string]digest

// add takes in the columns of batch, whose first record has the global number first.
func (d digests) add(batch arrow.RecordBatch, first int64) {
	for c, field := range batch.Schema().Fields() {
		hash, sum := hasher(batch.Column(c)), uint64(0)
		for i := range int(batch.NumRows()) {
			sum += finish(hash(finish(uint64(first)+uint64(i)+golden), i))
		}
		d[field.Name] += digest(sum)
	}
}

// texts is d in hexadecimal, as commit lines have it.
func (d digests) texts() map[string]string {
	m := make(map[string]string, len(d))
	for name, x := range d {
		m[name] = fmt.Sprintf("%016x", uint64(x))
	}
	return m
}

// merge adds the digests of other records to d.
func (d digests) merge(other digests) {
	for name, x := range other {
		d[name] += x
	}
}

// differing names the columns that are not the same on both sides, sorted.
func (d digests) differing(other digests) (names []string) {
	for name, x := range d {
		if y, ok := other[name]; !ok || x != y {
			names = append(names, name)
		}
	}
	for name := range other {
		if _, ok := d[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (d digests) equal(other digests) bool { return maps.Equal(d, other) }

// fold takes x into h. For a given h it is one-to-one in x, and for a given x in h.
func fold(h, x uint64) uint64 {
	h = (h ^ x) * 0x9fb21c651e98df25
	return h ^ h>>32
}

// finish spreads every bit over all (the finalizer of splitmix64); one-to-one.
func finish(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

const (
	golden   = 0x9e3779b97f4a7c15 // keeps record 0 from the fixed point of finish
	nullMark = 0x6e756c6c6e756c6c
)

// foldBytes folds a text or bytes with their length, eight bytes at a time.
func foldBytes[T string | []byte](h uint64, text T) uint64 {
	b := []byte(text)
	h = fold(h, uint64(len(b)))
	for ; len(b) >= 8; b = b[8:] {
		h = fold(h, binary.LittleEndian.Uint64(b))
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	return fold(h, last)
}

// hasher folds value i of a into a hash.
func hasher(a arrow.Array) func(h uint64, i int) uint64 {
	value := valueHasher(a)
	if a.NullN() == 0 {
		return value
	}
	return func(h uint64, i int) uint64 {
		if a.IsNull(i) {
			return fold(h, nullMark)
		}
		return value(h, i)
	}
}

func valueHasher(a arrow.Array) func(h uint64, i int) uint64 {
	switch a := a.(type) {
	case *array.Null:
		return func(h uint64, _ int) uint64 { return fold(h, nullMark) }
	case *array.Boolean:
		return func(h uint64, i int) uint64 {
			if a.Value(i) {
				return fold(h, 1)
			}
			return fold(h, 0)
		}
	case array.StringLike:
		return func(h uint64, i int) uint64 { return foldBytes(h, a.Value(i)) }
	case *array.Binary:
		return func(h uint64, i int) uint64 { return foldBytes(h, a.Value(i)) }
	case *array.LargeBinary:
		return func(h uint64, i int) uint64 { return foldBytes(h, a.Value(i)) }
	case *array.Dictionary:
		entry := hasher(a.Dictionary())
		return func(h uint64, i int) uint64 { return entry(h, a.GetValueIndex(i)) }
	case array.ListLike: // and Map, FixedSizeList, LargeList
		element := hasher(a.ListValues())
		return func(h uint64, i int) uint64 {
			from, to := a.ValueOffsets(i)
			h = fold(h, uint64(to-from))
			for k := from; k < to; k++ {
				h = element(h, int(k))
			}
			return h
		}
	case *array.Struct:
		fields := make([]func(uint64, int) uint64, a.NumField())
		for f := range fields {
			fields[f] = hasher(a.Field(f))
		}
		return func(h uint64, i int) uint64 {
			for _, field := range fields {
				h = field(h, i)
			}
			return h
		}
	case array.ExtensionArray:
		return hasher(a.Storage())
	case *array.Decimal128:
		return func(h uint64, i int) uint64 {
			v := a.Value(i)
			sign := uint64(v.HighBits() >> 63)
			return fold(fold(fold(fold(h, v.LowBits()), uint64(v.HighBits())), sign), sign) // as Decimal256
		}
	case *array.Decimal256:
		return func(h uint64, i int) uint64 {
			for _, word := range a.Value(i).Array() {
				h = fold(h, word)
			}
			return h
		}
	case *array.Date64:
		return func(h uint64, i int) uint64 { return fold(h, uint64(uint32(a.Value(i)/86_400_000))) } // as Date32
	case *array.Time32:
		unit := uint32(1)
		if a.DataType().(*arrow.Time32Type).Unit == arrow.Second {
			unit = 1000
		}
		return func(h uint64, i int) uint64 { return fold(h, uint64(uint32(a.Value(i))*unit)) }
	case *array.Timestamp:
		unit := uint64(1)
		if a.DataType().(*arrow.TimestampType).Unit == arrow.Second {
			unit = 1000
		}
		return func(h uint64, i int) uint64 { return fold(h, uint64(a.Value(i))*unit) }
	}
	return fixedHasher(a)
}

// fixedHasher hashes values of a fixed number of bytes.
func fixedHasher(a arrow.Array) func(h uint64, i int) uint64 {
	data := a.Data()
	width := data.DataType().(arrow.FixedWidthDataType).Bytes()
	var bits []byte
	if b := data.Buffers()[1]; b != nil {
		bits = b.Bytes()[data.Offset()*width:]
	}
	switch width {
	case 4:
		return func(h uint64, i int) uint64 { return fold(h, uint64(binary.LittleEndian.Uint32(bits[4*i:]))) }
	case 8:
		return func(h uint64, i int) uint64 { return fold(h, binary.LittleEndian.Uint64(bits[8*i:])) }
	}
	return func(h uint64, i int) uint64 { return foldBytes(h, bits[width*i:width*(i+1)]) }
}
