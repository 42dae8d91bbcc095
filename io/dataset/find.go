package dataset

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// format of a file, by its name or, where that says nothing, its first bytes.
type format int

const (
	formatUnknown format = iota
	formatParquet
	formatIPC
	formatJSONL
)

var formatOf = map[string]format{
	".parquet": formatParquet, ".parq": formatParquet, ".pq": formatParquet,
	".arrow": formatIPC, ".arrows": formatIPC, ".ipc": formatIPC, ".feather": formatIPC,
	".jsonl": formatJSONL, ".ndjson": formatJSONL, ".json": formatJSONL,
}

func formatByName(path string) format {
	name := strings.ToLower(filepath.Base(path))
	if f, ok := formatOf[filepath.Ext(name)]; ok {
		return f
	}
	for _, ext := range []string{".gz", ".zst"} {
		if inner, ok := strings.CutSuffix(name, ext); ok && formatOf[filepath.Ext(inner)] == formatJSONL {
			return formatJSONL
		}
	}
	return formatUnknown
}

func formatOfFile(path string) (format, error) {
	if f := formatByName(path); f != formatUnknown {
		return f, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return formatUnknown, err
	}
	defer shut(f)
	var head [6]byte
	n, _ := f.Read(head[:])
	switch {
	case n >= 4 && string(head[:4]) == "PAR1":
		return formatParquet, nil
	case n == 6 && string(head[:]) == "ARROW1":
		return formatIPC, nil
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv", ".tsv":
		return formatUnknown, unread("it is a table of text, whose types and quotes nobody has fixed; write it as Parquet or JSON Lines, as pandas does with to_parquet or to_json(orient=\"records\", lines=True)")
	}
	return formatUnknown, unread("its format is unknown: name it .parquet, .arrow, .arrows, .feather, .jsonl, .jsonl.gz or .jsonl.zst")
}

// expand turns what the user named into files: each once, where it is first named; those of a pattern or a folder in
// order of their paths, without hidden ones (_ or . in front) and, in a folder, without those of other formats.
func expand(patterns []string) (paths []string, err error) {
	seen := map[string]bool{}
	for _, pattern := range patterns {
		found, err := expandOne(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			if key := filepath.Clean(path); !seen[key] {
				seen[key] = true
				paths = append(paths, path)
			}
		}
	}
	if len(paths) == 0 {
		return nil, refuse(ErrMissing, "no input: name a file, a folder or a pattern with --input")
	}
	return paths, nil
}

func expandOne(pattern string) ([]string, error) {
	info, err := os.Stat(pattern)
	switch {
	case err == nil && info.IsDir():
		found, err := walk(pattern)
		if err == nil && len(found) == 0 {
			err = refuse(ErrMissing, "%s: no data files in this folder (.parquet, .arrow, .feather, .jsonl, compressed ones too)", pattern)
		}
		return found, err
	case err == nil:
		return []string{pattern}, regular(pattern, info.Mode())
	case !errors.Is(err, fs.ErrNotExist) || !strings.ContainsAny(pattern, `*?[`):
		return nil, refuse(ErrMissing, "%s: %v", pattern, cause(err))
	}
	found, err := match(pattern)
	if err != nil {
		return nil, refuse(ErrUsage, "%s: %v", pattern, err)
	}
	var out []string
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			inside, err := walk(path)
			if err != nil {
				return nil, err
			}
			out = append(out, inside...)
		} else if err == nil {
			if err := regular(path, info.Mode()); err != nil {
				return nil, err
			}
			out = append(out, path)
		}
	}
	if len(out) == 0 {
		return nil, refuse(ErrMissing, "%s: no file matches this pattern", pattern)
	}
	slices.Sort(out)
	return out, nil
}

// regular refuses what is no file: all ranks read the input, more than once and from any place, and a pipe gives its bytes
// once, or makes who opens it wait for a writer.
func regular(path string, mode fs.FileMode) error {
	kind := ""
	switch {
	case mode&fs.ModeNamedPipe != 0:
		kind = "pipe"
	case mode&fs.ModeSocket != 0:
		kind = "socket"
	case mode&fs.ModeType != 0:
		kind = "device"
	default:
		return nil
	}
	return refuse(ErrUsage, "%s: it is a %s, and input is read more than once, by every rank; write it into a file first", path, kind)
}

func hidden(name string) bool {
	return strings.HasPrefix(name, "_") || strings.HasPrefix(name, ".") && name != "." && name != ".."
}

// walk lists the data files below a folder, in order of their paths.
func walk(root string) (paths []string, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return refuse(ErrMissing, "%s: %v", path, cause(err))
		case path != root && hidden(entry.Name()) && entry.IsDir():
			return fs.SkipDir
		case entry.IsDir() || hidden(entry.Name()) || formatByName(path) == formatUnknown:
			return nil
		}
		mode := entry.Type()
		if mode&fs.ModeSymlink != 0 {
			info, err := os.Stat(path)
			if err != nil {
				return refuse(ErrMissing, "%s: %v", path, cause(err))
			}
			if mode = info.Mode(); mode.IsDir() {
				return refuse(ErrUsage, "%s: it is a link to a folder, which is not followed; name that folder with --input, too", path)
			}
		}
		paths = append(paths, path)
		return regular(path, mode)
	})
	slices.Sort(paths)
	return paths, err
}

