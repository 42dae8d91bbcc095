package mpi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSameMajor(t *testing.T) {
	const (
		open4  = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, repo rev: v4.1.4, May 26, 2022"
		mpich4 = "MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr  7 12:34:45 CDT 2022"
	)
	for _, c := range []struct{ built, found, want string }{
		{"Open MPI v4.1.4", open4, ""},
		{"Open MPI v4.0.0", open4, ""},
		{"Open MPI v5.0.1", open4, "built with Open MPI 5 and has loaded Open MPI 4;"},
		{"Open MPI v4.1.4", "Open MPI v10.0.0", "built with Open MPI 4 and has loaded Open MPI 10;"},
		{"Open MPI v4.1.4", mpich4, "built with Open MPI 4 and has loaded MPICH 4;"},
		{"MPICH Version: 4.0.2", mpich4, ""},
		{"MPICH Version: 3.4", mpich4, "built with MPICH 3 and has loaded MPICH 4;"},
		{"Open MPI v4.1.4", "Intel(R) MPI Library 2021.9 for Linux* OS", "built with Open MPI 4 and has loaded Intel(R) MPI 2021;"},
		{"", open4, ""},
		{"Open MPI v4.1.4", "a library of our own", ""},
	} {
		err := sameMajor(c.built, c.found)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("built with %.20q, found %.20q: %v, want %q", c.built, c.found, err, c.want)
		}
	}
}

func TestWhatIsMissing(t *testing.T) {
	const said = "dsbatch-mpi: error while loading shared libraries: libmpi.so.40: cannot open shared object file: No such file or directory"
	for _, c := range []struct {
		said  string
		there []string
		want  string
	}{
		{said, nil, "linked with libmpi.so.40, and this machine has no MPI library"},
		{said, []string{"libmpi.so.12"}, "linked with libmpi.so.40, and this machine has libmpi.so.12, an MPI library of another make or major version"},
		{"dsbatch-mpi: libmpi.so.40: file too short", []string{"libmpi.so.40"}, "file too short"},
		{"permission denied", nil, "bin/dsbatch-mpi does not start: permission denied"},
	} {
		if err := missing("bin/dsbatch-mpi", c.said, c.there); !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.said, err, c.want)
		}
	}
	folder := t.TempDir()
	for _, name := range []string{"libmpi.so.12", "libmpi.so.12.2.1", "libmpi.so.40.30.4", "libmpi_cxx.so.40", "libmpi.so"} {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(librariesIn([]string{"/nowhere", folder}), " "); got != "libmpi.so.12 libmpi.so.40" {
		t.Errorf("found %s", got)
	}
}

func TestStarts(t *testing.T) {
	folder := t.TempDir()
	good, bad := filepath.Join(folder, "good"), filepath.Join(folder, "bad")
	for path, script := range map[string]string{
		good: "#!/bin/sh\n[ \"$1\" = version ]\n",
		bad:  "#!/bin/sh\necho \"$0: error while loading shared libraries: libmpi.so.7777: cannot open shared object file\" >&2\nexit 127\n",
	} {
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Starts(good); err != nil {
		t.Error(err)
	}
	if err := Starts(bad); err == nil || !strings.Contains(err.Error(), "linked with libmpi.so.7777") {
		t.Error(err)
	}
	if err := Starts(filepath.Join(folder, "none")); err == nil {
		t.Error("a program that isn't there starts")
	}
}
