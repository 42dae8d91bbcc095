package slurm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// endTimeVariable tells when the job's time is up where Slurm does not: seconds since 1970, or RFC 3339. For other batch
// systems, and for one's own deadlines.
const endTimeVariable = "DSBATCH_END_TIME"

// How the end of the job is asked for: an administrator may move it while the job runs.
const (
	askEvery   = 5 * time.Minute
	askTimeout = 10 * time.Second
)

// Deadline is the time that DSBATCH_END_TIME tells; the zero time where it is not set.
func Deadline() (time.Time, error) {
	text := os.Getenv(endTimeVariable)
	if text == "" {
		return time.Time{}, nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds > 0 {
		return time.Unix(seconds, 0), nil
	}
	end, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return end, fmt.Errorf("%s=%q is no time; write seconds since 1970 (date -d '+2 hours' +%%s) or 2006-01-02T15:04:05Z", endTimeVariable, text)
	}
	return end, nil
}

// Follow tells at of the moment when this job's time is up, as soon as it is known and again whenever it has moved, until
// ctx ends. It returns at once outside of Slurm, and where a job has no limit. One rank of a job calls it, since Slurm's
// controller is asked. The error says why an end that there must be is not known.
func Follow(ctx context.Context, at func(end time.Time)) error {
	job := os.Getenv("SLURM_JOB_ID")
	if job == "" {
		return nil
	}
	for known := (time.Time{}); ; {
		end, err := ask(ctx, job)
		if err != nil && known.IsZero() {
			if end, err = fromEnvironment(err); err == nil {
				at(end)
			}
			return err
		}
		if err == nil && end.IsZero() {
			return nil // no limit
		}
		if err == nil && !end.Equal(known) {
			known = end
			at(end)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(askEvery):
		}
	}
}

// fromEnvironment is the end as it was when the job began, which newer versions of Slurm put there. asked is why the
// controller could not tell.
func fromEnvironment(asked error) (time.Time, error) {
	seconds, err := strconv.ParseInt(os.Getenv("SLURM_JOB_END_TIME"), 10, 64)
	if err != nil || seconds <= 0 {
		return time.Time{}, fmt.Errorf("when this allocation ends is not known: %w; the job stops at Slurm's warning signal, or give %s", asked, endTimeVariable)
	}
	return time.Unix(seconds, 0), nil
}

// ask asks Slurm's controller when a job ends; the zero time is never.
func ask(ctx context.Context, job string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, "scontrol", "show", "job", "--oneliner", job)
	c.Env = append(os.Environ(), "SLURM_TIME_FORMAT=%s")
	c.WaitDelay = time.Second
	out, err := c.Output()
	if ctx.Err() != nil {
		return time.Time{}, fmt.Errorf("scontrol show job %s has not answered for %v", job, askTimeout)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return time.Time{}, fmt.Errorf("scontrol show job %s: %w: %.200s", job, err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return time.Time{}, err
	}
	return endTime(string(out))
}

var endField = regexp.MustCompile(`(?:^|\s)EndTime=(\S+)`)

// endTime finds the end in what scontrol says of a job.
func endTime(job string) (time.Time, error) {
	m := endField.FindStringSubmatch(job)
	if m == nil {
		return time.Time{}, fmt.Errorf("scontrol tells no EndTime: %.200q", job)
	}
	if m[1] == "Unknown" || m[1] == "NONE" || m[1] == "None" {
		return time.Time{}, nil
	}
	if seconds, err := strconv.ParseInt(m[1], 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	end, err := time.ParseInLocation("2006-01-02T15:04:05", m[1], time.Local)
	if err != nil {
		return end, fmt.Errorf("scontrol tells an EndTime that is no time: %q", m[1])
	}
	return end, nil
}

// parseLimit reads a time limit as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
// days-hours:minutes or days-hours:minutes:seconds. UNLIMITED and INFINITE are 0.
func parseLimit(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is no time limit; write it as 90 (minutes), 1:30:00 or 2-12:00:00 (days)", text)
	switch strings.ToUpper(text) {
	case "UNLIMITED", "INFINITE":
		return 0, nil
	}
	days, clock, withDays := strings.Cut(text, "-")
	if !withDays {
		days, clock = "0", text
	}
	fields := strings.Split(clock, ":")
	units := map[bool][][]time.Duration{
		true:  {{time.Hour}, {time.Hour, time.Minute}, {time.Hour, time.Minute, time.Second}},
		false: {{time.Minute}, {time.Minute, time.Second}, {time.Hour, time.Minute, time.Second}},
	}[withDays]
	if len(fields) > len(units) {
		return 0, wrong
	}
	d, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, wrong
	}
	limit := time.Duration(d) * 24 * time.Hour
	for i, unit := range units[len(fields)-1] {
		n, err := strconv.ParseUint(fields[i], 10, 32)
		if err != nil || n > 1<<24 {
			return 0, wrong
		}
		limit += time.Duration(n) * unit
	}
	if limit == 0 {
		return 0, wrong
	}
	return limit, nil
}
