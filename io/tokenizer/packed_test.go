package tokenizer

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// folder gives where a family's files lie, unpacked from their archive.
func folder(t testing.TB, family string) string {
	t.Helper()
	files, err := packed()
	if err != nil {
		t.Fatal(err)
	}
	if files[family] == nil {
		t.Fatalf("testdata/packed.tar.zst has no folder %s", family)
	}
	dir := t.TempDir()
	for name, content := range files[family] {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readWhole(t testing.TB, family, name string) []byte {
	t.Helper()
	files, err := packed()
	if err != nil {
		t.Fatal(err)
	}
	raw, ok := files[family][name]
	if !ok {
		t.Fatalf("testdata/packed.tar.zst has no %s/%s", family, name)
	}
	return raw
}

// packed is the archive's files by folder and name.
var packed = sync.OnceValues(func() (map[string]map[string][]byte, error) {
	files := map[string]map[string][]byte{}
	if err := unpack(files, "testdata/packed.tar.zst"); err != nil {
		return nil, err
	}
	for _, family := range files { // the character map lies apart as bytes: so it packs into two thirds
		if charsmap, ok := family["charsmap"]; ok {
			const field = `"precompiled_charsmap":"`
			put := []byte(field + base64.StdEncoding.EncodeToString(charsmap))
			family["tokenizer.json"] = bytes.Replace(family["tokenizer.json"], []byte(field), put, 1)
		}
	}
	return files, nil
})

func unpack(files map[string]map[string][]byte, path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	z, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer z.Close()
	archive := tar.NewReader(z)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		family, name := filepath.Split(header.Name)
		family = filepath.Clean(family)
		if files[family] == nil {
			files[family] = map[string][]byte{}
		}
		files[family][name] = content
	}
}
