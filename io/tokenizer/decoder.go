package tokenizer

import "encoding/json"

// decoder makes text of pieces. A decoding takes them one by one and appends what no later piece can change;
// flush appends the rest, after which it begins anew.
type decoder interface {
	start() decoding
}

type decoding interface {
	push(dst []byte, piece string) []byte
	flush(dst []byte) []byte
}

const decoderKinds = "ByteLevel"

// readDecoder: without a decoder, pieces are put down with spaces between.
func readDecoder(raw json.RawMessage) (d decoder, err error) {
	d = spacedDecoder{}
	some := false
	err = eachInSequence(raw, "decoders", func(kind string, _ json.RawMessage) error {
		if kind != "ByteLevel" || some {
			return unknownKind("decoder", decoderKinds)
		}
		d, some = byteLevelDecoder{}, true
		return nil
	})
	return d, err
}

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

func (d *spacedDecoding) flush(dst []byte) []byte {
	d.some = false
	return dst
}
