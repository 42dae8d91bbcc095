package results

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
)

// commitLine makes a part count. On the disk it is one line of JSON whose last member, sum, is a checksum of the bytes
// before it, so that a torn or damaged line is known for one:
//
//	{"chunk":3,"part":"part-0000003.parquet","first":384,"rows":128,"records":128,"bytes":9021,"sha256":"…",
//	 "columns":{"row":"…",…},"bad":[{"row":390,"error":"prompt is null; …"}],"sum":"6d1b…"}
type commitLine struct {
	Chunk   int      `json:"chunk"`
	Part    string   `json:"part"`
	First   int64    `json:"first"`   // global number of the first row
	Rows    int64    `json:"rows"`    // of the input
	Records int64    `json:"records"` // rows times samples
	Bytes   int64    `json:"bytes"`   // size of the part
	SHA256  string   `json:"sha256"`  // of the part, as sha256sum prints it
	Columns digests  `json:"columns"`
	Bad     []BadRow `json:"bad,omitempty"`

	bad      int64   // len(Bad): a ledger keeps no more than that and the first, since every row of a large job may be bad
	firstBad *BadRow // nil where there is none
	place    place   // where the line was read
}

// place of a line.
type place struct {
	file         string
	offset, size int64
}

// BadRow is a row set aside.
type BadRow struct {
	Row   int64  `json:"row"`
	ID    any    `json:"id,omitempty"` // when the output has an id column: int64, string or nil
	Error string `json:"error"`
}

const sumBytes = 16 // of SHA-256

// errTorn tells a line that is not as it was written.
var errTorn = errors.New("damaged commit line")

// encode makes the line, newline included.
func (c commitLine) encode() ([]byte, error) {
	line, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1] // the closing brace
	sum := sha256.Sum256(line)
	return fmt.Appendf(line, ",\"sum\":%q}\n", hex.EncodeToString(sum[:sumBytes])), nil
}

// decodeCommit reads a line, newline included. Whatever encode did not make is errTorn.
func decodeCommit(line []byte) (c commitLine, err error) {
	tail := len(`,"sum":""}`) + 2*sumBytes + len("\n")
	if len(line) < tail {
		return c, errTorn
	}
	body := line[:len(line)-tail]
	sum := sha256.Sum256(body)
	if want := fmt.Appendf(nil, ",\"sum\":%q}\n", hex.EncodeToString(sum[:sumBytes])); !bytes.Equal(line[len(body):], want) {
		return c, errTorn
	}
	numbers := json.NewDecoder(io.MultiReader(bytes.NewReader(body), bytes.NewReader([]byte("}"))))
	numbers.UseNumber() // an int64 id does not fit a float64
	if err := numbers.Decode(&c); err != nil {
		return c, fmt.Errorf("%w: %w", errTorn, err)
	}
	c.bad = int64(len(c.Bad))
	for i := range c.Bad {
		if n, ok := c.Bad[i].ID.(json.Number); ok {
			if c.Bad[i].ID, err = strconv.ParseInt(n.String(), 10, 64); err != nil {
				return c, fmt.Errorf("%w: %w", errTorn, err)
			}
		}
	}
	if c.bad > 0 {
		first := c.Bad[0] // a copy: the rest is to be let go
		c.firstBad = &first
	}
	return c, nil
}

// readCommits hands every whole line of every commits file to visit, files in the order of their names. A damaged
// last line is what a kill leaves and is passed over; damaged tells of any other (line counted from 1).
func readCommits(fsys fileSystem, dir string, visit func(commitLine) error, damaged func(file string, line int)) error {
	names, err := fsys.ReadDir(filepath.Join(dir, stateFolder))
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := numbers(name, "commits-", ".jsonl", 2); !ok {
			continue
		}
		if err := readCommitsFile(fsys, state(dir, name), visit, func(line int) { damaged(name, line) }); err != nil {
			return fmt.Errorf("%s: %w", state(dir, name), err)
		}
	}
	return nil
}

