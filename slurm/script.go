package slurm

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Script is a batch script: an allocation, and one command that runs as its ranks. The zero value of a field is told
// with it.
type Script struct {
	Command []string // program and arguments, passed on to the byte
	Dir     string   // where the command runs, and what its relative paths start from
	Log     string   // folder of the log, slurm-JOB.log; it must exist when the job starts
	Name    string   // of the job; "": dsbatch

	Nodes        int // 1 or more
	RanksPerNode int // 1 or more
	GPUsPerNode  int // 0: none
	CPUsPerRank  int // 0: whole nodes, with all their cores and memory

	Time       string   // limit, as Slurm writes it: minutes, hours:minutes:seconds, days-hours …; "": the partition's
	Partition  string   // "": the cluster's default
	Account    string   // "": the user's default
	Directives []string // further #SBATCH lines without that word, taken as they are; they win

	StopBefore time.Duration // how long before the limit the command stops by itself; 0: never
	Requeues   int           // at most so many times is a job that ran out of time queued again; 0: never
}

// Limits that keep a slip of the finger from reaching the queue.
const (
	mostNodes = 1 << 16
	mostRanks = 1 << 10 // of a node
)

// logName is the name of the log as Slurm fills it in.
const logName = "slurm-%j.log"

// slack is how much more time than StopBefore a job that ran out of it may have left: stopping takes a while, and Slurm
// looks at its clock, and sends its warning, up to a minute early.
const slack = 90 * time.Second

