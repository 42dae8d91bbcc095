package results

import (
	"errors"
	"strings"
	"testing"

	v15 "github.com/apache/arrow/go/v15/arrow"
)

func TestLayoutRefusals(t *testing.T) {
	text := v15.BinaryTypes.String
	for want, layout := range map[string]Layout{
		`task "sing"`: {Task: "sing"},
		`id column "x" is float32; an id is an integer or a text`:                  {Task: Embed, ID: v15.Field{Name: "x", Type: v15.PrimitiveTypes.Float32}},
		`id column "embedding" has the name of an output column`:                   {Task: Embed, ID: v15.Field{Name: "embedding", Type: text}},
		`name of the output column "error"; give it another: --carry COLUMN:NAME`:  {Task: Embed, Carry: []v15.Field{{Name: "error", Type: text}}},
		`a carried column would have the name of the output column "a"`:            {Task: Embed, Carry: []v15.Field{{Name: "a", Type: text}, {Name: "a", Type: text}}},
		`carried column "when" of type month_interval cannot be stored in Parquet`: {Task: Embed, Carry: []v15.Field{{Name: "when", Type: v15.FixedWidthTypes.MonthInterval}}},
	} {
		if err := layout.Check(); !errors.Is(err, ErrColumns) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
