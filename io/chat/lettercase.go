package chat

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Lower(language.Und).String(s)
}

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return titled(s[:n]) + lower(s[n:])
}

// titled is one character as it begins a word.
func titled(c string) string {
	if r, _ := utf8.DecodeRuneInString(c); unicode.ToTitle(r) == r && upper(c) != c {
		c = upper(c) // ß begins a word as Ss
		_, n := utf8.DecodeRuneInString(c)
		return c[:n] + lower(c[n:])
	}
	return strings.ToTitle(c)
}

// title begins every run of letters with a capital, as Python's method does.
func title(s string) string {
	var out strings.Builder
	inside := false
	for _, c := range s {
		cased := unicode.IsUpper(c) || unicode.IsLower(c) || unicode.IsTitle(c)
		if cased && !inside {
			out.WriteString(titled(string(c)))
		} else {
			out.WriteString(lower(string(c)))
		}
		inside = cased
	}
	return out.String()
}
