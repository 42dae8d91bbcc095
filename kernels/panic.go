package kernels

import "fmt"

// Panic is what a goroutine panics with for another one that worked for it, so that the panic reaches whoever knows what
// the work was for.
type Panic struct {
	Value any    // what the other one panicked with
	Stack []byte // of the other one
}

// String is the value and, below it, the stack.
func (p *Panic) String() string { return fmt.Sprintf("%v\n%s", p.Value, p.Stack) }
