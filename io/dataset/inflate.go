package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
)

// inflater decompresses blocks whose uncompressed size is claimed by the file. The claim is a bound, never a promise:
// memory grows with what really comes out. It is one goroutine's; the zero value is ready.
type inflater struct {
	zstd *zstd.Decoder
	gzip gzip.Reader
}

func (f *inflater) close() {
	if f.zstd != nil {
		f.zstd.Close()
		f.zstd = nil
	}
}

// maxBlock is the largest page or buffer that is read: far above what writers make, far below what hurts.
const maxBlock = 1 << 30

const (
	firstGuess  = 1 << 20 // bytes taken on the word of a file
	snappyRatio = 22      // at most 64 bytes come out of 3
	lz4Ratio    = 256     // at most 255 bytes come out of 1
)

var errSize = errors.New("its data does not have the size that is stated")

// block returns the want bytes that src holds under a Parquet codec, in dst's memory where that is large enough.
func (f *inflater) block(codec compress.Compression, dst, src []byte, want int) (out []byte, err error) {
	defer guard(&err)
	switch codec {
	case compress.Codecs.Uncompressed:
		out = src
	case compress.Codecs.Snappy:
		if n, err := snappy.DecodedLen(src); err != nil || n != want || want > snappyRatio*len(src)+64 {
			return nil, errSize
		}
		out, err = snappy.Decode(room(dst, want)[:want], src)
	case compress.Codecs.Gzip:
		if err := f.gzip.Reset(bytes.NewReader(src)); err != nil {
			return nil, err
		}
		out, err = drain(&f.gzip, dst, want)
	case compress.Codecs.Brotli:
		var codec compress.Codec
		if codec, err = compress.GetCodec(compress.Codecs.Brotli); err != nil {
			return nil, err
		}
		out, err = drain(codec.(compress.StreamingCodec).NewReader(bytes.NewReader(src)), dst, want)
	case compress.Codecs.Zstd:
		out, err = f.zstdBlock(dst, src, want)
	case compress.Codecs.Lz4Raw:
		out, err = lz4Block(dst, src, want)
	case compress.Codecs.Lz4:
		out, err = lz4Hadoop(dst, src, want)
	default:
		return nil, unread(fmt.Sprintf("is compressed with %v, which is not read: write it with zstd", codec))
	}
	if err == nil && len(out) != want {
		err = errSize
	}
	return out, err
}

// zstdBlock decodes src into memory of the size expected, if its blocks can hold as much.
func (f *inflater) zstdBlock(dst, src []byte, want int) ([]byte, error) {
	if f.zstd == nil {
		// The capacity of dst is the limit: a frame that holds more is refused by the decoder.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(maxBlock))
		if err != nil {
			return nil, err
		}
		f.zstd = d
	}
	if int64(want) > zstdMost(src) {
		return nil, errSize
	}
	return f.zstd.DecodeAll(src, room(dst, want)[:0:want])
}

// zstdMost bounds what the frames in src can decode to, by a walk over the headers of their blocks (RFC 8878, 3.1.1).
func zstdMost(src []byte) (most int64) {
	const blockMost = 128 << 10
	for len(src) >= 8 {
		if magic := littleUint32(src); magic != 0xfd2fb528 { // not a frame: one to be skipped, or nothing more
			n := 8 + int64(littleUint32(src[4:]))
			if magic&^0xf != 0x184d2a50 || n > int64(len(src)) {
				return most
			}
			src = src[n:]
			continue
		}
		flags := src[4]
		single := flags >> 5 & 1
		head := 6 - int(single) + []int{0, 1, 2, 4}[flags&3] + []int{int(single), 2, 4, 8}[flags>>6]
		for src = src[min(head, len(src)):]; len(src) >= 3; {
			block := int(src[0]) | int(src[1])<<8 | int(src[2])<<16
			size, kept := block>>3, block>>3
			switch block >> 1 & 3 {
			case 1: // one byte, repeated
				kept = 1
			case 2: // compressed
				size = blockMost
			}
			most += int64(min(size, blockMost))
			src = src[min(3+kept, len(src)):]
			if block&1 != 0 { // the last one
				src = src[min(4*int(flags>>2&1), len(src)):] // a checksum
				break
			}
		}
	}
	return most
}

func lz4Block(dst, src []byte, want int) ([]byte, error) {
	if want > lz4Ratio*len(src)+64 {
		return nil, errSize
	}
	codec, err := compress.GetCodec(compress.Codecs.Lz4Raw)
	if err != nil {
		return nil, err
	}
	if want == 0 && len(src) <= 1 {
		return dst[:0], nil
	}
	return compress.Decode(codec, room(dst, want)[:want], src)
}

// lz4Hadoop decodes the codec that old writers called LZ4: blocks, each after its two sizes in big-endian; some wrote the
// bare block instead.
func lz4Hadoop(dst, src []byte, want int) ([]byte, error) {
	out, rest := dst[:0], src
	for len(rest) >= 8 && len(out) < want {
		plain, packed := int(binary.BigEndian.Uint32(rest)), int(binary.BigEndian.Uint32(rest[4:]))
		if packed > len(rest)-8 || plain > want-len(out) {
			return lz4Block(dst, src, want)
		}
		part, err := lz4Block(nil, rest[8:8+packed], plain)
		if err != nil {
			return lz4Block(dst, src, want)
		}
		out, rest = append(out, part...), rest[8+packed:]
	}
	if len(out) != want || len(rest) != 0 {
		return lz4Block(dst, src, want)
	}
	return out, nil
}

// room returns dst, or new memory, with a capacity of at least n.
func room(dst []byte, n int) []byte {
	if cap(dst) < n {
		return make([]byte, 0, n)
	}
	return dst[:0]
}

// drain reads r to its end, which must come after want bytes, so that checksums at the end are seen.
func drain(r io.Reader, dst []byte, want int) ([]byte, error) {
	out := room(dst, min(want, firstGuess))
	for len(out) < want {
		if len(out) == cap(out) {
			out = append(make([]byte, 0, min(want, 4*cap(out))), out...)
		}
		n, err := io.ReadFull(r, out[len(out):min(cap(out), want)])
		out = out[:len(out)+n]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out, errSize
		} else if err != nil {
			return out, err
		}
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 {
		return out, errSize
	} else if !errors.Is(err, io.EOF) {
		return out, err
	}
	return out, nil
}
