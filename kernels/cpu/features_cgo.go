//go:build cgo

package cpu

// ISO C (-std=c11, not gnu11) keeps gcc from fusing a·b+c on its own: what is fused is written fused.

// #cgo CFLAGS: -O3 -std=c11 -D_GNU_SOURCE -Wall -Wextra
// #cgo LDFLAGS: -lm
// #include "cpu.h"
import "C"
import "sync"

var detect = sync.OnceValue(func() features { return hasC | features(C.cpu_features()) })
