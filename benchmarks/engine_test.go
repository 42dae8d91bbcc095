package benchmarks

import (
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestEngineOfEveryFamily measures a tiny model of each, alone, with its experts over two ranks, and cut over two.
func TestEngineOfEveryFamily(t *testing.T) {
	for _, f := range []Family{OLMoE, Qwen3MoE, Mixtral, DeepSeek, Llama, DSMoE} {
		s := Shape{Family: f, Hidden: 32, Layers: 2, Heads: 4, Experts: 4, Active: 1, FFN: 48, Vocab: 96, Window: 64}
		if f == Qwen3MoE {
			s.KVHeads, s.HeadDim = 2, 12
		}
		if f == DeepSeek {
			s.Dense, s.DenseFFN, s.Shared, s.Latent, s.Rotated, s.Plain, s.Value = 1, 40, 2, 16, 8, 12, 10
		}
		for _, c := range []struct{ ranks, tp int }{{1, 1}, {2, 1}, {2, 2}} {
			ranks := c.ranks
			err := mpi.Run(ranks, func(w mpi.World) error {
				weights, err := NewWeights("tiny", s, 1)
				if err != nil {
					return err
				}
				job := config.New()
				job.Device, job.Threads, job.MaxBatchTokens, job.MaxSeqs, job.TP = "cpu", 1, 16, 4, c.tp
				groups, device, err := Engine(t.Context(), w, EngineOptions{Job: job, Weights: weights, Load: true,
					Prefill: []Batch{{Rows: 2, Tokens: 20}}, Decode: []int{3}, Jobs: []Batch{{Rows: 3, Tokens: 2}}, Score: []Batch{{Rows: 5, Tokens: 9}}, Prompt: 5, Tokens: 4, Rounds: 1})
				if err != nil {
					return err
				}
				if c.tp > 1 && w.Rank() > 0 {
					return nil
				}
				for _, name := range []string{"start", "prefill", "decode", "generate", "score"} {
					found := false
					for _, g := range groups {
						found = found || g.Name == name && len(g.Figures) > 0 && g.Figures[0].Value > 0
					}
					if !found {
						t.Errorf("%s on %d ranks, %s: no figure of %s", f, ranks, device, name)
					}
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s on %d ranks: %v", f, ranks, err)
			}
		}
	}
}
