package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestDiskFull lets the disk of the output run full: the job fails and says so, what is committed stays, and with room
// the same command goes on to the bits of an undisturbed job.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root, so no small disk can be mounted: what a full disk does is NOT tested")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no tmpfs can be mounted here (%v): what a full disk does is NOT tested", err)
	}
	defer func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	undisturbed, output := filepath.Join(t.TempDir(), "undisturbed"), filepath.Join(disk, "out")
	dsbatch(t, job(undisturbed, "--chunk-rows", "1")...).want(t, done)
	for _, ranks := range []string{"1", "2"} {
		e := dsbatch(t, job(output, "--chunk-rows", "1", "--ranks", ranks)...)
		t.Log(e.stderr)
		if e.status != failed || !strings.Contains(e.stderr, "no space left") || !strings.Contains(e.stderr, output) {
			t.Fatalf("status %d, want %d, and a line that names the full disk\n%s", e.status, failed, e.stderr)
		}
	}
	if parts, _ := filepath.Glob(output + "/part-*.parquet"); len(parts) == 0 {
		t.Error("nothing was committed before the disk was full")
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	dsbatch(t, job(output, "--chunk-rows", "1")...).want(t, done)
	sameRows(t, undisturbed, output)
}

// TestDiskFullOfAModel: a model for which there is too little room is refused before the first byte, and one for which the
// room ends on the way leaves nothing behind; the sentence names the file, or what is needed and free.
func TestDiskFullOfAModel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root, so no small disk can be mounted: what a full disk does is NOT tested")
	}
	for size, says := range map[string]string{"size=8m": "are free there", "size=15504k": "tokenizer.json"} {
		disk := t.TempDir()
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, size); err != nil {
			t.Skipf("no tmpfs can be mounted here (%v): what a full disk does is NOT tested", err)
		}
		defer func() {
			if err := syscall.Unmount(disk, 0); err != nil {
				t.Error(err)
			}
		}()
		refused(t, failed, []string{"ckpt", "convert", bundled, "--to", filepath.Join(disk, "out")}, "no space left", disk, says)
		if left, _ := os.ReadDir(disk); len(left) > 0 {
			t.Errorf("%s: left behind: %v", size, left)
		}
	}
}
