package slurm

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var hostLists = map[string][]string{
	"":                        nil,
	"login":                   {"login"},
	"n[1-3,7],login":          {"n1", "n2", "n3", "n7", "login"},
	"gpu[008-011]":            {"gpu008", "gpu009", "gpu010", "gpu011"},
	"r[0-1]n[9-10]":           {"r0n9", "r0n10", "r1n9", "r1n10"},
	"a[1]-ib,b[2-3].site,c-d": {"a1-ib", "b2.site", "b3.site", "c-d"},
}

func TestHosts(t *testing.T) {
	for list, want := range hostLists {
		if got, err := expandHosts(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", list, got, err, want)
		}
	}
	for _, damaged := range []string{"n[1-3", "n]", "n[3-1]", "n[a-b]", "n[]", "n[1,]", "a,,b", ",a", "a,", "n[[1]]", "n[0-99999999999]", "n[0-9999]m[0-9999]",
		"n[1-18446744073709551615]"} {
		if got, err := expandHosts(damaged); err == nil {
			t.Errorf("%q accepted as %d hosts", damaged, len(got))
		}
	}
}

// TestHostsAsSlurm compares with scontrol, which needs no cluster for it, but a file that names one.
func TestHostsAsSlurm(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "slurm.conf")
	if err := os.WriteFile(conf, []byte("ClusterName=none\nSlurmctldHost=localhost\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLURM_CONF", conf)
	if _, err := exec.LookPath("scontrol"); err != nil {
		t.Skip("no scontrol here: the expansion of node lists is NOT compared with Slurm's")
	}
	compared := 0
	for list := range hostLists {
		if list == "" {
			continue
		}
		out, err := exec.Command("scontrol", "show", "hostnames", list).Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(out) == 0 {
			continue // to Slurm 22.05 no name goes on behind its last bracket
		}
		if got, err := expandHosts(list); err != nil || !slices.Equal(got, strings.Fields(string(out))) {
			t.Errorf("%q: %v, %v, scontrol says %q", list, got, err, out)
		}
		compared++
	}
	if compared < 4 {
		t.Errorf("scontrol expanded %d lists", compared)
	}
}

func TestHostsOfAnythingEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.StringOf(rapid.RuneFrom([]rune("an019[]-,."))).Draw(t, "list")
		hosts, err := expandHosts(list)
		if err != nil {
			return
		}
		for _, h := range hosts {
			if h == "" || strings.ContainsAny(h, "[],") {
				t.Fatalf("%q gives the host %q", list, h)
			}
		}
	})
}
