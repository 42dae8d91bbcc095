package engine

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/config"
)

// tellPooling warns where a job embeds with another pooling than the model's folder says: as sentence-transformers write it
// beside their models, a switch for each way that is pooled.
func (e *Engine) tellPooling(folder string) error {
	if e.job.Task != config.Embed || e.job.Output == "" || e.world.Rank() > 0 {
		return nil
	}
	file := filepath.Join(folder, "1_Pooling", "config.json")
	facts, err := readJSON(file)
	if err != nil {
		return err
	}
	ours := map[string]string{"cls_token": poolingCLS, "mean_tokens": poolingMean, "lasttoken": poolingLast}
	var there []string
	for key, on := range facts {
		if way, mode := strings.CutPrefix(key, "pooling_mode_"); mode && on == true {
			if name := ours[way]; name != "" {
				way = name
			}
			there = append(there, way)
		}
	}
	slices.Sort(there)
	if len(there) > 0 && !slices.Equal(there, []string{e.job.Pooling}) {
		slog.Warn("the model's folder says that its texts are pooled otherwise than --pooling does", "file", file, "there", strings.Join(there, ", "), "--pooling", e.job.Pooling)
	}
	return nil
}
