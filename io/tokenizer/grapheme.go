package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// clusterEnd gives where the extended grapheme cluster that begins at text[i] ends, by Unicode's annex 29. Its rules
// for flags, emoji sequences and Indic conjuncts are left out: they make clusters of six bytes and more of what are
// clusters of six bytes and more without them (or of three), which precompiled takes character by character in any case.
func clusterEnd(text string, i int) int {
	r, size := utf8.DecodeRuneInString(text[i:])
	end := i + size
	if r == '\r' && end < len(text) && text[end] == '\n' {
		return end + 1
	}
	if breaks().has(r) {
		return end
	}
	for last := r; end < len(text); end += size {
		if r, size = utf8.DecodeRuneInString(text[end:]); r < utf8.RuneSelf && !prepended.has(last) {
			break
		}
		if !extends().has(r) && !(prepended.has(last) && !breaks().has(r)) && !joinsHangul(last, r) {
			break
		}
		last = r
	}
	return end
}

// breaks are the characters that stand alone: Grapheme_Cluster_Break = CR, LF, Control.
var breaks = sync.OnceValue(func() *members {
	set := fromTables(unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp).without(prepended...)
	return newMembers(set.without(runes{0x200C, 0x200D}, runes{0xE0020, 0xE007F}))
})

// extends are the characters that belong to the one before: Extend, ZWJ and SpacingMark.
var extends = sync.OnceValue(func() *members {
	set := category("M").with(fromTables(unicode.Other_Grapheme_Extend)...)
	set = set.with(runes{0x200D, 0x200D}, runes{0xE33, 0xE33}, runes{0xEB3, 0xEB3}, runes{0x1F3FB, 0x1F3FF})
	return newMembers(set.without(runes{0x102B, 0x102C}, runes{0x1038, 0x1038}, runes{0x1062, 0x1064}, runes{0x1067, 0x106D},
		runes{0x1083, 0x1083}, runes{0x1087, 0x108C}, runes{0x108F, 0x108F}, runes{0x109A, 0x109C}, runes{0x1A61, 0x1A61},
		runes{0x1A63, 0x1A64}, runes{0xAA7B, 0xAA7B}, runes{0xAA7D, 0xAA7D}, runes{0x11720, 0x11721}))
})

// prepended are the characters that the one behind belongs to: Prepend.
var prepended = charset{
	{0x600, 0x605}, {0x6DD, 0x6DD}, {0x70F, 0x70F}, {0x890, 0x891}, {0x8E2, 0x8E2}, {0xD4E, 0xD4E}, {0x110BD, 0x110BD},
	{0x110CD, 0x110CD}, {0x111C2, 0x111C3}, {0x113D1, 0x113D1}, {0x1193F, 0x1193F}, {0x11941, 0x11941}, {0x11A3A, 0x11A3A},
	{0x11A84, 0x11A89}, {0x11D46, 0x11D46}, {0x11F02, 0x11F02},
}

// joinsHangul tells whether two parts of a Hangul syllable belong together.
func joinsHangul(a, b rune) bool {
	isLeading := func(r rune) bool { return 0x1100 <= r && r <= 0x115F || 0xA960 <= r && r <= 0xA97C }
	isVowel := func(r rune) bool { return 0x1160 <= r && r <= 0x11A7 || 0xD7B0 <= r && r <= 0xD7C6 }
	isTrailing := func(r rune) bool { return 0x11A8 <= r && r <= 0x11FF || 0xD7CB <= r && r <= 0xD7FB }
	isSyllable := func(r rune) bool { return hangul <= r && r < hangulEnd }
	switch {
	case isLeading(a):
		return isLeading(b) || isVowel(b) || isSyllable(b)
	case isVowel(a), isSyllable(a) && (a-hangul)%trailingCount == 0:
		return isVowel(b) || isTrailing(b)
	case isTrailing(a), isSyllable(a):
		return isTrailing(b)
	}
	return false
}
