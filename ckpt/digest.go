package ckpt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

// Digest reads about digestSamples runs of digestRun bytes, 16 MiB, spread evenly over the files, and one more a file.
const (
	digestSamples = 4096
	digestRun     = 4096
)

// Digest identifies the model for a job's fingerprint: the config's values, every tensor's name, type and shape, every
// file's name and size, and a sample of the files' bytes, which is all of them up to 16 MiB. Equal folders in different
// places are equal; weights trained further differ. It is no checksum: single damaged bytes of a large file may be missed.
func (c *Checkpoint) Digest() ([32]byte, error) {
	h := sha256.New()
	config, err := json.Marshal(c.config.Values) // keys sorted
	if err != nil {
		return [32]byte{}, fmt.Errorf("%s: %w", c.config.Source, err)
	}
	text(h, c.Format, string(config))
	for _, name := range c.names {
		t := c.tensors[name]
		text(h, name, fmt.Sprint(t.DType, t.Shape))
	}
	files := c.Files()
	total := int64(0)
	for _, f := range files {
		text(h, f.Name, fmt.Sprint(f.Size))
		total += f.Size
	}
	step := max(total/digestSamples, digestRun)
	for _, f := range files {
		if err := sample(h, filepath.Join(c.root, filepath.FromSlash(f.Name)), step); err != nil {
			return [32]byte{}, err
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// text hashes strings, each with its length, so that no two lists look alike.
func text(h hash.Hash, list ...string) {
	for _, s := range list {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
}

// sample hashes a run of bytes at the beginning of a file and after every step.
func sample(h hash.Hash, path string, step int64) error {
	f, err := os.Open(path)
	if err != nil {
		return &Error{File: path, Kind: err, What: "cannot be opened: " + cause(err)}
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	buf := make([]byte, digestRun)
	for at := int64(0); ; at += step {
		n, err := f.ReadAt(buf, at)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &Error{File: path, Kind: err, What: "cannot be read: " + cause(err)}
		}
	}
}
