package chat

import "fmt"

// A template is text from the internet: whatever it says, one rendering ends soon and takes bounded memory. Rendering a
// chat of real size stays below a hundredth of each.
const (
	maxSource  = 1 << 20   // bytes of a template
	maxNesting = 100       // of expressions and blocks in it
	maxChain   = 1000      // operators, filters or calls one behind the other
	maxSteps   = 20 << 20  // nodes evaluated, elements and bytes looked at (64 bytes a step); well below a second
	maxMade    = 256 << 20 // bytes of all texts and lists made on the way, output included
	maxCalls   = 200       // macros, callers and recursive loops inside each other
	maxDepth   = 500       // of lists in lists, when they are printed or compared
	maxRange   = 100000    // of range(), as the reference's sandbox has it
	maxDigits  = 4300      // of an integer, as Python prints it
	maxRepr    = 1 << 20   // bytes of a tuple that is a key
)

// Error is why a chat cannot be rendered: what the template raises, or what it does wrong.
type Error struct {
	Kind    string // the reference's: TemplateError is what raise_exception raises; LimitError, which it lacks, a limit of ours
	Line    int    // of the template, from 1; 0: not known
	Message string
}

// Error is the message alone for what the template raises.
func (e *Error) Error() string {
	switch {
	case e.Kind == raised:
		return e.Message
	case e.Line > 0:
		return fmt.Sprintf("chat template, line %d: %s", e.Line, e.Message)
	}
	return "chat template: " + e.Message
}

const raised = "TemplateError"

// Raised tells whether the template itself refuses the chat, in its own words.
func (e *Error) Raised() bool { return e.Kind == raised }

func fault(kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// fail ends the rendering: Render recovers what is thrown here, as text/template does.
func fail(kind, format string, args ...any) { panic(fault(kind, format, args...)) }

func typeError(format string, args ...any) { fail("TypeError", format, args...) }

// budget is what is left to one rendering.
type budget struct {
	steps, made int64
	calls       int
}

func (b *budget) step(n int) {
	if b.steps -= int64(n); b.steps < 0 {
		fail("LimitError", "it takes more than %d steps, and is stopped", maxSteps)
	}
}

// look pays for going through n bytes.
func (b *budget) look(n int) { b.step(1 + n/64) }

// make pays for n bytes of memory.
func (b *budget) make(n int) {
	if b.made -= int64(n); b.made < 0 || n < 0 {
		fail("LimitError", "it makes more than %d MiB of text, and is stopped", maxMade>>20)
	}
	b.step(1 + n/64)
}

// hold pays for n elements of a list.
func (b *budget) hold(n int) {
	if n < 0 || n > maxMade/16 {
		b.make(maxMade + 1)
	}
	b.make(16 * n)
	b.step(n)
}

func (b *budget) enter() {
	b.step(16)
	if b.calls++; b.calls > maxCalls {
		fail("LimitError", "macros or recursive loops call each other more than %d deep", maxCalls)
	}
}

func (b *budget) leave() { b.calls-- }

func deepEnough(deep int) {
	if deep > maxDepth {
		fail("LimitError", "a value is nested more than %d deep", maxDepth)
	}
}
