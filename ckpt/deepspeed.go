package ckpt

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// The files of a DeepSpeed state. Source: DeepSpeed's runtime/engine.py.
const latestFile = "latest"

var (
	denseFile     = regexp.MustCompile(`^mp_rank_(\d+)_model_states\.pt$`)
	expertFile    = regexp.MustCompile(`^layer_(\d+)_expert_(\d+)_mp_rank_(\d+)_model_states\.pt$`)
	oldExpertFile = regexp.MustCompile(`^expert_(\d+)_mp_rank_(\d+)_model_states\.pt$`) // all layers of an expert
	zeroFile      = regexp.MustCompile(`^zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt$`)
	pipelineFile  = regexp.MustCompile(`^layer_\d+-model_\d+-model_states\.pt$`)
)

// eagerExperts is how many files of experts are opened at once by Open, so that each is known to be whole. Beyond it
// only the first expert of a layer is opened, and the others when a rank reads them: it may need but a few.
const eagerExperts = 256

// openDeepSpeed reads a folder with latest, or the folder of one tag.
func (c *Checkpoint) openDeepSpeed(o Options) error {
	c.Format = DeepSpeed
	dir := c.Path
	switch latest, err := os.ReadFile(filepath.Join(c.Path, latestFile)); {
	case o.Tag != "":
		dir = filepath.Join(c.Path, o.Tag)
	case err == nil:
		dir = filepath.Join(c.Path, strings.TrimSpace(string(latest)))
	}
	if rel, err := filepath.Rel(c.Path, dir); err != nil || !filepath.IsLocal(rel) {
		return &Error{File: c.Path, Kind: ErrTag, What: fmt.Sprintf("tag %q leads out of the folder; choose one of the folders in it with --tag", rel)}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		all, _ := os.ReadDir(c.Path)
		return &Error{File: dir, Kind: ErrTag, What: fmt.Sprintf("cannot be listed (%s); choose one of the folders that are there with --tag: %s", cause(err), strings.Join(folders(all), ", "))}
	}
	list, err := listDeepSpeed(dir, entries)
	if err != nil {
		return err
	}
	shards := make([]*megatronFile, len(list.dense))
	for r, path := range list.dense {
		if shards[r], err = c.openMegatronFile(path); err != nil {
			return err
		}
	}
	if err := agree(shards); err != nil {
		return err
	}
	f, err := readFacts(shards[0], dir, c.Path, filepath.Dir(c.Path))
	if err != nil {
		return err
	}
	j := newJoiner(f, [][]*megatronFile{shards}, shards[0].version())
	whole, err := j.joinStage(shards)
	if err != nil {
		return err
	}
	c.tensors = whole
	if err := c.addExperts(list, shards[0], j); err != nil {
		return err
	}
	return f.settle(c, shards[0].version(), len(shards))
}

// deepspeedList is the files of a state. experts[l][e] are those of expert e of the l-th layer of experts, one a rank;
// in old states l is 0 and the file holds all layers.
type deepspeedList struct {
	dense   []string
	experts [][][]string
	old     bool
}

// listDeepSpeed sorts the files of a state and misses none: ranks, layers and experts are numbered through from 0.
func listDeepSpeed(dir string, entries []os.DirEntry) (list deepspeedList, err error) {
	dense, experts := map[int]string{}, map[[3]int]string{}
	layers, expertsOf := 0, map[int]int{}
	other := ""
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		if m := denseFile.FindStringSubmatch(name); m != nil {
			dense[atoi(m[1])] = path
			continue
		}
		m := expertFile.FindStringSubmatch(name)
		if old := oldExpertFile.FindStringSubmatch(name); old != nil {
			m, list.old = []string{name, "0", old[1], old[2]}, true
		}
		switch {
		case m != nil:
			l, x := atoi(m[1]), atoi(m[2])
			experts[[3]int{l, x, atoi(m[3])}] = path
			layers, expertsOf[l] = max(layers, l+1), max(expertsOf[l], x+1)
		case zeroFile.MatchString(name), pipelineFile.MatchString(name):
			other = name
		}
	}
	if len(dense) == 0 {
		switch {
		case zeroFile.MatchString(other):
			return list, unsupported(dir, "", "is of ZeRO stage 3, whose weights are spread over its ranks (%s); convert it with zero_to_fp32.py, or save 16-bit weights", other)
		case other != "":
			return list, unsupported(dir, "", "is of a pipeline module, a file a layer (%s), which is not read; save it without pipeline stages", other)
		}
		return list, &Error{File: dir, Kind: ErrUnknown, What: "holds no mp_rank_00_model_states.pt, so no state of DeepSpeed; choose another with --tag"}
	}
	missing := func(format string, args ...any) error {
		return &Error{File: filepath.Join(dir, fmt.Sprintf(format, args...)), Kind: ErrDamaged, What: "is missing; copy the checkpoint again"}
	}
	for r := range len(dense) {
		if dense[r] == "" {
			return list, missing("mp_rank_%02d_model_states.pt", r)
		}
		list.dense = append(list.dense, dense[r])
	}
	list.experts = make([][][]string, layers)
	for l := range layers {
		list.experts[l] = make([][]string, max(expertsOf[l], 1))
		for x := range list.experts[l] {
			for r := range list.dense {
				path := experts[[3]int{l, x, r}]
				if path == "" && list.old {
					return list, missing("expert_%d_mp_rank_%02d_model_states.pt", x, r)
				} else if path == "" {
					return list, missing("layer_%d_expert_%d_mp_rank_%02d_model_states.pt", l, x, r)
				}
				list.experts[l][x] = append(list.experts[l][x], path)
				delete(experts, [3]int{l, x, r})
			}
		}
	}
	for _, path := range experts {
		return list, mismatch(path, "", "is of a rank that has no mp_rank file; the files are not of one checkpoint")
	}
	return list, nil
}

