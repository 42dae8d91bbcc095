package tokenizer

// Stream decodes a text whose ids arrive one by one. Use one stream a text; it is not safe for concurrent use.
type Stream struct {
	tokens      *Tokenizer
	skipSpecial bool
	decoding    decoding
	buffer      []byte
}

// Stream begins a text. What the pushes and the flush of a stream give, joined, is what Decode gives for the ids.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	return &Stream{tokens: t, skipSpecial: skipSpecial, decoding: t.decoder.start()}
}

// Push gives the text that is certain now that id has come and was not before: often one piece, nothing while a
// character is incomplete. An id that is no token counts as none, as in Decode.
func (s *Stream) Push(id int32) string {
	s.buffer = s.tokens.push(s.buffer[:0], s.decoding, id, s.skipSpecial)
	return string(s.buffer)
}

// Pending is what Flush would give: text that a later id can still change.
func (s *Stream) Pending() string {
	s.buffer = s.decoding.pending(s.buffer[:0])
	return string(s.buffer)
}

// Flush ends the text and gives what was held back, U+FFFD for an incomplete character. The stream can be used for
// another text then.
func (s *Stream) Flush() string {
	s.buffer = s.decoding.flush(s.buffer[:0])
	return string(s.buffer)
}
