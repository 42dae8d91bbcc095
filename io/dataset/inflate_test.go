package dataset

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/compress"
)

// Blocks come back under every codec when their size is stated right, and never when it is not; a lie takes no memory.
func TestBlocks(t *testing.T) {
	text := bytes.Join(prompts(2000), nil) // 400 kB
	var f inflater
	defer f.close()
	for _, codec := range []compress.Compression{
		compress.Codecs.Uncompressed, compress.Codecs.Snappy, compress.Codecs.Gzip, compress.Codecs.Brotli, compress.Codecs.Zstd, compress.Codecs.Lz4Raw, compress.Codecs.Lz4,
	} {
		for _, plain := range [][]byte{text, text[:1], bytes.Repeat([]byte("a"), 3<<20)} {
			packed := pack(t, codec, plain)
			got, err := f.block(codec, make([]byte, 10, 500), packed, len(plain))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%v: %d bytes do not come back: %v", codec, len(plain), err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for _, want := range []int{len(plain) - 1, len(plain) + 1, maxBlock} {
				if out, err := f.block(codec, nil, packed, want); err == nil {
					t.Errorf("%v: %d bytes come back as %d", codec, len(plain), len(out))
				}
			}
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
				t.Errorf("%v: a wrong size takes %d MB", codec, took>>20)
			}
		}
	}
	if _, err := f.block(compress.Codecs.Lzo, nil, text, 5); err == nil {
		t.Error("LZO is read")
	}
}

// A zstd frame cannot hold more than its blocks, whatever it and its page claim; what encoders make, it can hold.
func TestZstdMost(t *testing.T) {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x1f, 0x01, 0, 0} // claims 496 MB, in one empty block
	if most := zstdMost(frame); most != 0 {
		t.Errorf("an empty block holds %d bytes", most)
	}
	for _, plain := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("ab"), 1<<20), bytes.Join(prompts(5000), nil)} {
		packed := pack(t, compress.Codecs.Zstd, plain)
		packed = append(append(packed, 0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9), packed...) // twice, with a frame to skip between
		if most := zstdMost(packed); most < 2*int64(len(plain)) || most > 2*int64(len(plain))+256<<10 {
			t.Errorf("%d bytes, of which %d fit", 2*len(plain), most)
		}
	}
}

func pack(t *testing.T, codec compress.Compression, plain []byte) []byte {
	t.Helper()
	if codec != compress.Codecs.Lz4 {
		c, err := compress.GetCodec(codec)
		if err != nil {
			t.Fatal(err)
		}
		return c.Encode(nil, plain)
	}
	var out []byte // Hadoop's: blocks behind their sizes
	for len(plain) > 0 {
		n := min(len(plain), 256<<10)
		block := pack(t, compress.Codecs.Lz4Raw, plain[:n])
		out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(out, uint32(n)), uint32(len(block)))
		out, plain = append(out, block...), plain[n:]
	}
	return out
}
