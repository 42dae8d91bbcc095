package engine

import (
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/config"
)

// refuseUnbuilt refuses the settings that this version does not act on yet: none is ignored.
func refuseUnbuilt(j *config.Job) error {
	var errs []error
	for _, x := range []struct {
		set  bool
		what string
	}{
		{j.Task != config.Generate && j.Task != config.Score, fmt.Sprintf("--task %s is not built yet; generate and score are", j.Task)},
		{j.MessagesColumn != "", "--messages-column: chat templates are not built yet; render the chats beforehand and give --prompt-column"},
		{j.AllToAll != "auto" && j.AllToAll != "flat", fmt.Sprintf("--all-to-all %s is not built yet; use flat", j.AllToAll)},
		{j.ExpertPlacement != "", "--expert-placement is not built yet; experts are spread in order"},
		{j.TPInvariant, "--tp-invariant is not built yet"},
		{j.FakeNodes > 0, "--fake-nodes is not built yet"},
	} {
		if x.set {
			errs = append(errs, fmt.Errorf("%w: %s", ErrRefused, x.what))
		}
	}
	return errors.Join(errs...)
}
