package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxLine bounds the bytes of a JSON line; a longer one is a bad row, and is never held.
const maxLine = maxValue

const lineBuffer = 256 << 10

var errLong = fmt.Errorf("is a line of more than %d MiB; split it", maxLine>>20)

// lines reads the lines of a file that are not blank, decompressed if need be, in bounded memory.
type lines struct {
	f      *os.File
	r      *bufio.Reader
	closer func()
	offset int64 // of the next byte in the decompressed text
	end    int64 // lines that begin here or behind are not read; 0: all are
	limit  int   // bytes of a line
	long   []byte
}

// openLines opens a file at its start, and says whether its text can be entered at any offset.
func openLines(path string) (l *lines, plain bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if err != nil {
			shut(f)
		}
	}()
	in := bufio.NewReaderSize(f, lineBuffer)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	l = &lines{f: f, r: in, closer: func() {}, limit: maxLine}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, false, err
		}
		l.r = bufio.NewReaderSize(z, lineBuffer)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) || len(head) == 4 && head[0]&0xf0 == 0x50 &&
		bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, false, err
		}
		l.r, l.closer = bufio.NewReaderSize(z, lineBuffer), z.Close
	case strings.HasSuffix(path, ".gz") || strings.HasSuffix(path, ".zst"):
		return nil, false, errors.New("it is not compressed as its name says")
	default:
		plain = true
	}
	if bom, err := l.r.Peek(3); err == nil && bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		l.offset = 3
		_, err = l.r.Discard(3)
		return l, plain, err
	}
	return l, plain, nil
}

// seek goes to an offset of a plain file.
func (l *lines) seek(offset int64) error {
	if offset == l.offset {
		return nil
	}
	if _, err := l.f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	l.r.Reset(l.f)
	l.offset = offset
	return nil
}

// enter goes to the first line that begins at or behind an offset of a plain file, and ends before the one that begins
// at or behind end.
func (l *lines) enter(offset, end int64) error {
	if offset > l.offset { // the line end before the offset may be the one that it begins behind
		if err := l.seek(offset - 1); err != nil {
			return err
		}
		if _, err := l.line(false); err != nil && !errors.Is(err, errBlank) && !errors.Is(err, io.EOF) {
			return err
		}
	}
	l.end = end
	return nil
}

func (l *lines) Close() error {
	l.closer()
	return l.f.Close()
}

// next returns the next line that is not blank, without its end, valid until the next call; errLong with a line that is
// too long, which is passed; io.EOF after the last.
func (l *lines) next() (line []byte, err error) {
	defer guard(&err)
	for {
		line, err := l.line(true)
		if err != nil || !blank(line) {
			return line, err
		}
	}
}

// pass goes over up to n lines that are not blank, without holding them, and returns how many there were.
func (l *lines) pass(n int64) (passed int64, err error) {
	defer guard(&err)
	for passed < n {
		_, err := l.line(false)
		switch {
		case errors.Is(err, io.EOF):
			return passed, nil
		case err == nil:
			passed++
		case !errors.Is(err, errBlank):
			return passed, err
		}
	}
	return passed, nil
}

var errBlank = errors.New("blank")

// line reads one line. Without hold it returns no bytes, and errBlank for a blank one.
func (l *lines) line(hold bool) ([]byte, error) {
	if l.end > 0 && l.offset >= l.end {
		return nil, io.EOF
	}
	l.long = l.long[:0]
	empty, tooLong := true, false
	for {
		part, err := l.r.ReadSlice('\n')
		l.offset += int64(len(part))
		empty = empty && blank(part)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if hold && !tooLong {
				if tooLong = len(l.long)+len(part) > l.limit; tooLong {
					l.long = nil
				} else {
					l.long = append(l.long, part...)
				}
			}
			continue
		case errors.Is(err, io.EOF) && empty && len(part) == 0 && len(l.long) == 0 && !tooLong:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case !hold && empty:
			return nil, errBlank
		case !hold:
			return nil, nil
		case tooLong || len(l.long)+len(part) > l.limit:
			l.long = nil
			return nil, errLong
		case len(l.long) > 0:
			l.long = append(l.long, part...)
			part = l.long
		}
		return bytes.TrimRight(part, "\r\n"), nil
	}
}

func blank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}
