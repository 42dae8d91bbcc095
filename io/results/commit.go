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
	"path/filepath"
	"strconv"
)

// commitLine makes a part count. On the disk it is one line of JSON whose last member, sum, is a checksum of the bytes
// before it, so that a torn or damaged line is known for one:
//
//	{"chunk":3,"part":"part-0000003.parquet","first":384,"rows":128,"records":128,"bytes":9021,"columns":{"row":"…",…},
//	 "bad":[{"row":390,"error":"prompt is null; …"}],"sum":"6d1b…"}
type commitLine struct {
	Chunk   int      `json:"chunk"`
	Part    string   `json:"part"`
	First   int64    `json:"first"`   // global number of the first row
	Rows    int64    `json:"rows"`    // of the input
	Records int64    `json:"records"` // rows times samples
	Bytes   int64    `json:"bytes"`   // size of the part
	Columns digests  `json:"columns"`
	Bad     []badRow `json:"bad,omitempty"`
}

// badRow is a row set aside.
type badRow struct {
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
	for i := range c.Bad {
		if n, ok := c.Bad[i].ID.(json.Number); ok {
			if c.Bad[i].ID, err = strconv.ParseInt(n.String(), 10, 64); err != nil {
				return c, fmt.Errorf("%w: %w", errTorn, err)
			}
		}
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
		if errors.Is(err, errTorn) {
			torn = number
			continue
		}
		if err := visit(c); err != nil {
			return err
		}
	}
}

// ledger knows, of every chunk, which commit line counts.
type ledger struct {
	lines  []*commitLine // [chunks]; nil: none counts
	claims [][]*commitLine
}

// readLedger reads all commit lines and holds them against the parts that are there. Problems go to note, a sentence
// each: nothing is wrong with the output then but that the chunk has to be done again.
//
// Several lines for a chunk are fine (a rank of a dead start may have been quicker than its job's end) and mostly the
// same. Where they are not, the part itself is read to see which of them it is.
func readLedger(ctx context.Context, fsys fileSystem, dir string, chunks []Chunk, samples int, note func(string)) (ledger, error) {
	l := ledger{lines: make([]*commitLine, len(chunks)), claims: make([][]*commitLine, len(chunks))}
	err := readCommits(fsys, dir, func(c commitLine) error {
		if c.Chunk < 0 || c.Chunk >= len(chunks) || c.Part != partName(c.Chunk) || c.First != chunks[c.Chunk].First ||
			c.Rows != chunks[c.Chunk].Rows() || c.Records != c.Rows*int64(samples) {
			note(fmt.Sprintf("a commit line for %s, rows %d to %d, is of no chunk of this job", c.Part, c.First, c.First+c.Rows))
			return nil
		}
		for _, other := range l.claims[c.Chunk] {
			if other.Bytes == c.Bytes && other.Columns.equal(c.Columns) {
				return nil
			}
		}
		l.claims[c.Chunk] = append(l.claims[c.Chunk], &c)
		return nil
	}, func(file string, line int) {
		note(fmt.Sprintf("%s: line %d is damaged and counts as none", file, line))
	})
	if err != nil {
		return l, err
	}
	for i, claims := range l.claims {
		if len(claims) == 0 {
			continue
		}
		if l.lines[i], err = judge(ctx, fsys, dir, claims); err != nil {
			return l, err
		}
		if l.lines[i] == nil {
			note(fmt.Sprintf("%s is committed, but is missing or another one", claims[0].Part))
		}
	}
	return l, nil
}

// judge picks the claim that the part on the disk bears out, or nil.
func judge(ctx context.Context, fsys fileSystem, dir string, claims []*commitLine) (*commitLine, error) {
	name := filepath.Join(dir, claims[0].Part)
	there, err := exists(fsys, name)
	if err != nil || !there {
		return nil, err
	}
	size, err := fsys.Stat(name)
	if err != nil {
		return nil, err
	}
	var fitting []*commitLine
	for _, c := range claims {
		if c.Bytes == size {
			fitting = append(fitting, c)
		}
	}
	if len(claims) == 1 {
		return append(fitting, nil)[0], nil
	}
	columns, err := digestPart(ctx, fsys, name, claims[0].First*(claims[0].Records/max(claims[0].Rows, 1)))
	if err != nil {
		return nil, ctx.Err() // a part that cannot be read bears out none
	}
	for _, c := range fitting {
		if columns.equal(c.Columns) {
			return c, nil
		}
	}
	return nil, nil
}
