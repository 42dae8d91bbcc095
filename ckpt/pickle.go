package ckpt

import (
	"encoding/binary"
	"fmt"
)

// A pickle is a program for a small stack machine. This one builds numbers, texts, lists, dicts and the few objects of
// classes.go, and nothing else: there is no import, no call and no attribute, so no file can make it run anything.
//
// Python becomes Go so: None nil, bool bool, int int64 (*big.Int beyond it), float float64, str string, bytes []byte,
// tuple tuple, list and set *list, dict and OrderedDict *dict.

// maxPickle bounds the program: DeepSpeed's largest files, with the optimizer's state, have some MB.
const maxPickle = 256 << 20

type (
	tuple []any
	list  struct{ items []any }
	// dict keeps its items in order. Its keys are strings, integers or bools; items under any other key are left out,
	// as no key of a checkpoint is one.
	dict struct {
		keys  []any
		items map[any]any
	}
	mark struct{} // on the stack, the beginning of a list of operands
)

func newDict() *dict { return &dict{items: map[any]any{}} }

func (d *dict) set(key, value any) {
	switch key.(type) {
	case string, int64, bool:
	default:
		return
	}
	if _, ok := d.items[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.items[key] = value
}

// setAll sets keys and values, which take turns.
func (d *dict) setAll(items []any) error {
	if len(items)%2 != 0 {
		return fmt.Errorf("a key has no value")
	}
	for i := 0; i < len(items); i += 2 {
		d.set(items[i], items[i+1])
	}
	return nil
}

// get is the item under a text, nil where there is none.
func (d *dict) get(key string) any {
	if d == nil {
		return nil
	}
	return d.items[key]
}

// unpickler is the machine in the middle of its work.
type unpickler struct {
	in    []byte
	at    int
	stack []any
	memo  map[uint32]any
	// persistent gives the object of a persistent id: in a PyTorch file, a storage.
	persistent func(id any) (any, error)
}

// unpickle runs the program at the start of in and returns what it built and how many bytes it has. Memory is bounded
// by a small multiple of len(in): objects are shared, never copied, so a result may hold one thing many times or even
// itself, and whoever walks it bounds the depth.
func unpickle(in []byte, persistent func(id any) (any, error)) (any, int, error) {
	if len(in) > maxPickle {
		return nil, 0, damaged("", "", "has a pickle of %d bytes, more than the %d that are read", len(in), maxPickle)
	}
	u := &unpickler{in: in, memo: map[uint32]any{}, persistent: persistent}
	for {
		at := u.at
		done, err := u.step()
		if err != nil {
			if _, ours := err.(*Error); ours { //nolint:errorlint // only our own, unwrapped
				return nil, 0, err
			}
			return nil, 0, damaged("", "", "has a broken pickle (byte %d: %v); copy the file again", at, err)
		}
		if done {
			return u.stack[0], u.at, nil
		}
	}
}

// The opcodes, named as Python's pickletools names them.
const (
	opMark, opStop, opPop, opPopMark, opDup                                       = '(', '.', '0', '1', '2'
	opNone, opNewTrue, opNewFalse                                                 = 'N', 0x88, 0x89
	opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat                  = 'J', 'K', 'M', 0x8a, 0x8b, 'G'
	opBinUnicode, opShortBinUnicode, opBinUnicode8, opBinString, opShortBinString = 'X', 0x8c, 0x8d, 'T', 'U'
	opBinBytes, opShortBinBytes, opBinBytes8, opByteArray8                        = 'B', 'C', 0x8e, 0x96
	opEmptyList, opAppend, opAppends, opList                                      = ']', 'a', 'e', 'l'
	opEmptyTuple, opTuple, opTuple1, opTuple2, opTuple3                           = ')', 't', 0x85, 0x86, 0x87
	opEmptyDict, opDict, opSetItem, opSetItems                                    = '}', 'd', 's', 'u'
	opEmptySet, opAddItems, opFrozenSet                                           = 0x8f, 0x90, 0x91
	opBinPut, opLongBinPut, opMemoize, opBinGet, opLongBinGet                     = 'q', 'r', 0x94, 'h', 'j'
	opGlobal, opStackGlobal, opReduce, opBuild, opNewObj, opNewObjEx, opBinPersID = 'c', 0x93, 'R', 'b', 0x81, 0x92, 'Q'
	opProto, opFrame                                                              = 0x80, 0x95
)

// step carries out one instruction; done after STOP.
func (u *unpickler) step() (done bool, err error) {
	op, err := u.take(1)
	if err != nil {
		return false, err
	}
	switch op[0] {
	case opProto:
		_, err = u.take(1)
	case opFrame:
		_, err = u.take(8)
	case opStop:
		if len(u.stack) != 1 {
			return false, fmt.Errorf("it stops with %d things on the stack", len(u.stack))
		}
		if _, marked := u.stack[0].(mark); marked {
			return false, fmt.Errorf("it stops with nothing built")
		}
		return true, nil
	case opMark:
		u.push(mark{})
	case opPop:
		if len(u.stack) == 0 {
			return false, fmt.Errorf("nothing to drop")
		}
		u.stack = u.stack[:len(u.stack)-1]
	case opPopMark:
		_, err = u.toMark()
	case opDup:
		var x any
		if x, err = u.top(); err == nil {
			u.push(x)
		}
	case opNone:
		u.push(nil)
	case opNewTrue, opNewFalse:
		u.push(op[0] == opNewTrue)
	case opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat:
		err = u.number(op[0])
	case opBinUnicode, opShortBinUnicode, opBinUnicode8, opBinString, opShortBinString, opBinBytes, opShortBinBytes,
		opBinBytes8, opByteArray8:
		err = u.text(op[0])
	case opEmptyList, opEmptySet:
		u.push(&list{})
	case opEmptyTuple:
		u.push(tuple{})
	case opEmptyDict:
		u.push(newDict())
	case opList, opFrozenSet, opTuple, opDict:
		err = u.collect(op[0])
	case opTuple1, opTuple2, opTuple3:
		n := int(op[0]-opTuple1) + 1
		var items []any
		if items, err = u.pop(n); err == nil {
			u.push(tuple(items))
		}
	case opAppend, opAppends, opAddItems, opSetItem, opSetItems:
		err = u.extend(op[0])
	case opBinPut, opLongBinPut, opMemoize, opBinGet, opLongBinGet:
		err = u.remember(op[0])
	case opGlobal, opStackGlobal, opReduce, opBuild, opNewObj, opNewObjEx, opBinPersID:
		err = u.object(op[0])
	default:
		err = fmt.Errorf("opcode 0x%02x is none of those that PyTorch writes", op[0])
	}
	return false, err
}

// take is the next n bytes of the program, a view.
func (u *unpickler) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.in)-u.at) {
		return nil, fmt.Errorf("it ends in the middle of an instruction")
	}
	b := u.in[u.at : u.at+int(n)]
	u.at += int(n)
	return b, nil
}

