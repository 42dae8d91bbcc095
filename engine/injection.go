package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
)

// namedLinears are the linears that injection_policy names, of all classes.
func namedLinears(in *config.Inference) (names []string) {
	for _, i := range in.InjectionPolicy {
		for _, name := range i.Linears {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// findPolicy is the policy of the checkpoint's family. For a family that is not known it is made of the linears that
// injection_policy names; without those the family is refused.
func findPolicy(c *ckpt.Checkpoint, facts model.Facts, in *config.Inference) (model.Policy, *policies.Injected, error) {
	policy, err := policies.Find(facts)
	linears := namedLinears(in)
	switch {
	case err == nil:
		return policy, nil, nil
	case len(linears) == 0:
		return policy, nil, fmt.Errorf("%w; of another one, name the linears whose outputs are summed over tp with injection_policy_tuple", err)
	case c.Format != ckpt.HuggingFace && c.Format != ckpt.Memory:
		return policy, nil, fmt.Errorf("%w; injection_policy works with Hugging Face folders", err)
	}
	injected, err := policies.Inject(facts, c, linears, in.TriangularMask != nil && *in.TriangularMask)
	if err != nil {
		return policy, nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return injected.Policy, injected, nil
}

// injectionFits holds what injection_policy names against a family that is known.
func injectionFits(c *ckpt.Checkpoint, p model.Policy, shape *model.Config, in *config.Inference) error {
	for _, i := range in.InjectionPolicy {
		if i.Policy != "" && i.Family() != shape.Family {
			return fmt.Errorf("%w: injection_policy: %s is for %s, but %s is a %s model; leave injection_policy out", ErrRefused, i.Policy, i.Family(), c.Path, shape.Family)
		}
	}
	linears := namedLinears(in)
	if len(linears) == 0 {
		return nil
	}
	has := func(name string) bool {
		return slices.ContainsFunc(c.Names(), func(tensor string) bool {
			module, weight := strings.CutSuffix(tensor, ".weight")
			return weight && (module == name || strings.HasSuffix(module, "."+name))
		})
	}
	if err := policies.Sums(p, shape, linears, has); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}