func readCommitsFile(fsys fileSystem, name string, visit func(commitLine) error, damaged func(line int)) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	size, err := f.Size()
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 1<<16)
	offset := int64(0)
	for number, torn := 1, 0; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		if torn > 0 { // it was not the last
			damaged(torn)
			torn = 0
		}
		c, err := decodeCommit(line)
		c.place = place{name, offset, int64(len(line))}
		offset += int64(len(line))
		if errors.Is(err, errTorn) {
			torn = number
			continue
		}
		if err := visit(c); err != nil {
			return err
		}
	}
}

// badRows reads the bad rows of a line again.
func (c *commitLine) badRows(fsys fileSystem) ([]BadRow, error) {
	if c.bad == 0 {
		return nil, nil
	}
	f, err := fsys.Open(c.place.file)
	if err != nil {
		return nil, err
	}
	line := make([]byte, c.place.size)
	if _, err := f.ReadAt(line, c.place.offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	whole, err := decodeCommit(line)
	return whole.Bad, errors.Join(err, f.Close())
}

// ledger knows, of every chunk, which commit line counts.
type ledger struct {
	lines []*commitLine // [chunks]; nil: none counts
}

// readLedger reads all commit lines and holds them against the parts that are there. Problems go to note, a sentence
// each: nothing is wrong with the output then but that the chunk has to be done again.
//
// Several lines for a chunk are fine (a rank of a dead start may have been quicker than its job's end) and mostly the
// same. Where they are not, the part itself is read to see which of them it is.
func readLedger(ctx context.Context, fsys fileSystem, dir string, chunks []Chunk, samples int, note func(string)) (ledger, error) {
	l, claims := ledger{make([]*commitLine, len(chunks))}, make([][]*commitLine, len(chunks))
	err := readCommits(fsys, dir, func(c commitLine) error {
		if c.Chunk < 0 || c.Chunk >= len(chunks) || c.Part != partName(c.Chunk) || c.First != chunks[c.Chunk].First ||
			c.Rows != chunks[c.Chunk].Rows() || c.Records != c.Rows*int64(samples) {
			note(fmt.Sprintf("a commit line for %s, rows %d to %d, is of no chunk of this job", c.Part, c.First, c.First+c.Rows))
			return nil
		}
		for _, other := range claims[c.Chunk] {
			if other.SHA256 == c.SHA256 {
				return nil
			}
		}
		c.Bad = nil
		claims[c.Chunk] = append(claims[c.Chunk], &c)
		return nil
	}, func(file string, line int) {
		note(fmt.Sprintf("%s: line %d is damaged and counts as none", file, line))
	})
	if err != nil {
		return l, err
	}
	for i, claims := range claims {
		if len(claims) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return l, context.Cause(ctx)
		}
		if l.lines[i], err = judge(fsys, dir, claims); err != nil {
			return l, err
		}
		if l.lines[i] == nil {
			note(fmt.Sprintf("%s is committed, but is missing or another one", claims[0].Part))
		}
	}
	return l, nil
}

// judge picks the claim that the part on the disk bears out, or nil. One claim is believed when the size is right; of
// several the bytes decide.
func judge(fsys fileSystem, dir string, claims []*commitLine) (*commitLine, error) {
	name := filepath.Join(dir, claims[0].Part)
	size, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	sum := claims[0].SHA256
	if len(claims) > 1 {
		if sum, err = sumFile(fsys, name); err != nil {
			return nil, err
		}
	}
	for _, c := range claims {
		if c.Bytes == size && c.SHA256 == sum {
			return c, nil
		}
	}
	return nil, nil
}

// sumFile is the SHA-256 of a file, in hexadecimal.
func sumFile(fsys fileSystem, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	size, err := f.Size()
	if err != nil {
		return "", errors.Join(err, f.Close())
	}
	sum := sha256.New()
	_, err = io.Copy(sum, io.NewSectionReader(f, 0, size))
	return hex.EncodeToString(sum.Sum(nil)), errors.Join(err, f.Close())
}
