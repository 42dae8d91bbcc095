package ckpt

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
)

func (u *unpickler) number(op byte) error {
	switch op {
	case opBinInt1, opBinInt2, opBinInt:
		width := map[byte]uint64{opBinInt1: 1, opBinInt2: 2, opBinInt: 4}[op]
		n, err := u.size(width)
		if err != nil {
			return err
		}
		if op == opBinInt {
			n = uint64(int64(int32(uint32(n))))
		}
		u.push(int64(n))
		return nil
	case opBinFloat:
		b, err := u.take(8)
		if err != nil {
			return err
		}
		u.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
		return nil
	}
	width := map[byte]uint64{opLong1: 1, opLong4: 4}[op]
	b, err := u.sized(width)
	if err != nil {
		return err
	}
	u.push(littleEndianInt(b))
	return nil
}

// littleEndianInt is a two's-complement integer of any length, int64 where it fits.
func littleEndianInt(b []byte) any {
	negative := len(b) > 0 && b[len(b)-1] >= 0x80
	if len(b) <= 8 {
		var full [8]byte
		if negative {
			full = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		}
		copy(full[:], b)
		return int64(binary.LittleEndian.Uint64(full[:]))
	}
	high := slices.Clone(b)
	slices.Reverse(high)
	n := new(big.Int).SetBytes(high)
	if negative {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

func (u *unpickler) text(op byte) error {
	width := uint64(4)
	switch op {
	case opShortBinUnicode, opShortBinString, opShortBinBytes:
		width = 1
	case opBinUnicode8, opBinBytes8, opByteArray8:
		width = 8
	}
	b, err := u.sized(width)
	if err != nil {
		return err
	}
	switch op {
	case opBinBytes, opShortBinBytes, opBinBytes8, opByteArray8:
		u.push(b)
	default:
		u.push(string(b)) // of Python 2's byte strings too: names are ASCII
	}
	return nil
}

// collect builds a collection from everything above the mark.
func (u *unpickler) collect(op byte) error {
	items, err := u.toMark()
	if err != nil {
		return err
	}
	switch op {
	case opTuple:
		u.push(tuple(items))
	case opDict:
		d := newDict()
		u.push(d)
		return d.setAll(items)
	default:
		u.push(&list{items})
	}
	return nil
}

// extend adds operands to the collection below them.
func (u *unpickler) extend(op byte) error {
	var items []any
	var err error
	switch op {
	case opAppend:
		items, err = u.pop(1)
	case opSetItem:
		items, err = u.pop(2)
	default:
		items, err = u.toMark()
	}
	if err != nil {
		return err
	}
	into, err := u.top()
	if err != nil {
		return err
	}
	keyed := op == opSetItem || op == opSetItems
	switch c := into.(type) {
	case *list:
		if !keyed {
			c.items = append(c.items, items...)
			return nil
		}
	case *dict:
		if keyed {
			return c.setAll(items)
		}
	case *opaque: // what a class of classes.go holds beyond its state is left out
		return nil
	}
	return fmt.Errorf("items are added to something that holds none")
}

// remember stores or fetches by number.
func (u *unpickler) remember(op byte) error {
	var key uint64
	var err error
	switch op {
	case opMemoize:
		key = uint64(len(u.memo))
	case opBinPut, opBinGet:
		key, err = u.size(1)
	default:
		key, err = u.size(4)
	}
	if err != nil {
		return err
	}
	if op == opBinGet || op == opLongBinGet {
		x, ok := u.memo[uint32(key)]
		if !ok {
			return fmt.Errorf("entry %d is fetched but was never stored", key)
		}
		u.push(x)
		return nil
	}
	x, err := u.top()
	if err == nil {
		u.memo[uint32(key)] = x
	}
	return err
}
