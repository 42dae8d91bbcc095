package dataset

import (
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/decimal128"
	"github.com/apache/arrow/go/v15/arrow/decimal256"
	"github.com/apache/arrow/go/v15/arrow/float16"
)

// How a decoded Parquet value goes into the builder of its Arrow type: one function a pair of types.

type appender[V any] interface {
	array.Builder
	Append(V)
}

// putAs appends to a builder of the value's own type.
func putAs[B appender[V], V any](b array.Builder, v V) error {
	b.(B).Append(v)
	return nil
}

func putNull[V any](b array.Builder, _ V) error {
	b.AppendNull()
	return nil
}

func noPut[V any](physical string, typ arrow.DataType) (func(array.Builder, V) error, error) {
	return nil, fmt.Errorf("is stored as %s and typed as %v, which cannot be", physical, typ)
}

func putInt32(typ arrow.DataType) (func(array.Builder, int32) error, error) {
	switch t := typ.(type) {
	case *arrow.Int8Type:
		return func(b array.Builder, v int32) error { b.(*array.Int8Builder).Append(int8(v)); return nil }, nil
	case *arrow.Int16Type:
		return func(b array.Builder, v int32) error { b.(*array.Int16Builder).Append(int16(v)); return nil }, nil
	case *arrow.Int32Type:
		return putAs[*array.Int32Builder, int32], nil
	case *arrow.Uint8Type:
		return func(b array.Builder, v int32) error { b.(*array.Uint8Builder).Append(uint8(v)); return nil }, nil
	case *arrow.Uint16Type:
		return func(b array.Builder, v int32) error { b.(*array.Uint16Builder).Append(uint16(v)); return nil }, nil
	case *arrow.Uint32Type:
		return func(b array.Builder, v int32) error { b.(*array.Uint32Builder).Append(uint32(v)); return nil }, nil
	case *arrow.Date32Type:
		return func(b array.Builder, v int32) error { b.(*array.Date32Builder).Append(arrow.Date32(v)); return nil }, nil
	case *arrow.Time32Type:
		return func(b array.Builder, v int32) error { b.(*array.Time32Builder).Append(arrow.Time32(v)); return nil }, nil
	case *arrow.Decimal128Type:
		return func(b array.Builder, v int32) error {
			b.(*array.Decimal128Builder).Append(decimal128.FromI64(int64(v)))
			return nil
		}, nil
	case *arrow.NullType:
		return putNull[int32], nil
	default:
		return noPut[int32]("INT32", t)
	}
}

func putInt64(typ arrow.DataType) (func(array.Builder, int64) error, error) {
	switch t := typ.(type) {
	case *arrow.Int64Type:
		return putAs[*array.Int64Builder, int64], nil
	case *arrow.Uint64Type:
		return func(b array.Builder, v int64) error { b.(*array.Uint64Builder).Append(uint64(v)); return nil }, nil
	case *arrow.Time64Type:
		return func(b array.Builder, v int64) error { b.(*array.Time64Builder).Append(arrow.Time64(v)); return nil }, nil
	case *arrow.TimestampType:
		return func(b array.Builder, v int64) error {
			b.(*array.TimestampBuilder).Append(arrow.Timestamp(v))
			return nil
		}, nil
	case *arrow.DurationType:
		return func(b array.Builder, v int64) error { b.(*array.DurationBuilder).Append(arrow.Duration(v)); return nil }, nil
	case *arrow.Decimal128Type:
		return func(b array.Builder, v int64) error {
			b.(*array.Decimal128Builder).Append(decimal128.FromI64(v))
			return nil
		}, nil
	case *arrow.NullType:
		return putNull[int64], nil
	default:
		return noPut[int64]("INT64", t)
	}
}

// putInt96 takes the old timestamps of Impala and Spark: nanoseconds of the day and the Julian day.
func putInt96(b array.Builder, v parquet.Int96) error {
	const unixEpoch = 2440588 // Julian day of 1970-01-01
	day := int64(binary.LittleEndian.Uint32(v[8:])) - unixEpoch
	b.(*array.TimestampBuilder).Append(arrow.Timestamp(day*86400e9 + int64(binary.LittleEndian.Uint64(v[:8]))))
	return nil
}

func putBytes(typ arrow.DataType) (func(array.Builder, parquet.ByteArray) error, error) {
	switch t := typ.(type) {
	case *arrow.StringType:
		return func(b array.Builder, v parquet.ByteArray) error {
			b.(*array.StringBuilder).BinaryBuilder.Append(v)
			return nil
		}, nil
	case *arrow.LargeStringType:
		return func(b array.Builder, v parquet.ByteArray) error {
			b.(*array.LargeStringBuilder).BinaryBuilder.Append(v)
			return nil
		}, nil
	case *arrow.BinaryType, *arrow.LargeBinaryType:
		return func(b array.Builder, v parquet.ByteArray) error { b.(*array.BinaryBuilder).Append(v); return nil }, nil
	case *arrow.Decimal128Type, *arrow.Decimal256Type:
		return func(b array.Builder, v parquet.ByteArray) error { return putDecimal(b, v) }, nil
	case *arrow.NullType:
		return putNull[parquet.ByteArray], nil
	default:
		return noPut[parquet.ByteArray]("BYTE_ARRAY", t)
	}
}

func putFixed(typ arrow.DataType) (func(array.Builder, parquet.FixedLenByteArray) error, error) {
	switch t := typ.(type) {
	case *arrow.FixedSizeBinaryType:
		return func(b array.Builder, v parquet.FixedLenByteArray) error {
			b.(*array.FixedSizeBinaryBuilder).Append(v)
			return nil
		}, nil
	case *arrow.Float16Type:
		return func(b array.Builder, v parquet.FixedLenByteArray) error {
			b.(*array.Float16Builder).Append(float16.FromLEBytes(v))
			return nil
		}, nil
	case *arrow.Decimal128Type, *arrow.Decimal256Type:
		return func(b array.Builder, v parquet.FixedLenByteArray) error { return putDecimal(b, v) }, nil
	case *arrow.NullType:
		return putNull[parquet.FixedLenByteArray], nil
	default:
		return noPut[parquet.FixedLenByteArray]("FIXED_LEN_BYTE_ARRAY", t)
	}
}

// putDecimal appends a number in big-endian two's complement.
func putDecimal(b array.Builder, v []byte) error {
	x := new(big.Int).SetBytes(v)
	if len(v) > 0 && v[0] >= 0x80 {
		x.Sub(x, new(big.Int).Lsh(big.NewInt(1), uint(8*len(v))))
	}
	switch b := b.(type) {
	case *array.Decimal128Builder:
		if x.BitLen() > 127 {
			return fmt.Errorf("has a decimal of %d bits, more than its type holds", x.BitLen())
		}
		b.Append(decimal128.FromBigInt(x))
	case *array.Decimal256Builder:
		if x.BitLen() > 255 {
			return fmt.Errorf("has a decimal of %d bits, more than its type holds", x.BitLen())
		}
		b.Append(decimal256.FromBigInt(x))
	}
	return nil
}
