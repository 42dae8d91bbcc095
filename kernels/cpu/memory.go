package cpu

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

const (
	align = 64 // bytes: a cache line, and the widest register
	// Allocations from this size on are mappings of their own: zeroed by the kernel when first touched, returned to it
	// by Free, and no business of Go's garbage collector.
	mapFrom  = 64 << 10
	hugePage = 2 << 20
)

// memory is one allocation. It implements kernels.HostMemory.
type memory struct {
	data   []byte
	mapped []byte // what to unmap; nil: Go's memory, or another's
}

func (m *memory) Size() int64   { return int64(len(m.data)) }
func (m *memory) Bytes() []byte { return m.data }

func (m *memory) Free() {
	if m.mapped != nil {
		_ = unix.Munmap(m.mapped) // fails for no mapping that Mmap made
	}
	m.data, m.mapped = nil, nil
}

// warm has the system give the memory of the bytes [from, to) now. What they hold stays.
func (m *memory) warm(from, to int) {
	if m.mapped == nil || from >= to {
		return
	}
	page := os.Getpagesize()
	_ = unix.Madvise(m.mapped[from/page*page:to], unix.MADV_POPULATE_WRITE) // before Linux 5.14: at the first use
}

// allocate takes size zeroed bytes at a multiple of align.
func allocate(what string, size int64) (*memory, error) {
	if size < 0 || size > math.MaxInt-hugePage {
		return nil, fmt.Errorf("%s: %d bytes are no size", what, size)
	}
	if size < mapFrom {
		b := make([]byte, size+align)
		at := -uintptr(unsafe.Pointer(&b[0])) & (align - 1)
		return &memory{data: b[at : at+uintptr(size) : at+uintptr(size)]}, nil
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		free, total := HostMemory()
		return nil, fmt.Errorf("%s: %d bytes of memory wanted, %d of %d are free: %w", what, size, free, total, err)
	}
	if size >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a hint: kernels without huge pages refuse it
	}
	return &memory{data: b, mapped: b}, nil
}

// Alloc makes a tensor in memory aligned to 64 bytes, its rows adjacent.
func (d *Device) Alloc(what string, t kernels.DType, rows, cols int) (kernels.Tensor, error) {
	size, err := operands.Size(what, t, rows, cols)
	if err != nil {
		return kernels.Tensor{}, err
	}
	m, err := allocate(what, size)
	if err != nil {
		return kernels.Tensor{}, err
	}
	return kernels.Tensor{Mem: m, DType: t, Rows: rows, Cols: cols, Stride: cols}, nil
}

// Upload makes a tensor of a host matrix: in place where type and alignment allow.
func (d *Device) Upload(what string, t kernels.DType, m kernels.Matrix) (kernels.Tensor, error) {
	if m.Rows < 0 || m.Cols < 0 || int64(len(m.Data)) != int64(m.Rows)*int64(m.Cols)*int64(m.DType.Size()) {
		return kernels.Tensor{}, fmt.Errorf("%s: %d bytes are no %v [%d, %d]", what, len(m.Data), m.DType, m.Rows, m.Cols)
	}
	src := kernels.Tensor{Mem: &memory{data: m.Data}, DType: m.DType, Rows: m.Rows, Cols: m.Cols, Stride: m.Cols}
	if len(m.Data) > 0 && uintptr(unsafe.Pointer(&m.Data[0]))%uintptr(m.DType.Size()) != 0 {
		src.Mem = &memory{data: bytes.Clone(m.Data)}
	}
	if m.DType == t {
		return src, nil
	}
	if !t.IsFloat() || !m.DType.IsFloat() {
		return kernels.Tensor{}, fmt.Errorf("%s: %v cannot become %v", what, m.DType, t)
	}
	dst, err := d.Alloc(what, t, m.Rows, m.Cols)
	if err != nil {
		return kernels.Tensor{}, err
	}
	s := &Stream{dev: d}
	s.Copy(dst, src)
	return dst, s.Sync()
}

// Memory is what the kernel and, in a job of a batch system, the control group still allow.
func (d *Device) Memory() (free, total int64) { return HostMemory() }

// HostMemory is Device.Memory where there is no device.
func HostMemory() (free, total int64) {
	free, total = meminfo()
	for dir := controlGroup(); dir != ""; dir = parent(dir) {
		limit, ok := readNumber(dir + "/memory.max")
		if !ok {
			continue
		}
		used, _ := readNumber(dir + "/memory.current")
		used -= fileCache(dir)
		free, total = min(free, max(0, limit-used)), min(total, limit)
	}
	return free, total
}

func meminfo() (available, total int64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close() //nolint:errcheck // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		field := strings.Fields(s.Text())
		if len(field) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(field[1], 10, 64)
		switch field[0] {
		case "MemAvailable:":
			available = kib << 10
		case "MemTotal:":
			total = kib << 10
		}
	}
	return available, total
}

const groupRoot = "/sys/fs/cgroup"

// controlGroup is the folder of this process' group (version 2), "" where there is none.
func controlGroup() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path.Join(groupRoot, name)
		}
	}
	return ""
}

// fileCache is the pages of files in a group's memory, such as a mapped checkpoint's, which the kernel takes back when
// it needs them.
func fileCache(dir string) (size int64) {
	b, err := os.ReadFile(dir + "/memory.stat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		field := strings.Fields(line)
		if len(field) == 2 && (field[0] == "active_file" || field[0] == "inactive_file") {
			n, _ := strconv.ParseInt(field[1], 10, 64)
			size += n
		}
	}
	return size
}

func parent(dir string) string {
	if dir == groupRoot || len(dir) <= len(groupRoot) {
		return ""
	}
	return path.Dir(dir)
}

func readNumber(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // "max" is no number
	return n, err == nil
}
