package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/compress"
)

// What the metadata shows is refused by Open, before a row is read; what only the data shows, when it is reached.
func TestWhenDamageShows(t *testing.T) {
	for file, atOpen := range map[string]bool{
		"num-rows-file-lies.parquet": true, "num-rows-group-lies.parquet": true, "num-rows-both-lie.parquet": true, "truncated.arrows": true,
		"truncated.jsonl.gz": true, "flip-zstd-crc.parquet": false, "offset-huge.arrow": false, "offset-negative.arrow": false,
	} {
		set, err := Open(context.Background(), []string{"testdata/damaged/" + file}, Columns{Carry: []CarryColumn{{"prompt", ""}}})
		if (err != nil) != atOpen {
			t.Errorf("%s: Open says %v", file, err)
			continue
		}
		if !atOpen {
			_, _, err = set.Carry(context.Background(), 0, 0, set.Rows())
		}
		if !errors.Is(err, ErrDamaged) || strings.HasPrefix(file, "offset") && !strings.Contains(err.Error(), "record batch 0: from row 0: column prompt: has offsets out of order") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Damage in one row group ends reading there: rows before it come, none after, and other row groups still read.
func TestDamageIsLocal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.parquet")
	writeParquet(t, path, prompts(40), 10, compress.Codecs.Zstd)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	magic, at := []byte{0x28, 0xb5, 0x2f, 0xfd}, 0 // of each page's zstd frame
	for range 3 {
		at += strings.Index(string(b[at:]), string(magic)) + 1
	}
	b[at+200] ^= 0x55 // in the third
	writeFile(t, path, b)
	set := open(t, Columns{}, path)
	rows := 0
	for row, e := range set.Read(context.Background(), 0, 0, 40) {
		if err = e; e == nil {
			if row.Number != int64(rows) {
				t.Errorf("row %d comes as %d", rows, row.Number)
			}
			rows++
		}
	}
	if rows != 20 || !errors.Is(err, ErrDamaged) || !strings.HasPrefix(fmt.Sprint(err), path+": row group 2: from row 20: column prompt: page 0: ") {
		t.Errorf("%d rows, then %v", rows, err)
	}
	rows = 0
	for _, err := range set.Read(context.Background(), 0, 30, 40) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
	}
	if rows != 10 {
		t.Errorf("%d rows behind the damage", rows)
	}
}
