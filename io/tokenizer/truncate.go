package tokenizer

// EncodeWithin is Encode of a text with special tokens, or EncodePair of two, in at most so many ids: the ends of texts
// that are too long are left out, the special tokens stay. Of two texts the longer one gives first, and where both have to
// they get half each, as longest_first of the tokenizers library has it.
func (t *Tokenizer) EncodeWithin(most int, texts ...string) (ids, segments []int32, err error) {
	parts := t.template.single
	if len(texts) > 1 {
		parts = t.template.pair
	}
	for _, p := range parts {
		most -= len(p.special)
	}
	encoded := make([][]int32, len(texts))
	for i, text := range texts {
		if encoded[i], err = t.encode(nil, text); err != nil {
			return nil, nil, err
		}
	}
	shorten(encoded, max(most, 0))
	ids, err = t.fill(parts, &segments, func(ids []int32, which int) ([]int32, error) { return append(ids, encoded[which]...), nil })
	return ids, segments, err
}

// shorten leaves at most so many ids of one or two texts.
func shorten(texts [][]int32, most int) {
	short, long := &texts[0], &texts[len(texts)-1]
	if len(texts) == 1 {
		*long = (*long)[:min(len(*long), most)]
		return
	}
	if len(*short) > len(*long) {
		short, long = long, short
	}
	n := min(len(*short), most/2)
	if len(*short)+len(*long) > most {
		*short, *long = (*short)[:n], (*long)[:min(len(*long), most-n)]
	}
}
