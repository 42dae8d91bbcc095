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

// zstdBlock decodes into memory of at most the size expected, which is believed by and by.
func (f *inflater) zstdBlock(dst, src []byte, want int) ([]byte, error) {
	if f.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxBlock))
		if err != nil {
			return nil, err
		}
		f.zstd = d
	}
	for size := min(want, max(firstGuess, 64*len(src))); ; size = min(want, 8*size) {
		// The capacity is exactly size: a frame that holds more is refused by the decoder.
		out, err := f.zstd.DecodeAll(src, room(dst, size)[:0:size])
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) && size < want {
			continue
		}
		return out, err
	}
}

func lz4Block(dst, src []byte, want int) ([]byte, error) {
	if want > lz4Ratio*len(src)+64 {
		return nil, errSize
	}
	codec, err := compress.GetCodec(compress.Codecs.Lz4Raw)
	if err != nil {
		return nil, err
	}
	if want == 0 {
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
