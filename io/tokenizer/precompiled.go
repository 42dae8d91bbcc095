package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// precompiled is SentencePiece's normalizer: a map of characters, and of short runs of them, to what stands for them.
// The keys lie in a double array trie (the one of the library Darts-clone), its values are places in a text where each
// replacement ends with a zero byte.
type precompiled struct {
	units []uint32
	texts string
	ascii [utf8.RuneSelf]struct {
		mapped bool
		to     string
	}
}

func readPrecompiled(raw json.RawMessage) (normalizer, error) {
	var f struct {
		Map *string `json:"precompiled_charsmap"`
	}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if f.Map == nil {
		return nil, errors.New("precompiled_charsmap: is missing")
	}
	bytes, err := base64.StdEncoding.DecodeString(*f.Map)
	if err != nil {
		return nil, fmt.Errorf("precompiled_charsmap: is not base64: %w", err)
	}
	p, err := newPrecompiled(bytes)
	if err != nil {
		return nil, fmt.Errorf("precompiled_charsmap: %w", err)
	}
	return rewrite(p.normalize), nil
}

// newPrecompiled reads the trie's size in bytes (4 bytes, little-endian), the trie, and the texts.
func newPrecompiled(charsmap []byte) (*precompiled, error) {
	if len(charsmap) < 4 {
		return nil, fmt.Errorf("its %d bytes are too few", len(charsmap))
	}
	size, rest := uint64(binary.LittleEndian.Uint32(charsmap)), charsmap[4:]
	if size%4 != 0 || size == 0 || size > uint64(len(rest)) {
		return nil, fmt.Errorf("its trie of %d bytes does not lie in the %d bytes that follow", size, len(rest))
	}
	p := &precompiled{units: make([]uint32, size/4), texts: string(rest[size:])}
	for i := range p.units {
		p.units[i] = binary.LittleEndian.Uint32(rest[4*i:])
	}
	if !utf8.ValidString(p.texts) {
		return nil, errors.New("its texts are not UTF-8")
	}
	for c := range p.ascii {
		to, ok := p.replacement(string(rune(c)))
		p.ascii[c].mapped, p.ascii[c].to = ok, to
	}
	return p, nil
}

// normalize looks each grapheme cluster up and, if it is long or has no entry, its characters one by one. As in the
// reference, an entry for a cluster's beginning replaces the whole of it: a mark behind a ligature is lost.
func (p *precompiled) normalize(text string) string {
	const short = 6 // bytes of a cluster
	out := make([]byte, 0, len(text)+len(text)/8)
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf && c != '\r' && (i+1 == len(text) || text[i+1] < utf8.RuneSelf) {
			if a := &p.ascii[c]; a.mapped {
				out = append(out, a.to...)
			} else {
				out = append(out, c)
			}
			i++
			continue
		}
		end := clusterEnd(text, i)
		if end-i < short {
			if to, ok := p.replacement(text[i:end]); ok {
				out = append(out, to...)
				i = end
				continue
			}
		}
		for i < end {
			_, size := utf8.DecodeRuneInString(text[i:])
			if to, ok := p.replacement(text[i : i+size]); ok {
				out = append(out, to...)
			} else {
				out = append(out, text[i:i+size]...)
			}
			i += size
		}
	}
	return string(out)
}

// replacement is that of the shortest key that text begins with. What a damaged trie or text leads outside of is none.
func (p *precompiled) replacement(text string) (to string, ok bool) {
	at := unitOffset(p.units[0])
	for i := range len(text) {
		at ^= uint32(text[i])
		if text[i] == 0 || int64(at) >= int64(len(p.units)) || p.units[at]&(1<<31|0xFF) != uint32(text[i]) {
			return "", false
		}
		unit := p.units[at]
		at ^= unitOffset(unit)
		if unit&(1<<8) == 0 {
			continue
		}
		if int64(at) >= int64(len(p.units)) {
			return "", false
		}
		begin := int64(p.units[at] &^ (1 << 31))
		if begin > int64(len(p.texts)) {
			return "", false
		}
		to, _, _ = strings.Cut(p.texts[begin:], "\x00")
		return to, utf8.ValidString(to)
	}
	return "", false
}

// unitOffset is where a unit's children lie, to be combined with its own place by exclusive or.
func unitOffset(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
