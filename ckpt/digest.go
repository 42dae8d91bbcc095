package ckpt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"os"
	"path/filepath"
)

// Digest reads at most digestSamples runs of digestRun bytes: 16 MiB, spread evenly over the files.
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
	run, step := int64(digestRun), max(total/digestSamples, digestRun)
	begin := int64(0) // of the file, in the files laid end to end
	for _, f := range files {
		first := (begin + step - 1) / step * step
		if err := sample(h, filepath.Join(c.root, filepath.FromSlash(f.Name)), first-begin, step, run); err != nil {
			return [32]byte{}, err
		}
		begin += f.Size
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

// sample hashes run bytes of a file at from, from+step and so on; the first of a file are always among them.
func sample(h hash.Hash, path string, from, step, run int64) error {
	f, err := os.Open(path)
	if err != nil {
		return &Error{File: path, Kind: err, What: "cannot be opened: " + cause(err)}
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	st, err := f.Stat()
	if err != nil {
		return &Error{File: path, Kind: err, What: "cannot be looked at: " + cause(err)}
	}
	buf := make([]byte, run)
	for _, start := range []int64{0, from} {
		for at := start; at < st.Size(); at += step {
			n := min(run, st.Size()-at)
			if _, err := f.ReadAt(buf[:n], at); err != nil {
				return &Error{File: path, Kind: err, What: "cannot be read: " + cause(err)}
			}
			h.Write(buf[:n])
			if start == 0 {
				break
			}
		}
	}
	return nil
}
