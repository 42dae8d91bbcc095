package dataset

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Files of lines say nowhere how many rows they have, so somebody has to go through them before the first chunk can be
// cut. A plain file is cut into pieces, a compressed one is a piece; ranks share the pieces out, each goes through its own
// with every core, and all gather what was found. So a data set is read once, not once a rank.

// Peers are the ranks that open a data set together. The zero value is a rank alone.
type Peers struct {
	Rank, Size int
	// Gather gives all ranks what each has brought, by rank. All call it, once.
	Gather func(ctx context.Context, mine []byte) ([][]byte, error)

	piece int64 // of plain files, bytes; 0: pieceBytes
}

// linePiece is a part of a file of lines: those lines that begin from byte from on and before byte to.
type linePiece struct {
	file     int
	from, to int64
}

// pieceBytes is the size of the pieces of a plain file. It is fixed, since the pieces' borders decide which lines are
// looked at for their keys: every number of ranks must find the same.
const pieceBytes = 64 << 20

// lineIndex is what going through a piece has found; its fields are exported for gob.
type lineIndex struct {
	Rows  int64
	Marks []mark // rows counted from the piece's first
	Names []string
	Kinds []jsonKind // of the values under Names
	Good  int64      // lines that are objects
	Err   *sentFailure
}

// sentFailure is a refusal on its way to other ranks.
type sentFailure struct {
	Class int // its place in classes
	Text  string
}

var classes = []error{ErrDamaged, ErrMissing, ErrColumn, ErrUsage, context.Canceled}

func sendable(path string, err error) *sentFailure {
	if err == nil {
		return nil
	}
	if !errors.Is(err, context.Canceled) {
		err = named(path, err)
	}
	class := slices.IndexFunc(classes, func(c error) bool { return errors.Is(err, c) })
	return &sentFailure{max(class, 0), err.Error()}
}

// received is the refusal again; from says in front which rank has met it, "" for nothing.
func (f *sentFailure) received(from string) error {
	return &refusal{class: classes[min(max(f.Class, 0), len(classes)-1)], text: from + f.Text}
}

// foundLines is what one rank brings to all.
type foundLines struct {
	Files string // digest of the files that it sees
	Found map[int]lineIndex
	Err   *sentFailure // why it could not look
}

// indexLines goes through the files of lines among paths, together with the peers, and returns what was found in each;
// bad is this rank's own reason not to, which all then have, as they have the end of its context.
func indexLines(ctx context.Context, paths []string, typed bool, peers Peers, bad error) (map[int]*jsonlFile, error) {
	mine := foundLines{Err: sendable("input", bad)}
	pieces, digest, err := linePieces(paths, cmp.Or(peers.piece, pieceBytes))
	if bad == nil {
		bad, mine.Err = err, sendable("input", err)
	}
	mine.Files = digest
	if bad == nil {
		mine.Found, bad = scanPieces(ctx, paths, pieces, typed, peers)
		mine.Err = sendable("input", bad)
	}
	all := []foundLines{mine}
	if peers.Gather != nil {
		if all, err = gatherFound(ctx, peers, mine); err != nil {
			return nil, errors.Join(bad, err)
		}
	}
	if bad != nil {
		return nil, bad
	}
	files := map[int]*jsonlFile{}
	for i, p := range pieces {
		x, ok := all[i%len(all)].Found[i]
		if !ok {
			return nil, fmt.Errorf("rank %d tells nothing of bytes %d to %d of %s", i%len(all), p.from, p.to, paths[p.file])
		}
		if files[p.file] == nil {
			files[p.file] = &jsonlFile{path: paths[p.file], step: firstStep, keys: keyKinds{kinds: map[string]jsonKind{}}}
		}
		files[p.file].append(x)
	}
	return files, nil
}

// gatherFound gathers what all ranks have found; another's failure, or its seeing other files, is an error.
func gatherFound(ctx context.Context, peers Peers, mine foundLines) ([]foundLines, error) {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(mine); err != nil {
		return nil, err
	}
	raw, err := peers.Gather(ctx, b.Bytes())
	if err != nil {
		return nil, err
	}
	all := make([]foundLines, len(raw))
	for rank := range raw {
		if bytes.Equal(raw[rank], b.Bytes()) { // as of all ranks that had nothing to go through: a thousand may be in this process
			all[rank] = mine
			continue
		}
		if err := gob.NewDecoder(bytes.NewReader(raw[rank])).Decode(&all[rank]); err != nil {
			return nil, fmt.Errorf("what rank %d found in the input cannot be read: %w", rank, err)
		}
	}
	for rank, x := range all {
		switch {
		case x.Err != nil && mine.Err == nil:
			return nil, x.Err.received(fmt.Sprintf("rank %d: ", rank))
		case x.Err == nil && mine.Err == nil && x.Files != mine.Files:
			return nil, refuse(ErrMissing, "rank %d sees other input files than rank %d; do all ranks have the same file system, and does nobody write to the input?", rank, peers.Rank)
		}
	}
	return all, nil
}

