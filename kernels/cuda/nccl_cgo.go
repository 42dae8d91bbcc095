//go:build cgo

package cuda

// #cgo noescape nccl_exchange
// #cgo nocallback nccl_exchange
// #cgo noescape nccl_gather
// #cgo nocallback nccl_gather
// #include <stdlib.h>
// #include "nccl.h"
import "C"

import (
	"fmt"
	"strings"
	"unsafe"
)

// openNCCL opens the first library of names that loads, once.
func openNCCL(names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("%w: %s is none", ErrNCCL, ncclVariable)
	}
	list := C.CString(strings.Join(names, "\n"))
	defer C.free(unsafe.Pointer(list))
	why := make([]C.char, 512)
	if C.nccl_open(list, &why[0], C.size_t(len(why))) != 0 {
		return fmt.Errorf("%w: %s", ErrNCCL, C.GoString(&why[0]))
	}
	return nil
}

// ncclResult turns a code of NCCL into an error that names the call.
func ncclResult(code C.int, call string) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s (%d)", call, C.GoString(C.nccl_meaning(code)), int(code))
}

func ncclVersion() int {
	var v C.int
	if C.nccl_version(&v) != 0 {
		return 0
	}
	return int(v)
}

func ncclKey() ([]byte, error) {
	key := make([]byte, C.nccl_key_bytes)
	err := ncclResult(C.nccl_key(unsafe.Pointer(&key[0])), "ncclGetUniqueId")
	return key, err
}

func ncclJoin(ctx handle, key []byte, rank, ranks int) (handle, error) {
	if len(key) != C.nccl_key_bytes {
		return 0, fmt.Errorf("a key of %d bytes is not NCCL's", len(key))
	}
	var c C.handle
	err := ncclResult(C.nccl_join(C.handle(ctx), unsafe.Pointer(&key[0]), C.int(rank), C.int(ranks), &c), "ncclCommInitRank")
	return handle(c), err
}

// ncclExchange enqueues: to[r] bytes of send for each rank r, from[r] bytes from each into recv.
func ncclExchange(ctx, stream, comm, recv handle, from []uint64, send handle, to []uint64) error {
	code := C.nccl_exchange(C.handle(ctx), C.handle(stream), C.handle(comm), C.int(len(to)), C.handle(recv), (*C.uint64_t)(&from[0]),
		C.handle(send), (*C.uint64_t)(&to[0]))
	return ncclResult(code, "ncclSend and ncclRecv")
}

// ncclGather enqueues: bytes[rank] bytes of send to each other rank, bytes[r] from each into recv[r].
func ncclGather(ctx, stream, comm handle, rank int, recv []handle, bytes []uint64, send handle) error {
	code := C.nccl_gather(C.handle(ctx), C.handle(stream), C.handle(comm), C.int(len(recv)), C.int(rank), (*C.handle)(unsafe.Pointer(&recv[0])),
		(*C.uint64_t)(&bytes[0]), C.handle(send))
	return ncclResult(code, "ncclSend and ncclRecv")
}

func ncclLeave(ctx, comm handle) error {
	return ncclResult(C.nccl_leave(C.handle(ctx), C.handle(comm)), "ncclCommDestroy")
}

func ncclAbort(ctx, comm handle) error {
	return ncclResult(C.nccl_abort(C.handle(ctx), C.handle(comm)), "ncclCommAbort")
}
