package dataset

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// pages walks the pages of one column chunk and hands them, decompressed, to v18's column reader, which decodes levels
// and values. It stands in for v18's own page reader, which looks at no checksum and no count, and takes memory by the
// sizes in page headers. Here a page is given out only if
//
//   - its bytes lie inside the column chunk and have the checksum of the header, where there is one;
//   - it decompresses to the size stated, in memory that grows with what comes out;
//   - its levels, dictionary and values can hold as many values as it claims, as far as that shows without decoding;
//   - the values of all pages come to the count of the footer (at the end).
//
// Memory: one compressed and one decompressed page, and the dictionary.
type pages struct {
	in       compact // over the chunk's bytes
	column   *schema.Column
	codec    compress.Compression
	inflater *inflater

	values int64 // that the footer states for the chunk
	seen   int64 // in pages given out or passed over
	number int   // of the page at the place, from 0

	packed, plain []byte // memory of the page at the place
	page          file.Page
	prefixed      bool // its values may repeat the beginnings of those before them
	hasDictionary bool
	err           error
	skipped       *pageHeader          // a header that was read and not used yet
	dict          *file.DictionaryPage // read by skip and not given out yet
}

// maxPageValues bounds the values of a page: v18 takes four bytes for each before it decodes some encodings.
const maxPageValues = 1 << 26

// A value of DELTA_BYTE_ARRAY can be as long as its page and take a few bits there: v18 takes memory for all values of a
// batch at their full length, so pages and batches are smaller.
const (
	maxPrefixedPage = 64 << 20
	prefixedBatch   = 8
)

var _ file.PageReader = (*pages)(nil)

// openPages starts at the chunk's first byte. values, start and size are the footer's, and start+size lies in the file.
func openPages(r io.ReaderAt, start, size, values int64, column *schema.Column, codec compress.Compression, f *inflater) *pages {
	section := io.NewSectionReader(r, start, size)
	buffer := int(min(max(size, 16), 128<<10))
	return &pages{
		in: compact{r: bufio.NewReaderSize(section, buffer), left: size}, column: column, codec: codec, inflater: f, values: values,
	}
}

// Next decodes the next dictionary or data page.
func (p *pages) Next() bool {
	p.page = nil
	if p.err != nil {
		return false
	}
	p.page, p.err = p.next()
	if p.err != nil {
		p.err = fmt.Errorf("page %d: %w", p.number, p.err)
	}
	return p.page != nil
}

func (p *pages) next() (file.Page, error) {
	if d := p.dict; d != nil {
		p.dict = nil
		return d, nil
	}
	for {
		h, err := p.header()
		if err != nil || h == nil {
			return nil, err
		}
		if h.kind == pageIndex || h.kind > pageDataV2 {
			if err := p.in.discard(int64(h.compressed)); err != nil {
				return nil, err
			}
			p.number++
			continue
		}
		page, err := p.load(h)
		if err == nil {
			p.number++
		}
		return page, err
	}
}

// header reads the next page's header, or nil after the last page.
func (p *pages) header() (*pageHeader, error) {
	if h := p.skipped; h != nil {
		p.skipped = nil
		return h, nil
	}
	if p.seen == p.values {
		return nil, nil
	}
	if p.in.left == 0 {
		return nil, fmt.Errorf("the pages end after %d of %d values", p.seen, p.values)
	}
	h, err := p.in.pageHeader()
	if err != nil {
		return nil, fmt.Errorf("its header cannot be read: %w", err)
	}
	switch {
	case h.compressed < 0 || int64(h.compressed) > p.in.left:
		return nil, fmt.Errorf("it claims %d bytes where %d are left of its column", h.compressed, p.in.left)
	case h.uncompressed < 0 || h.uncompressed > maxBlock || h.compressed > maxBlock:
		return nil, fmt.Errorf("it claims to hold %d bytes in %d; none larger than %d is read", h.uncompressed, h.compressed, maxBlock)
	case h.values < 0 || h.values > maxPageValues:
		return nil, fmt.Errorf("it claims %d values", h.values)
	case h.kind == pageData && !h.hasData || h.kind == pageDictionary && !h.hasDict || h.kind == pageDataV2 && !h.hasData2:
		return nil, errors.New("its header lacks the part for its kind")
	}
	if h.kind == pageData || h.kind == pageDataV2 {
		if p.seen += int64(h.values); p.seen > p.values {
			return nil, fmt.Errorf("the pages hold more than the %d values stated", p.values)
		}
	}
	return &h, nil
}

