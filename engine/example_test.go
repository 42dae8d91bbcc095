package engine_test

import (
	"context"
	"fmt"
	"log"

	"github.com/dsbatch/dsbatch/engine"
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