// linePieces cuts the files of lines among paths into pieces. The digest is of all paths, and of the sizes of these files.
func linePieces(paths []string, size int64) (pieces []linePiece, digest string, err error) {
	h := sha256.New()
	for i, path := range paths {
		fmt.Fprintf(h, "%q ", path)
		if f, err := formatOfFile(path); err != nil || f != formatJSONL {
			continue // an error is told when the file is opened
		}
		l, plain, err := openLines(path)
		if err != nil {
			pieces = append(pieces, linePiece{i, 0, math.MaxInt64}) // so does going through it
			continue
		}
		info, err := l.f.Stat()
		shut(l)
		if err != nil {
			return nil, "", named(path, err)
		}
		fmt.Fprint(h, info.Size(), " ")
		last := int64(math.MaxInt64) // the end, wherever that is then
		if !plain {
			pieces = append(pieces, linePiece{i, 0, last})
			continue
		}
		for from := int64(0); from == 0 || from < info.Size(); from += size {
			to := from + size
			if to >= info.Size() {
				to = last
			}
			pieces = append(pieces, linePiece{i, from, to})
		}
	}
	return pieces, hex.EncodeToString(h.Sum(nil)), nil
}

// scanPieces goes through this rank's pieces; every Size-th is its own.
func scanPieces(ctx context.Context, paths []string, pieces []linePiece, typed bool, peers Peers) (map[int]lineIndex, error) {
	size := max(peers.Size, 1)
	found := make([]lineIndex, len(pieces))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := peers.Rank; i < len(pieces); i += size {
		group.Go(func() error {
			x, err := scanPiece(ctx, paths[pieces[i].file], pieces[i], typed)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			x.Err = sendable(paths[pieces[i].file], err)
			found[i] = x
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	own := map[int]lineIndex{}
	for i := peers.Rank; i < len(pieces); i += size {
		own[i] = found[i]
	}
	return own, nil
}

const (
	errArray  = unread("it is one JSON array, not JSON Lines: write one object a line (jq -c '.[]')")
	errSpread = unread("its first JSON object goes over several lines: write one object a line (jq -c .)")
	errUTF16  = unread("it is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8)")
)

// notLines tells of the first line of a file that the file is no JSON Lines.
func notLines(line []byte) error {
	switch {
	case string(line) == "[":
		return errArray
	case string(line) == "{":
		return errSpread
	case bytes.HasPrefix(line, []byte("\xff\xfe")), bytes.HasPrefix(line, []byte("\xfe\xff")):
		return errUTF16
	}
	return nil
}

// scanPiece counts the rows of a piece. With typed it looks at every line for the types of its keys, else at the first
// ones of the file.
func scanPiece(ctx context.Context, path string, piece linePiece, typed bool) (x lineIndex, err error) {
	l, plain, err := openLines(path)
	if err != nil {
		return x, err
	}
	defer shut(l)
	if err := l.enter(piece.from, piece.to); err != nil {
		return x, err
	}
	keys, array := keyKinds{kinds: map[string]jsonKind{}}, false
	for looked := typed || piece.from == 0; looked && (typed || x.Rows < peekedRows); {
		x.mark(plain, l.offset)
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, errLong) {
			return x, x.cut(err)
		}
		if x.Rows == 0 && piece.from == 0 {
			if err := notLines(line); err != nil {
				return x, err
			}
			array = bytes.HasPrefix(line, []byte("["))
		}
		if err == nil {
			keys.see(line)
		}
		if x.Rows++; x.Rows%firstStep == 0 && ctx.Err() != nil {
			return x, ctx.Err()
		}
	}
	for ctx.Err() == nil {
		x.mark(plain, l.offset)
		n, err := l.pass(firstStep - x.Rows%firstStep)
		x.Rows += n
		if err != nil {
			return x, x.cut(err)
		}
		if n == 0 {
			break
		}
	}
	if array && x.Rows == 1 && ctx.Err() == nil { // all of the file
		return x, errArray
	}
	x.Names, x.Good = keys.names, keys.good
	for _, name := range keys.names {
		x.Kinds = append(x.Kinds, keys.kinds[name])
	}
	return x, ctx.Err()
}

// mark notes where a row begins, at every step.
func (x *lineIndex) mark(plain bool, offset int64) {
	if n := len(x.Marks); plain && x.Rows%firstStep == 0 && (n == 0 || x.Marks[n-1].Row != x.Rows) {
		x.Marks = append(x.Marks, mark{x.Rows, offset})
	}
}

// cut is the sentence for compressed data that ends too early or is damaged: then the piece is the whole file.
func (x *lineIndex) cut(err error) error {
	var system *os.PathError
	if errors.As(err, &system) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("its compressed data is cut short")
	}
	return fmt.Errorf("%w; %d rows before are whole", err, x.Rows)
}

// append adds what was found in the next piece.
func (p *jsonlFile) append(x lineIndex) {
	if p.err != nil {
		return
	}
	if x.Err != nil {
		p.err = x.Err.received("")
		return
	}
	for _, m := range x.Marks {
		p.marks = append(p.marks, mark{p.count + m.Row, m.Offset})
	}
	for len(p.marks) > mostMarks {
		p.step *= 2
		kept := p.marks[:0]
		for i, m := range p.marks {
			if i%2 == 0 {
				kept = append(kept, m)
			}
		}
		p.marks = kept
	}
	p.count += x.Rows
	p.keys.good += x.Good
	for i, name := range x.Names[:min(len(x.Names), len(x.Kinds))] {
		p.keys.add(name, x.Kinds[i])
	}
}
