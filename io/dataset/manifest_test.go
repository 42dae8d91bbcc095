package dataset

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// manifest is testdata/manifest.json: what must be made of each file there, as the reference readers (pyarrow, Python)
// and the damage done say. Digests are of the rows' bytes, each followed by a newline.
type manifest struct {
	Good    []goodFile    `json:"good"`
	Damaged []damagedFile `json:"damaged"`
}

type goodFile struct {
	File         string `json:"file"`
	Rows         int64  `json:"rows"`
	Prompts      string `json:"sha256"`
	IDs          string `json:"sha256_ids"`
	Messages     string `json:"sha256_messages"`
	Continuation string `json:"sha256_continuation"`
	BadRows      []int  `json:"bad_rows"`
}

type damagedFile struct {
	File   string `json:"file"`
	Must   string `json:"must"`
	Python struct {
		Rows    int64  `json:"rows"`
		Prompts string `json:"sha256"`
	} `json:"python"`
}

func readManifest(t *testing.T) (m manifest) {
	t.Helper()
	b, err := os.ReadFile("testdata/manifest.json")
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// digests are over rows in order, as the manifest has them.
type digests struct {
	prompts, ids, messages, continuations hash.Hash
	rows                                  int64
	bad                                   []int
	errs                                  []error
}

func (d *digests) add(t *testing.T, r *Row) {
	if r.Number != d.rows {
		t.Errorf("row %d comes as number %d", d.rows, r.Number)
	}
	if r.Err != nil {
		d.bad, d.errs = append(d.bad, int(d.rows)), append(d.errs, r.Err)
	}
	d.rows++
	line := func(h hash.Hash, s string) { h.Write([]byte(s + "\n")) }
	line(d.prompts, r.Prompt)
	line(d.continuations, r.Continuation)
	if err := binary.Write(d.ids, binary.LittleEndian, r.IDs); err != nil {
		t.Fatal(err)
	}
	line(d.ids, "")
	for _, m := range r.Messages {
		var message struct{ Role, Content string }
		if err := json.Unmarshal(m, &message); err != nil {
			t.Fatal(err)
		}
		line(d.messages, message.Role)
		line(d.messages, message.Content)
	}
}

// read opens patterns and reads all rows, in ranges of step.
func read(t *testing.T, columns Columns, step int64, patterns ...string) (*digests, error) {
	t.Helper()
	d := &digests{prompts: sha256.New(), ids: sha256.New(), messages: sha256.New(), continuations: sha256.New()}
	set, err := Open(context.Background(), patterns, columns)
	if err != nil {
		return d, err
	}
	defer set.Close()
	for i, f := range set.Files() {
		if f.First != d.rows {
			t.Errorf("%s: first row %d, want %d", f.Path, f.First, d.rows)
		}
		for from := int64(0); from < f.Rows; from += step {
			for row, err := range set.Read(context.Background(), i, from, min(from+step, f.Rows)) {
				if err != nil {
					return d, err
				}
				d.add(t, row)
			}
		}
	}
	if d.rows != set.Rows() {
		t.Errorf("%d rows read, %d counted", d.rows, set.Rows())
	}
	return d, nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func TestManifestGood(t *testing.T) {
	for _, f := range readManifest(t).Good {
		for _, step := range []int64{1 << 40, 1, 5, 7} {
			t.Run(f.File+"/"+strconv.FormatInt(step, 10), func(t *testing.T) {
				columns := Columns{}
				switch {
				case f.IDs != "" || strings.Contains(f.File, "ids-"):
					columns.IDs = "input_ids"
				case f.Messages != "":
					columns.Messages = "messages"
				case f.Continuation != "":
					columns.Continuation = "continuation"
				}
				patterns := []string{"testdata/" + f.File}
				if f.File == "formats/multi-mixed/" {
					patterns = []string{"testdata/formats/multi-mixed/[abc].parquet"}
					f.Rows = 24
				}
				d, err := read(t, columns, step, patterns...)
				if err != nil {
					t.Fatal(err)
				}
				if d.rows != f.Rows || !slices.Equal(d.bad, f.BadRows) {
					t.Errorf("%d rows, bad %v (%v); want %d, bad %v", d.rows, d.bad, d.errs, f.Rows, f.BadRows)
				}
				for _, c := range []struct {
					name, got, want string
				}{
					{"prompts", sum(d.prompts), f.Prompts}, {"ids", sum(d.ids), f.IDs},
					{"messages", sum(d.messages), f.Messages}, {"continuations", sum(d.continuations), f.Continuation},
				} {
					if c.want != "" && c.got != c.want && len(f.BadRows) == 0 {
						t.Errorf("%s: digest %s, want %s", c.name, c.got, c.want)
					}
				}
			})
		}
	}
}

var numbers = regexp.MustCompile(`\d+`)

// badRows are the rows that "bad row 9" or "bad rows 4, 8" in a sentence name.
func badRows(must string) (rows []int) {
	head, _, _ := strings.Cut(must, ";")
	for _, s := range numbers.FindAllString(head, -1) {
		n, _ := strconv.Atoi(s)
		rows = append(rows, n)
	}
	return rows
}

// bomb is the one damaged file that is made here, a third of their bytes: one line of 96 MiB, which gzip packs into 96 KiB.
func bomb(t *testing.T, file string) (folder string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.Copy(z, io.MultiReader(strings.NewReader(`{"prompt":"`),
		strings.NewReader(strings.Repeat("a", 96<<20)), strings.NewReader("\"}\n")))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	folder = t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, filepath.Dir(file)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, file), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestManifestDamaged(t *testing.T) {
	for _, f := range readManifest(t).Damaged {
		folder := "testdata"
		if f.File == "damaged/bomb.jsonl.gz" {
			folder = bomb(t, f.File)
		}
		for _, step := range []int64{1 << 40, 4} {
			t.Run(f.File+"/"+strconv.FormatInt(step, 10), func(t *testing.T) {
				d, err := read(t, Columns{}, step, filepath.Join(folder, f.File))
				if f.File == "damaged/string-length-huge.parquet" && (d.rows != 9 || !strings.Contains(err.Error(), "row group 0: from row 9: column prompt")) {
					t.Errorf("the rows before the damage are good: %d read, then %v", d.rows, err)
				}
				t.Logf("must %s: %d rows, bad %v, err %v %v", f.Must, d.rows, d.bad, err, d.errs)
				refused := err != nil
				if refused && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), f.File)) {
					t.Errorf("the refusal does not name the file, or is none of damage: %v", err)
				}
				well := !refused && d.rows == f.Python.Rows && sum(d.prompts) == f.Python.Prompts && len(d.bad) == 0
				marked := !refused && slices.Equal(d.bad, badRows(f.Must))
				ok := false
				switch must := f.Must; {
				case must == "refuse", strings.HasPrefix(must, "refuse, naming"):
					ok = refused
				case must == "refuse or read well", strings.HasPrefix(must, "read well"), strings.HasPrefix(must, "refuse, or read what"):
					ok = refused || well
				case must == "cannot be seen":
					ok = well
				case strings.HasPrefix(must, "bad rows 4, 8"):
					ok = marked || !refused && slices.Equal(slices.DeleteFunc(d.bad, func(r int) bool { return r == 10 }), badRows(must))
				case strings.HasPrefix(must, "bad row"):
					ok = marked || refused && strings.Contains(must, "refuse")
				case strings.HasPrefix(must, "refuse, or bad rows"):
					ok = refused || marked
				default:
					t.Fatalf("the manifest asks for %q, which this test does not know", must)
				}
				if !ok {
					t.Errorf("must %s; got %d rows, bad %v, error %v", f.Must, d.rows, d.bad, err)
				}
			})
		}
	}
}

func TestManifestIsWhole(t *testing.T) {
	m, listed := readManifest(t), map[string]bool{}
	for _, f := range m.Good {
		listed[f.File] = true
	}
	for _, f := range m.Damaged {
		listed[f.File] = true
	}
	err := filepath.WalkDir("testdata", func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel("testdata", path)
		if err != nil || entry.IsDir() {
			if entry != nil && entry.Name() == "fuzz" {
				return fs.SkipDir
			}
			return err
		}
		dir, _, _ := strings.Cut(strings.TrimPrefix(name, "formats/"), "/")
		if !listed[name] && !listed["formats/"+dir+"/"] && name != "README.md" && name != "manifest.json" {
			t.Errorf("%s is in no list", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
