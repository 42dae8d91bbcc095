package config

import (
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"16GiB": 16 << 30, "16 gib": 16 << 30, "16G": 16 << 30, "1.5KiB": 1536, "512MB": 512e6, "1048576": 1 << 20, "7B": 7, "0": 0, "2TiB": 2 << 40, "3kb": 3000,
	} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "-1GiB", "16 furlongs", "NaN", "inf", "9e9TiB", "1e30"} {
		if got, err := parseBytes(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
	for b, want := range map[Bytes]string{16 << 30: "16GiB", 1536: "1536B", 3 << 20: "3MiB", 0: "0B", 5 << 40: "5TiB"} {
		if b.String() != want {
			t.Errorf("%d is written %s, want %s", int64(b), b, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"120s": 2 * time.Minute, "90": 90 * time.Second, "1h30m": 90 * time.Minute, "0.5": time.Second / 2} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "soon", "1e300", "NaN"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Minute: "1h30m", 30 * time.Second: "30s", 61 * time.Second: "1m1s", 10 * time.Minute: "10m"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}

func TestDType(t *testing.T) {
	for want, spellings := range map[DType][]string{
		FP32: {"torch.float32", "fp32", "float32", "float", "torch.float"},
		FP16: {"torch.float16", "fp16", "float16", "half", "torch.half", "FP16"},
		BF16: {"torch.bfloat16", "bf16", "bfloat16", "bfloat"},
		INT8: {"torch.int8", "int8"},
		"":   {"auto"},
	} {
		for _, s := range spellings {
			if got, err := ParseDType(s); err != nil || got != want {
				t.Errorf("%q: %q, %v; want %q", s, got, err, want)
			}
		}
	}
	if _, err := ParseDType("float8"); err == nil {
		t.Error("float8 was accepted")
	}
}

func TestInterval(t *testing.T) {
	for _, c := range []struct {
		v       interval
		in, out []float64
		words   string
	}{
		{"[1, )", []float64{1, 2, 1e9}, []float64{0, -1}, "at least 1"},
		{"(0, 1]", []float64{1, 0.5}, []float64{0, 1.01}, "above 0, at most 1"},
		{"[0, 3)", []float64{0, 2.9}, []float64{3, -0.1}, "at least 0, below 3"},
	} {
		for _, x := range c.in {
			if !c.v.holds(x) {
				t.Errorf("%s does not hold %v", c.v, x)
			}
		}
		for _, x := range c.out {
			if c.v.holds(x) {
				t.Errorf("%s holds %v", c.v, x)
			}
		}
		if got := c.v.words(); got != c.words {
			t.Errorf("%s in words: %s, want %s", c.v, got, c.words)
		}
	}
}

func TestBytesAbout(t *testing.T) {
	for b, want := range map[Bytes]string{0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1536: "1.5 KiB", 16859544: "16.1 MiB", 5 << 40: "5 TiB", 1 << 62: "4.1e+03 PiB"} {
		if got := b.About(); got != want {
			t.Errorf("%d: %s, want %s", int64(b), got, want)
		}
	}
}
