package slurm

import (
	"fmt"
	"strconv"
	"strings"
)

// mostHosts bounds what a list may expand to: no cluster is larger, and a damaged list must not take the memory.
const mostHosts = 1 << 20

// expandHosts expands a node list as Slurm writes it: n[1-3,7],login or rack[0-1]n[08-10] (a number with leading zeros gives
// its width to the range). The order is the list's; an empty list has no hosts.
func expandHosts(list string) ([]string, error) {
	var hosts []string
	for rest := list; rest != ""; {
		word, after, err := cutWord(rest)
		if err == nil {
			hosts, err = expand(hosts, word)
		}
		if err != nil {
			return nil, fmt.Errorf("node list %.200q: %w", list, err)
		}
		rest = after
	}
	return hosts, nil
}

// cutWord cuts the list at its first comma outside of brackets.
func cutWord(list string) (word, rest string, err error) {
	inside := false
	for i, c := range list {
		switch {
		case c == '[' && inside || c == ']' && !inside:
			return "", "", fmt.Errorf("unexpected %q", c)
		case c == '[' || c == ']':
			inside = c == '['
		case c == ',' && !inside:
			if i == 0 || i+1 == len(list) {
				return "", "", fmt.Errorf("an empty name")
			}
			return list[:i], list[i+1:], nil
		}
	}
	if inside {
		return "", "", fmt.Errorf("a bracket is not closed")
	}
	return list, "", nil
}

// expand appends the hosts of one name with its brackets, the last of them running fastest.
func expand(hosts []string, word string) ([]string, error) {
	before, rest, bracket := strings.Cut(word, "[")
	if !bracket {
		if len(hosts) == mostHosts {
			return nil, fmt.Errorf("more than %d nodes", mostHosts)
		}
		return append(hosts, word), nil
	}
	ranges, after, _ := strings.Cut(rest, "]")
	for r := range strings.SplitSeq(ranges, ",") {
		from, to, isRange := strings.Cut(r, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 63)
		last, err2 := strconv.ParseUint(to, 10, 63)
		if err1 != nil || err2 != nil || last < first {
			return nil, fmt.Errorf("%q is no range of numbers", r)
		}
		if last-first >= mostHosts {
			return nil, fmt.Errorf("more than %d nodes", mostHosts)
		}
		for n := first; n <= last; n++ {
			var err error
			if hosts, err = expand(hosts, fmt.Sprintf("%s%0*d%s", before, len(from), n, after)); err != nil {
				return nil, err
			}
		}
	}
	return hosts, nil
}
