package stats

import (
	"html/template"
	"strings"
)

// palette is the colours of everything that is drawn here, in light and in dark.
const palette = `SELECTOR {
  --page: #f6f5f2; --card: #fff; --ink: #1d1d1b; --soft: #66645f; --line: #e3e0d9; --cell: #f1efea;
  --c0: #c9c5bb; --c1: #3069c6; --c2: #1c8a78; --c3: #d79a10; --c4: #d5622b; --c5: #b8405e; --c6: #8a7bb8; --c7: #6b9ac4;
  --good: #1c8a78; --warn: #b77a00; --bad: #b8302f;
}
@media (prefers-color-scheme: dark) {
  SELECTOR {
    --page: #141412; --card: #1d1d1b; --ink: #ecebe6; --soft: #a09d95; --line: #33322e; --cell: #262622;
    --c0: #56534c; --c1: #6ea0f0; --c2: #3fb8a2; --c3: #e3b341; --c4: #ec8550; --c5: #e2708c; --c6: #a898d8; --c7: #93bde2;
    --good: #3fb8a2; --warn: #e3b341; --bad: #f0716b;
  }
}`

// Palette is the style sheet that names the colours for what the selector finds.
func Palette(selector string) template.CSS {
	return template.CSS(strings.ReplaceAll(palette, "SELECTOR", selector))
}
