/* What Go may call of NVIDIA's driver and of NVRTC, both opened at run time: nothing of theirs is needed to build.
 *
 * Handles (contexts, streams, modules, functions, events, graphs, device addresses) travel as 64-bit numbers. Every
 * cuda_ function that takes a context makes it current first, since Go moves a goroutine between threads. Results are
 * CUresult or nvrtcResult codes, 0 for success; cuda_meaning and nvrtc_meaning tell what they mean. */
#ifndef DSBATCH_CUDA_DRIVER_H
#define DSBATCH_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t handle;

/* Opens libcuda once and resolves what is used of it; 0, or -1 with the reason in why. */
int cuda_open(char *why, size_t n);
const char *cuda_meaning(int code); /* "CUDA_ERROR_OUT_OF_MEMORY: out of memory" */

int cuda_version(int *driver);
int cuda_count(int *devices);
int cuda_device(int ordinal, char *name, size_t n, int *major, int *minor, int *processors, int *l2, int *shared_optin,
                uint64_t *memory);
/* Describes rows of 16-bit values to the copy engine (CUtensorMap): boxes of box_cols by box_rows from any column and row on,
 * swizzled by 128 bytes, zeros beyond the end. stride: bytes, a multiple of 16, as is address. */
int cuda_box(handle ctx, uint64_t map[16], handle address, uint64_t cols, uint64_t rows, uint64_t stride, uint32_t box_cols,
             uint32_t box_rows);
int cuda_uuid(int ordinal, char uuid[16]); /* of the hardware: the same in every process that sees it */
int cuda_reaches(int ordinal, int other, int *yes); /* whether kernels of one GPU may use the other's memory */
int cuda_context(int ordinal, handle *ctx);
int cuda_enter(handle ctx); /* makes it the calling thread's */
int cuda_release(int ordinal);
int cuda_memory(handle ctx, uint64_t *free, uint64_t *total);

int cuda_alloc(handle ctx, uint64_t size, handle *address);
int cuda_free(handle ctx, handle address);
/* Memory of a GPU for kernels of other processes, of an allocation's begin; and for those of another GPU of this process. */
enum { ipc_bytes = 64 };
int cuda_ipc_handle(handle ctx, handle address, void *key);
int cuda_ipc_open(handle ctx, const void *key, handle *address);
int cuda_ipc_close(handle ctx, handle address);
int cuda_peer(handle ctx, handle other); /* kernels of ctx may use what is allocated in other */
int cuda_host_alloc(handle ctx, uint64_t size, void **p, handle *address);
int cuda_host_free(handle ctx, void *p);
int cuda_host_register(handle ctx, void *p, uint64_t size); /* pins what the process has */
int cuda_host_unregister(handle ctx, void *p);
int cuda_zero(handle ctx, handle dst, uint64_t size);                      /* waits */

int cuda_stream_new(handle ctx, handle *stream);
int cuda_stream_free(handle ctx, handle stream);
int cuda_stream_wait(handle ctx, handle stream);

int cuda_module(handle ctx, const void *image, handle *module);
int cuda_module_free(handle ctx, handle module);
/* A kernel, which may then be launched with all the shared memory that a block can have. */
int cuda_function(handle ctx, handle module, const char *name, int shared_optin, handle *function);

int cuda_event_new(handle ctx, handle *event);
int cuda_event_free(handle ctx, handle event);
int cuda_event_record(handle ctx, handle event, handle stream);
int cuda_event_wait(handle ctx, handle stream, handle event); /* what stream gets from now on waits for what was recorded last */
int cuda_event_elapsed(handle ctx, handle from, handle to, float *ms); /* waits for to */

/* A queue is records one after the other, each a multiple of 8 bytes. A launch's arguments, one struct, follow it. */
enum { record_launch = 1, record_copy = 2, record_product = 3 };
typedef struct {
    uint32_t kind, size; /* of the record, with what follows it */
    uint32_t op;         /* which op asked for it: for messages */
    uint32_t beside;     /* a launch that may be set up while the one before runs: its kernel waits for that itself */
} record;
typedef struct {
    record head;
    handle function;
    uint32_t grid[3], block, shared, args; /* args: bytes */
} launch;
typedef struct {
    record head;
    uint64_t dst, src, width, height, dst_pitch, src_pitch; /* bytes, rows */
    uint32_t dst_host, src_host;                            /* whether the address is the host's */
} copy;

/* y [rows, out] = x [rows, in] · wᵀ, w [out, in], by cuBLASLt (blas.h). */
typedef struct {
    record head;
    handle library;
    uint64_t algorithm[8];                /* one of blas_choose's */
    uint64_t y, x, w, room;               /* addresses; room: what the algorithm may write besides */
    int64_t y_stride, x_stride, w_stride; /* elements */
    uint64_t room_bytes;
    int32_t rows, out, in;
    int32_t type, y_type; /* blas_f32 … */
    int32_t pad;
} product;

/* Enqueues all records; *op is that of the failed one. A code from blas_failed on is one of cuBLASLt's, so much larger. */
int cuda_run(handle ctx, handle stream, const void *queue, uint64_t size, uint32_t *op);
/* Makes a graph of the records and replays it. */
int cuda_graph(handle ctx, handle stream, const void *queue, uint64_t size, handle *graph, uint32_t *op);
int cuda_graph_run(handle ctx, handle stream, handle graph);
int cuda_graph_free(handle ctx, handle graph);

/* The first of the libraries, names separated by newlines, that loads; NULL, with the reason in why, where none does. */
void *library_open(const char *names, char *why, size_t n);

/* NVRTC: library_open, and what is used of it resolved. */
int nvrtc_open(const char *names, char *why, size_t n);
const char *nvrtc_meaning(int code);
int nvrtc_version(int *major, int *minor);
/* Compiles source with its headers to machine code. *log is filled on failure and success alike. free() both. */
int nvrtc_compile(const char *source, const char *name, int headers, const char **header_sources,
                  const char **header_names, int options, const char **option, void **image, size_t *size, char **log);
void nvrtc_release(void *p);

#endif
