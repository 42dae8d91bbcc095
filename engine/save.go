package engine

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/model/store"
)

// saving is what save_mp_checkpoint_path asks for: the model cut for the job's layout, and where it goes.
type saving struct {
	slices *store.Slices
	to     string
}

// planSaving cuts the model as the job's ranks hold it, where it is to be saved, and refuses a place that is taken. One that
// holds the same model in the same slices is what an earlier start has saved: it stays.
func (e *Engine) planSaving(ctx context.Context) error {
	to := e.job.Inference.SavePath
	if to == "" {
		return nil
	}
	ep := 0 // the most parts that divide those of all layers
	for _, x := range e.layout.Experts {
		ep = gcd(ep, x.EP)
	}
	slices, err := store.Cut(ctx, e.checkpoint, e.policy, e.shape, e.layout.TP, max(ep, 1))
	if err == nil && !slices.SavedAt(to) {
		err = ckpt.Vacant(to)
	}
	if err != nil {
		return fmt.Errorf("%w: save_mp_checkpoint_path: %w", ErrRefused, err)
	}
	e.saving = &saving{slices, to}
	return nil
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// save writes the model's slices, the files shared out over the ranks, before any weight is packed. All ranks call it; an
// error of one is an error of all, and then nothing is left.
func (e *Engine) save(ctx context.Context) error {
	if e.saving == nil {
		return nil
	}
	s, first := e.saving, e.world.Rank() == 0
	there, err := share(ctx, e.world, first && s.slices.SavedAt(s.to), nil)
	if err != nil || there {
		return err
	}
	folder := ckpt.JoinFolder(s.to)
	if first {
		folder, err = ckpt.CreateFolder(s.to, s.slices.Bytes())
	}
	if err := together(ctx, e.world, err); err != nil {
		return err
	}
	if first {
		defer folder.Discard()
	}
	err = interruptible(ctx, e.world, e.stop, func(ctx context.Context) error {
		return s.slices.Write(ctx, folder, e.world.Rank(), e.world.Size())
	})
	if err != nil {
		return err
	}
	if first {
		tp, ep := s.slices.Layout()
		err = s.slices.Finish(folder)
		slog.Info("the model's slices are saved", "path", s.to, "tp", tp, "ep", ep)
	}
	return together(ctx, e.world, err)
}
