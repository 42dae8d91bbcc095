package comm

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/dsbatch/dsbatch/kernels"
)

// OpenTeam makes the devices of a group's ranks a team: by boards, where their kernels can write each other's memory, else by what
// they have met with (Meet). All ranks call it, with a spec alike but for Rank, Ranks and Names, which it fills in. why is the reason
// where there are no boards; where they cannot meet either there is no team on any rank, and slices go through the hosts.
func OpenTeam(ctx context.Context, group *Group, device kernels.Device, s kernels.BoardSpec) (team kernels.Team, why string, err error) {
	b, why, err := openBoard(ctx, group, device, s)
	if err != nil {
		return nil, "", err
	}
	if why == "" {
		return b, "", nil
	}
	p, apart, err := Meet(ctx, group, device)
	switch {
	case err != nil:
		return nil, "", err
	case p != nil:
		return p, why, nil
	case apart != why:
		why += "; " + apart
	}
	return nil, why, nil
}

// openBoard opens boards, and has each rank pin a row on those of all for a try.
func openBoard(ctx context.Context, group *Group, device kernels.Device, s kernels.BoardSpec) (b kernels.Board, why string, err error) {
	hardware := ""
	d, able := device.(kernels.BoardDevice)
	if able {
		hardware = d.Hardware()
	}
	if why, err = separate(ctx, group, hardware); why != "" || err != nil {
		return nil, why, err
	}
	s.Rank, s.Ranks, s.Names = group.Rank(), group.Size(), group.names()
	b, failed := d.NewBoard(s)
	if b, why, err = join(ctx, group, b, failed); why != "" || err != nil {
		return nil, why, err
	}
	if why, err = firstFailure(ctx, group, tryBoard(ctx, group, d, b)); why != "" || err != nil {
		return nil, why, errors.Join(err, b.Close())
	}
	return b, "", nil
}

// tryBoard gives all ranks a row of numbers of this one's.
func tryBoard(ctx context.Context, group *Group, d kernels.Device, b kernels.Board) (err error) {
	ranks := group.Size()
	s, err := d.NewStream()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	x, err := d.Alloc("a try of boards", kernels.F32, 1+ranks, tryCols)
	if err != nil {
		return err
	}
	defer x.Mem.Free()
	number := func(rank, col int) uint32 { return uint32(1<<20 + rank*tryCols + col) }
	var mine []byte
	for col := range tryCols {
		mine = binary.LittleEndian.AppendUint32(mine, number(group.Rank(), col))
	}
	own, parts := x.RowRange(0, 1), make([]kernels.Tensor, ranks)
	s.Write(x, make([]byte, x.Bytes()))
	s.Write(own, mine)
	if err := s.Sync(); err != nil {
		return err
	}
	if err := group.Barrier(ctx); err != nil { // what had to be made ready is, everywhere
		return err
	}
	for r := range parts {
		parts[r] = x.RowRange(1+r, 2+r)
	}
	b.Gather(s, parts, own)
	got := make([]byte, x.Bytes())
	s.Read(got, x)
	if err := s.Sync(); err != nil {
		return err
	}
	for i := range ranks * tryCols {
		if binary.LittleEndian.Uint32(got[4*(tryCols+i):]) != number(i/tryCols, i%tryCols) {
			return errors.New("what one device writes is not what the other reads")
		}
	}
	return nil
}
