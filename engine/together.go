package engine

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
)

// together makes an error of any rank one of all: the rank that has it returns it whole, the others name that rank.
func together(ctx context.Context, w mpi.World, mine error) error {
	failed := int64(0)
	if mine != nil {
		failed = 1
	}
	v, err := comm.Agree(ctx, w, failed)
	if mine != nil {
		return mine
	}
	if err != nil {
		return err
	}
	for rank := range w.Size() {
		if v.Of(rank, 0) != 0 {
			return comm.Failed(w, rank)
		}
	}
	return nil
}

// share gives rank 0's value to all ranks, or its error.
func share[T any](ctx context.Context, w mpi.World, v T, mine error) (T, error) {
	message := struct {
		Value  T
		Failed bool
	}{v, mine != nil}
	data, err := json.Marshal(message)
	if err != nil {
		return v, err
	}
	size := []int64{int64(len(data))}
	if w.Rank() != 0 {
		size[0] = 0
	}
	if err := w.AllReduceInt64(ctx, mpi.Sum, size); err != nil {
		return v, errors.Join(mine, err)
	}
	if w.Rank() != 0 {
		data = make([]byte, size[0])
	}
	if err := w.Bcast(ctx, 0, data); err != nil {
		return v, errors.Join(mine, err)
	}
	if mine != nil {
		return v, mine
	}
	if err := json.Unmarshal(data, &message); err != nil {
		return v, err
	}
	if message.Failed {
		return v, comm.Failed(w, 0)
	}
	return message.Value, nil
}
