package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Task is what is done with a row.
type Task string

// The tasks of dsbatch run.
const (
	Generate Task = "generate"
	Score    Task = "score"
	Embed    Task = "embed"
	Classify Task = "classify"
	FillMask Task = "fill-mask"
)

const defaultPrompt = "prompt"

// Job is every setting of a run. A Job comes from New or Load; Flags says what each field means, its unit and default.
// Numbers whose default is automatic, all or off are 0 then, and the dtype empty.
type Job struct {
	Model    string
	Tag      string
	Input    []string
	Output   string
	Task     Task
	JobFile  string
	DSConfig string
	Limit    int64

	PromptColumn       string // empty where IDsColumn or MessagesColumn is set
	IDsColumn          string
	MessagesColumn     string
	ToolsColumn        string
	ChatTemplate       string // file; "": the model folder's own
	ChatTemplateKwargs string // JSON object; "": none
	Now                string // local time for chat templates; "": when the output was begun
	ContinuationColumn string
	PairColumn         string
	IDColumn           string
	Carry              []string // "column", "column:name" or "all"

	MaxNewTokens      int
	MinNewTokens      int
	Temperature       float64
	TopK              int
	TopP              float64
	MinP              float64
	RepetitionPenalty float64
	Seed              uint64
	Stop              []string
	IgnoreEOS         bool
	N                 int

	Logprobs     int
	OutputLogits bool
	Stride       int
	Pooling      string
	Truncate     bool

	Device          string // auto, cpu, cuda
	DType           DType
	TP              int
	EP              int
	ES              int // 0: ranks over ep, where ranks outnumber experts
	DP              int
	PP              int
	AllToAll        string
	ExpertPlacement string
	Ranks           int
	TPInvariant     bool
	FakeNodes       int

	MaxBatchTokens int
	MaxSeqs        int
	ChunkRows      int
	KVMemory       Bytes
	Offload        string // none, cpu
	OffloadLayers  int    // 0: as many as memory asks for
	Threads        int
	Reference      bool

	DropTokens       bool
	CapacityFactor   float64
	MinCapacity      int
	DropPolicy       string
	ExpertOutputBias string

	StopBefore    time.Duration
	RankTimeout   time.Duration
	AcceptVersion bool
	LogFormat     string
	Progress      string

	// Inference is the job file's section inference:, or what DSConfig holds. Where it and a flag speak of the same thing
	// (dtype, tp, ep, model), both have been made equal.
	Inference Inference

	given map[string]place // flag name → where it was set, if it was
}

// New returns a job with every default.
func New() *Job {
	j := &Job{given: map[string]place{}}
	for i := range Flags {
		if f := &Flags[i]; f.Default != "" {
			if err := f.set(j, f.Default); err != nil {
				panic("config: default of " + f.Name + ": " + err.Error()) // the table is ours, and tested
			}
		}
	}
	return j
}

// Given tells whether a flag was set on the command line or in a file, to whatever value.
func (j *Job) Given(flag string) bool {
	_, ok := j.given[flag]
	return ok
}

// Load makes the job that a command line asks for: the defaults, then the job file that --job names, then --ds-config,
// then the flags. Whatever contradicts something else or lies out of range is an error, and all errors are reported at
// once; each is an *Error.
func Load(flags Values) (*Job, []Warning, error) {
	j, l := New(), loader{}
	if path := last(flags["job"]); path != "" {
		j.JobFile = path
		l.jobFile(j, path)
	}
	for i := range Flags {
		f := &Flags[i]
		if values := flags[f.Name]; len(values) > 0 {
			l.set(j, f, place{}, f.Name, values)
		}
	}
	if j.DSConfig != "" {
		l.dsConfig(j)
	}
	l.agree(j)
	l.errs = append(l.errs, j.conflicts()...)
	if len(l.errs) > 0 {
		return nil, l.warnings, errors.Join(l.errs...)
	}
	l.warnings = append(l.warnings, j.idle()...)
	return j, l.warnings, nil
}