// match lists the paths that fit a pattern; ** stands for any number of folders. A hidden file fits only a pattern whose
// own last part is hidden.
func match(pattern string) (paths []string, err error) {
	if base, _, ok := strings.Cut(pattern, "**"); ok {
		expr, err := globExpr(pattern)
		if err != nil {
			return nil, err
		}
		root := filepath.Dir(base + "x")
		err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && expr.MatchString(path) {
				paths = append(paths, path)
			}
			return nil // what cannot be read does not fit
		})
		return slices.DeleteFunc(paths, func(p string) bool { return hiddenBelow(root, p) }), err
	}
	found, err := filepath.Glob(pattern)
	if err != nil {
		return nil, refuse(ErrMissing, "%s: no file has this name, and as a pattern it lacks the end of a [ ]", pattern)
	}
	return slices.DeleteFunc(found, func(p string) bool {
		return hidden(filepath.Base(p)) && !hidden(filepath.Base(pattern))
	}), nil
}

func hiddenBelow(root, path string) bool {
	rest := strings.TrimPrefix(path, root)
	return slices.ContainsFunc(strings.Split(rest, string(filepath.Separator)), hidden)
}

func globExpr(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString("^")
	pattern = filepath.Clean(pattern)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case strings.HasPrefix(pattern[i:], "**/"):
			b.WriteString("(?:.*/)?")
			i += 2
		case strings.HasPrefix(pattern[i:], "**"):
			b.WriteString(".*")
			i++
		case c == '*':
			b.WriteString("[^/]*")
		case c == '?':
			b.WriteString("[^/]")
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return regexp.Compile(b.String() + "$")
}

func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// partition is a column that a path gives by a folder KEY=VALUE, as Hive and Spark write them.
type partition struct {
	name, value string
	null        bool
}

func partitions(path string) (out []partition) {
	for _, part := range strings.Split(filepath.Dir(path), string(filepath.Separator)) {
		name, value, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			continue
		}
		p := partition{name: unescape(name), value: strings.ToValidUTF8(unescape(value), "\uFFFD")}
		p.null = p.value == "__HIVE_DEFAULT_PARTITION__"
		out = append(slices.DeleteFunc(out, func(q partition) bool { return q.name == p.name }), p)
	}
	return out
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// wholePartitions names the keys whose values are integers in all paths: their columns are int64, the others text.
func wholePartitions(files [][]partition) map[string]bool {
	whole := map[string]bool{}
	for _, parts := range files {
		for _, p := range parts {
			n, err := strconv.ParseInt(p.value, 10, 64)
			is := p.null || err == nil && strconv.FormatInt(n, 10) == p.value
			if old, ok := whole[p.name]; ok {
				is = is && old
			}
			whole[p.name] = is
		}
	}
	return whole
}

// partitioned adds to a source the columns that its path gives and the file lacks.
type partitioned struct {
	source
	cols  []column
	parts []partition // of the columns behind the file's own
}

func withPartitions(s source, parts []partition, whole map[string]bool) source {
	p := &partitioned{source: s, cols: slices.Clone(s.columns())}
	for _, part := range parts {
		if find(p.cols, part.name) >= 0 {
			continue
		}
		typ := arrow.DataType(arrow.BinaryTypes.String)
		if whole[part.name] {
			typ = arrow.PrimitiveTypes.Int64
		}
		p.cols = append(p.cols, column{Field: arrow.Field{Name: part.name, Type: typ, Nullable: true}})
		p.parts = append(p.parts, part)
	}
	if len(p.parts) == 0 {
		return s
	}
	return p
}

func (p *partitioned) columns() []column { return p.cols }

func (p *partitioned) own(columns []int) []int {
	n := len(p.source.columns())
	return slices.DeleteFunc(slices.Clone(columns), func(c int) bool { return c >= n })
}

func (p *partitioned) check(columns []int) error { return p.source.check(p.own(columns)) }

func (p *partitioned) scan(columns []int, from int64) (scanner, error) {
	s, err := p.source.scan(p.own(columns), from)
	if err != nil {
		return nil, err
	}
	fields := make([]arrow.Field, len(columns))
	for i, c := range columns {
		fields[i] = p.cols[c].Field
	}
	return &partitionScan{scanner: s, partitioned: p, wanted: columns, schema: arrow.NewSchema(fields, nil)}, nil
}

type partitionScan struct {
	scanner
	*partitioned
	wanted []int
	schema *arrow.Schema
}

func (s *partitionScan) next(limit int64) (arrow.Record, int, error) {
	rec, group, err := s.scanner.next(limit)
	if err != nil {
		return nil, group, err
	}
	defer rec.Release()
	arrays, own := make([]arrow.Array, len(s.wanted)), 0
	for i, c := range s.wanted {
		if at := c - len(s.source.columns()); at >= 0 {
			arrays[i] = constant(s.cols[c].Type, s.parts[at], int(rec.NumRows()))
			continue
		}
		arrays[i] = rec.Column(own)
		own++
	}
	return array.NewRecord(s.schema, arrays, rec.NumRows()), group, nil
}

func constant(typ arrow.DataType, p partition, rows int) arrow.Array {
	b := array.NewBuilder(memory.DefaultAllocator, typ)
	defer b.Release()
	b.Reserve(rows)
	n, _ := strconv.ParseInt(p.value, 10, 64)
	for range rows {
		switch b := b.(type) {
		case *array.StringBuilder:
			if !p.null {
				b.Append(p.value)
				continue
			}
		case *array.Int64Builder:
			if !p.null {
				b.Append(n)
				continue
			}
		}
		b.AppendNull()
	}
	return b.NewArray()
}
