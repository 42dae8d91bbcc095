package stats

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/png"
	"math"
)

// heatmap shows the slots of every expert of every layer: a row a layer, a cell an expert. An even share is the page's own
// ground, more is warm and less is cool, so that the picture reads in light and in dark.
type heatmap struct {
	Image  template.URL // PNG, a pixel an expert
	Rows   []heatRow
	Ticks  []tick // expert numbers
	Height int    // CSS pixels
	Row    float64
	Width  int // most CSS pixels
	Legend template.URL
}

type heatRow struct {
	At    float64 // percent from the top
	Label string  // "" where labels would touch
	Right string
	Title string
	Span  float64 // percent of the width that the layer's experts fill
}

// shade is the colour of a ratio to the even share: warm to 4 times it, cool to a quarter, by octaves.
func shade(ratio float64) color.NRGBA {
	octaves := math.Log2(max(ratio, 1e-9))
	strength := uint8(255 * min(math.Abs(octaves)/2, 1))
	if octaves > 0 {
		return color.NRGBA{R: 0xe2, G: 0x62, B: 0x1b, A: strength}
	}
	return color.NRGBA{R: 0x2b, G: 0x7f, B: 0xc4, A: strength}
}

func newHeatmap(layers []LayerLoad) (heatmap, error) {
	most := 0
	for i := range layers {
		most = max(most, len(layers[i].Tokens))
	}
	if most == 0 {
		return heatmap{}, nil
	}
	m := heatmap{Row: min(24, max(7, 640/float64(len(layers)))), Width: 130 + max(120, 44*most)}
	m.Height = int(math.Round(m.Row * float64(len(layers))))
	every := int(math.Ceil(15 / m.Row)) // rows between labels
	img := image.NewNRGBA(image.Rect(0, 0, most, len(layers)))
	for y := range layers {
		l := &layers[y]
		mean := float64(l.Slots) / float64(max(len(l.Tokens), 1))
		for x, n := range l.Tokens {
			if l.Slots > 0 {
				img.SetNRGBA(x, y, shade(float64(n)/mean))
			}
		}
		row := heatRow{At: 100 * float64(y) / float64(len(layers)), Span: 100 * float64(len(l.Tokens)) / float64(most)}
		if y%every == 0 {
			row.Label, row.Right = fmt.Sprintf("layer %d", l.Layer.Layer), times(l.MaxMean)
		}
		row.Title = fmt.Sprintf("layer %d, %d experts: expert %d took %s of %s slots, %s the even share; %d idle",
			l.Layer.Layer, len(l.Tokens), l.Busiest, count(l.busiestSlots()), count(l.Slots), times(l.MaxMean), l.Idle)
		m.Rows = append(m.Rows, row)
	}
	m.Ticks = expertTicks(most)
	var err error
	if m.Image, err = pngURL(img); err != nil {
		return heatmap{}, err
	}
	m.Legend, err = legend()
	return m, err
}

func (l *LayerLoad) busiestSlots() int64 {
	if l.Busiest < len(l.Tokens) {
		return l.Tokens[l.Busiest]
	}
	return 0
}

// expertTicks numbers the middle of every cell, or of up to 8 and the last.
func expertTicks(experts int) (out []tick) {
	step := 1
	for experts/step > 8 && experts > 16 {
		step *= 2
	}
	for e := 0; e < experts; e += step {
		out = append(out, tick{100 * (float64(e) + 0.5) / float64(experts), fmt.Sprint(e)})
	}
	return out
}

// legend is the scale from a quarter to four times the even share.
func legend() (template.URL, error) {
	const n = 129
	img := image.NewNRGBA(image.Rect(0, 0, n, 1))
	for x := range n {
		img.SetNRGBA(x, 0, shade(math.Exp2(4*float64(x)/(n-1)-2)))
	}
	return pngURL(img)
}

func pngURL(img image.Image) (template.URL, error) {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return "", err
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Bytes())), nil
}