// Require returns an error that names the flags of these that have no value.
func (j *Job) Require(flags ...string) error {
	var missing []string
	for _, name := range flags {
		if f := lookup(name); f.text(j) == "" {
			missing = append(missing, "--"+name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	last := len(missing) - 1
	text := missing[last]
	if last > 0 {
		text = strings.Join(missing[:last], ", ") + " and " + text
	}
	return &Error{Err: fmt.Errorf("%s must be given, on the command line or in the job file", text)}
}

// Setting is a flag's value as a user would write it.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Given bool   `json:"given"` // set by the user, not the default
}

// Settings lists the value of every flag that has one, in the order of Flags, then the fields of inference: that were set.
func (j *Job) Settings() []Setting {
	var out []Setting
	for i := range Flags {
		if f := &Flags[i]; f.text(j) != "" {
			out = append(out, Setting{f.Name, f.text(j), j.Given(f.Name)})
		}
	}
	for _, path := range j.Inference.paths() {
		out = append(out, Setting{"inference." + path, j.Inference.given[path].text, true})
	}
	return out
}

// Bits returns the settings that the output's bytes depend on, as text by name: the part of its fingerprint that comes
// from here. Model and input are paths; whoever writes the fingerprint adds what lies there.
func (j *Job) Bits() map[string]string {
	bits := map[string]string{}
	for i := range Flags {
		if f := &Flags[i]; f.Bits && (len(f.Tasks) == 0 || slices.Contains(f.Tasks, j.Task)) {
			bits[f.Name] = f.text(j)
		}
	}
	for _, path := range j.Inference.paths() {
		if f := fieldAt(path); f != nil && f.bits {
			bits["inference."+path] = j.Inference.given[path].text
		}
	}
	return bits
}

// loader gathers what goes wrong while a job is put together.
type loader struct {
	errs     []error
	warnings []Warning
}

// set gives a flag a value from one place. A later place wins.
func (l *loader) set(j *Job, f *Flag, at place, key string, values []string) {
	if err := f.set(j, values...); err != nil {
		l.errs = append(l.errs, &Error{at.file, at.line, key, err})
		return
	}
	j.given[f.Name] = at
}

func (l *loader) jobFile(j *Job, path string) {
	top, err := readTree(path)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	for _, e := range top.keys {
		if e.key == "inference" {
			l.section(j, e)
			continue
		}
		f := lookup(e.key)
		switch {
		case f == nil:
			l.errs = append(l.errs, e.at.errorAt(e.key, "unknown key; %s", didYouMean(e.key, jobKeys(), "docs/config.md lists them")))
		case f.OnlyCLI:
			l.errs = append(l.errs, e.at.errorAt(e.key, "cannot stand in a job file; give --%s on the command line", f.Name))
		case j.Given(f.Name):
			l.errs = append(l.errs, e.at.errorAt(e.key, "given twice, first in line %d; keep one of them", j.given[f.Name].line))
		case e.value.kind == null:
		default:
			values, err := e.value.texts(f.Many)
			if err != nil {
				l.errs = append(l.errs, &Error{e.at.file, e.at.line, e.key, err})
				continue
			}
			l.set(j, f, e.at, e.key, values)
		}
	}
}

func jobKeys() []string {
	keys := []string{"inference"}
	for i := range Flags {
		if !Flags[i].OnlyCLI {
			keys = append(keys, Flags[i].Key())
		}
	}
	return keys
}

// texts returns a scalar's text, or those of a list of scalars where a list is allowed.
func (n node) texts(many bool) ([]string, error) {
	if n.isScalar() {
		return []string{n.text}, nil
	}
	if n.kind != list || !many {
		return nil, fmt.Errorf("is %s; write one value", n.kind)
	}
	var out []string
	for _, item := range n.items {
		if !item.isScalar() {
			return nil, fmt.Errorf("has %s in its list; write plain values", item.kind)
		}
		out = append(out, item.text)
	}
	return out, nil
}

func (l *loader) section(j *Job, e entry) {
	found, warnings, err := collect(e.value)
	in, refused := found.inference()
	j.Inference, l.warnings = in, append(l.warnings, warnings...)
	for _, err := range []error{err, refused} {
		if err != nil {
			l.errs = append(l.errs, err)
		}
	}
}

func (l *loader) dsConfig(j *Job) {
	at := j.given["ds-config"]
	if len(j.Inference.given) > 0 {
		l.errs = append(l.errs, at.errorAt("", "--ds-config %s and the section inference: of %s hold the same fields; keep one of them", j.DSConfig, j.JobFile))
		return
	}
	top, err := readTree(j.DSConfig)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.section(j, entry{value: top})
}

// agree settles what both a flag and a field of inference: say. A flag on the command line wins; two files, or two parts
// of one, that differ are an error.
func (l *loader) agree(j *Job) {
	in := &j.Inference
	settle(l, j, "dtype", "dtype", &j.DType, &in.DType)
	settle(l, j, "tp", "tensor_parallel.tp_size", &j.TP, &in.TensorParallel.Size)
	settle(l, j, "ep", "moe.ep_size", &j.EP, &in.MoE.EPSize)
	settle(l, j, "offload", "zero.offload_param.device", &j.Offload, &in.Offload.Device)
	switch at, said := j.given["model"], in.given["checkpoint"]; {
	case in.Model() == "":
	case j.Model == "":
		j.Model, j.given["model"] = in.Model(), said.at
	case at.file == "": // the command line
		in.Checkpoint = Checkpoint{}
	case j.Model != in.Checkpoint.Path:
		l.errs = append(l.errs, at.errorAt("model", "%s here, but checkpoint: %s in %s; keep one of them", j.Model, said.text, said.at))
	}
	if (j.IDsColumn != "" || j.MessagesColumn != "") && !j.Given("prompt-column") {
		j.PromptColumn = ""
	}
}

func settle[T cmp.Ordered](l *loader, j *Job, flag, path string, value, inferred *T) {
	field, inFile := j.Inference.given[path]
	at, given := j.given[flag]
	switch {
	case !inFile:
		if given {
			*inferred = *value
		}
	case !given:
		*value, j.given[flag] = *inferred, field.at
	case at.file == "": // the command line
		*inferred = *value
		field.text = fmt.Sprint(*value)
		j.Inference.given[path] = field
	case *value != *inferred:
		l.errs = append(l.errs, at.errorAt(lookup(flag).Key(), "%v here, but %s: %v in %s; keep one of them", *value, path, *inferred, field.at))
	}
}

func last(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[len(s)-1]
}
