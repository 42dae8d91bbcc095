package engine

import (
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/model"
)

// tasksOf are what a model can do.
func tasksOf(c *model.Config) (tasks []config.Task) {
	if !c.Bidirectional {
		tasks = append(tasks, config.Generate, config.Score)
	}
	tasks = append(tasks, config.Embed)
	if c.Classifies() {
		tasks = append(tasks, config.Classify)
	}
	if c.Head == model.HeadMasks {
		tasks = append(tasks, config.FillMask)
	}
	return tasks
}

// taskFits refuses a task that the model cannot do.
func (e *Engine) taskFits(job *config.Job) error {
	can := tasksOf(&e.shape)
	if slices.Contains(can, job.Task) {
		return nil
	}
	words := ""
	for i, t := range can {
		switch {
		case i > 0 && i == len(can)-1:
			words += " or "
		case i > 0:
			words += ", "
		}
		words += string(t)
	}
	return fmt.Errorf("%w: %s is a %s model, which cannot do the task %s; use --task %s", ErrRefused, e.checkpoint.Path, e.shape.Family, job.Task, words)
}
