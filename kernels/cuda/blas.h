/* What Go may call of cuBLASLt, opened at run time: nothing of it is needed to build, and without it our own kernels multiply.
 * Results are cublasStatus_t codes, 0 for success; blas_meaning tells what they mean. */
#ifndef DSBATCH_CUDA_BLAS_H
#define DSBATCH_CUDA_BLAS_H

#include "driver.h"

enum { blas_f32 = 0, blas_f16 = 2, blas_bf16 = 14 }; /* types of elements: cudaDataType_t's numbers */
enum { blas_failed = 1 << 16 };

/* Opens the first library of names, separated by newlines, that loads, once; 0, or -1 with the reason in why. */
int blas_open(const char *names, char *why, size_t n);
const char *blas_meaning(int code);
int blas_version(void); /* 130100: 13.1.0 */

/* It is never destroyed: cublasLtDestroy (13.1) beside another thread's product by a library of its own is a segmentation fault. */
int blas_create(handle ctx, handle *library);

typedef struct {
    uint64_t words[8];
    uint64_t room; /* bytes that it writes besides */
    int32_t parts; /* into which it cuts the inputs */
    int32_t sums;  /* how it adds what they give: 0 not at all */
} algorithm;

/* The algorithms that cuBLASLt thinks fastest for p, best first, at most *found, which becomes their number. split: those
 * too that cut the inputs and add their parts, whose bits depend on the cut. Addresses and strides are multiples of 16 bytes. */
int blas_choose(handle ctx, const product *p, int split, algorithm *all, int *found);
/* Whether p's algorithm can do p. */
int blas_check(handle ctx, const product *p);
/* Enqueues p. The context is current. */
int blas_multiply(const product *p, void *stream);

#endif