// load reads, checks and decompresses the body after h.
func (p *pages) load(h *pageHeader) (file.Page, error) {
	p.packed = room(p.packed, int(h.compressed))[:h.compressed]
	p.in.left -= int64(h.compressed)
	if _, err := io.ReadFull(p.in.r, p.packed); err != nil {
		return nil, err
	}
	if h.hasCRC {
		if sum := crc32.ChecksumIEEE(p.packed); sum != h.crc {
			return nil, fmt.Errorf("its checksum is %08x, not %08x as written", sum, h.crc)
		}
	}
	switch h.kind {
	case pageDictionary:
		return p.dictionary(h)
	case pageData:
		return p.data(h)
	}
	return p.dataV2(h)
}

func (p *pages) dictionary(h *pageHeader) (file.Page, error) {
	if p.hasDictionary {
		return nil, errors.New("its column has two dictionaries")
	}
	if p.seen > 0 {
		return nil, errors.New("a dictionary stands behind the values")
	}
	data, err := p.inflater.block(p.codec, nil, p.packed, int(h.uncompressed)) // kept for the whole chunk: memory of its own
	if err != nil {
		return nil, err
	}
	if int64(h.values)*leastBytes(p.column) > int64(len(data)) {
		return nil, fmt.Errorf("a dictionary of %d values in %d bytes", h.values, len(data))
	}
	p.hasDictionary = true
	if p.codec == compress.Codecs.Uncompressed {
		data = append([]byte(nil), data...)
	}
	return file.NewDictionaryPage(memory.NewBufferBytes(data), h.values, parquet.Encoding(h.encoding)), nil
}

func (p *pages) data(h *pageHeader) (file.Page, error) {
	data, err := p.inflater.block(p.codec, p.plain, p.packed, int(h.uncompressed))
	if err != nil {
		return nil, err
	}
	if p.codec != compress.Codecs.Uncompressed {
		p.plain = data
	}
	rest := data
	for _, level := range []struct {
		top      int16
		encoding int32
	}{{p.column.MaxRepetitionLevel(), h.repEncoding}, {p.column.MaxDefinitionLevel(), h.defEncoding}} {
		if level.top == 0 {
			continue
		}
		n := (int64(h.values)*int64(bits.Len16(uint16(level.top))) + 7) / 8 // bit-packed, as very old writers did
		if parquet.Encoding(level.encoding) == parquet.Encodings.RLE {
			if len(rest) < 4 {
				return nil, errors.New("it is too short for its levels")
			}
			n = 4 + int64(littleUint32(rest))
		}
		if n > int64(len(rest)) {
			return nil, errors.New("it is too short for its levels")
		}
		rest = rest[n:]
	}
	if err := p.checkValues(h, rest); err != nil {
		return nil, err
	}
	return file.NewDataPageV1(memory.NewBufferBytes(data), h.values, parquet.Encoding(h.encoding),
		parquet.Encoding(h.defEncoding), parquet.Encoding(h.repEncoding), h.uncompressed), nil
}

func (p *pages) dataV2(h *pageHeader) (file.Page, error) {
	levels := int64(h.defBytes) + int64(h.repBytes)
	if h.defBytes < 0 || h.repBytes < 0 || levels > int64(h.compressed) || levels > int64(h.uncompressed) {
		return nil, errors.New("it is too short for its levels")
	}
	if h.nulls < 0 || h.nulls > h.values || h.rows < 0 || h.rows > h.values {
		return nil, errors.New("its header counts more rows or nulls than values")
	}
	codec := p.codec
	if h.plain {
		codec = compress.Codecs.Uncompressed
	}
	want := int(int64(h.uncompressed) - levels)
	data := p.packed
	if codec == compress.Codecs.Uncompressed && want != len(p.packed)-int(levels) {
		return nil, errSize
	}
	if codec != compress.Codecs.Uncompressed {
		var values []byte
		if len(p.packed) > int(levels) { // no bytes at all stand for no values
			var err error
			if values, err = p.inflater.block(codec, p.plain, p.packed[levels:], want); err != nil {
				return nil, err
			}
			p.plain = values
		} else if want != 0 {
			return nil, errSize
		}
		data = append(append(make([]byte, 0, int(levels)+len(values)), p.packed[:levels]...), values...)
	}
	if err := p.checkValues(h, data[levels:]); err != nil {
		return nil, err
	}
	return file.NewDataPageV2(memory.NewBufferBytes(data), h.values, h.nulls, h.rows, parquet.Encoding(h.encoding),
		h.defBytes, h.repBytes, h.uncompressed, !h.plain), nil
}

