package cpu

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dsbatch/dsbatch/kernels"
)

// TestWarm: after it the memory of the blocks asked for is there, in every layer, and what they held is still theirs.
func TestWarm(t *testing.T) {
	made, err := newDevice(t, Auto, 1).NewCache(kernels.CacheSpec{DType: kernels.BF16, Layers: 3, Blocks: 700, BlockTokens: 16, KVHeads: 2, HeadDim: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer made.Free()
	c := made.(*cache)
	block := func(layer, b int) []byte { return c.layerData(layer)[b*c.blockBytes() : (b+1)*c.blockBytes()] }
	block(1, 3)[5] = 7
	page := os.Getpagesize()
	if err := unix.Madvise(c.mem.mapped[:page], unix.MADV_POPULATE_WRITE); errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel gives memory at its first use only")
	}
	layers := 0
	c.Warm(0, 10, func() { layers++ })
	c.Warm(10, 301, func() { layers++ })
	c.Warm(301, 9999, func() { layers++ }) // no more than there are
	c.Warm(700, 9999, func() { t.Error("a layer is warm that was warm") })
	if layers != 9 {
		t.Errorf("told of %d layers, want 9", layers)
	}
	seen := make([]byte, (len(c.mem.mapped)+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&c.mem.mapped[0])), uintptr(len(c.mem.mapped)), uintptr(unsafe.Pointer(&seen[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for i, s := range seen {
		if s&1 == 0 {
			t.Fatalf("page %d of %d is not there", i, len(seen))
		}
	}
	for layer := range 3 {
		for b := range 700 {
			for i, x := range block(layer, b) {
				if want := layer == 1 && b == 3 && i == 5; x != 0 && !want || want && x != 7 {
					t.Fatalf("layer %d, block %d, byte %d is %d", layer, b, i, x)
				}
			}
		}
	}
}
