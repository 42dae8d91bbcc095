//go:build cgo

package cuda

// #cgo CFLAGS: -O2 -Wall
// #cgo LDFLAGS: -ldl -lpthread
// #cgo noescape cuda_run
// #cgo nocallback cuda_run
// #cgo noescape cuda_graph
// #cgo nocallback cuda_graph
// #include <stdlib.h>
// #include "blas.h"
import "C"

import (
	"fmt"
	"strings"
	"unsafe"
)

// openDriver opens libcuda, once.
func openDriver() error {
	why := make([]C.char, 512)
	if C.cuda_open(&why[0], C.size_t(len(why))) != 0 {
		return fmt.Errorf("%w: %s", ErrDriver, C.GoString(&why[0]))
	}
	return nil
}

// openCompiler opens the first library of names that loads, once.
func openCompiler(names []string) error {
	list := C.CString(strings.Join(names, "\n"))
	defer C.free(unsafe.Pointer(list))
	why := make([]C.char, 512)
	if C.nvrtc_open(list, &why[0], C.size_t(len(why))) != 0 {
		return fmt.Errorf("%w: %s", ErrCompiler, C.GoString(&why[0]))
	}
	return nil
}

// result turns a code of the driver into an error that names the call.
func result(code C.int, call string) error {
	switch {
	case code == 0:
		return nil
	case code > C.blas_failed: // a record of a queue
		return blasResult(code-C.blas_failed, "cublasLtMatmul")
	}
	return &callError{call: call, code: int(code), meaning: C.GoString(C.cuda_meaning(code))}
}

func driverVersion() (int, error) {
	var v C.int
	err := result(C.cuda_version(&v), "cuDriverGetVersion")
	return int(v), err
}

// boxesOf describes rows of 16-bit values to the copy engine: boxes of 64 columns by so many rows.
func boxesOf(ctx, address handle, cols, rows, stride, boxRows int) (m [16]uint64, err error) {
	err = result(C.cuda_box(C.handle(ctx), (*C.uint64_t)(&m[0]), C.handle(address), C.uint64_t(cols), C.uint64_t(rows), C.uint64_t(stride), 64, C.uint32_t(boxRows)),
		"cuTensorMapEncodeTiled")
	return m, err
}

func deviceCount() (int, error) {
	var n C.int
	err := result(C.cuda_count(&n), "cuDeviceGetCount")
	return int(n), err
}

func describeDevice(ordinal int) (card, error) {
	var name [256]C.char
	var major, minor, processors, l2, shared C.int
	var memory C.uint64_t
	err := result(C.cuda_device(C.int(ordinal), &name[0], 256, &major, &minor, &processors, &l2, &shared, &memory), "cuDeviceGet")
	return card{name: C.GoString(&name[0]), major: int(major), minor: int(minor), processors: int(processors),
		l2: int(l2), shared: int(shared), memory: int64(memory)}, err
}

func deviceUUID(ordinal int) ([]byte, error) {
	var uuid [16]C.char
	err := result(C.cuda_uuid(C.int(ordinal), &uuid[0]), "cuDeviceGetUuid")
	return C.GoBytes(unsafe.Pointer(&uuid), C.int(len(uuid))), err
}

// reaches tells whether kernels of one GPU may use the other's memory.
func reaches(ordinal, other int) (bool, error) {
	var yes C.int
	err := result(C.cuda_reaches(C.int(ordinal), C.int(other), &yes), "cuDeviceCanAccessPeer")
	return yes != 0, err
}

func retainContext(ordinal int) (handle, error) {
	var ctx C.handle
	err := result(C.cuda_context(C.int(ordinal), &ctx), "cuDevicePrimaryCtxRetain")
	return handle(ctx), err
}

func releaseContext(ordinal int) error {
	return result(C.cuda_release(C.int(ordinal)), "cuDevicePrimaryCtxRelease")
}

func memoryInfo(ctx handle) (free, total int64, err error) {
	var f, t C.uint64_t
	err = result(C.cuda_memory(C.handle(ctx), &f, &t), "cuMemGetInfo")
	return int64(f), int64(t), err
}

