// Package stats counts what a job does and tells it: a recorder a rank, merged into one report.
//
// A Recorder is filled by the engine, once a step and once a layer, at the cost of a few atomic additions; a Snapshot is
// its content as JSON, which ranks send to rank 0; Merge makes one Report of all, and Report.WriteFiles leaves it as
// stats.json and report.html. Progress shows a running job on a terminal or in a log. Nothing here knows a model.
//
// Words: a step is one forward pass; prefill a step with prompt tokens in it, decode one without; a slot one token's
// choice of one expert; the wire what ranks exchange.
package stats