// atoi is the value of digits, as a pattern matched them.
func atoi(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 1 << 30 // too long to be any rank, layer or expert: will be missed or left over
	}
	return n
}

// agree checks that the files of the tensor-parallel ranks are as many as were saved, and of one version.
func agree(shards []*megatronFile) error {
	for _, s := range shards {
		saved, known := number(s.root.get("mp_world_size"))
		if !known {
			saved, known = number(s.args().get("tensor_model_parallel_size"))
		}
		if known && int(saved) != len(shards) {
			return mismatch(s.path, "", "was saved by %d tensor-parallel ranks, but there are %d files of them; copy the checkpoint again", int(saved), len(shards))
		}
		if s.version() != shards[0].version() {
			return mismatch(s.path, "", "is of checkpoint_version %v, mp_rank 0 of %v; the files are not of one checkpoint", s.version(), shards[0].version())
		}
	}
	return nil
}

// newJoiner knows what the facts and the dense layers tell of widths.
func newJoiner(f *facts, perStage [][]*megatronFile, version float64) joiner {
	j := joiner{file: perStage[0][0].path, version: version, heads: f.integer("num_attention_heads"), ffn: f.integer("ffn_hidden_size")}
	for _, shards := range perStage {
		for name, t := range shards[0].tensors {
			if _, rest, ok := layerOf(name); j.ffn == 0 && ok && rest == "mlp.dense_4h_to_h.weight" && len(t.Shape) == 2 {
				j.ffn = t.Shape[1] * int64(len(shards))
			}
		}
	}
	return j
}

