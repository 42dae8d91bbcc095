package dataset

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWhatIsNoFile: opening a pipe for reading waits for a writer, so what is no file is refused by its kind, unopened.
// Were it opened, this test would never end.
func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"pipe", "pipe.jsonl", "pipe.parquet"} {
		if err := syscall.Mkfifo(path(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", path("socket.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	linked := t.TempDir()
	for name, to := range map[string]string{"rows.jsonl": path("pipe"), "folder.parquet": dir} {
		if err := os.Mkdir(filepath.Join(linked, name+"-in"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(linked, name+"-in", name)); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, say := range map[string]string{
		path("pipe"):                   "pipe: it is a pipe",
		path("pipe.jsonl"):             "pipe.jsonl: it is a pipe",
		path("pipe.p*"):                "pipe.parquet: it is a pipe",
		path("**"):                     "it is a ",
		path("socket.arrow"):           "socket.arrow: it is a socket",
		"/dev/null":                    "/dev/null: it is a device",
		dir:                            "pipe.jsonl: it is a pipe",
		linked + "/rows.jsonl-in":      "rows.jsonl: it is a pipe",
		linked + "/folder.parquet-in":  "folder.parquet: it is a link to a folder",
		linked + "/rows.jsonl-in/*":    "rows.jsonl: it is a pipe",
		linked + "/folder.parquet-in*": "folder.parquet: it is a link to a folder",
	} {
		_, err := Open(context.Background(), []string{pattern}, Columns{Prompt: "prompt"})
		if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want %q", pattern, err, say)
		}
	}
}