func memAlloc(ctx handle, size int64) (handle, error) {
	var p C.handle
	err := result(C.cuda_alloc(C.handle(ctx), C.uint64_t(size), &p), "cuMemAlloc")
	return handle(p), err
}

func memFree(ctx, p handle) error {
	return result(C.cuda_free(C.handle(ctx), C.handle(p)), "cuMemFree")
}

// ipcHandle is what other processes open an allocation by.
func ipcHandle(ctx, address handle) ([]byte, error) {
	key := make([]byte, C.ipc_bytes)
	err := result(C.cuda_ipc_handle(C.handle(ctx), C.handle(address), unsafe.Pointer(&key[0])), "cuIpcGetMemHandle")
	return key, err
}

func ipcOpen(ctx handle, key []byte) (handle, error) {
	if len(key) != C.ipc_bytes {
		return 0, fmt.Errorf("a handle of %d bytes is not the driver's", len(key))
	}
	var a C.handle
	err := result(C.cuda_ipc_open(C.handle(ctx), unsafe.Pointer(&key[0]), &a), "cuIpcOpenMemHandle")
	return handle(a), err
}

func ipcClose(ctx, address handle) error {
	return result(C.cuda_ipc_close(C.handle(ctx), C.handle(address)), "cuIpcCloseMemHandle")
}

// peerAccess lets kernels of a context use what is allocated in another of this process.
func peerAccess(ctx, other handle) error {
	return result(C.cuda_peer(C.handle(ctx), C.handle(other)), "cuCtxEnablePeerAccess")
}

// hostAlloc is pinned memory: its bytes, and their address for kernels.
func hostAlloc(ctx handle, size int64) ([]byte, handle, error) {
	var p unsafe.Pointer
	var a C.handle
	if err := result(C.cuda_host_alloc(C.handle(ctx), C.uint64_t(size), &p, &a), "cuMemHostAlloc"); err != nil {
		return nil, 0, err
	}
	return unsafe.Slice((*byte)(p), size), handle(a), nil
}

func hostFree(ctx handle, b []byte) error {
	return result(C.cuda_host_free(C.handle(ctx), unsafe.Pointer(unsafe.SliceData(b))), "cuMemFreeHost")
}

// hostRegister pins memory that the process has outside of Go's.
func hostRegister(ctx handle, b []byte) error {
	return result(C.cuda_host_register(C.handle(ctx), unsafe.Pointer(unsafe.SliceData(b)), C.uint64_t(len(b))), "cuMemHostRegister")
}

func hostUnregister(ctx handle, b []byte) error {
	return result(C.cuda_host_unregister(C.handle(ctx), unsafe.Pointer(unsafe.SliceData(b))), "cuMemHostUnregister")
}

func zero(ctx, dst handle, size int64) error {
	return result(C.cuda_zero(C.handle(ctx), C.handle(dst), C.uint64_t(size)), "cuMemsetD8")
}

func streamNew(ctx handle) (handle, error) {
	var s C.handle
	err := result(C.cuda_stream_new(C.handle(ctx), &s), "cuStreamCreate")
	return handle(s), err
}

func streamFree(ctx, s handle) error {
	return result(C.cuda_stream_free(C.handle(ctx), C.handle(s)), "cuStreamDestroy")
}

func streamWait(ctx, s handle) error {
	return result(C.cuda_stream_wait(C.handle(ctx), C.handle(s)), "cuStreamSynchronize")
}

func moduleLoad(ctx handle, image []byte) (handle, error) {
	var m C.handle
	err := result(C.cuda_module(C.handle(ctx), unsafe.Pointer(unsafe.SliceData(image)), &m), "cuModuleLoadData")
	return handle(m), err
}

func moduleFree(ctx, m handle) error {
	return result(C.cuda_module_free(C.handle(ctx), C.handle(m)), "cuModuleUnload")
}

func moduleFunction(ctx, module handle, name string, shared int) (handle, error) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	var f C.handle
	err := result(C.cuda_function(C.handle(ctx), C.handle(module), n, C.int(shared), &f), "cuModuleGetFunction "+name)
	return handle(f), err
}