// size reads an unsigned length of width bytes.
func (u *unpickler) size(width uint64) (uint64, error) {
	b, err := u.take(width)
	if err != nil {
		return 0, err
	}
	var full [8]byte
	copy(full[:], b)
	return binary.LittleEndian.Uint64(full[:]), nil
}

// sized is the bytes behind their own length of width bytes, a view.
func (u *unpickler) sized(width uint64) ([]byte, error) {
	n, err := u.size(width)
	if err != nil {
		return nil, err
	}
	return u.take(n)
}

func (u *unpickler) push(x any) { u.stack = append(u.stack, x) }

// pop takes n operands off the stack, none of them a mark.
func (u *unpickler) pop(n int) ([]any, error) {
	if len(u.stack) < n {
		return nil, fmt.Errorf("%d operands are missing", n-len(u.stack))
	}
	items := append([]any(nil), u.stack[len(u.stack)-n:]...)
	for _, x := range items {
		if _, marked := x.(mark); marked {
			return nil, fmt.Errorf("an operand is missing")
		}
	}
	u.stack = u.stack[:len(u.stack)-n]
	return items, nil
}

// toMark takes everything above the last mark, and the mark.
func (u *unpickler) toMark() ([]any, error) {
	for i := len(u.stack) - 1; i >= 0; i-- {
		if _, marked := u.stack[i].(mark); marked {
			items := append([]any(nil), u.stack[i+1:]...)
			u.stack = u.stack[:i]
			return items, nil
		}
	}
	return nil, fmt.Errorf("a list of operands has no beginning")
}

func (u *unpickler) top() (any, error) {
	if len(u.stack) > 0 {
		if x := u.stack[len(u.stack)-1]; x != (mark{}) {
			return x, nil
		}
	}
	return nil, fmt.Errorf("the stack is empty")
}
