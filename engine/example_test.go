package engine_test

import (
	"context"
	"fmt"
	"log"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/mpi"
)

// The counterpart of deepspeed.init_inference, with a config and a keyword that wins over it.
func ExampleInitInference() {
	ctx := context.Background()
	config := map[string]any{"dtype": "fp16", "max_out_tokens": 64}
	e, err := engine.InitInference(ctx, "../examples/austen-prmoe", config, map[string]any{"dtype": "fp32"})
	if err != nil {
		log.Fatal(err)
	}
	out, err := e.Generate(ctx, []string{"It is a truth universally acknowledged, that"}, engine.GenerateOptions{MaxNewTokens: 12})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out[0].FinishReason, out[0].OutputTokens, e.Window())
	if err := e.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: length 12 64
}

// Four ranks hold one model: two slice its tensors, and its experts lie on all. Every rank makes the same calls and gets all
// results. Under mpirun or srun the world is that of mpi.MPI; here it is four goroutines.
func ExampleInitInferenceOver() {
	ctx := context.Background()
	config := map[string]any{"dtype": "fp32", "tensor_parallel": map[string]any{"tp_size": 2}}
	prompts := []string{"It is a truth universally acknowledged, that", "She was", "No one who had ever seen"}
	err := mpi.Run(4, func(world mpi.World) error {
		e, err := engine.InitInferenceOver(ctx, world, "../examples/austen-prmoe", config, nil)
		if err != nil {
			return err
		}
		out, err := e.Generate(ctx, prompts, engine.GenerateOptions{MaxNewTokens: 5})
		if err != nil {
			return err
		}
		scored, err := e.Score(ctx, []engine.Text{{Prompt: prompts[0], Continuation: " a single man"}, {Prompt: prompts[0], Continuation: " the sea"}})
		if err != nil {
			return err
		}
		if world.Rank() == 0 {
			for i, r := range out {
				fmt.Printf("%s|%s\n", prompts[i], *r.Output)
			}
			fmt.Println("a single man is likelier:", scored[0].Logprob > scored[1].Logprob)
		}
		return e.Close()
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// It is a truth universally acknowledged, that| it is not to be
	// She was| not very much obliged to
	// No one who had ever seen| him before, and had
	// a single man is likelier: true
}

// Vectors of texts, by any family: here the bundled model's last hidden states, averaged over the tokens of each text.
func ExampleEngine_Embed() {
	ctx := context.Background()
	e, err := engine.InitInference(ctx, "../examples/austen-prmoe", nil, map[string]any{"dtype": "fp32"})
	if err != nil {
		log.Fatal(err)
	}
	out, err := e.Embed(ctx, []string{"She was very happy.", "And the LORD spake unto Moses"}, "mean")
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range out {
		fmt.Println(r.PromptTokens, len(r.Embedding) == e.Config().Hidden)
	}
	if err := e.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 5 true
	// 6 true
}
