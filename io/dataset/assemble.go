package dataset

import (
	"errors"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// rows builds the array of the next rows of a column, which all its leaves have ready.
func (n *node) rows(rows int) (arrow.Array, error) {
	b := array.NewBuilder(memory.DefaultAllocator, n.typ)
	defer b.Release()
	b.Reserve(rows)
	if n.column >= 0 {
		if err := n.leaf.flat(b, rows); err != nil {
			return nil, err
		}
		return b.NewArray(), nil
	}
	for range rows {
		if err := n.assemble(b); err != nil {
			return nil, err
		}
		if err := n.leaves((*node).atRow); err != nil {
			return nil, err
		}
	}
	return b.NewArray(), nil
}

// atRow is an error unless the leaf stands at the start of a row: the columns of a struct must agree on its lists.
func (n *node) atRow() error {
	if rep, _, ok := n.leaf.level(); ok && rep != 0 {
		return fmt.Errorf("has more elements in %s than in its other fields", n.name)
	}
	return nil
}

// assemble appends the record at the place to b (Dremel, VLDB 2010, section 4.3; here by builders instead of automata).
func (n *node) assemble(b array.Builder) error {
	if n.column >= 0 {
		return n.leaf.take(b)
	}
	_, def, ok := n.first().leaf.level()
	if !ok {
		return errors.New("ends inside a row")
	}
	if def < n.def {
		b.AppendNull()
		return n.absent()
	}
	switch b := b.(type) {
	case *array.StructBuilder:
		b.Append(true)
		for i, child := range n.children {
			if err := child.assemble(b.FieldBuilder(i)); err != nil {
				return err
			}
		}
		return nil
	case *array.ListBuilder:
		b.Append(true)
		_, err := n.elements(def, func() error { return n.children[0].assemble(b.ValueBuilder()) })
		return err
	case *array.FixedSizeListBuilder:
		b.Append(true)
		count, err := n.elements(def, func() error { return n.children[0].assemble(b.ValueBuilder()) })
		if want := n.typ.(*arrow.FixedSizeListType).Len(); err == nil && count != int(want) {
			err = fmt.Errorf("has a list of %d elements where its type says %d", count, want)
		}
		return err
	case *array.MapBuilder:
		b.Append(true)
		_, err := n.elements(def, func() error {
			if err := n.children[0].assemble(b.KeyBuilder()); err != nil {
				return err
			}
			return n.children[1].assemble(b.ItemBuilder())
		})
		return err
	}
	return fmt.Errorf("has the type %v, which is not assembled", n.typ)
}

// elements calls one for each element of the list at the place, whose first definition level is def.
func (n *node) elements(def int16, one func() error) (count int, err error) {
	if def < n.elemDef {
		return 0, n.absent()
	}
	for {
		if err := one(); err != nil {
			return count, err
		}
		count++
		rep, _, ok := n.first().leaf.level()
		if !ok || rep < n.rep {
			return count, nil
		}
		if rep > n.rep {
			return count, errors.New("has repetition levels out of order")
		}
	}
}

// absent passes the one level that each leaf keeps of something that is not there.
func (n *node) absent() error {
	return n.leaves(func(l *node) error {
		if _, _, ok := l.leaf.level(); !ok {
			return errors.New("ends inside a row")
		}
		l.leaf.pass()
		return nil
	})
}