func eventNew(ctx handle) (handle, error) {
	var e C.handle
	err := result(C.cuda_event_new(C.handle(ctx), &e), "cuEventCreate")
	return handle(e), err
}

func eventFree(ctx, e handle) error {
	return result(C.cuda_event_free(C.handle(ctx), C.handle(e)), "cuEventDestroy")
}

func eventRecord(ctx, e, stream handle) error {
	return result(C.cuda_event_record(C.handle(ctx), C.handle(e), C.handle(stream)), "cuEventRecord")
}

// eventWait has what a stream gets from now on wait for what was recorded last.
func eventWait(ctx, stream, e handle) error {
	return result(C.cuda_event_wait(C.handle(ctx), C.handle(stream), C.handle(e)), "cuStreamWaitEvent")
}

// eventElapsed waits for to and tells the milliseconds since from.
func eventElapsed(ctx, from, to handle) (float64, error) {
	var ms C.float
	err := result(C.cuda_event_elapsed(C.handle(ctx), C.handle(from), C.handle(to), &ms), "cuEventElapsedTime")
	return float64(ms), err
}

// runQueue enqueues all records of a queue; op is that of the failed one.
func runQueue(ctx, stream handle, queue []byte) (op uint32, err error) {
	var at C.uint32_t
	code := C.cuda_run(C.handle(ctx), C.handle(stream), unsafe.Pointer(unsafe.SliceData(queue)), C.uint64_t(len(queue)), &at)
	return uint32(at), result(code, "cuLaunchKernel")
}

// newGraph makes a graph of a queue and runs it.
func newGraph(ctx, stream handle, queue []byte) (g handle, op uint32, err error) {
	var at C.uint32_t
	var graph C.handle
	code := C.cuda_graph(C.handle(ctx), C.handle(stream), unsafe.Pointer(unsafe.SliceData(queue)), C.uint64_t(len(queue)), &graph, &at)
	return handle(graph), uint32(at), result(code, "cuGraphInstantiate")
}

func runGraph(ctx, stream, graph handle) error {
	return result(C.cuda_graph_run(C.handle(ctx), C.handle(stream), C.handle(graph)), "cuGraphLaunch")
}

func graphFree(ctx, graph handle) error {
	return result(C.cuda_graph_free(C.handle(ctx), C.handle(graph)), "cuGraphExecDestroy")
}

func compilerVersion() (major, minor int) {
	var a, b C.int
	if C.nvrtc_version(&a, &b) != 0 {
		return 0, 0
	}
	return int(a), int(b)
}

// compileProgram compiles one source with the headers that it may include; log is the compiler's, errors or not.
func compileProgram(name, source string, headers map[string]string, options []string) (image []byte, log string, err error) {
	var all []unsafe.Pointer
	text := func(s string) *C.char {
		p := C.CString(s)
		all = append(all, unsafe.Pointer(p))
		return p
	}
	defer func() {
		for _, p := range all {
			C.free(p)
		}
	}()
	list := func(items []string) **C.char { // in C's memory, since it holds pointers
		p := C.malloc(C.size_t(8 * (len(items) + 1)))
		all = append(all, p)
		for i, s := range items {
			unsafe.Slice((**C.char)(p), len(items))[i] = text(s)
		}
		return (**C.char)(p)
	}
	var names, sources []string
	for n, s := range headers {
		names, sources = append(names, n), append(sources, s)
	}
	var out unsafe.Pointer
	var size C.size_t
	var notes *C.char
	code := C.nvrtc_compile(text(source), text(name), C.int(len(names)), list(sources), list(names),
		C.int(len(options)), list(options), &out, &size, &notes)
	if notes != nil {
		log = C.GoString(notes)
		C.nvrtc_release(unsafe.Pointer(notes))
	}
	if out != nil {
		defer C.nvrtc_release(out)
	}
	if code != 0 {
		return nil, log, fmt.Errorf("nvrtcCompileProgram: %s", C.GoString(C.nvrtc_meaning(code)))
	}
	return C.GoBytes(out, C.int(size)), log, nil
}
