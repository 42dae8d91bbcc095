package comm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

// DeviceAllToAll is an AllToAll that moves rows in the memory of devices, from one to the other: flat, and without a wait
// of the host but for the counts. Dispatch and Combine still move host memory. DispatchRows and CombineRows
// need no Finish: what comes after them on the stream comes after the rows.
type DeviceAllToAll struct {
	flat
	peers kernels.Peers
}

// NewDeviceAllToAll returns the all-to-all of an ep group whose devices have met.
func NewDeviceAllToAll(group mpi.World, peers kernels.Peers) *DeviceAllToAll {
	return &DeviceAllToAll{flat{newTally(group)}, peers}
}

// DispatchRows is Dispatch of contiguous tensors, rows of a row each, as an op of s.
func (d *DeviceAllToAll) DispatchRows(s kernels.Stream, recv, send kernels.Tensor) error {
	return d.move(s, recv, send, true)
}

// Ready is false: the host does not see when rows have come, and has nothing to wait for.
func (d *DeviceAllToAll) Ready() bool { return false }

// CombineRows is Combine of contiguous tensors, as an op of s.
func (d *DeviceAllToAll) CombineRows(s kernels.Stream, recv, send kernels.Tensor) error {
	return d.move(s, recv, send, false)
}

func (d *DeviceAllToAll) move(s kernels.Stream, recv, send kernels.Tensor, dispatch bool) error {
	width, to, from := send.Cols*send.DType.Size(), d.to, d.from
	if !dispatch {
		to, from = from, to
	}
	if err := d.note(recv.Rows, send.Rows, width, dispatch); err != nil {
		return err
	}
	for r, n := range to {
		if n > 0 && r != d.group.Rank() {
			d.traffic.Sent += int64(n) * int64(width)
			d.traffic.Messages++
		}
	}
	d.peers.Exchange(s, recv, send, from, to)
	return nil
}

// hardwareBytes is the room for the name of a device.
const hardwareBytes = 64

// separate tells why devices of a group's ranks cannot work together: two ranks share one, or a rank's has no way to others
// (and no hardware). "": they can. All ranks call it.
func separate(ctx context.Context, group mpi.World, hardware string) (why string, err error) {
	mine, all := make([]byte, hardwareBytes), make([]byte, hardwareBytes*group.Size())
	copy(mine, hardware)
	if err := group.AllGather(ctx, mine, all); err != nil {
		return "", err
	}
	seen := map[string]int{}
	for r := range group.Size() {
		name := text(all[r*hardwareBytes : (r+1)*hardwareBytes])
		if name == "" {
			return "a device that cannot reach others", nil
		}
		if other, shared := seen[name]; shared {
			return fmt.Sprintf("ranks %d and %d of the group share %s", other, r, name), nil
		}
		seen[name] = r
	}
	return "", nil
}

// text is what stands before the zeros that fill a field up.
func text(field []byte) string { return string(bytes.TrimRight(field, "\x00")) }

// Meet brings the devices of a group's ranks together; all ranks call it. Where they cannot meet (two ranks share one, or
// a rank's has no way to others) peers is nil on all ranks and why tells the reason: rows then go through the host.
func Meet(ctx context.Context, group mpi.World, device kernels.Device) (peers kernels.Peers, why string, err error) {
	d, able := device.(kernels.PeerDevice)
	hardware := ""
	if able {
		hardware = d.Hardware()
	}
	if why, err := separate(ctx, group, hardware); why != "" || err != nil {
		return nil, why, err
	}
	key, keyErr := []byte(nil), error(nil)
	if group.Rank() == 0 {
		if key, keyErr = d.PeerKey(); keyErr != nil {
			key = nil
		}
	}
	size := []int64{int64(len(key))}
	if err := group.AllReduceInt64(ctx, mpi.Max, size); err != nil {
		return nil, "", err
	}
	if size[0] == 0 {
		why = "the first rank of the group cannot make a key"
		if keyErr != nil {
			why = keyErr.Error()
		}
		return nil, why, nil
	}
	if group.Rank() != 0 {
		key = make([]byte, size[0])
	}
	if err := group.Bcast(ctx, 0, key); err != nil {
		return nil, "", err
	}
	peers, err = d.Meet(key, group.Rank(), group.Size())
	failed := []int64{0}
	if err != nil {
		failed[0] = 1
	}
	if agreed := group.AllReduceInt64(ctx, mpi.Max, failed); agreed != nil {
		err = errors.Join(err, agreed)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("rank %d (%s): its device cannot meet the others: %w", group.Rank(), group.Host(), err)
	case failed[0] != 0:
		err = fmt.Errorf("the devices of the group cannot meet: another rank tells why")
	}
	if err != nil && peers != nil {
		err, peers = errors.Join(err, peers.Close()), nil
	}
	return peers, "", err
}
