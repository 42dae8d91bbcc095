package ckpt

import (
	"bytes"
	"fmt"
	"strings"
)

// class is one entry of the fixed list. make builds its object from the arguments in the file; nil for what is only
// ever named.
type class struct {
	name  string // module.name
	dtype DType  // of a storage class
	make  func(c *class, args tuple) (any, error)
}

// opaque is an object that checkpoints hold beside their weights (random states, loss scalers, enums). It is kept as
// it stands in the file; only Namespace, which holds Megatron's arguments, is looked into.
type opaque struct {
	class string
	args  tuple
	state any
}

// storage is a record of a PyTorch file, as a tensor names it.
type storage struct {
	key   string
	dtype DType // Invalid: untyped, numel counts bytes
	numel int64
}

// rawTensor is a tensor as PyTorch pickles it: a strided view of a storage. Nothing of it is checked yet.
type rawTensor struct {
	storage        *storage
	dtype          DType
	offset         int64 // elements
	shape, strides []int64
}

// known is the list: what torch.save writes for tensors, and what Megatron and DeepSpeed save beside them. Anything
// else is refused. Objects of inert classes are carried, not looked at.
var known = func() map[string]*class {
	list := map[string]*class{}
	add := func(name string, make func(*class, tuple) (any, error)) {
		list[name] = &class{name: name, make: make}
	}
	add("torch._utils._rebuild_tensor", rebuildTensor)
	add("torch._utils._rebuild_tensor_v2", rebuildTensor)
	add("torch._utils._rebuild_tensor_v3", rebuildTensor)
	add("torch._utils._rebuild_parameter", firstArg)
	add("torch._utils._rebuild_parameter_with_state", firstArg)
	add("torch.Size", firstArg)
	for d, t := range dtypes {
		if t.storage != "" {
			list["torch."+t.storage] = &class{name: "torch." + t.storage, dtype: DType(d)}
		}
	}
	add("torch.storage.UntypedStorage", nil)
	add("torch.UntypedStorage", nil)
	add("collections.OrderedDict", makeDict)
	add("collections.defaultdict", makeDict)
	add("argparse.Namespace", makeOpaque)
	for _, builtin := range []string{"builtins.", "__builtin__."} {
		add(builtin+"set", makeList)
		add(builtin+"frozenset", makeList)
		add(builtin+"list", makeList)
		add(builtin+"dict", makeDict)
		for _, name := range []string{"int", "float", "complex", "bytearray"} {
			add(builtin+name, makeOpaque)
		}
	}
	for module, names := range map[string]string{
		"torch":                                 "device Generator",
		"types":                                 "SimpleNamespace",
		"pathlib":                               "PosixPath",
		"_codecs":                               "encode",
		"numpy":                                 "ndarray dtype",
		"numpy.core.multiarray":                 "_reconstruct scalar",
		"numpy._core.multiarray":                "_reconstruct scalar",
		"deepspeed.runtime.fp16.loss_scaler":    "LossScaler DynamicLossScaler",
		"deepspeed.runtime.zero.config":         "ZeroStageEnum",
		"deepspeed.utils.tensor_fragment":       "fragment_address",
		"deepspeed.runtime.zero.offload_config": "OffloadDeviceEnum",
		"megatron.fp16.loss_scaler":             "LossScaler DynamicLossScaler",
		"megatron.fp16_deprecated.loss_scaler":  "LossScaler DynamicLossScaler",
		"megatron.optimizer.grad_scaler":        "ConstantGradScaler DynamicGradScaler",
		"megatron.enums":                        "LayerType AttnType AttnMaskType PositionEmbeddingType ModelType",
		"megatron.model.enums":                  "LayerType AttnType AttnMaskType PositionEmbeddingType ModelType",
		"megatron.core.enums":                   "ModelType",
		"megatron.core.transformer.enums":       "LayerType AttnType AttnMaskType ModelType",
	} {
		for _, name := range strings.Fields(names) {
			add(module+"."+name, makeOpaque)
		}
	}
	return list
}()

// torchTypes are PyTorch's names of element types, which stand in Megatron's arguments: torch.bfloat16.
var torchTypes = func() map[string]DType {
	types := map[string]DType{"torch.half": F16, "torch.float": F32, "torch.double": F64}
	for d, t := range dtypes {
		if t.torch != "" {
			types["torch."+t.torch] = DType(d)
		}
	}
	return types
}()

