package results

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// crashDisk is a disk in memory that keeps apart what programs see and what a power failure leaves: bytes count as
// kept once their file was fsynced, names once their folder was. It can die at the k-th operation that changes
// anything (a write is then torn in the middle), and it can be full.
type crashDisk struct {
	mu      sync.Mutex
	names   map[string]*inode // what programs see
	kept    map[string]*inode // what a power failure leaves
	folders map[string]bool
	ops     int // operations so far
	dieAt   int // dead from this operation on; 0: never
	dead    bool
	room    int // bytes until the disk is full; below 0: endless
	log     []string
	before  func(what, name string) // called before each operation, when set
}

type inode struct{ now, kept []byte }

var errDead = errors.New("the process is dead")

func newCrashDisk() *crashDisk {
	return &crashDisk{names: map[string]*inode{}, kept: map[string]*inode{}, folders: map[string]bool{}, room: -1}
}

// put replaces a file behind everybody's back.
func (d *crashDisk) put(name string, content []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = &inode{now: content}
}

// die ends every program that uses the disk.
func (d *crashDisk) die() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

// change counts one operation. last is true for the one in which the process dies.
func (d *crashDisk) change(what, name string) (last bool, err error) {
	if d.dead {
		return false, errDead
	}
	if d.before != nil {
		d.before(what, name)
	}
	d.ops++
	d.log = append(d.log, what+" "+name)
	d.dead = d.ops == d.dieAt
	return d.dead, nil
}

// dies turns the last operation, which has happened or not, into the end of the process.
func dies(last bool) error {
	if last {
		return errDead
	}
	return nil
}

func (d *crashDisk) Open(name string) (handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errDead
	}
	if d.names[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &crashFile{d, name, d.names[name]}, nil
}

