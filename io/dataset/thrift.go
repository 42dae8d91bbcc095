package dataset

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// compact reads Thrift's compact protocol, in which Parquet keeps its footer and page headers, as a walk that takes no
// memory: binaries and elements are passed over, which fails where a length or a count has no bytes behind it. v18 decodes footers into
// structs, but believes every count it finds; so footers are walked here first. Source: thrift-compact-protocol.md.
type compact struct {
	r    *bufio.Reader
	left int64 // bytes that may still be read
	deep int   // structs and lists around the place
}

const thriftDepth = 64

var errThrift = errors.New("its bytes are not valid Thrift")

// Kinds of a field, as written in its header.
const (
	kindStop = iota
	kindTrue
	kindFalse
	kindByte
	kindInt16
	kindInt32
	kindInt64
	kindDouble
	kindBinary
	kindList
	kindSet
	kindMap
	kindStruct
	kindUUID
)

func (c *compact) byte() (byte, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	c.left--
	b, err := c.r.ReadByte()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (c *compact) uvarint() (uint64, error) {
	var x uint64
	for shift := 0; shift < 64; shift += 7 {
		b, err := c.byte()
		if err != nil {
			return 0, err
		}
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return x, nil
		}
	}
	return 0, errThrift
}

func (c *compact) int() (int64, error) {
	x, err := c.uvarint()
	return int64(x>>1) ^ -int64(x&1), err
}

func (c *compact) int32() (int32, error) {
	x, err := c.int()
	if err == nil && (x < math.MinInt32 || x > math.MaxInt32) {
		err = errThrift
	}
	return int32(x), err
}

