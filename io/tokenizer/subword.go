package tokenizer

import (
	"encoding/json"
	"strings"
)

// wordPieceStage decodes WordPiece: a space before each piece that does not carry on a word, then none before marks
// and English short forms, if it is to clean up.
type wordPieceStage struct {
	prefix  string
	cleanup bool
	some    bool // there was a piece
}

func readWordPieceStage(raw json.RawMessage) (func() stage, error) {
	f := struct {
		Prefix  string `json:"prefix"`
		Cleanup bool   `json:"cleanup"`
	}{"##", true}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return func() stage { return &wordPieceStage{prefix: f.Prefix, cleanup: f.Cleanup} }, nil
}

func (s *wordPieceStage) push(dst []string, piece string) []string {
	if s.some {
		rest, ok := strings.CutPrefix(piece, s.prefix)
		if piece = rest; !ok {
			piece = " " + piece
		}
	}
	s.some = true
	if s.cleanup {
		piece = cleanUp(piece)
	}
	return append(dst, piece)
}

func (s *wordPieceStage) flush(dst []string) []string {
	s.some = false
	return dst
}

func (s *wordPieceStage) clone() stage {
	c := *s
	return &c
}

// cleanUp makes each replacement in the whole piece before the next one.
func cleanUp(piece string) string {
	if !strings.Contains(piece, " ") {
		return piece
	}
	for _, r := range [...][2]string{
		{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
		{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
	} {
		piece = strings.ReplaceAll(piece, r[0], r[1])
	}
	return piece
}

// suffixStage decodes BPE whose pieces mark the end of a word: a space there, but at the end of the text.
type suffixStage struct {
	suffix string
	held   string // the last piece, if it has the suffix
}

func readSuffixStage(raw json.RawMessage) (func() stage, error) {
	f := struct {
		Suffix string `json:"suffix"`
	}{"</w>"}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if f.Suffix == "" {
		return nil, errEmpty("suffix")
	}
	return func() stage { return &suffixStage{suffix: f.Suffix} }, nil
}

func (s *suffixStage) push(dst []string, piece string) []string {
	dst = s.give(dst, " ")
	if strings.Contains(piece, s.suffix) {
		s.held = piece
		return dst
	}
	return append(dst, piece)
}

func (s *suffixStage) flush(dst []string) []string { return s.give(dst, "") }

func (s *suffixStage) clone() stage {
	c := *s
	return &c
}

func (s *suffixStage) give(dst []string, instead string) []string {
	if s.held == "" {
		return dst
	}
	dst = append(dst, strings.ReplaceAll(s.held, s.suffix, instead))
	s.held = ""
	return dst
}

// ctc decodes what a connectionist temporal classification gives: a piece that comes again is the same sound, a
// padding token between sounds is nothing, a delimiter is a space.
type ctc struct {
	pad, delimiter string
	cleanup        bool
	last           string
	some           bool
}

func readCTC(raw json.RawMessage) (func() stage, error) {
	f := struct {
		Pad       string `json:"pad_token"`
		Delimiter string `json:"word_delimiter_token"`
		Cleanup   bool   `json:"cleanup"`
	}{"<pad>", "|", true}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if f.Pad == "" {
		return nil, errEmpty("pad_token")
	}
	if f.Delimiter == "" {
		return nil, errEmpty("word_delimiter_token")
	}
	return func() stage { return &ctc{pad: f.Pad, delimiter: f.Delimiter, cleanup: f.Cleanup} }, nil
}

func (s *ctc) push(dst []string, piece string) []string {
	if s.some && piece == s.last {
		return dst
	}
	s.last, s.some = piece, true
	piece = strings.ReplaceAll(piece, s.pad, "")
	if s.cleanup {
		piece = strings.ReplaceAll(cleanUp(piece), s.delimiter, " ")
	}
	if piece == "" {
		return dst
	}
	return append(dst, piece)
}

func (s *ctc) flush(dst []string) []string {
	s.last, s.some = "", false
	return dst
}

func (s *ctc) clone() stage {
	c := *s
	return &c
}
