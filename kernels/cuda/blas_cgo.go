//go:build cgo

package cuda

// #include <stdlib.h>
// #include "blas.h"
import "C"

import (
	"fmt"
	"strings"
	"unsafe"
)

// What Go and C know of records has one size.
var (
	_ [0]struct{} = [C.sizeof_product - unsafe.Sizeof(productRecord{})]struct{}{}
	_ [0]struct{} = [C.sizeof_algorithm - unsafe.Sizeof(algorithm{})]struct{}{}
)

// openBLAS opens the first library of names that loads, once.
func openBLAS(names []string) error {
	list := C.CString(strings.Join(names, "\n"))
	defer C.free(unsafe.Pointer(list))
	why := make([]C.char, 512)
	if C.blas_open(list, &why[0], C.size_t(len(why))) != 0 {
		return fmt.Errorf("%w: %s", ErrBLAS, C.GoString(&why[0]))
	}
	return nil
}

// blasResult turns a code of cuBLASLt into an error that names the call.
func blasResult(code C.int, call string) error {
	if code == 0 {
		return nil
	}
	return &callError{call: call, code: int(code) + C.blas_failed, meaning: C.GoString(C.blas_meaning(code))}
}

func blasVersion() int { return int(C.blas_version()) }

func blasCreate(ctx handle) (handle, error) {
	var l C.handle
	err := blasResult(C.blas_create(C.handle(ctx), &l), "cublasLtCreate")
	return handle(l), err
}

// blasChoose asks for at most so many algorithms for p, the one that cuBLASLt thinks fastest first; split: those too that cut
// the inputs and add what the parts give.
func blasChoose(ctx handle, p *productRecord, split bool, most int) ([]algorithm, error) {
	all, n := make([]algorithm, most), C.int(most)
	err := blasResult(C.blas_choose(C.handle(ctx), (*C.product)(unsafe.Pointer(p)), C.int(truth(split)),
		(*C.algorithm)(unsafe.Pointer(&all[0])), &n), "cublasLtMatmulAlgoGetHeuristic")
	return all[:n], err
}

// blasCheck tells whether p's algorithm can do p.
func blasCheck(ctx handle, p *productRecord) error {
	return blasResult(C.blas_check(C.handle(ctx), (*C.product)(unsafe.Pointer(p))), "cublasLtMatmulAlgoCheck")
}
