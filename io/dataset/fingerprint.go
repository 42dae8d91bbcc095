package dataset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
)

// What of a file's content makes its identity: all of it where the data set has few files or small ones, so that a byte
// that was changed is noticed, else samples, enough to notice a file written anew, in a fixed time.
const (
	samples    = 16
	sampleSize = 64 << 10
	wholeFile  = 64 << 20  // bytes of a file that are read for its identity, at most
	wholeInput = 256 << 20 // of all files
)

// wholeMost is the size up to which each of so many files is read as a whole.
func wholeMost(files int) int64 {
	return max(samples*sampleSize, min(wholeFile, wholeInput/int64(files)))
}

// fingerprint is the file's size, and a digest of it, the rows and its bytes: all of them up to whole, else samples from
// begin to end (where Parquet and Arrow keep offsets and statistics of all the rest).
func fingerprint(path string, rows, whole int64) (size int64, digest string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer shut(f)
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	size = info.Size()
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, [2]int64{size, rows}) // a hash takes everything
	if size <= whole {
		_, err = io.Copy(h, f)
		return size, hex.EncodeToString(h.Sum(nil)), err
	}
	buf := make([]byte, sampleSize)
	for i := range int64(samples) {
		at := (size - sampleSize) / (samples - 1) * i
		if i == samples-1 {
			at = size - sampleSize
		}
		if _, err := f.ReadAt(buf, at); err != nil {
			return 0, "", err
		}
		h.Write(buf)
	}
	return size, hex.EncodeToString(h.Sum(nil)), nil
}
