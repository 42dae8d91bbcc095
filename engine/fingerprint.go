package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/io/results"
)

// Settings of the fingerprint that a later start looks at.
const (
	chunkRowsSetting = "chunk rows"
	archSetting      = "back end"
	versionSetting   = "version"
	chatTimeSetting  = "chat time"
)

// fingerprint lists what the bytes of an output depend on: a started output goes on only where all of it is the same.
func (r *run) fingerprint(chunkRows int64) results.Fingerprint {
	e := r.engine
	var fp results.Fingerprint
	fp.Add(versionSetting, r.options.Version)
	fp.Add("task", string(r.job.Task))
	fp.Add("model", e.identity.model)
	fp.Add("tokenizer", e.identity.tokenizer)
	if e.chats != nil {
		fp.Add("chat template", e.identity.chat)
		if kwargs := r.job.ChatTemplateKwargs; kwargs != "" {
			fp.Add("chat-template-kwargs", kwargs)
		}
		if e.chats.templates.ReadsTime() {
			fp.Add(chatTimeSetting, e.chats.time)
		}
	}
	fp.Add("dtype", e.identity.dtype)
	fp.Add(archSetting, e.identity.arch)
	if e.job.TPInvariant {
		fp.Add("slices", invariantSlices(&e.shape)) // whatever tp and es are
	} else {
		fp.Add("tp", e.layout.TP)
		fp.Add("es", slicesOf(e.layout))
	}
	fp.Add("window", e.window)
	fp.Add("end tokens", e.eos)
	fp.Add(chunkRowsSetting, chunkRows)
	type file struct {
		Identity string `json:"identity"`
		Rows     int64  `json:"rows"`
	}
	var files []file
	for _, f := range r.rows.Files() {
		files = append(files, file{f.Identity, f.Rows})
	}
	fp.Add("input", files)
	bits := r.job.Bits()
	for _, resolved := range []string{"task", "model", "tag", "input", "device", "dtype", "chunk-rows", "tp", "es", "chat-template", "chat-template-kwargs", "now",
		"inference.tensor_parallel.tp_group", "inference.moe.ep_mp_group"} {
		delete(bits, resolved) // stands above, as what it was found to be
	}
	for _, name := range slices.Sorted(maps.Keys(bits)) {
		fp.Add(name, bits[name])
	}
	return fp
}

// namedInputs says which files the differences are about, whose list in the fingerprint has no names.
func (r *run) namedInputs(differences []results.Difference) {
	files := r.rows.Files()
	for i, d := range differences {
		var file int
		var what string
		if n, _ := fmt.Sscanf(d.Name, "input[%d].%s", &file, &what); n == 2 && file < len(files) {
			if what == "identity" {
				what = "content"
			}
			differences[i].Name = fmt.Sprintf("the %s of input file %s", what, files[file].Path)
		}
	}
}

// slicesOf is how many slices the experts are cut into, for each number of experts that layers have.
func slicesOf(l *comm.Layout) []int {
	slices := []int{}
	for _, x := range l.Experts {
		slices = append(slices, x.ES)
	}
	return slices
}

// cutCarry takes a carried column's new name off: "a:b" carries a as b. Colons and commas of a name stand behind a backslash.
func cutCarry(s string) (name, as string) {
	name = s
	for i := range len(s) {
		if s[i] == ':' && (i == 0 || s[i-1] != '\\') {
			name, as = s[:i], s[i+1:]
			break
		}
	}
	plain := strings.NewReplacer(`\:`, ":", `\,`, ",")
	return plain.Replace(name), plain.Replace(as)
}
