package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/queuetest"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

// BenchmarkHost measures the host's part of a decode step, on a device that computes nothing: what the device waits for, and
// what the host does while it computes. What a GPU's queue makes of the ops comes on top.
func BenchmarkHost(b *testing.B) {
	for _, rows := range []int{64, 512, 1024} {
		for name, o := range map[string]GenerateOptions{
			"greedy": {IgnoreEOS: true, MaxNewTokens: 128},
			"drawn":  {IgnoreEOS: true, MaxNewTokens: 128, Temperature: 0.8, TopP: 0.9},
		} {
			b.Run(fmt.Sprintf("%s/rows=%d", name, rows), func(b *testing.B) {
				j := config.New()
				j.Model, j.Threads, j.MaxSeqs, j.MaxBatchTokens, j.KVMemory = bundled, 1, rows, 8192, 1<<30
				e := &Engine{job: j, world: mpi.Alone(), wrap: func(d kernels.Device) kernels.Device {
					return gpuNamed{&queuetest.Device{Device: d, Idle: true}}
				}}
				if err := e.open(context.Background()); err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				var waits, beside time.Duration
				steps := 0.0
				e.Observe(Observer{Step: func(s stats.Step) {
					if s.PromptTokens == 0 {
						waits, beside, steps = waits+s.Duration-s.Device, beside+s.Beside, steps+1
					}
				}})
				prompts := make([][]int32, rows)
				for i := range prompts {
					prompts[i] = make([]int32, 128)
					prompts[i][0] = int32(i)
				}
				for b.Loop() {
					if _, err := e.GenerateIDs(context.Background(), prompts, o); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(waits.Nanoseconds())/1e3/steps, "device-waits-µs/step")
				b.ReportMetric(float64(beside.Nanoseconds())/1e3/steps, "beside-µs/step")
			})
		}
	}
}

// gpuNamed is a device that says it is a GPU, so that no sections of a step are measured.
type gpuNamed struct{ kernels.Device }

func (gpuNamed) Arch() string { return "cuda/none" }
