package engine

import (
	"strings"

	"github.com/dsbatch/dsbatch/io/tokenizer"
)

// stopText is the text of a row as it grows, watched for stop strings, which may cross the borders of tokens.
type stopText struct {
	stream  *tokenizer.Stream
	stops   []string
	longest int
	text    strings.Builder
	ignored int // bytes of text in which none counts
}

// watch returns nil where there is nothing to watch for.
func watch(t *tokenizer.Tokenizer, stops []string) *stopText {
	if len(stops) == 0 {
		return nil
	}
	s := &stopText{stream: t.Stream(true), stops: stops}
	for _, stop := range stops {
		s.longest = max(s.longest, len(stop))
	}
	return s
}

// pass adds a token that ends nothing, whatever stop string it completes.
func (s *stopText) pass(id int32) {
	s.text.WriteString(s.stream.Push(id))
	s.ignored = s.text.Len()
}

// push adds a token and tells where in the text a stop string begins, the first one; -1: nowhere. What a later token
// could still change counts: the text that ends with this token has the stop string, and there is no later one then.
func (s *stopText) push(id int32) int {
	from := max(0, s.text.Len()-s.longest+1)
	s.text.WriteString(s.stream.Push(id))
	text, cut := s.text.String()[from:]+s.stream.Pending(), -1
	for _, stop := range s.stops {
		begin := min(max(0, s.ignored-from-len(stop)+1), len(text))
		if at := strings.Index(text[begin:], stop); at >= 0 && (cut < 0 || from+begin+at < cut) {
			cut = from + begin + at
		}
	}
	if end := s.text.Len(); cut > end {
		s.text.WriteString(text[end-from : cut-from])
	}
	return cut
}
