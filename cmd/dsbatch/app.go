package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/dsbatch/dsbatch/config"
)

// version of the program, set by the build.
var version = "0.1.0"

// run is the program: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	err := app.RunContext(ctx, flagsFirst(args, app))
	return report(err, stderr)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "dsbatch",
		Usage:                "generate and score data sets with Mixture-of-Experts language models",
		Version:              version,
		HideVersion:          true,
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		Suggest:              true,
		ExitErrHandler:       func(*cli.Context, error) {}, // report does it
		OnUsageError:         func(c *cli.Context, err error, _ bool) error { return usage(c, err) },
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return usageErrorf("%q is no command of dsbatch%s", name, didYouMean(name, commandNames(c.App)))
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{runCommand(), headCommand(), verifyCommand(), diffCommand(), tokenizeCommand(), ckptCommand(), doctorCommand(), completionCommand(), versionCommand()},
	}
}

func commandNames(app *cli.App) (names []string) {
	for _, c := range app.Commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// usage turns the flag package's words into a sentence that names the nearest flag.
func usage(c *cli.Context, err error) error {
	const undefined = "flag provided but not defined: -"
	text := err.Error()
	if at := strings.Index(text, undefined); at >= 0 && c.Command != nil {
		name := strings.TrimLeft(text[at+len(undefined):], "-")
		var known []string
		for _, f := range c.Command.Flags {
			known = append(known, f.Names()...)
		}
		return usageErrorf("dsbatch %s has no flag --%s%s", c.Command.Name, name, didYouMean("--"+name, dashed(known)))
	}
	return usageErrorf("%s", text)
}

func dashed(names []string) (flags []string) {
	for _, n := range names {
		flags = append(flags, "--"+n)
	}
	return flags
}

func didYouMean(word string, known []string) string {
	if near := config.Nearest(word, known); near != "" {
		return "; did you mean " + near + "?"
	}
	return "; see dsbatch --help"
}

// flagsFirst moves positional arguments behind a command's flags, since the flag package stops at the first of them.
func flagsFirst(args []string, app *cli.App) []string {
	if len(args) < 3 {
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
	if g, ok := f.(*cli.GenericFlag); ok {
		b, ok := g.Value.(interface{ IsBoolFlag() bool })
		return !ok || !b.IsBoolFlag()
	}
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
	if errors.Is(err, errBadRows) || errors.Is(err, errNotWhole) {
		return status // the command has told
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintln(stderr, "dsbatch:", line)
	}
	return status
}
