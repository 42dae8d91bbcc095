package ckpt

import (
	"strings"
)

// megatronFile is one file of a tensor- and pipeline-parallel rank, of Megatron or of DeepSpeed.
type megatronFile struct {
	path    string
	root    *dict
	tensors map[string]Tensor // by canonical name
}

// openMegatronFile opens the file of one rank and renames its tensors.
func (c *Checkpoint) openMegatronFile(path string) (*megatronFile, error) {
	f, err := openTorch(path, &c.read)
	if err != nil {
		return nil, err
	}
	c.keep(f.m)
	root, ok := f.root.(*dict)
	if !ok {
		return nil, unsupported(path, "", "holds no dict, so no state of Megatron or DeepSpeed")
	}
	module, err := moduleOf(root, path, c.key)
	if err != nil {
		return nil, err
	}
	raw, err := f.flatten(module)
	if err != nil {
		return nil, err
	}
	mf := &megatronFile{path: path, root: root, tensors: map[string]Tensor{}}
	return mf, mf.rename(raw)
}

// moduleOf is the dict of the weights: under key; where that is "" under module or model, exactly one of them, or the
// file itself.
func moduleOf(root *dict, path, key string) (*dict, error) {
	if key != "" {
		d, ok := root.get(key).(*dict)
		if !ok {
			return nil, unsupported(path, "", "has no weights under %s, which module_key names; leave it out", key)
		}
		return d, nil
	}
	var found *dict
	for _, key := range []string{"module", "model"} {
		d, ok := root.get(key).(*dict)
		switch {
		case !ok:
		case found != nil:
			return nil, unsupported(path, "", "has weights under both module and model; say which are meant by module_key (inference:)")
		default:
			found = d
		}
	}
	switch {
	case found != nil:
		return found, nil
	case root.get("model0") != nil:
		return nil, unsupported(path, "", "is of an interleaved pipeline (model0, model1 …), which is not read; save it without virtual stages")
	case root.get("module") != nil || root.get("model") != nil || root.get("optimizer") != nil:
		return nil, unsupported(path, "", "has no weights in it (module and model hold none); with ZeRO stage 3 they are in other files: save 16-bit weights, or convert with zero_to_fp32.py")
	}
	return root, nil
}

// rename takes the tensors under their canonical names. The copies of experts that Megatron hoists to the top of the
// dict give way to those under their full names.
func (mf *megatronFile) rename(raw []Tensor) error {
	hoisted := map[string]bool{}
	for _, t := range raw {
		from := t.Name
		name, keep := canonical(from)
		if !keep {
			continue
		}
		t.Name = name
		high := strings.HasPrefix(from, "encoderlayers.")
		if _, twice := mf.tensors[name]; twice && hoisted[name] == high {
			return damaged(mf.path, name, "stands in the file twice, once as %q; save it again", from)
		} else if twice && high {
			continue
		}
		hoisted[name] = high
		mf.tensors[name] = t
	}
	return nil
}

// args is Megatron's saved arguments, nil where there are none.
func (mf *megatronFile) args() *dict {
	if ns, ok := mf.root.get("args").(*opaque); ok {
		if d, ok := ns.state.(*dict); ok {
			return d
		}
	}
	d, _ := mf.root.get("args").(*dict)
	return d
}

// version is the checkpoint_version, 0 in files that have none.
func (mf *megatronFile) version() float64 {
	v, _ := number(mf.root.get("checkpoint_version"))
	return v
}

func number(x any) (float64, bool) {
	switch n := x.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}
