package ckpt_test

import (
	"fmt"
	"log"

	"github.com/dsbatch/dsbatch/ckpt"
)

// A rank of two reads its half of a weight that was saved by two ranks of an older Megatron: the bytes of that half alone.
func ExampleOpen() {
	c, err := ckpt.Open("../model/testdata/golden/megatron-v0-mp2", ckpt.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Format, c.Config().Values["num_layers"], "layers")

	weight, _ := c.Tensor("language_model.encoder.layers.0.mlp.dense_h_to_4h.weight")
	half, err := weight.Slice(0, 32, 64)
	if err != nil {
		fmt.Println(err)
		return
	}
	bytes, err := half.Bytes()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(weight.DType, weight.Shape, half.Shape, len(bytes), "bytes,", c.BytesRead(), "read")
	// Output:
	// megatron 4 layers
	// F32 [64 32] [32 32] 4096 bytes, 4096 read
}