func (d *crashDisk) Create(name string, exclusive bool) (handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, err := d.change("create", name)
	if err != nil {
		return nil, err
	}
	if !d.folders[filepath.Dir(name)] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	f := d.names[name]
	if f != nil && exclusive {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if f == nil {
		f = &inode{}
		d.names[name] = f
	}
	f.now = nil
	return &crashFile{d, name, f}, dies(last)
}

func (d *crashDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, err := d.change("rename", to)
	if err != nil {
		return err
	}
	if d.names[from] == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return dies(last)
}

func (d *crashDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil && !d.dead {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	last, err := d.change("remove", name)
	if err != nil {
		return err
	}
	delete(d.names, name)
	return dies(last)
}

func (d *crashDisk) MkdirAll(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, err := d.change("mkdir", name)
	if err != nil {
		return err
	}
	for ; !d.folders[name]; name = filepath.Dir(name) {
		d.folders[name] = true
	}
	return dies(last)
}

func (d *crashDisk) ReadDir(name string) (names []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errDead
	}
	if !d.folders[name] {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	for path := range d.names {
		if filepath.Dir(path) == name {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (d *crashDisk) Stat(name string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return 0, errDead
	}
	if d.names[name] == nil {
		return 0, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return int64(len(d.names[name].now)), nil
}

func (d *crashDisk) SyncDir(folder string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, err := d.change("fsync", folder)
	if err != nil || last {
		return errors.Join(err, dies(last)) // it dies before the disk has it
	}
	for name := range d.kept {
		if filepath.Dir(name) == folder && d.names[name] == nil {
			delete(d.kept, name)
		}
	}
	for name, f := range d.names {
		if filepath.Dir(name) == folder {
			d.kept[name] = f
		}
	}
	return nil
}

type crashFile struct {
	disk *crashDisk
	name string
	node *inode
}

// change counts an operation on the file, but not a beat of a lease, which falls anywhere.
func (f *crashFile) change(what string) (last bool, err error) {
	beat := strings.Contains(f.name, "/lease-") && len(f.node.kept) > 0
	if beat && f.disk.dead {
		return false, errDead
	} else if beat {
		return false, nil
	}
	return f.disk.change(what, f.name)
}

func (f *crashFile) Write(b []byte) (int, error) { return f.WriteAt(b, -1) }

// WriteAt writes at offset, or at the end when that is −1.
func (f *crashFile) WriteAt(b []byte, offset int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	last, err := f.change("write")
	if err != nil {
		return 0, err
	}
	if last {
		b = b[:len(b)/2]
	}
	full := f.disk.room >= 0 && len(b) > f.disk.room
	if full {
		b = b[:f.disk.room]
	}
	if f.disk.room >= 0 {
		f.disk.room -= len(b)
	}
	at := int(offset)
	if offset < 0 {
		at = len(f.node.now)
	}
	grown := append([]byte(nil), f.node.now...)
	for len(grown) < at+len(b) {
		grown = append(grown, 0)
	}
	copy(grown[at:], b)
	f.node.now = grown
	if full {
		return len(b), &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	return len(b), dies(last)
}

func (f *crashFile) ReadAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.dead {
		return 0, errDead
	}
	if at >= int64(len(f.node.now)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.now[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *crashFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.dead {
		return 0, errDead
	}
	return int64(len(f.node.now)), nil
}

func (f *crashFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	last, err := f.change("fsync")
	if err != nil || last {
		return errors.Join(err, dies(last))
	}
	f.node.kept = slices.Clone(f.node.now)
	return nil
}

func (f *crashFile) Close() error { return nil }

// afterKill is the disk as the next process finds it when only the process died.
func (d *crashDisk) afterKill() *crashDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newCrashDisk()
	next.folders = d.folders
	for name, f := range d.names {
		next.names[name] = &inode{slices.Clone(f.now), slices.Clone(f.kept)}
		if d.kept[name] == f {
			next.kept[name] = next.names[name]
		}
	}
	return next
}

// afterPowerFailure is the disk after the host died, too. What was not fsynced is there or not by chance: each name,
// and of each file the fsynced bytes, all bytes, or as many as there were with the later ones of those that were not fsynced zero.
func (d *crashDisk) afterPowerFailure(chance *rand.Rand) *crashDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newCrashDisk()
	next.folders = d.folders
	all := map[string]bool{}
	for name := range d.names {
		all[name] = true
	}
	for name := range d.kept {
		all[name] = true
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range all {
			if !yield(name) {
				return
			}
		}
	}) {
		f := d.kept[name]
		if d.names[name] != f && chance.IntN(2) == 0 {
			f = d.names[name]
		}
		if f == nil {
			continue
		}
		content := slices.Clone(f.kept)
		switch chance.IntN(3) {
		case 0:
			content = slices.Clone(f.now)
		case 1:
			if !slices.Equal(f.kept, f.now) {
				same := 0 // bytes that were fsynced as they are
				for same < min(len(f.kept), len(f.now)) && f.kept[same] == f.now[same] {
					same++
				}
				content = make([]byte, len(f.now))
				copy(content, f.now[:same+chance.IntN(len(f.now)-same+1)])
			}
		}
		next.names[name] = &inode{content, slices.Clone(content)}
		next.kept[name] = next.names[name]
	}
	return next
}

func TestWriteAsideKeepsTheOldUntilTheNewIsWhole(t *testing.T) {
	for k := 1; ; k++ {
		d := newCrashDisk()
		put := func(text string) error {
			_, err := writeAside(d, "/out/.x.tmp", "/out/x", func(w io.Writer) error {
				_, err := io.Copy(w, strings.NewReader(text))
				return err
			}, func() error { return nil })
			return err
		}
		if err := errors.Join(d.MkdirAll("/out"), put("old")); err != nil {
			t.Fatal(err)
		}
		d.dieAt = d.ops + k
		died := put("new and longer") != nil
		for name, after := range map[string]*crashDisk{
			"kill":  d.afterKill(),
			"power": d.afterPowerFailure(rand.New(rand.NewPCG(uint64(k), 1))),
		} {
			got, err := readAll(after, "/out/x")
			if want := string(got) == "old" && died || string(got) == "new and longer"; err != nil || !want {
				t.Errorf("%s at operation %d: %q, %v (died: %v)", name, k, got, err, died)
			}
		}
		if !died {
			return
		}
	}
}
