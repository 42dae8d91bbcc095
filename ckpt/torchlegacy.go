package ckpt

import (
	"encoding/binary"
	"math"
)

// Before PyTorch 1.6 a file was five pickles in a row, a magic number, the protocol, the writer's machine, the object
// and the list of its storages' keys, and then the storages in that order: the number of elements (8 bytes) and the
// elements. Megatron checkpoints of version 0 and many pytorch_model.bin have this form.

// legacyMagic is the first of the five: protocol 2, LONG1 of 10 bytes.
var legacyMagic = []byte("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")

// legacyVersion is the protocol that was written until the end.
const legacyVersion = 1001

func (f *torchFile) parseLegacy() error {
	data := f.m.data
	at := len(legacyMagic)
	wanted := map[string]*storage{} // by key
	conflict := ""
	collect := func(id any) (any, error) {
		x, err := f.storageOf(id)
		if s, ok := x.(*storage); ok {
			if old := wanted[s.key]; old != nil && *old != *s {
				conflict = s.key
			}
			wanted[s.key] = s
		}
		return x, err
	}
	var objects [4]any
	for i := range objects {
		x, n, err := unpickle(data[at:min(len(data), at+maxPickle)], collect)
		if err != nil {
			return err
		}
		objects[i] = x
		at += n
	}
	if objects[0] != int64(legacyVersion) {
		return unsupported("", "", "has version %v of the old torch.save; load and save it with a newer PyTorch", objects[0])
	}
	if machine, ok := objects[1].(*dict); ok && machine.get("little_endian") == false {
		return unsupported("", "", "was written big-endian; save it again on a little-endian machine")
	}
	f.root = objects[2]
	keys, ok := objects[3].(*list)
	if !ok || conflict != "" {
		return damaged("", "", "has no consistent list of storages (%q); copy it again", conflict)
	}
	f.storages = map[string]record{}
	for _, k := range keys.items {
		key, _ := k.(string)
		s := wanted[key]
		if s == nil || len(data)-at < 8 {
			return damaged("", "", "lacks its storage %q: it was cut short; copy it again", key)
		}
		n := binary.LittleEndian.Uint64(data[at:])
		at += 8
		unit := max(s.dtype.Size(), 1)
		if n > math.MaxInt64/8 || int64(n) != s.numel || int64(n)*unit > int64(len(data)-at) {
			return damaged("", "", "has %d bytes left for its storage %q of %d elements, stored as %d: it was cut short; copy it again", len(data)-at, key, s.numel, n)
		}
		if _, twice := f.storages[key]; twice {
			return damaged("", "", "has its storage %q twice; save it again", key)
		}
		f.storages[key] = record{int64(at), int64(at) + int64(n)*unit}
		at += int(n) * int(unit)
	}
	return nil
}
