package cuda

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// traceVariable names an environment variable: where it is set, every op is timed on the GPU and Close prints the sums.
// Ops then run one by one, without graphs: for finding out where the time goes, not for jobs.
const traceVariable = "DSBATCH_CUDA_TRACE"

// trace sums what the ops took.
type trace struct {
	ctx    handle
	events []handle
	spent  map[opNumber]time.Duration
	calls  map[opNumber]int
}

func newTrace(ctx handle) *trace {
	if os.Getenv(traceVariable) == "" {
		return nil
	}
	return &trace{ctx: ctx, spent: map[opNumber]time.Duration{}, calls: map[opNumber]int{}}
}

// run runs a queue record by record, an event between each two. What the host is slow to send counts too.
func (t *trace) run(stream handle, queue []byte) (uint32, error) {
	var ops []opNumber
	for at := 0; at < len(queue); {
		size, op := int(binary.NativeEndian.Uint32(queue[at+4:])), binary.NativeEndian.Uint32(queue[at+8:])
		if err := t.mark(len(ops), stream); err != nil {
			return op, err
		}
		if _, err := runQueue(t.ctx, stream, queue[at:at+size]); err != nil {
			return op, err
		}
		ops, at = append(ops, opNumber(op)), at+size
	}
	if err := t.mark(len(ops), stream); err != nil {
		return 0, err
	}
	for i, op := range ops {
		ms, err := eventElapsed(t.ctx, t.events[i], t.events[i+1])
		if err != nil {
			return uint32(op), err
		}
		t.spent[op] += time.Duration(ms * float64(time.Millisecond))
		t.calls[op]++
	}
	return 0, nil
}

func (t *trace) mark(i int, stream handle) error {
	if i == len(t.events) {
		e, err := eventNew(t.ctx)
		if err != nil {
			return err
		}
		t.events = append(t.events, e)
	}
	return eventRecord(t.ctx, t.events[i], stream)
}

// print writes a line an op, the longest first.
func (t *trace) print(w io.Writer) {
	var ops []opNumber
	var all time.Duration
	for op, d := range t.spent {
		ops, all = append(ops, op), all+d
	}
	slices.SortFunc(ops, func(a, b opNumber) int { return int(t.spent[b] - t.spent[a]) })
	for _, op := range ops {
		_, _ = fmt.Fprintf(w, "%-10s %8d calls %12v %6.1f%% %10v each\n", op, t.calls[op], t.spent[op].Round(time.Microsecond),
			100*float64(t.spent[op])/float64(all), (t.spent[op] / time.Duration(t.calls[op])).Round(100*time.Nanosecond))
	}
}

func (t *trace) close() {
	t.print(os.Stderr)
	for _, e := range t.events {
		_ = eventFree(t.ctx, e)
	}
}
