package ckpt

import "fmt"

// DType is the type of a tensor's elements, little-endian in every format read here.
type DType uint8

// The element types. The float8 ones and the unsigned ones are carried as bytes; nothing here computes with them.
const (
	Invalid DType = iota
	F64
	F32
	F16
	BF16
	F8E4M3
	F8E5M2
	I64
	I32
	I16
	I8
	U64
	U32
	U16
	U8
	Bool
)

// MXFP4 is what Inspect calls the type of tensors in 4 bits (mxfp4.go), which read as BF16.
const MXFP4 DType = 128

// dtypes gives each type its name in safetensors, its size in bytes, and PyTorch's names of its storage and itself.
var dtypes = [...]struct {
	name    string
	size    int64
	storage string // torch.<storage>, "" where PyTorch has none
	torch   string // torch.<torch>
}{
	Invalid: {name: "invalid"},
	F64:     {"F64", 8, "DoubleStorage", "float64"},
	F32:     {"F32", 4, "FloatStorage", "float32"},
	F16:     {"F16", 2, "HalfStorage", "float16"},
	BF16:    {"BF16", 2, "BFloat16Storage", "bfloat16"},
	F8E4M3:  {"F8_E4M3", 1, "", "float8_e4m3fn"},
	F8E5M2:  {"F8_E5M2", 1, "", "float8_e5m2"},
	I64:     {"I64", 8, "LongStorage", "int64"},
	I32:     {"I32", 4, "IntStorage", "int32"},
	I16:     {"I16", 2, "ShortStorage", "int16"},
	I8:      {"I8", 1, "CharStorage", "int8"},
	U64:     {"U64", 8, "", "uint64"},
	U32:     {"U32", 4, "", "uint32"},
	U16:     {"U16", 2, "", "uint16"},
	U8:      {"U8", 1, "ByteStorage", "uint8"},
	Bool:    {"BOOL", 1, "BoolStorage", "bool"},
}

// Size is the bytes of one element.
func (d DType) Size() int64 { return dtypes[d].size }

// String is the name that safetensors gives the type: F32, BF16, I64, BOOL …
func (d DType) String() string {
	if d == MXFP4 {
		return "MXFP4"
	}
	if int(d) >= len(dtypes) {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Float tells whether elements are floating-point numbers, as weights are and position ids or masks are not.
func (d DType) Float() bool { return d >= F64 && d <= F8E5M2 }

// parseDType finds the type that safetensors calls name; ok is false for a name that is not in the list.
func parseDType(name string) (d DType, ok bool) {
	for i := F64; int(i) < len(dtypes); i++ {
		if dtypes[i].name == name {
			return i, true
		}
	}
	return Invalid, false
}