func (c *compact) discard(n int64) error {
	if n < 0 || n > c.left {
		return io.ErrUnexpectedEOF
	}
	c.left -= n
	for n > 0 {
		k, err := c.r.Discard(int(min(n, 1<<20)))
		n -= int64(k)
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
	return nil
}

// fields calls visit for each field of the struct at the place; visit reads the value or leaves it to skip.
func (c *compact) fields(visit func(id int16, kind byte) error) error {
	if c.deep++; c.deep > thriftDepth {
		return errThrift
	}
	defer func() { c.deep-- }()
	var id int16
	for {
		header, err := c.byte()
		if err != nil {
			return err
		}
		kind := header & 0x0f
		if kind == kindStop {
			return nil
		}
		if step := header >> 4; step != 0 {
			id += int16(step)
		} else {
			x, err := c.int()
			if err != nil {
				return err
			}
			id = int16(x)
		}
		if err := visit(id, kind); err != nil {
			return err
		}
	}
}

// elements calls visit for each element of the list or set at the place.
func (c *compact) elements(visit func(kind byte) error) (int64, error) {
	if c.deep++; c.deep > thriftDepth {
		return 0, errThrift
	}
	defer func() { c.deep-- }()
	header, err := c.byte()
	if err != nil {
		return 0, err
	}
	n := uint64(header >> 4)
	if n == 15 {
		if n, err = c.uvarint(); err != nil {
			return 0, err
		}
	}
	for range n { // each takes a byte at least, so the bytes end a false count
		if err := visit(header & 0x0f); err != nil {
			return 0, err
		}
	}
	return int64(n), nil
}

// skip passes over a value. A boolean is part of its field's header, but a byte of its own in a list.
func (c *compact) skip(kind byte, inList bool) error {
	switch kind {
	case kindTrue, kindFalse:
		if !inList {
			return nil
		}
		return c.discard(1)
	case kindByte:
		return c.discard(1)
	case kindInt16, kindInt32, kindInt64:
		_, err := c.uvarint()
		return err
	case kindDouble:
		return c.discard(8)
	case kindUUID:
		return c.discard(16)
	case kindBinary:
		n, err := c.uvarint()
		if err != nil {
			return err
		}
		if n > math.MaxInt32 {
			return errThrift
		}
		return c.discard(int64(n))
	case kindList, kindSet:
		_, err := c.elements(func(kind byte) error { return c.skip(kind, true) })
		return err
	case kindMap:
		return c.skipMap()
	case kindStruct:
		return c.fields(func(_ int16, kind byte) error { return c.skip(kind, false) })
	}
	return errThrift
}

func (c *compact) skipMap() error {
	if c.deep++; c.deep > thriftDepth {
		return errThrift
	}
	defer func() { c.deep-- }()
	n, err := c.uvarint()
	if err != nil || n == 0 {
		return err
	}
	kinds, err := c.byte()
	if err != nil {
		return err
	}
	for range n {
		if err := errors.Join(c.skip(kinds>>4, true), c.skip(kinds&0x0f, true)); err != nil {
			return err
		}
	}
	return nil
}

// pageHeader is what a reader needs of Parquet's PageHeader; absent fields are zero.
type pageHeader struct {
	kind                     int32
	uncompressed, compressed int32
	crc                      uint32
	hasCRC                   bool

	values, encoding           int32 // of the header of this kind of page
	defEncoding, repEncoding   int32 // data page v1
	nulls, rows                int32 // data page v2
	defBytes, repBytes         int32 // data page v2
	plain                      bool  // data page v2: values are not compressed
	hasData, hasDict, hasData2 bool
}

// The kinds of pages.
const (
	pageData = iota
	pageIndex
	pageDictionary
	pageDataV2
)

// pageHeader reads the header at the place.
func (c *compact) pageHeader() (pageHeader, error) {
	var h pageHeader
	into := func(dst *int32) error {
		x, err := c.int32()
		*dst = x
		return err
	}
	err := c.fields(func(id int16, kind byte) error {
		switch {
		case kind == kindInt32 && id == 1:
			return into(&h.kind)
		case kind == kindInt32 && id == 2:
			return into(&h.uncompressed)
		case kind == kindInt32 && id == 3:
			return into(&h.compressed)
		case kind == kindInt32 && id == 4:
			x, err := c.int32()
			h.crc, h.hasCRC = uint32(x), true
			return err
		case kind == kindStruct && id == 5:
			h.hasData = true
			return c.int32Fields(nil, &h.values, &h.encoding, &h.defEncoding, &h.repEncoding)
		case kind == kindStruct && id == 7:
			h.hasDict = true
			return c.int32Fields(nil, &h.values, &h.encoding)
		case kind == kindStruct && id == 8:
			h.hasData2 = true
			return c.int32Fields(func(id int16, kind byte) { h.plain = h.plain || id == 7 && kind == kindFalse },
				&h.values, &h.nulls, &h.rows, &h.encoding, &h.defBytes, &h.repBytes)
		}
		return c.skip(kind, false)
	})
	return h, err
}

// int32Fields reads a struct whose fields 1, 2, … are int32s; other fields are shown to other, if given, and skipped.
func (c *compact) int32Fields(other func(id int16, kind byte), dst ...*int32) error {
	return c.fields(func(id int16, kind byte) error {
		if kind == kindInt32 && id >= 1 && int(id) <= len(dst) {
			x, err := c.int32()
			*dst[id-1] = x
			return err
		}
		if other != nil {
			other(id, kind)
		}
		return c.skip(kind, false)
	})
}

// footer walks a Parquet footer and refuses one that would make its decoder take memory by a number: lists longer than
// the bytes that follow, and schema elements with more children than there are elements.
func (c *compact) footer() error {
	return c.fields(func(id int16, kind byte) error {
		if id != 2 || kind != kindList { // FileMetaData.schema
			return c.skip(kind, false)
		}
		var children int64
		n, err := c.elements(func(kind byte) error {
			if kind != kindStruct {
				return errThrift
			}
			return c.fields(func(id int16, kind byte) error {
				if id != 5 || kind != kindInt32 { // SchemaElement.num_children
					return c.skip(kind, false)
				}
				x, err := c.int32()
				if x < 0 {
					return errThrift
				}
				children += int64(x)
				return err
			})
		})
		if err == nil && n > 0 && children != n-1 {
			err = errors.New("its schema is not a tree")
		}
		return err
	})
}

// littleUint32 is the number at the start of b.
func littleUint32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