// joinStage joins the tensors of the tensor-parallel ranks of one pipeline stage.
func (j joiner) joinStage(shards []*megatronFile) (map[string]Tensor, error) {
	out := make(map[string]Tensor, len(shards[0].tensors))
	for r, s := range shards {
		for _, name := range slices.Sorted(maps.Keys(s.tensors)) {
			if _, ok := shards[0].tensors[name]; !ok {
				return nil, mismatch(shards[0].path, name, "is missing, though mp_rank %d has it; the files are not of one checkpoint", r)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shards[0].tensors)) {
		parts := make([]Tensor, len(shards))
		for r, s := range shards {
			var ok bool
			if parts[r], ok = s.tensors[name]; !ok {
				return nil, mismatch(s.path, name, "is missing, though mp_rank 0 has it; the files are not of one checkpoint")
			}
		}
		t, err := j.join(parts)
		if err != nil {
			return nil, err
		}
		out[name] = t
	}
	return out, nil
}

// addExperts takes the experts of their own files; they win over copies in the dense file, which must not differ in shape.
func (c *Checkpoint) addExperts(list deepspeedList, dense *megatronFile, j joiner) error {
	if err := list.counted(dense); err != nil {
		return err
	}
	files := 0
	for _, layer := range list.experts {
		files += len(layer) * len(list.dense)
	}
	for _, layer := range list.experts {
		first := &expertFiles{c: c, j: j, paths: layer[0]}
		for x, paths := range layer {
			e := first
			if x > 0 {
				e = &expertFiles{c: c, j: j, paths: paths, like: first, expert: x}
			}
			if x == 0 || files <= eagerExperts {
				if err := e.open(); err != nil {
					return err
				}
			} else if err := c.noteFiles(paths); err != nil {
				return err
			}
			for name, t := range first.tensors {
				at := expertName.FindStringSubmatchIndex(name)
				if at == nil || name[at[4]:at[5]] != "0" {
					return mismatch(layer[0][0], name, "is no tensor of expert 0, whose file this is; the files are not of one checkpoint")
				}
				t.Name = name[:at[4]] + strconv.Itoa(x) + name[at[5]:]
				t.src = expertTensor{e, t}
				if old, twice := c.tensors[t.Name]; twice && !slices.Equal(old.Shape, t.Shape) {
					return mismatch(paths[0], t.Name, "has shape %v, but %v in %s; the files are not of one checkpoint", t.Shape, old.Shape, dense.path)
				}
				c.tensors[t.Name] = t
			}
		}
	}
	return nil
}

// counted compares the files with the num_experts that DeepSpeed saved: a list, a number an MoE layer, or one number.
func (files deepspeedList) counted(dense *megatronFile) error {
	saved := dense.root.get("num_experts")
	counts := numbers(saved)
	if len(counts) == 0 {
		return nil
	}
	if _, each := saved.(*list); each && !files.old && len(counts) != len(files.experts) {
		return mismatch(dense.path, "", "was saved with %d layers of experts, but there are files of %d; copy the checkpoint again", len(counts), len(files.experts))
	}
	for l, layer := range files.experts {
		if n := counts[min(l, len(counts)-1)]; n != float64(len(layer)) {
			return mismatch(dense.path, "", "was saved with %v experts in layer %d of experts, but there are files of %d; copy the checkpoint again", n, l, len(layer))
		}
	}
	return nil
}

// noteFiles lists files that are opened later, if at all.
func (c *Checkpoint) noteFiles(paths []string) error {
	for _, path := range paths {
		st, err := os.Stat(path)
		if err != nil {
			return &Error{File: path, Kind: err, What: "cannot be looked at: " + cause(err)}
		}
		if st.Size() == 0 {
			return damaged(path, "", "is empty; copy it again")
		}
		c.mu.Lock()
		c.files[c.relative(path)] = st.Size()
		c.mu.Unlock()
	}
	return nil
}

// expertFiles is the files of one expert, one a tensor-parallel rank, opened together when first needed.
type expertFiles struct {
	c      *Checkpoint
	j      joiner
	paths  []string
	like   *expertFiles // expert 0 of the layer, whose names and shapes this one must have; nil for itself
	expert int

	once    sync.Once
	tensors map[string]Tensor // joined, by canonical name
	err     error
}

// open opens and checks the files, once.
func (e *expertFiles) open() error {
	e.once.Do(func() {
		shards := make([]*megatronFile, len(e.paths))
		for r, path := range e.paths {
			if shards[r], e.err = e.c.openMegatronFile(path); e.err != nil {
				return
			}
		}
		e.j.file = e.paths[0]
		if e.tensors, e.err = e.j.joinStage(shards); e.err == nil && e.like != nil {
			e.err = e.resembles()
		}
	})
	return e.err
}

// resembles checks that the file holds this expert, with the tensors that expert 0 has.
func (e *expertFiles) resembles() error {
	for _, name := range slices.Sorted(maps.Keys(e.like.tensors)) {
		want := e.like.tensors[name]
		at := expertName.FindStringSubmatchIndex(name)
		if at == nil {
			continue // addExperts says so
		}
		mine := name[:at[4]] + strconv.Itoa(e.expert) + name[at[5]:]
		t, ok := e.tensors[mine]
		if !ok {
			return mismatch(e.paths[0], mine, "is missing, though expert 0 of the layer has it; copy the checkpoint again")
		}
		if t.DType != want.DType || !slices.Equal(t.Shape, want.Shape) {
			return mismatch(e.paths[0], mine, "is %v %v, but %v %v in expert 0 of the layer; the files are not of one checkpoint", t.DType, t.Shape, want.DType, want.Shape)
		}
	}
	if len(e.tensors) != len(e.like.tensors) {
		return mismatch(e.paths[0], "", "holds %d tensors, that of expert 0 of the layer %d; the files are not of one checkpoint", len(e.tensors), len(e.like.tensors))
	}
	return nil
}

// expertTensor is the source of a tensor in an expert's file that may not be open yet.
type expertTensor struct {
	e *expertFiles
	t Tensor // as promised
}

func (x expertTensor) pieces() (int, []piece, error) {
	if err := x.e.open(); err != nil {
		return 0, nil, err
	}
	return x.e.tensors[x.t.Name].src.pieces()
}