// Check tells what of the script cannot be: each error is a sentence.
func (s *Script) Check() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, n := range []struct {
		name         string
		n, least, to int
	}{
		{"--nodes", s.Nodes, 1, mostNodes}, {"--ranks-per-node", s.RanksPerNode, 1, mostRanks},
		{"--gpus-per-node", s.GPUsPerNode, 0, mostRanks}, {"--cpus-per-rank", s.CPUsPerRank, 0, 1 << 16}, {"--requeues", s.Requeues, 0, 10_000},
	} {
		if n.n < n.least || n.n > n.to {
			refuse("%s %d is out of range; use %d to %d", n.name, n.n, n.least, n.to)
		}
	}
	if s.GPUsPerNode > 0 && s.RanksPerNode%s.GPUsPerNode != 0 && s.GPUsPerNode%s.RanksPerNode != 0 {
		refuse("--ranks-per-node %d and --gpus-per-node %d: the ranks of a node cannot share its GPUs evenly; leave --ranks-per-node out for a rank each", s.RanksPerNode, s.GPUsPerNode)
	}
	if s.Time != "" {
		limit, err := parseLimit(s.Time)
		switch {
		case err != nil:
			refuse("--time: %w", err)
		case limit > 0 && s.StopBefore >= limit:
			refuse("--stop-before %v leaves nothing of --time %s; ask for more time, or stop later", s.StopBefore, s.Time)
		}
	}
	for _, text := range []struct{ what, text string }{
		{"--job-name", s.Name}, {"--partition", s.Partition}, {"--account", s.Account}, {"the working directory", s.Dir}, {"the folder of the log", s.Log},
	} {
		if strings.ContainsAny(text.text, "\n\r\x00") {
			refuse("%s %q has a line break in it, which a line of a batch script cannot hold", text.what, text.text)
		}
	}
	if strings.Contains(s.Log, `\`) {
		refuse("the folder of the log, %s, has a backslash in its name, after which Slurm puts no job number into it; name another", s.Log)
	}
	for _, line := range s.Directives {
		if !strings.HasPrefix(line, "-") || strings.ContainsAny(line, "\n\r\x00") {
			refuse("--sbatch %q is not an option of sbatch on one line; write it as --sbatch=--constraint=h100", line)
		}
	}
	for _, arg := range s.Command {
		if strings.Contains(arg, "\x00") {
			refuse("%q has a zero byte in it, which no command line can hold", arg)
		}
	}
	return errors.Join(errs...)
}

// Text is the script. It is the same for the same fields.
func (s *Script) Text() string {
	var b strings.Builder
	b.WriteString("#!/bin/bash\n")
	s.directives(&b)
	s.step(&b)
	if s.Requeues > 0 {
		fmt.Fprintf(&b, again, int((s.StopBefore + slack).Seconds()), s.Requeues)
	}
	b.WriteString("exit \"$status\"\n")
	return b.String()
}

// directives are what sbatch reads.
func (s *Script) directives(b *strings.Builder) {
	set := func(option, value string) { fmt.Fprintf(b, "#SBATCH --%s=%s\n", option, quoteDirective(value)) }
	number := func(option string, n int) { set(option, fmt.Sprint(n)) }
	some := func(option, value string) {
		if value != "" {
			set(option, value)
		}
	}
	name := s.Name
	if name == "" {
		name = "dsbatch"
	}
	set("job-name", name)
	number("nodes", s.Nodes)
	number("ntasks-per-node", s.RanksPerNode)
	if s.GPUsPerNode > 0 {
		number("gpus-per-node", s.GPUsPerNode)
	}
	if s.CPUsPerRank > 0 {
		number("cpus-per-task", s.CPUsPerRank)
	} else {
		b.WriteString("#SBATCH --exclusive\n")
		set("mem", "0")
	}
	some("time", s.Time)
	some("partition", s.Partition)
	some("account", s.Account)
	set("chdir", s.Dir)
	set("output", strings.ReplaceAll(s.Log, "%", "%%")+"/"+logName)
	b.WriteString("#SBATCH --open-mode=append\n#SBATCH --requeue\n")
	if s.StopBefore > 0 {
		// The command looks at the clock itself; the signal is for a controller that it cannot ask. Half the time, since
		// Slurm may send it a minute early.
		set("signal", fmt.Sprintf("USR1@%d", max(1, int(s.StopBefore.Seconds()/2))))
	}
	for _, line := range s.Directives {
		fmt.Fprintf(b, "#SBATCH %s\n", line)
	}
}

// step starts the ranks.
func (s *Script) step(b *strings.Builder) {
	b.WriteString(`
# Every rank goes on from what is committed in the output, however often this runs. Should ranks find themselves alone,
# set SLURM_MPI_TYPE to a type of srun --mpi=list that the MPI library was built for. With Slurm's default collective the
# nodes do not wait for each other while MPI starts, and a rank may crash in MPI_Init; a ring waits.
export SLURM_PMIX_FENCE="${SLURM_PMIX_FENCE:-ring}"
srun --mpi="${SLURM_MPI_TYPE:-pmix}" --kill-on-bad-exit=1 --cpu-bind=none`)
	if s.CPUsPerRank > 0 {
		fmt.Fprintf(b, " --cpus-per-task=%d", s.CPUsPerRank) // which srun does not take from the job since 22.05
	}
	for i, arg := range s.Command {
		if i > 1 {
			b.WriteString(" \\\n   ")
		}
		b.WriteString(" " + quote(arg))
	}
	b.WriteString("\nstatus=$?\n")
}

// again has the job queued again: the seconds that it may have left, and the number of times.
const again = `
# 75 is a clean stop. It is the time limit's where little time is left; then the job is queued again, to go on.
end=$(SLURM_TIME_FORMAT=%%s scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([0-9]*\) .*/\1/p')
if [ "$status" -eq 75 ] && [ -n "$end" ] && [ $((end - $(date +%%s))) -le %d ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge %d ]; then
        echo "dsbatch: out of time after $SLURM_RESTART_COUNT requeues, the most that --requeues allows; submit it again to go on" >&2
    else
        echo "dsbatch: out of time; job $SLURM_JOB_ID is queued again" >&2
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
`

// plain are the characters that mean nothing to a shell or to Slurm's parser of directives, wherever they stand.
const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./=:,@+"

// quote makes one word of a shell of any text without zero bytes.
func quote(text string) string {
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// quoteDirective makes one word of a #SBATCH line of any text on one line: between double quotes Slurm takes a backslash
// as the end of the meaning of the character after it.
func quoteDirective(text string) string {
	if text != "" && strings.Trim(text, plain+"%") == "" {
		return text
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(text) {
		if c := text[i]; c < 0x80 && c != '%' && strings.IndexByte(plain, c) < 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	b.WriteByte('"')
	return b.String()
}
