package stats

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Totals are what all ranks of this start have done so far.
type Totals struct {
	Rows   int64 // finished, bad ones among them
	Bad    int64
	Prompt int64 // tokens
	Output int64
}

// ProgressOptions of NewProgress.
type ProgressOptions struct {
	Mode  string       // auto, bar, log or off; auto and "" are a bar where Out is a terminal (not TERM=dumb), else a line every 30 s
	Out   io.Writer    // of the bar; nil: standard error
	Log   *slog.Logger // of the lines; nil: slog's default
	Total int64        // rows of the input; 0: not known yet
	Kept  int64        // rows that earlier starts have committed
}

// How often a bar is drawn and a line is logged.
const (
	drawEvery = 250 * time.Millisecond
	logEvery  = 30 * time.Second
)

// Progress shows how far a job is, from a goroutine of its own, so that it lives on while a step takes long. Its methods
// may be called from any goroutine, and on a nil Progress, which shows nothing.
type Progress struct {
	o    ProgressOptions
	bar  bool
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	totals  Totals
	stage   string
	samples []sample // the last ones, oldest first
	drawn   bool     // a bar stands on the terminal's last line
}

type sample struct {
	at time.Time
	Totals
}

// window is how many samples rates and the time left are worked out from.
const window = 64

// NewProgress begins to show a job. Close it.
func NewProgress(o ProgressOptions) *Progress {
	if o.Out == nil {
		o.Out = os.Stderr
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Progress{o: o, bar: o.Mode == "bar", stop: make(chan struct{}), done: make(chan struct{})}
	if o.Mode == "auto" || o.Mode == "" {
		p.bar = isTerminal(o.Out) && os.Getenv("TERM") != "dumb" // which cannot clear a line
	}
	p.samples = []sample{{at: time.Now()}}
	if o.Mode == "off" {
		close(p.done)
		return p
	}
	go p.run()
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p *Progress) run() {
	defer close(p.done)
	every := logEvery
	if p.bar {
		every = drawEvery
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.show()
		case <-p.stop:
			return
		}
	}
}

// Set tells the totals of this start.
func (p *Progress) Set(t Totals) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.totals = t
	p.mu.Unlock()
}

// SetRows tells the rows of the input and those that earlier starts have committed, once they are known.
func (p *Progress) SetRows(total, kept int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.o.Total, p.o.Kept = total, kept
	p.mu.Unlock()
}

// Stage names what is done before and after the rows, as "loading weights"; empty ends it.
func (p *Progress) Stage(name string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.stage = name
	p.mu.Unlock()
}

// Close shows the last state of the rows and ends. Of a stage, which is over then, nothing stays.
func (p *Progress) Close() {
	if p == nil {
		return
	}
	select {
	case <-p.done:
		return
	default:
	}
	close(p.stop)
	<-p.done
	if !p.bar {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stage == "" {
		p.sampled()
		p.draw()
		fmt.Fprintln(p.o.Out)
	} else if p.drawn {
		fmt.Fprint(p.o.Out, clearLine)
	}
	p.drawn = false
}

// Above is where a log of the same terminal goes: the bar, where there is one, stays below it.
func (p *Progress) Above() io.Writer {
	if p.bar {
		return p
	}
	return p.o.Out
}

// Write passes log lines through to the bar's terminal, above the bar.
func (p *Progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.drawn {
		return p.o.Out.Write(line)
	}
	if _, err := io.WriteString(p.o.Out, clearLine); err != nil {
		return 0, err
	}
	n, err := p.o.Out.Write(line)
	if err == nil && n > 0 && line[n-1] == '\n' {
		p.draw()
	}
	return n, err
}

const clearLine = "\r\x1b[K"

// show takes a sample and draws the bar or logs a line.
func (p *Progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sampled()
	if p.bar {
		p.draw()
		return
	}
	if p.stage != "" {
		p.o.Log.Info(p.stage)
		return
	}
	latest := p.speed(p.samples[len(p.samples)-2:])
	args := []any{"rows", p.rows(), "of", p.o.Total, "output_tokens_per_s", math.Round(latest.output), "prompt_tokens_per_s", math.Round(latest.prompt)}
	if p.totals.Bad > 0 {
		args = append(args, "bad", p.totals.Bad)
	}
	if left, ok := p.left(); ok {
		args = append(args, "left", left.Round(time.Second).String())
	}
	p.o.Log.Info("progress", args...)
}

func (p *Progress) sampled() {
	p.samples = append(p.samples, sample{time.Now(), p.totals})
	if len(p.samples) > window {
		p.samples = p.samples[1:]
	}
}

func (p *Progress) rows() int64 { return p.o.Kept + p.totals.Rows }

// speeds are rates a second.
type speeds struct{ rows, prompt, output float64 }

// speed is the mean of a stretch of samples; 0 where they span no time.
func (p *Progress) speed(s []sample) speeds {
	a, b := s[0], s[len(s)-1]
	seconds := b.at.Sub(a.at).Seconds()
	if seconds <= 0 {
		return speeds{}
	}
	return speeds{float64(b.Rows-a.Rows) / seconds, float64(b.Prompt-a.Prompt) / seconds, float64(b.Output-a.Output) / seconds}
}

// left is the time that the rest takes at the window's speed; false where nothing tells.
func (p *Progress) left() (time.Duration, bool) {
	rest, rate := p.o.Total-p.rows(), p.speed(p.samples).rows
	if rest <= 0 || rate <= 0 {
		return 0, false
	}
	seconds := float64(rest) / rate
	if seconds > 1e9 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// draw replaces the terminal's last line.
func (p *Progress) draw() {
	width := 80
	if f, ok := p.o.Out.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	if _, err := io.WriteString(p.o.Out, clearLine+p.line(width)); err == nil {
		p.drawn = true
	}
}

// line is the bar, in less than width columns: the bar itself shrinks first, then the figures at the end go.
func (p *Progress) line(width int) string {
	if p.stage != "" {
		return fit(p.stage+" …", width)
	}
	share := 0.0
	if p.o.Total > 0 {
		share = min(float64(p.rows())/float64(p.o.Total), 1)
	}
	now := p.speed(p.samples)
	figures := []string{fmt.Sprintf("%s of %s rows", count(p.rows()), count(p.o.Total)), short(now.output) + " output/s"}
	if left, ok := p.left(); ok {
		figures = append(figures, span(left.Seconds())+" left")
	}
	figures = append(figures, short(now.prompt)+" prompt/s")
	if p.totals.Bad > 0 {
		figures = append(figures, count(p.totals.Bad)+" bad")
	}
	text := strings.Join(figures, " · ")
	for len(figures) > 1 && len([]rune(text)) > width-16 {
		figures = figures[:len(figures)-1]
		text = strings.Join(figures, " · ")
	}
	cells := max(min(width-len([]rune(text))-9, 40), 0)
	return fit(fmt.Sprintf("%3.0f %% %s %s", math.Floor(100*share), blocks(share, cells), text), width)
}

// blocks draws a share in eighths of a cell.
func blocks(share float64, cells int) string {
	eighths := int(math.Floor(share * float64(8*cells)))
	s := strings.Repeat("█", eighths/8)
	if part := eighths % 8; part > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[part-1])
	}
	return s + strings.Repeat("░", cells-len([]rune(s)))
}

// fit cuts a line so that it cannot wrap.
func fit(line string, width int) string {
	if r := []rune(line); len(r) >= width {
		return string(r[:max(width-1, 0)])
	}
	return line
}
