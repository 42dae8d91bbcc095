package benchmarks

import (
	"time"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/stats"
)

// meter adds up the steps that count.
type meter struct {
	tokens   int
	took     time.Duration
	steps    []stats.Step
	sections map[string]time.Duration
	pending  map[string]time.Duration
}

// observer counts the tokens of steps by count, of so many steps at most; 0: of all.
func (m *meter) observer(count func(stats.Step) int, most int) engine.Observer {
	m.sections, m.pending = map[string]time.Duration{}, map[string]time.Duration{}
	return engine.Observer{
		Section: func(p stats.Phase, d time.Duration) { m.pending[p.String()] += d },
		Step: func(s stats.Step) {
			if n := count(s); n > 0 && (most == 0 || len(m.steps) < most) {
				m.tokens, m.took, m.steps = m.tokens+n, m.took+s.Duration, append(m.steps, s)
				for name, d := range m.pending {
					m.sections[name] += d
				}
			}
			clear(m.pending)
		},
	}
}

// bound is the least time of the steps, each by the tighter ceiling, and which of them bound most.
func (m *meter) bound(c *ceilings) (seconds float64, by string) {
	votes := map[string]int{}
	for _, s := range m.steps {
		least, why := c.bound(s.FLOPs, s.Bytes)
		if c.bus > 0 && s.Brought/c.bus > least {
			least, why = s.Brought/c.bus, "by the bus to the GPU"
		}
		seconds += least
		votes[why]++
	}
	return seconds, most(votes)
}

// most is the reason with the most votes.
func most(votes map[string]int) (reason string) {
	for why, n := range votes {
		if n > votes[reason] {
			reason = why
		}
	}
	return reason
}

// shares tells the parts of the steps' time. Where a device's ops run after they are enqueued only the host's part is
// known: what the device waits for, where no rank waits for others, and what the host does while the device computes.
func (m *meter) shares(name string, ranks int) []Figure {
	figures, rest := []Figure{plain(name, "ms a run", m.took.Seconds()*1e3)}, m.took
	if len(m.sections) == 0 {
		var beside time.Duration
		for _, s := range m.steps {
			rest, beside = rest-s.Device, beside+s.Beside
		}
		steps := float64(len(m.steps))
		figures = append(figures, plain("a step", "ms", m.took.Seconds()*1e3/steps))
		if ranks == 1 {
			figures = append(figures, plain("of it the host's", "ms", rest.Seconds()*1e3/steps),
				plain("beside the GPU, the host's", "ms", beside.Seconds()*1e3/steps))
		}
		return figures
	}
	for p := stats.Attention; p <= stats.Head; p++ {
		d := m.sections[p.String()]
		rest -= d
		if d > 0 {
			figures = append(figures, plain(p.String(), "%", 100*d.Seconds()/m.took.Seconds()))
		}
	}
	return append(figures, plain("host", "%", 100*rest.Seconds()/m.took.Seconds()))
}
