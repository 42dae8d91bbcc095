package comm

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/communication.md anew")

// modelled is the network of the page: NVLink inside a node of 8 GPUs and a 400 Gbit/s card a GPU between nodes, at the
// useful rates that libraries reach; the latencies are assumed.
var modelled = Network{Inside: Link{Latency: 2e-6, Bandwidth: 300e9}, Between: Link{Latency: 5e-6, Bandwidth: 50e9}}

const gpusOfANode = 8

func gpus(p, tp int, bytes float64) Load {
	return Load{Ranks: p, Node: min(p, gpusOfANode), TP: tp, Bytes: bytes}
}

// TestPage compares the tables of docs/communication.md with what the cost model says.
func TestPage(t *testing.T) {
	const path = "../docs/communication.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for name, table := range map[string]string{
		"messages": messagesTable(), "times": timesTable(), "crossings": crossingsTable(), "published": publishedTable(), "published-time": publishedTimeTable(),
	} {
		begin, end := "<!-- "+name+": written by go test ./comm -run Page -update -->\n", "<!-- end -->"
		before, rest, ok := strings.Cut(page, begin)
		was, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Errorf("%s has no place for the table %q", path, name)
			continue
		}
		if was != table {
			t.Errorf("%s: the table %q is not what the model says:\n%s\nit says\n%s", path, name, was, table)
		}
		page = before + begin + table + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tableOf(head string, lines [][]string) string {
	columns := strings.Count(head, "|") - 1
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n|%s\n", head, strings.Repeat("---|", columns))
	for _, l := range lines {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(l, " | "))
	}
	return b.String()
}

func messagesTable() string {
	var lines [][]string
	for _, p := range []int{8, 16, 32, 64} {
		line := []string{fmt.Sprint(p), fmt.Sprint(gpus(p, 1, 0).Messages(Flat)), fmt.Sprint(gpus(p, 1, 0).Messages(Hierarchical))}
		for _, tp := range []int{2, 4, 8} {
			line = append(line, fmt.Sprint(gpus(p, tp, 0).Messages(Coordinated)))
		}
		lines = append(lines, line)
	}
	return tableOf("| GPUs | flat | hierarchical | coordinated, tp 2 | tp 4 | tp 8 |", lines)
}

const rowOf4096 = 2 * 4096 // bytes, 16 bits

func timesTable() string {
	var lines [][]string
	for _, p := range []int{8, 16, 32, 64} {
		for _, tokens := range []float64{8, 64, 512, 4096} {
			bytes := tokens * rowOf4096
			line := []string{fmt.Sprint(p), fmt.Sprint(tokens), bytesText(bytes)}
			for _, how := range []Algorithm{Flat, Hierarchical} {
				line = append(line, microseconds(modelled.Seconds(how, gpus(p, 1, bytes))))
			}
			for _, tp := range []int{2, 4, 8} {
				line = append(line, microseconds(modelled.Seconds(Coordinated, gpus(p, tp, bytes))))
			}
			lines = append(lines, line)
		}
	}
	return tableOf("| GPUs | tokens a GPU | bytes | flat | hierarchical | coordinated, tp 2 | tp 4 | tp 8 |", lines)
}

func crossingsTable() string {
	var lines [][]string
	for _, p := range []int{8, 16, 32, 64} {
		line := []string{fmt.Sprint(p)}
		for _, tp := range []int{1, 2, 4, 8} {
			l := gpus(p, tp, 0)
			if tp > 1 {
				l = l.peers()
			}
			at := modelled.crossing(l) * float64(tp) // of all tokens, of which each tp peer carries its share
			if at == 0 {
				line = append(line, "always flat")
				continue
			}
			line = append(line, fmt.Sprintf("%s, %d tokens", bytesText(at), int(at/rowOf4096)))
		}
		lines = append(lines, line)
	}
	return tableOf("| GPUs | tp 1 | among peers, tp 2 | tp 4 | tp 8 |", lines)
}

// published is a model of DeepSpeed's documentation on so many GPUs: GPT of so many layers, every second one with 128 experts of ffn 4·hidden,
// top-1, in 16 bits.
type published struct {
	name                     string
	layers, hidden, tp, gpus int
}

var publications = []published{
	{"52B", 24, 2048, 1, 8}, {"52B", 24, 2048, 1, 16}, {"52B", 24, 2048, 1, 32},
	{"107.7B", 16, 3584, 1, 8}, {"1046.9B", 30, 8192, 8, 64},
}

const (
	publishedExperts, publishedVocab, publishedWindow = 128, 50257, 1024
	publishedRows                                     = 8 // in flight for each GPU
)

func (s published) moe() int { return s.layers / 2 }

// experts are all parameters of the experts; dense those of the rest: attention, the other layers' MLP, norms, gates,
// embeddings of tokens and positions.
func (s published) experts() float64 {
	h := float64(s.hidden)
	return float64(s.moe()) * publishedExperts * (8*h*h + 5*h)
}

