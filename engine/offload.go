package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/mpi"
)

// offloads tells whether weights may wait in the host's memory for their turn. On a CPU they always lie there.
func (e *Engine) offloads() bool { return e.job.Offload == "cpu" && e.onGPU() }

// busTimes is how many times as long a byte takes from the host's memory as from a GPU's own: 50 GB/s and 3.35 TB/s of an H100.
const busTimes = 64

// chooseOffload plans for every number of offloaded layers that the job leaves open, and takes what gives the most: the KV
// cache's bytes, which rows in flight follow from, over the time that a step takes to read what it reads, weights from the host
// as slowly as they come. With a cache of a given size that is the least number that fits. The refusal, where nothing fits, is
// that of all layers.
func (e *Engine) chooseOffload() (z stepSize, layers int, err error) {
	from, to := e.model.Layers()
	least, most, all := 0, e.model.Large(), to-from
	if n := e.job.OffloadLayers; n > 0 {
		all = min(n, all)
		least, most = all, all
	}
	best := -1.0
	for n := least; n <= all && (n <= most || best < 0); n++ { // small layers only where nothing else fits
		x, failed := e.planFor(n)
		if failed != nil {
			err = failed
			continue
		}
		device, host := e.model.Offloaded(n, e.job.Inference.Offload.Buffers)
		kv := e.model.CacheSpec(x.blocks, blockTokens).Bytes()
		if gain := float64(kv) / (float64(host) + float64(device+kv)/busTimes); gain > best {
			best, z, layers = gain, x, n
		}
	}
	if best >= 0 {
		return z, layers, nil
	}
	return z, all, err
}

// busRate is the bytes a second that come from the host's memory, about.
const busRate = 50e9

// hostBytes is the memory of the host that this rank's offloaded layers take.
func (e *Engine) hostBytes() int64 {
	_, host := e.model.Offloaded(e.offloaded, e.job.Inference.Offload.Buffers)
	return host
}

// besides is what a rank takes of the host's memory beside weights that wait there: its program, and what carries the weights.
const besides = 512 << 20

// hostHolds refuses weights that the memory of a rank's host cannot hold, those of all its ranks together. All ranks call it.
func (e *Engine) hostHolds(ctx context.Context) (err error) {
	if !e.offloads() || e.foreseen {
		return nil
	}
	node, err := e.world.Node(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	all := []int64{e.hostBytes()}
	if err := node.AllReduceInt64(ctx, mpi.Sum, all); err != nil {
		return err
	}
	free, total := e.hostMemory()
	if need := all[0] + int64(node.Size())*besides; all[0] > 0 && need > free {
		err = fmt.Errorf("%w: --offload cpu: weights of %v wait in the memory of host %s (%v of this rank, %d of its %d layers; ranks there: %d), with %v a rank besides, and %v of its %v are free; use more hosts, fewer --offload-layers, or --dtype int8",
			ErrRefused, about(all[0]), e.world.Host(), about(e.hostBytes()), e.offloaded, e.layersHere(), node.Size(), about(besides), about(free), about(total))
	}
	if brings := time.Duration(float64(e.hostBytes()) / busRate * float64(time.Second)); err == nil && brings > e.job.RankTimeout/2 && e.job.RankTimeout > 0 {
		err = fmt.Errorf("%w: --offload cpu: every step brings %v over the bus, which takes some %v, and a rank that gets nothing done for --rank-timeout %v counts as stuck; give --rank-timeout %v or more, or fewer --offload-layers",
			ErrRefused, about(e.hostBytes()), brings.Round(time.Second), e.job.RankTimeout, (2*brings + time.Second).Round(time.Second))
	}
	if err == nil && node.Rank() == 0 {
		e.tellOffload(all[0], free)
	}
	return err
}

func (e *Engine) layersHere() int {
	from, to := e.model.Layers()
	return to - from
}

// hostMemory is the host's free and total memory.
func (e *Engine) hostMemory() (free, total int64) {
	if e.host != nil {
		return e.host()
	}
	return cpu.HostMemory()
}

// tellOffload says what waits where.
func (e *Engine) tellOffload(all, free int64) {
	if all == 0 {
		slog.Info("all weights fit beside enough KV, so none wait in the host's memory; --offload-layers has some wait there", "host", e.world.Host())
		return
	}
	device, host := e.model.Offloaded(e.offloaded, e.job.Inference.Offload.Buffers)
	slog.Info("weights wait in the host's memory", "host", e.world.Host(), "layers", fmt.Sprintf("%d of %d of a rank", e.offloaded, e.layersHere()),
		"bytes", about(host), "of all ranks", about(all), "free", about(free), "weights on the GPU", about(device))
}
