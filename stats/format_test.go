package stats

import (
	"bytes"
	"encoding/base64"
	"image/color"
	"image/png"
	"math"
	"strings"
	"testing"
)

func TestFormats(t *testing.T) {
	thin := strings.NewReplacer("\u202f", " ")
	for want, got := range map[string]string{
		"0": count(0), "999": count(999), "1 000": count(1000), "-12 345 678": count(-12345678), "123 456": count(123456),
		"0.5": short(0.5), "1 k": short(999.6), "12.3 k": short(12345), "1.2 G": short(1.2e9), "–": short(math.NaN()),
		"0.012": short(0.0123), "2.5×": times(2.5), "100×": times(99.96),
		"0 B": size(0), "58.4 GB/s": quantity(58.4e9, "B/s"), "3 B/s": quantity(3, "B/s"), "1023 B": size(1023), "1 KiB": size(1024), "1.5 GiB": size(3 << 29), "-1 KiB": size(-1024),
		"0 s": span(0), "12 µs": span(12e-6), "15 ms": span(0.015), "3.2 s": span(3.2), "59.9 s": span(59.9), "1 min": span(59.97), "1 min 05 s": span(65),
		"2 h 05 min": span(7500), "1 d 2 h": span(26 * 3600), "1 s": span(0.9999),
		"0.0 %": percent(0), "< 0.1 %": percent(0.0001), "5.0 %": percent(0.05), "55 %": percent(0.55), "100 %": percent(1),
	} {
		if thin.Replace(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if span(-1) != "–" || percent(math.Inf(1)) != "–" {
		t.Error("what is not known should be a dash")
	}
}

func TestTimeTicks(t *testing.T) {
	for seconds := 1e-3; seconds < 1e8; seconds *= 1.37 {
		ticks := timeTicks(seconds)
		if len(ticks) < 2 || len(ticks) > 8 || ticks[0].Text != "0" {
			t.Errorf("%v s: %v", seconds, ticks)
		}
		seen := map[string]bool{}
		for _, x := range ticks {
			if x.At < 0 || x.At > 100.1 || seen[x.Text] {
				t.Errorf("%v s: %v", seconds, ticks)
			}
			seen[x.Text] = true
		}
	}
	var got []string
	for _, x := range timeTicks(5400) {
		got = append(got, x.Text)
	}
	if strings.Join(got, ",") != "0,15 min,30 min,45 min,1 h,1:15 h,1:30 h" {
		t.Error(got)
	}
}

func TestCeiling(t *testing.T) {
	for x, want := range map[float64]float64{0: 1, 1: 1, 1.01: 2, 2.2: 2.5, 30: 50, 70: 100, 1e-7: 1e-7, 99999: 1e5, math.Inf(1): 1} {
		if got := ceiling(x); !near(got, want) {
			t.Errorf("%v: %v, want %v", x, got, want)
		}
	}
}

// TestHeatmap reads the picture back: a pixel an expert, none where a layer has fewer.
func TestHeatmap(t *testing.T) {
	r := New(0)
	r.SetLayers([]int{1, 3}, []int{2, 4}, []int{2, 2})
	r.AddExperts(0, []int32{1, 1}, 0, 0)
	r.AddExperts(1, []int32{16, 0, 0, 0}, 0, 0)
	m, err := newHeatmap(Merge(Job{}, []Snapshot{r.Snapshot()}).Layers)
	if err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(m.Image), "data:image/png;base64,"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil || img.Bounds().Dx() != 4 || img.Bounds().Dy() != 2 {
		t.Fatalf("%v, %v", img.Bounds(), err)
	}
	for at, want := range map[[2]int]color.NRGBA{
		{0, 0}: {0x2b, 0x7f, 0xc4, 0}, {3, 0}: {}, {0, 1}: {0xe2, 0x62, 0x1b, 255}, {1, 1}: {0x2b, 0x7f, 0xc4, 255},
	} {
		if got := color.NRGBAModel.Convert(img.At(at[0], at[1])).(color.NRGBA); got.A != want.A || got.A > 0 && got != want {
			t.Errorf("pixel %v is %v, want %v", at, got, want)
		}
	}
	if m.Rows[0].Span != 50 || m.Rows[1].Right != "4×" || !strings.Contains(m.Rows[1].Title, "expert 0 took 16 of 16 slots, 4× the even share; 3 idle") {
		t.Errorf("%+v", m.Rows)
	}
}
