package config

import "strings"

// Nearest returns the entry of known that word was most likely meant to be, or "" when none is near: more than half of
// word's letters would have to change, or it is only one. Letter case and the difference between '-' and '_' do not count; of equals the first wins.
// Distance is the number of letters inserted, left out, changed or swapped with their neighbour.
func Nearest(word string, known []string) string {
	if len(word) < 2 {
		return ""
	}
	best, nearest := (len(word)+1)/2+1, ""
	for _, k := range known {
		if d := distance(plain(word), plain(k)); d < best {
			best, nearest = d, k
		}
	}
	return nearest
}

// didYouMean is the end of a sentence about an unknown word: the nearest known one, or where all of them are listed.
func didYouMean(word string, known []string, list string) string {
	if near := Nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	return list
}

func plain(word string) string { return strings.ReplaceAll(strings.ToLower(word), "-", "_") }

// distance is the optimal string alignment distance of a and b, in O(len(a)*len(b)) time and three rows of memory.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			changed := last[j-1]
			if a[i-1] != b[j-1] {
				changed++
			}
			row[j] = min(changed, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
