package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/mpi"
)

// version of the program, set by the build.
var version = "0.1.0"

// run is the program: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	if len(args) == 2 && args[1] == "--version" {
		args = []string{args[0], "version"}
	}
	err := app.RunContext(ctx, flagsFirst(args, app))
	if err != nil {
		firstSpeaks(mpi.LaunchedRank())
	}
	return report(err, stderr)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                 "dsbatch",
		Usage:                "generate and score data sets with Mixture-of-Experts language models",
		Version:              version,
		HideVersion:          true,
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		Suggest:              true,
		ExitErrHandler:       func(*cli.Context, error) {}, // report does it
		OnUsageError:         usage("dsbatch"),
		Commands:             []*cli.Command{runCommand(), planCommand(), submitCommand(), headCommand(), verifyCommand(), diffCommand(), tokenizeCommand(), ckptCommand(), doctorCommand(), benchCommand(), completionCommand(), versionCommand()},
	}
	app.Action = choose("dsbatch", app.Commands, cli.ShowAppHelp)
	for _, c := range app.Commands {
		path := "dsbatch " + c.Name
		c.OnUsageError = usage(path)
		if c.HideHelpCommand = true; c.Subcommands != nil {
			c.Action = choose(path, c.Subcommands, cli.ShowSubcommandHelp)
		}
		for _, sub := range c.Subcommands {
			sub.OnUsageError, sub.HideHelpCommand = usage(path+" "+sub.Name), true
		}
	}
	return app
}

// choose is what a command that only holds others does: it shows its help, and refuses a name that is none of theirs.
func choose(path string, commands []*cli.Command, help func(*cli.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		name := c.Args().First()
		if name == "" {
			return help(c)
		}
		var known []string
		for _, k := range commands {
			known = append(known, k.Name)
		}
		return usageErrorf("%q is no command of %s%s", name, path, didYouMean(path, name, known))
	}
}

// The flag package's words for what is wrong with a flag.
var (
	undefinedFlag = regexp.MustCompile(`^flag provided but not defined: -(.*)`)
	lackingFlag   = regexp.MustCompile(`^flag needs an argument: -(.*)`)
	invalidFlag   = regexp.MustCompile(`^invalid (?:boolean )?value "(.*)" for (?:flag )?-([^:]*): (.*)`)
)

// usage makes sentences of them, which name the nearest flag of the command at path.
func usage(path string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, _ bool) error {
		text := err.Error()
		if m := undefinedFlag.FindStringSubmatch(text); m != nil {
			name := strings.TrimLeft(m[1], "-")
			near := config.Nearest(name, flagNames(c))
			if near == "" {
				return usageErrorf("%s has no flag %s; see %s --help", path, dashed(name), path)
			}
			return usageErrorf("%s has no flag %s; did you mean %s?", path, dashed(name), dashed(near))
		}
		if m := lackingFlag.FindStringSubmatch(text); m != nil {
			return usageErrorf("%s needs a value", dashed(strings.TrimLeft(m[1], "-")))
		}
		if m := invalidFlag.FindStringSubmatch(text); m != nil {
			reason := m[3]
			if reason == "parse error" || reason == "value out of range" {
				reason = fmt.Sprintf("%q is not a value that it takes; see %s --help", m[1], path)
			}
			return usageErrorf("--%s: %s", m[2], reason)
		}
		return usageErrorf("%s", text)
	}
}

// dashed is a flag as it is typed.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// flagNames are the flags of a command, the one-letter ones left out.
func flagNames(c *cli.Context) (names []string) {
	flags := c.App.Flags
	if c.Command != nil {
		flags = c.Command.Flags
	}
	for _, f := range flags {
		for _, name := range f.Names() {
			if len(name) > 1 {
				names = append(names, name)
			}
		}
	}
	return names
}

func didYouMean(path, word string, known []string) string {
	if near := config.Nearest(word, known); near != "" {
		return "; did you mean " + near + "?"
	}
	return "; see " + path + " --help"
}

// flagsFirst moves positional arguments behind a command's flags, since the flag package stops at the first of them.
func flagsFirst(args []string, app *cli.App) []string {
	if len(args) < 3 || args[len(args)-1] == "--generate-bash-completion" {
		return args
	}
	commands, at := app.Commands, 1
	var command *cli.Command
	for at < len(args) {
		next := (*cli.Command)(nil)
		for _, c := range commands {
			if c.HasName(args[at]) {
				next = c
			}
		}
		if next == nil {
			break
		}
		command, commands, at = next, next.Subcommands, at+1
	}
	if command == nil {
		return args
	}
	takesValue := map[string]bool{}
	for _, f := range command.Flags {
		takes := needsValue(f)
		for _, name := range f.Names() {
			takesValue[name] = takes
		}
	}
	var flags, positional []string
	for rest := args[at:]; len(rest) > 0; rest = rest[1:] {
		arg := rest[0]
		switch {
		case arg == "--":
			positional = append(positional, rest[1:]...)
			rest = rest[:1]
		case len(arg) > 1 && arg[0] == '-':
			flags = append(flags, arg)
			if name := strings.TrimLeft(arg, "-"); takesValue[name] && len(rest) > 1 {
				flags, rest = append(flags, rest[1]), rest[1:]
			}
		default:
			positional = append(positional, arg)
		}
	}
	out := append(append([]string{}, args[:at]...), flags...)
	if len(positional) > 0 {
		out = append(append(out, "--"), positional...)
	}
	return out
}

// needsValue tells whether a flag is followed by its value.
func needsValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// report prints an error, a line each of those joined, and returns the exit status.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return statusDone
	}
	status := statusOf(err)
	if told := (*toldError)(nil); errors.Is(err, errBadRows) || errors.Is(err, errNotWhole) || errors.As(err, &told) {
		return status // the command has told
	}
	text := strings.TrimSuffix(err.Error(), ` Did you mean ""?`) // cli's, of a help topic that no command's name is near
	logged := (*jsonError)(nil)
	for _, line := range strings.Split(text, "\n") {
		if errors.As(err, &logged) {
			slog.New(slog.NewJSONHandler(stderr, nil)).Error(line, "status", status)
		} else {
			fmt.Fprintln(stderr, "dsbatch:", line)
		}
	}
	return status
}