func (s published) dense() float64 {
	h, n := float64(s.hidden), float64(s.layers)
	return n*(4*h*h+4*h+4*h) + (n-float64(s.moe()))*(8*h*h+5*h) + float64(s.moe())*h*publishedExperts + 2*h + s.embedding()
}

func (s published) vocab() float64 {
	multiple := 128 * s.tp
	return float64((publishedVocab + multiple - 1) / multiple * multiple)
}

func (s published) embedding() float64 { return (s.vocab() + publishedWindow) * float64(s.hidden) }

// held is what a GPU holds of the dense part: the input embedding whole, slices of the rest, and a slice of the output
// embedding, which is made for products. (Norms and gates are whole too, and too small to be seen.)
func (s published) held() float64 {
	return s.embedding() + (s.dense()-s.embedding()+s.vocab()*float64(s.hidden))/float64(s.tp)
}

// kv is the bytes of publishedRows full rows for each GPU: a tp group has tp times as many, and each holds 1/tp of them.
func (s published) kv() float64 {
	return publishedRows * publishedWindow * float64(s.layers) * 2 * float64(s.hidden) * 2
}

// load is one exchange of a decoding step: the tp peers hold the same rows.
func (s published) load() Load {
	return gpus(s.gpus, s.tp, float64(publishedRows*s.tp*s.hidden*2))
}

func publishedTable() string {
	var lines [][]string
	for _, s := range publications {
		weights := 2 * (s.held() + s.experts()/float64(s.gpus))
		ep := DefaultEP(publishedExperts, s.gpus)
		lines = append(lines, []string{
			s.name, fmt.Sprint(s.gpus), fmt.Sprintf("tp %d, dp %d, ep %d", s.tp, s.gpus/s.tp, ep), fmt.Sprint(publishedExperts / ep),
			fmt.Sprintf("%.1f B", (s.dense()+s.experts())/1e9), gigabytes(2 * s.held()), gigabytes(2 * s.experts() / float64(s.gpus)),
			gigabytes(s.kv()), gigabytes(weights + s.kv()),
		})
	}
	return tableOf("| model | GPUs | layout | experts a GPU and layer | parameters | dense, a GPU | experts, a GPU | KV of 8 rows of 1024 | in all |", lines)
}

func publishedTimeTable() string {
	var lines [][]string
	for _, s := range publications {
		l, exchanges := s.load(), float64(2*s.moe())
		line := []string{s.name, fmt.Sprint(s.gpus), bytesText(l.Bytes)}
		for _, how := range []Algorithm{Flat, Hierarchical, Coordinated} {
			if how == Coordinated && s.tp == 1 {
				line = append(line, "–")
				continue
			}
			inside, between := l.legs(how, Flat)
			line = append(line, fmt.Sprintf("%d, %s, %s", int(exchanges)*l.Messages(how), bytesText(exchanges*(inside.bytes+between.bytes)),
				microseconds(exchanges*modelled.Seconds(how, l))))
		}
		lines = append(lines, append(line, modelled.cheapest(l).String()))
	}
	return tableOf("| model | GPUs | rows of a GPU in an exchange | flat: messages, bytes, time of a step | hierarchical | coordinated | auto |", lines)
}

func bytesText(n float64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.3g MiB", n/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.3g KiB", n/(1<<10))
	}
	return fmt.Sprintf("%.0f B", n)
}

func microseconds(s float64) string {
	if s >= 1e-3 {
		return fmt.Sprintf("%.2f ms", s*1e3)
	}
	return fmt.Sprintf("%.0f µs", s*1e6)
}

func gigabytes(n float64) string { return fmt.Sprintf("%.1f GB", n/1e9) }

// TestPageSays what its sentences claim beside the tables.
func TestPageSays(t *testing.T) {
	for _, p := range []int{8, 16, 32, 64} {
		for _, tp := range []int{2, 4, 8} {
			for bytes := 1e3; bytes < 1e9; bytes *= 3 {
				l := gpus(p, tp, bytes)
				coordinated := modelled.Seconds(Coordinated, l)
				if flat, two := modelled.Seconds(Flat, l), modelled.Seconds(Hierarchical, l); coordinated > min(flat, two)*(1+1e-9) {
					t.Errorf("%d GPUs, tp %d, %g bytes: coordinated takes %g, flat %g, hierarchical %g", p, tp, bytes, coordinated, flat, two)
				}
			}
		}
		l := gpus(p, 1, 0)
		if at := modelled.crossing(l); at > 0 {
			l.Bytes = at * 0.99
			before := modelled.cheapest(l)
			l.Bytes = at * 1.01
			if after := modelled.cheapest(l); before != Hierarchical || after != Flat {
				t.Errorf("%d GPUs: %v before the crossing at %g, %v after", p, before, at, after)
			}
		}
	}
	for _, s := range publications { // the sizes that DeepSpeed's documentation prints, in billions
		var stated float64
		if _, err := fmt.Sscanf(s.name, "%fB", &stated); err != nil {
			t.Fatal(err)
		}
		if all := (s.dense() + s.experts()) / 1e9; all < stated*0.99 || all > stated*1.01 {
			t.Errorf("%s has %.1f billion parameters", s.name, all)
		}
	}
}
