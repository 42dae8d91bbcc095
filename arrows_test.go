package dsbatch_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dsbatch/dsbatch/"

// arrows is the house: what each folder may import of this module (tests aside). The arrows point one way.
var arrows = map[string][]string{
	"mpi":     {},
	"kernels": {},
	"io":      {},
	"shard":   {},
	"stats":   {},
	"config":  {},
	"slurm":   {"config"},
	"comm":    {"mpi", "kernels"},
	"ckpt":    {"kernels", "shard"},
	"moe":     {"kernels", "comm", "shard"},
	"model":   {"moe", "kernels", "comm", "shard", "ckpt"},
	"plan":    {"model", "kernels", "comm", "shard"},
	"engine":  {"model", "moe", "kernels", "comm", "mpi", "shard", "ckpt", "io", "stats", "plan", "config"},
	"cmd":     {"*"}, "benchmarks": {"*"},
}

func TestImportsFollowTheArrows(t *testing.T) {
	for _, tags := range []string{"", "mpi"} {
		out, err := exec.Command("go", "list", "-tags", tags, "-f", `{{range .Imports}}{{$.ImportPath}} {{.}}{{"\n"}}{{end}}`, "./...").Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for line := range strings.Lines(string(out)) {
			from, to, _ := strings.Cut(strings.TrimSpace(line), " ")
			if !strings.HasPrefix(to, module) || !strings.HasPrefix(from, module) {
				continue
			}
			a, b := room(from), room(to)
			allowed, known := arrows[a]
			switch {
			case !known:
				t.Errorf("%s lies in no room of the house", from)
			case a == b || slices.Contains(allowed, b) || slices.Contains(allowed, "*"):
			default:
				t.Errorf("%s imports %s; %s may import %v", from, to, a, allowed)
			}
		}
	}
}

// room is the top-level folder of a package.
func room(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, module), "/")
	return name
}