// object carries out the instructions that name classes, build objects or set their state.
func (u *unpickler) object(op byte) error {
	switch op {
	case opGlobal, opStackGlobal:
		return u.global(op)
	case opBinPersID:
		id, err := u.pop(1)
		if err != nil {
			return err
		}
		x, err := u.persistent(id[0])
		if err == nil {
			u.push(x)
		}
		return err
	case opBuild:
		state, err := u.pop(1)
		if err != nil {
			return err
		}
		x, err := u.top()
		if o, is := x.(*opaque); is {
			o.state = state[0]
		}
		return err // the state of anything else (a parameter's, an OrderedDict's) says nothing about weights
	}
	n := 2
	if op == opNewObjEx {
		n = 3
	}
	operands, err := u.pop(n)
	if err != nil {
		return err
	}
	c, isClass := operands[0].(*class)
	args, isTuple := operands[1].(tuple)
	if !isClass || !isTuple {
		return fmt.Errorf("an object is built from no class")
	}
	if c.make == nil {
		return fmt.Errorf("an object of %s is built where only its name belongs", c.name)
	}
	x, err := c.make(c, args)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	u.push(x)
	return nil
}

// global pushes the class that the file names, if it is on the list.
func (u *unpickler) global(op byte) error {
	var module, name string
	if op == opStackGlobal {
		names, err := u.pop(2)
		if err != nil {
			return err
		}
		var ok, ok2 bool
		module, ok = names[0].(string)
		name, ok2 = names[1].(string)
		if !ok || !ok2 {
			return fmt.Errorf("a class has no name")
		}
	} else {
		for _, s := range []*string{&module, &name} {
			end := bytes.IndexByte(u.in[u.at:], '\n')
			if end < 0 {
				return fmt.Errorf("a class name has no end")
			}
			*s = string(u.in[u.at : u.at+end])
			u.at += end + 1
		}
	}
	full := module + "." + name
	if d, ok := torchTypes[full]; ok {
		u.push(d)
		return nil
	}
	c, ok := known[full]
	if !ok {
		return unsupported("", "", "holds an object of the foreign class %.200q, and nothing of it was run; save the weights alone (torch.save of a state_dict) and give that file", full)
	}
	u.push(c)
	return nil
}

func makeOpaque(c *class, args tuple) (any, error) { return &opaque{class: c.name, args: args}, nil }

func firstArg(_ *class, args tuple) (any, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("it has no argument")
	}
	return args[0], nil
}

func makeList(_ *class, args tuple) (any, error) {
	if len(args) == 1 {
		switch x := args[0].(type) {
		case *list:
			return &list{append([]any(nil), x.items...)}, nil
		case tuple:
			return &list{append([]any(nil), x...)}, nil
		}
	}
	return &list{}, nil
}

// makeDict builds an OrderedDict, empty or of the list of pairs that Python 2 wrote.
func makeDict(_ *class, args tuple) (any, error) {
	d := newDict()
	for _, a := range args {
		pairs, ok := a.(*list)
		if !ok {
			continue // a defaultdict's factory
		}
		for _, p := range pairs.items {
			switch pair := p.(type) {
			case *list:
				if err := d.setAll(pair.items); err != nil {
					return nil, err
				}
			case tuple:
				if err := d.setAll(pair); err != nil {
					return nil, err
				}
			default:
				return nil, fmt.Errorf("its items are no pairs")
			}
		}
	}
	return d, nil
}

// rebuildTensor takes (storage, offset, size, stride, …); version 3 names the element type as its seventh argument.
func rebuildTensor(c *class, args tuple) (any, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("it has %d arguments, not 4 or more", len(args))
	}
	s, ok := args[0].(*storage)
	offset, ok2 := args[1].(int64)
	shape, ok3 := integers(args[2])
	strides, ok4 := integers(args[3])
	if !ok || !ok2 || !ok3 || !ok4 {
		return nil, fmt.Errorf("its arguments are not storage, offset, size and stride")
	}
	t := &rawTensor{s, s.dtype, offset, shape, strides}
	if strings.HasSuffix(c.name, "_v3") {
		if len(args) < 7 {
			return nil, fmt.Errorf("it has %d arguments, not 7", len(args))
		}
		if t.dtype, ok = args[6].(DType); !ok {
			return nil, fmt.Errorf("its element type is none that is known")
		}
	}
	return t, nil
}

func integers(x any) ([]int64, bool) {
	items, ok := x.(tuple)
	if !ok || len(items) > maxAxes {
		return nil, false
	}
	ns := make([]int64, len(items))
	for i, n := range items {
		if ns[i], ok = n.(int64); !ok {
			return nil, false
		}
	}
	return ns, true
}
