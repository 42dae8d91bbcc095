package config

import (
	"fmt"
	"strings"
)

// Reference is the text of docs/config.md: every flag and every field of inference:, from the tables that the parsers use.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Settings

*Made from the tables in config/flags.go and config/field.go; a test keeps it true (` + "`go test ./config -update`" + ` writes it).*

A setting is a flag, or a line of the job file that ` + "`--job`" + ` names; flags win. In a job file the words of a name are joined
by ` + "`_`" + ` (or ` + "`-`" + `), what may be repeated is a list, and paths are relative to the working directory:

    # job.yaml
    model: examples/austen-prmoe
    input: [examples/prompts.parquet]
    output: out
    temperature: 0.8
    top_k: 40
    inference:
      dtype: bf16
      moe: {ep_size: 1}

An unknown key, a value out of range and two settings that contradict each other are errors that name the file, the line and
the mend. Sizes are written as 16GiB, 512MB or 1048576 (K, M, G, T alone are binary), times as 90s, 2m, 1h30m or a number of seconds.

`)
	flagTables(&b)
	b.WriteString(`## inference: and --ds-config

The section ` + "`inference:`" + ` of a job file is the DeepSpeedInferenceConfig, field for field; ` + "`--ds-config ds.json`" + ` reads such a
file unchanged, and engine.InitInference takes it from Go. Every field is obeyed, or refused with the reason; none is ignored. "Not yet"
tells a field that is read and checked, and then refused, since no run of this version acts on it.

- A field that is null or the string ` + "`auto`" + ` counts as not set, and what is not set is automatic: where DeepSpeed has a default
  of its own (dtype float16, 1024 tokens, one group), dsbatch takes the checkpoint's, the model's or the machine's. The column
  "default there" tells the difference.
- Aliases are accepted, deprecated names too, with a warning; an old name and its replacement together are an error.
- Keyword arguments (from Go) win over the config, field by field, also below moe, quant and their like. Public DeepSpeed
  refuses two different values instead; the documentation that dsbatch follows lets the arguments win.
- A flag on the command line wins over the field that says the same (dtype, tp, ep, model); a line of the job file that
  contradicts the field is an error.

| field | default there | here | |
|---|---|---|---|
`)
	for i := range fields {
		if f := &fields[i]; !f.trainingOnly() {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.title(), code(f.stated), f.status(), f.explain())
		}
	}
	b.WriteString("\nRefused as well, since they tune how ZeRO trains a model or gathers split weights: ")
	var names []string
	for i := range fields {
		if f := &fields[i]; f.trainingOnly() {
			names = append(names, code(f.path))
		}
	}
	b.WriteString(strings.Join(names, ", ") + ".\n")
	return b.String()
}

func flagTables(b *strings.Builder) {
	category := ""
	for i := range Flags {
		f := &Flags[i]
		if f.Category != category {
			category = f.Category
			fmt.Fprintf(b, "## %s\n\n| flag | value | default | | resumed job |\n|---|---|---|---|---|\n", category)
		}
		fmt.Fprintf(b, "| `--%s` | %s | %s | %s | %s |\n", f.Name, f.values(), code(f.Default), f.explain(), map[bool]string{true: "kept", false: "free"}[f.Bits])
		if i+1 == len(Flags) || Flags[i+1].Category != category {
			b.WriteString("\n")
		}
	}
	b.WriteString("\"kept\" settings change the bytes of the output and are part of its fingerprint: a resumed job with another value is refused.\n\n")
}

// values describes what a flag takes.
func (f *Flag) values() string {
	switch {
	case len(f.Choices) > 0:
		return strings.Join(f.Choices, ", ")
	case f.Bool():
		return "–"
	case f.Range != "" && f.Unit != "":
		return f.Unit + ", " + interval(f.Range).words()
	case f.Range != "":
		return interval(f.Range).words()
	case f.Unit != "":
		return f.Unit
	case f.Many:
		return "may be repeated"
	}
	return "text"
}

func (f *Flag) explain() string {
	text := f.Help
	if len(f.Tasks) > 0 {
		text += f.tasks()
	}
	if f.OnlyCLI {
		text += "; only on the command line"
	}
	if only := f.built(); only != "" {
		text += ". **" + strings.ToUpper(only[:1]) + only[1:] + "**"
	}
	return text
}

func (f *field) trainingOnly() bool {
	return strings.HasPrefix(f.path, "zero.") && f.does == "" && f.example == "1"
}

func (f *field) title() string {
	switch {
	case f.tuple:
		return "the first of a pair in `quant`"
	case f.alias != "":
		return code(f.path) + ", `" + f.alias + "`"
	}
	return code(f.path)
}

func (f *field) status() string {
	switch {
	case f.section:
		return "section"
	case f.old && f.instead != "":
		return "deprecated"
	case f.instead != "":
		return "as " + code(f.instead)
	case f.refuse == "":
		return "obeyed"
	case f.does != "":
		return "accepts " + strings.Join(f.accept, ", ")
	}
	return "refused"
}

func (f *field) explain() string {
	var parts []string
	if f.instead != "" {
		parts = append(parts, "goes to "+code(f.instead))
	}
	if f.does != "" {
		parts = append(parts, f.does)
	}
	if f.refuse != "" && f.refuse != eitherWay {
		why := f.refuse
		if len(f.accept) > 0 {
			why = "any value but " + strings.ReplaceAll(strings.Join(f.accept, ", "), ", ", " or ") + " is refused: " + why
		}
		parts = append(parts, why)
	}
	return strings.Join(parts, ". ")
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
