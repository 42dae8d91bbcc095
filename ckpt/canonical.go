package ckpt

// openCanonical reads a folder of DeepSpeed or Megatron that was converted: safetensors under the names that package
// ckpt presents them by, single or with an index, and a model.json beside them.
func (c *Checkpoint) openCanonical(weights string) error {
	c.Format = Canonical
	if err := c.openWeights(weights); err != nil {
		return err
	}
	return c.settleCanonical(c.Path, 1)
}

// settleCanonical takes the facts of tensors of canonical names from model.json in folder, and checks them; ranks is in
// how many slices the tensors are.
func (c *Checkpoint) settleCanonical(folder string, ranks int) error {
	f, err := readFacts(nil, folder)
	if err != nil {
		return err
	}
	if order, said := f.values["qkv_order"]; said && order != qkvOrder(2) {
		return mismatch(f.from["qkv_order"], "", "qkv_order is %q, but in safetensors of canonical names it is %q; convert the checkpoint anew", order, qkvOrder(2))
	}
	return f.settle(c, 3, ranks)
}
