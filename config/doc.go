// Package config is what a user may ask of dsbatch, and nothing else: the flags of a job, the job file, and the
// DeepSpeedInferenceConfig, each parsed, checked and explained from one table.
//
// A setting has a value, a place where it was written (a flag, or a line of a file) and a default. [Flags] lists the
// flags; the command line, the job file, the help and docs/config.md are all made from it. The fields of the section
// `inference:` are the table in inference.go, from which the other half of docs/config.md is made. Nothing that a user
// writes is ignored in silence: a setting is obeyed, or refused in a sentence that says what to do instead.
package config
