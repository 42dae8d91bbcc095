package ckpt

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Megatron folder: iterationFile holds a number or "release", which names the folder of an iteration; in it every
// tensor-parallel rank TT of every pipeline stage PPP has a folder mp_rank_TT or mp_rank_TT_PPP with one file.
// Source: Megatron's checkpointing.py.
const iterationFile = "latest_checkpointed_iteration.txt"

var (
	rankFolder      = regexp.MustCompile(`^mp_rank_(\d+)(?:_(\d+))?$`)
	iterationFolder = regexp.MustCompile(`^(iter_\d+|release)$`)
	stateFiles      = []string{"model_optim_rng.pt", "model_rng.pt"} // the second where the optimizer was saved apart
)

// openMegatron reads a folder with latest_checkpointed_iteration.txt, or the folder of one iteration.
func (c *Checkpoint) openMegatron(o Options) error {
	c.Format = Megatron
	dir := c.Path
	if text, err := os.ReadFile(filepath.Join(c.Path, iterationFile)); err == nil || o.Tag != "" {
		name := cmp.Or(o.Tag, strings.TrimSpace(string(text)))
		if n, err := strconv.ParseUint(name, 10, 63); err == nil {
			name = fmt.Sprintf("iter_%07d", n)
		}
		if !iterationFolder.MatchString(name) {
			return &Error{File: filepath.Join(c.Path, iterationFile), Kind: ErrTag, What: fmt.Sprintf("names the iteration %.40q, which is neither a number nor release; give one with --tag", name)}
		}
		dir = filepath.Join(c.Path, name)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		all, _ := os.ReadDir(c.Path)
		return &Error{File: dir, Kind: ErrTag, What: fmt.Sprintf("cannot be listed (%s); choose one of the iterations that are there with --tag: %s", cause(err), strings.Join(folders(all), ", "))}
	}
	var paths []string
	for _, e := range entries {
		if !rankFolder.MatchString(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name(), stateFiles[0])
		for _, f := range stateFiles {
			if _, err := os.Stat(filepath.Join(dir, e.Name(), f)); err == nil {
				path = filepath.Join(dir, e.Name(), f)
				break
			}
		}
		paths = append(paths, path) // where none is there, opening the first says so
	}
	if len(paths) == 0 {
		return &Error{File: dir, Kind: ErrUnknown, What: "holds no mp_rank_00, so no state of Megatron; choose another iteration with --tag"}
	}
	return c.openRanks(paths, nil, dir, c.Path, filepath.Dir(c.Path))
}

// openRanks reads the files of all ranks; version overrides that of the files unless nil; model.json is looked for
// in the folders.
func (c *Checkpoint) openRanks(paths []string, version *float64, folders ...string) error {
	perStage, err := byStage(c.Path, paths)
	if err != nil {
		return err
	}
	files := make([][]*megatronFile, len(perStage))
	var firsts []string
	for s, stage := range perStage {
		for _, path := range stage {
			mf, err := c.openMegatronFile(path)
			if err != nil {
				return err
			}
			files[s] = append(files[s], mf)
		}
		if err := agree(files[s]); err != nil {
			return err
		}
		firsts = append(firsts, stage[0])
	}
	first := files[0][0]
	v := first.version()
	if version != nil {
		v = *version
	}
	f, err := readFacts(first, folders...)
	if err != nil {
		return err
	}
	j := newJoiner(f, files, v)
	joined := make([]map[string]Tensor, len(files))
	for s, stage := range files {
		j.file = stage[0].path
		if joined[s], err = j.joinStage(stage); err != nil {
			return err
		}
	}
	if c.tensors, _, err = stages(joined, firsts); err != nil {
		return err
	}
	return f.settle(c, v, len(files[0]))
}

// byStage sorts the files by pipeline stage and tensor-parallel rank, as the names of their folders tell; where these
// tell nothing, files are ranks in the order given. Every stage has the same ranks.
func byStage(checkpoint string, paths []string) ([][]string, error) {
	grid := map[[2]int]string{}
	ranks, pipes, named := 0, 0, 0
	for i, path := range paths {
		at := [2]int{0, i}
		if m := rankFolder.FindStringSubmatch(filepath.Base(filepath.Dir(path))); m != nil {
			at = [2]int{atoi(cmp.Or(m[2], "0")), atoi(m[1])}
			named++
		}
		if grid[at] != "" {
			return nil, mismatch(checkpoint, "", "has two files of one rank, %s and %s; remove one", grid[at], path)
		}
		grid[at] = path
		pipes, ranks = max(pipes, at[0]+1), max(ranks, at[1]+1)
	}
	if named != 0 && named != len(paths) || pipes*ranks != len(paths) {
		return nil, mismatch(checkpoint, "", "has %d files of ranks, which do not make up every tensor-parallel rank of every pipeline stage; copy the missing ones", len(paths))
	}
	stages := make([][]string, pipes)
	for p := range stages {
		for r := range ranks {
			stages[p] = append(stages[p], grid[[2]int{p, r}])
		}
		if i := slices.Index(stages[p], ""); i >= 0 {
			return nil, mismatch(checkpoint, "", "has no file of tensor-parallel rank %d of pipeline stage %d; copy the missing ones", i, p)
		}
	}
	return stages, nil
}
