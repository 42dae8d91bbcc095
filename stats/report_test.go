package stats

import (
	"bytes"
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pages leaves the sample pages in a folder, to be looked at: go test ./stats -run Pages -pages /tmp/pages
var pages = flag.String("pages", "", "write the sample reports into this folder")

func TestPages(t *testing.T) {
	for name, r := range samples() {
		var b bytes.Buffer
		if err := r.WriteHTML(&b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		page := b.String()
		for _, wrong := range []string{"<script", "ZgotmplZ", "NaN", "+Inf", "%!", "http://", "https://", "<no value>", "-0 "} {
			if i := strings.Index(page, wrong); i >= 0 {
				t.Errorf("%s: holds %q: …%s…", name, wrong, page[max(i-60, 0):min(i+60, len(page))])
			}
		}
		if err := wellFormed(page); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(page) > 700<<10 {
			t.Errorf("%s: %d bytes", name, len(page))
		}
		t.Logf("%s: %d bytes", name, len(page))
		if *pages != "" {
			if err := os.WriteFile(filepath.Join(*pages, name+".html"), b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// wellFormed finds tags that do not match.
func wellFormed(page string) error {
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta", "img", "br"}, xml.HTMLEntity
	for {
		if _, err := d.Token(); err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return err
		}
	}
}
