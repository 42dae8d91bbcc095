package benchmarks

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dsbatch/dsbatch/stats"
)

// The files beside one SVG a figure.
const (
	figuresFile = "figures.json"
	figuresPage = "figures.html"
)

//go:embed figures.html.tmpl
var figuresTemplate string

// PrepareFigures makes the folder that figures are written to. One that holds other things than figures is refused.
func PrepareFigures(folder string) error {
	entries, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return os.MkdirAll(folder, 0o777)
	case err != nil:
		return figuresErrorf("--output %s: it is no folder that can be read: %v; give another name", folder, err)
	case len(entries) == 0:
		return nil
	}
	if _, err := os.Stat(filepath.Join(folder, figuresFile)); err != nil {
		return figuresErrorf("--output %s: the folder holds other things, and no %s of an earlier run; give a new folder", folder, figuresFile)
	}
	return nil
}

// ReadFigures reads a figures.json.
func ReadFigures(path string) (*FigureSet, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	var set FigureSet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, figuresErrorf("--from %s: it holds no figures: %v", path, err)
	}
	if set.Format != figureFormat {
		return nil, figuresErrorf("--from %s: its format is %d, and this version reads %d; name a %s of bench figures", path, set.Format, figureFormat, figuresFile)
	}
	for i := range set.Plates {
		if err := set.Plates[i].check(); err != nil {
			return nil, figuresErrorf("--from %s: %v", path, err)
		}
	}
	return &set, nil
}

// check refuses what cannot be drawn.
func (p *Plate) check() error {
	if p.Name == "" || filepath.Base(p.Name) != p.Name || p.Name == "." || p.Name == ".." {
		return fmt.Errorf("a figure is called %q, which names no file", p.Name)
	}
	for _, q := range p.Quantities {
		if q != Latency && q != Throughput {
			return fmt.Errorf("figure %s: the quantity %q is not known", p.Name, q)
		}
	}
	for i := range p.Points {
		x := &p.Points[i]
		if x.Throughput == nil {
			return fmt.Errorf("figure %s: %s, %s has no throughput", p.Name, x.Group, x.Bar)
		}
		for _, f := range []*Figure{x.Latency, x.Throughput} {
			if f != nil && min(f.Value, f.Best, f.Worst) < 0 {
				return fmt.Errorf("figure %s: %s, %s is below 0", p.Name, x.Group, x.Bar)
			}
		}
	}
	return nil
}

// Write writes figures.json, one SVG a figure and figures.html into the folder.
func (s *FigureSet) Write(folder string) error {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	page, err := s.page()
	if err != nil {
		return err
	}
	files := map[string][]byte{figuresFile: append(text, '\n'), figuresPage: page}
	for i := range s.Plates {
		files[s.Plates[i].Name+".svg"] = []byte(s.Plates[i].chart().SVG())
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// page is all figures with their tables, which needs nothing else.
func (s *FigureSet) page() ([]byte, error) {
	t, err := template.New("figures").Funcs(template.FuncMap{
		"palette": stats.Palette, "number": number,
		"svg":     func(p Plate) template.HTML { return template.HTML(p.chart().SVG()) },
		"rows":    func(p Plate) [][]string { return p.rows() },
		"columns": func() []string { return columns },
		"day":     func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	}).Parse(figuresTemplate)
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	err = t.Execute(&page, s)
	return page.Bytes(), err
}
