//go:build !linux

package tokenizer

import "time"

// threadTime is what goes by, where a thread's processor time is not told.
func threadTime() time.Duration { return time.Since(started) }
