package tokenizer

import (
	"encoding/json"
	"slices"
)

// decoder makes text of pieces. A decoding takes them one by one and appends what no later piece can change;
// flush appends the rest, after which it begins anew.
type decoder interface {
	start() decoding
}

type decoding interface {
	push(dst []byte, piece string) []byte
	flush(dst []byte) []byte
	pending(dst []byte) []byte // appends what flush would, and changes nothing
}

const decoderKinds = "Sequence, ByteLevel, WordPiece, Metaspace, Replace, ByteFallback, Fuse, Strip, BPEDecoder, CTC"

// readDecoder: without a decoder, pieces are put down with spaces between.
func readDecoder(raw json.RawMessage) (decoder, error) {
	if isNull(raw) {
		return spacedDecoder{}, nil
	}
	var c chain
	byteLevel, fused, growth := 0, false, 1
	err := eachInSequence(raw, "decoders", func(kind string, raw json.RawMessage) error {
		if kind == "ByteLevel" {
			byteLevel++
		}
		begin, err := readStage(kind, raw, &growth)
		if err != nil {
			return err
		}
		if fused {
			begin = onWhole(begin)
		}
		fused = fused || kind == "Fuse" || kind == "ByteLevel"
		c = append(c, begin)
		return nil
	})
	if err == nil && len(c) == 1 && byteLevel == 1 {
		return byteLevelDecoder{}, nil // the common kind, without what a chain costs
	}
	return c, err
}

// chain is a Sequence of decoders, each of which makes pieces of pieces; what the last one makes is the text. All
// behind a Fuse (or ByteLevel, which fuses too) work on the one piece that it makes, and get it in parts.
type chain []func() stage

// stage takes pieces one by one and appends those that it is certain of; flush appends the rest and begins anew.
type stage interface {
	push(dst []string, piece string) []string
	flush(dst []string) []string
	clone() stage // with room of its own
}

func readStage(kind string, raw json.RawMessage, growth *int) (func() stage, error) {
	switch kind {
	case "ByteLevel":
		return func() stage { return new(byteLevelStage) }, nil
	case "Fuse":
		return func() stage { return each(func(piece string) string { return piece }) }, nil
	case "WordPiece":
		return readWordPieceStage(raw)
	case "Metaspace":
		return readMetaspaceStage(raw)
	case "Replace":
		return readReplaceStage(raw, growth)
	case "ByteFallback":
		return func() stage { return new(byteFallback) }, nil
	case "Strip":
		return readStripStage(raw)
	case "BPEDecoder":
		return readSuffixStage(raw)
	case "CTC":
		return readCTC(raw)
	}
	return nil, unknownKind("decoder", decoderKinds)
}

func (c chain) start() decoding {
	d := new(chainDecoding)
	for _, begin := range c {
		d.stages = append(d.stages, begin())
	}
	return d
}

type chainDecoding struct {
	stages       []stage
	pieces, next []string
}

func (d *chainDecoding) push(dst []byte, piece string) []byte {
	d.pieces = append(d.pieces[:0], piece)
	return d.run(dst, false)
}

func (d *chainDecoding) flush(dst []byte) []byte {
	d.pieces = d.pieces[:0]
	return d.run(dst, true)
}

func (d *chainDecoding) pending(dst []byte) []byte {
	var copied chainDecoding
	for _, s := range d.stages {
		copied.stages = append(copied.stages, s.clone())
	}
	return copied.flush(dst)
}

func (d *chainDecoding) run(dst []byte, flush bool) []byte {
	for _, s := range d.stages {
		d.next = d.next[:0]
		for _, piece := range d.pieces {
			d.next = s.push(d.next, piece)
		}
		if flush {
			d.next = s.flush(d.next)
		}
		d.pieces, d.next = d.next, d.pieces
	}
	for _, piece := range d.pieces {
		dst = append(dst, piece...)
	}
	return dst
}

// each is a stage that makes one piece of one, whatever the others are.
type each func(piece string) string

func (f each) push(dst []string, piece string) []string { return append(dst, f(piece)) }
func (f each) flush(dst []string) []string              { return dst }
func (f each) clone() stage                             { return f }

// onWhole is a stage for a piece that comes in parts: one that cannot work on parts waits for all of them.
func onWhole(begin func() stage) func() stage {
	switch s := begin().(type) {
	case *strip:
		return func() stage { return &stripParts{strip: *s} }
	default:
		return func() stage { return &wholePiece{stage: begin()} }
	}
}

type wholePiece struct {
	stage
	parts []byte
}

func (w *wholePiece) push(dst []string, part string) []string {
	w.parts = append(w.parts, part...)
	return dst
}

func (w *wholePiece) flush(dst []string) []string {
	dst = w.stage.push(dst, string(w.parts))
	w.parts = w.parts[:0]
	return w.stage.flush(dst)
}

func (w *wholePiece) clone() stage { return &wholePiece{w.stage.clone(), slices.Clone(w.parts)} }

// spacedDecoder puts spaces between the pieces.
type spacedDecoder struct{}

func (spacedDecoder) start() decoding { return new(spacedDecoding) }

type spacedDecoding struct{ some bool }

func (d *spacedDecoding) push(dst []byte, piece string) []byte {
	if d.some {
		dst = append(dst, ' ')
	}
	d.some = true
	return append(dst, piece...)
}

func (d *spacedDecoding) pending(dst []byte) []byte { return dst }

func (d *spacedDecoding) flush(dst []byte) []byte {
	d.some = false
	return dst
}
