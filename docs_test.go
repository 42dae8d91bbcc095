package dsbatch_test

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tree is every file of the checkout, hidden folders and bin aside.
func tree(t *testing.T) (files []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (name == "bin" || len(name) > 1 && name[0] == '.') {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// pages are the texts of the documentation by file name.
func pages(t *testing.T, files []string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, f := range files {
		if f != "README.md" && f != "CONTRIBUTING.md" && !(strings.HasPrefix(f, "docs/") && path.Ext(f) == ".md") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[f] = string(text)
	}
	return all
}

// TestNamedTestsExist: each test that a page names is in the folder that the page says, which is the last one named
// before it.
func TestNamedTestsExist(t *testing.T) {
	files := tree(t)
	declared := map[string]bool{} // by folder and name
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range function.FindAllSubmatch(text, -1) {
				declared[path.Dir(f)+" "+string(m[1])] = true
			}
		}
	}
	word := regexp.MustCompile("`([a-z/]+)`:|\\b((?:Test|Fuzz)[A-Z]\\w*)\\b")
	named := 0
	for page, text := range pages(t, files) {
		folder := ""
		for _, m := range word.FindAllStringSubmatch(text, -1) {
			if m[1] != "" {
				folder = m[1]
				continue
			}
			named++
			if !declared[folder+" "+m[2]] && (folder != "" || !anywhere(declared, m[2])) {
				t.Errorf("%s names %s, which %q has not", page, m[2], folder)
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d names of tests were found", named)
	}
}

func anywhere(declared map[string]bool, name string) bool {
	for d := range declared {
		if strings.HasSuffix(d, " "+name) {
			return true
		}
	}
	return false
}

// TestNamedFilesExist: the sources that a page names in code quotes, and the pages that it links to, are there.
func TestNamedFilesExist(t *testing.T) {
	files := tree(t)
	source := regexp.MustCompile("`([\\w*./-]+\\.(?:go|c|h|cu|cuh))`")
	link := regexp.MustCompile(`\]\(([^)#:]+)[^):]*\)`)
	named := 0
	for page, text := range pages(t, files) {
		for _, m := range source.FindAllStringSubmatch(text, -1) {
			named++
			if !slices.ContainsFunc(files, func(f string) bool {
				if !strings.Contains(m[1], "/") {
					f = path.Base(f)
				}
				ok, err := path.Match(m[1], f)
				return ok && err == nil
			}) {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			named++
			if _, err := os.Stat(path.Join(path.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
	if named < 60 {
		t.Errorf("only %d names of files were found", named)
	}
}

// TestStructureNamesEveryRoom: each folder with an arrow has its row in docs/structure.md.
func TestStructureNamesEveryRoom(t *testing.T) {
	text, err := os.ReadFile("docs/structure.md")
	if err != nil {
		t.Fatal(err)
	}
	for folder := range arrows {
		if !regexp.MustCompile("(?m)^\\| `" + folder + "(/\\w+)?` \\|").Match(text) {
			t.Errorf("docs/structure.md has no row for %s", folder)
		}
	}
}
