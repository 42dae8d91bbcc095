package benchmarks

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Machine is where figures were measured, and how busy it was with other things.
type Machine struct {
	CPU    string  `json:"cpu"`
	Cores  int     `json:"cores"`
	Memory int64   `json:"memory"` // bytes
	Load   float64 `json:"load"`   // processes that wanted to run in the minute before, on average
	System string  `json:"system"`
	Device string  `json:"device,omitempty"` // what the ops ran on
}

// ThisMachine looks at the machine; device is what the ops run on, empty where none do.
func ThisMachine(device string) Machine {
	m := Machine{CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Device: device,
		System: runtime.GOOS + "/" + runtime.GOARCH + ", " + runtime.Version(), Memory: status("/proc/meminfo", "MemTotal")}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		word, _, _ := strings.Cut(string(b), " ")
		m.Load, _ = strconv.ParseFloat(word, 64) // what is no number says nothing
	}
	return m
}

func (m Machine) String() string {
	text := fmt.Sprintf("%s, %d cores, %.0f GiB, load %.1f before the run, %s", m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.Load, m.System)
	if m.Device != "" {
		text += "; " + m.Device
	}
	return text
}

// field is the text after the first "name:" in a file, "" where there is none.
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// status is a field in kB of a file of /proc, in bytes; 0 where there is none.
func status(path, name string) int64 {
	kb, _ := strconv.ParseInt(strings.TrimSuffix(field(path, name), " kB"), 10, 64)
	return kb << 10
}

// lastCache is the bytes of the cache that a core shares with the most others; 0 where the system does not tell.
func lastCache() (size int64) {
	for level := 4; level >= 0 && size == 0; level-- {
		b, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu0/cache/index%d/size", level))
		if err != nil {
			continue
		}
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(b)), "K"), 10, 64)
		size = kib << 10
	}
	return size
}

// residentMost is the most memory that this process has held since forgetResident, and anonymous what it holds now
// beside the files that it maps.
func residentMost() (most, anonymous int64) {
	return status("/proc/self/status", "VmHWM"), status("/proc/self/status", "RssAnon")
}

// forgetResident makes residentMost begin anew. Where the system does not allow it, the process's whole life counts.
func forgetResident() {
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}