// checkValues looks at what v18's decoders would take memory for before they decode: the block size of delta encodings.
func (p *pages) checkValues(h *pageHeader, data []byte) error {
	p.prefixed = parquet.Encoding(h.encoding) == parquet.Encodings.DeltaByteArray
	if p.prefixed && len(data) > maxPrefixedPage {
		return fmt.Errorf("it holds %d bytes; none larger than %d is read of this encoding: write it with another", len(data), maxPrefixedPage)
	}
	switch parquet.Encoding(h.encoding) {
	case parquet.Encodings.DeltaBinaryPacked, parquet.Encodings.DeltaByteArray, parquet.Encodings.DeltaLengthByteArray:
	default:
		return nil
	}
	var block uint64
	for i, b := range data[:min(len(data), 5)] {
		block |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			break
		}
	}
	if block > 1<<20 {
		return fmt.Errorf("its delta encoding has blocks of %d values", block)
	}
	return nil
}

// skip passes over whole data pages with at most rows rows without decompressing them, and returns the rows passed.
// Repeated values are counted in rows only by pages of the second version; others stop it.
func (p *pages) skip(rows int64) (passed int64, err error) {
	for {
		h, err := p.header()
		if err != nil || h == nil {
			return passed, err
		}
		var n int64
		switch {
		case h.kind == pageDictionary:
			page, err := p.load(h)
			if err != nil {
				return passed, fmt.Errorf("page %d: %w", p.number, err)
			}
			p.dict = page.(*file.DictionaryPage)
			p.number++
			continue
		case h.kind == pageDataV2:
			n = int64(h.rows)
		case h.kind == pageData && p.column.MaxRepetitionLevel() == 0:
			n = int64(h.values)
		case h.kind == pageData:
			n = rows + 1
		}
		if n > rows-passed {
			p.skipped = h
			return passed, nil
		}
		if err := p.in.discard(int64(h.compressed)); err != nil {
			return passed, err
		}
		p.number++
		passed += n
	}
}

// end is an error if data stands behind the values that the footer states. What else writers leave there is theirs.
func (p *pages) end() error {
	if p.seen < p.values {
		return fmt.Errorf("has pages behind its last row")
	}
	if p.in.left == 0 {
		return nil
	}
	h, err := p.in.pageHeader()
	if err == nil && (h.kind == pageData && h.hasData || h.kind == pageDataV2 && h.hasData2) && h.values > 0 &&
		h.compressed > 0 && int64(h.compressed) <= p.in.left {
		return fmt.Errorf("has pages behind the %d values stated", p.values)
	}
	return nil
}

// leastBytes is the least that a value of a dictionary takes.
func leastBytes(c *schema.Column) int64 {
	switch c.PhysicalType() {
	case parquet.Types.Int64, parquet.Types.Double:
		return 8
	case parquet.Types.Int96:
		return 12
	case parquet.Types.FixedLenByteArray:
		return max(1, int64(c.TypeLength()))
	case parquet.Types.Boolean:
		return 1
	}
	return 4
}

// The rest of file.PageReader.

// Page is the one that Next found.
func (p *pages) Page() file.Page { return p.page }

// Err is why Next found none, nil at the end.
func (p *pages) Err() error { return p.err }

// Close has nothing to release.
func (p *pages) Close() error { return nil }

// SetMaxPageHeaderSize has no effect: headers are walked, not held.
func (p *pages) SetMaxPageHeaderSize(int) {}

// GetDictionaryPage finds none: the dictionary comes from Next, as it stands first in the chunk.
func (p *pages) GetDictionaryPage() (*file.DictionaryPage, error) { return nil, nil }

// SeekToPageWithRow is not used: see skip.
func (p *pages) SeekToPageWithRow(int64) error { return errors.ErrUnsupported }

// Reset is not used: each chunk has its own reader.
func (p *pages) Reset(parquet.BufferedReader, int64, compress.Compression, *file.CryptoContext) {
	p.err = errors.ErrUnsupported
}
