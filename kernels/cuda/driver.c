#define _GNU_SOURCE
#include "driver.h"
#include "blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* NVIDIA's ABI, as far as it is used here, declared anew. */
typedef int CUresult;
typedef struct {
    size_t srcXInBytes, srcY;
    int srcMemoryType; /* 1 host, 2 device */
    const void *srcHost;
    uint64_t srcDevice;
    void *srcArray;
    size_t srcPitch, dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    uint64_t dstDevice;
    void *dstArray;
    size_t dstPitch, WidthInBytes, Height;
} CUDA_MEMCPY2D;

typedef struct {
    char reserved[ipc_bytes];
} CUipcMemHandle;

typedef struct {
    int id;
    char pad[4];
    union {
        char room[64];
        int programmatic_stream_serialization;
    } value;
} CUlaunchAttribute;
typedef struct {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void *hStream;
    CUlaunchAttribute *attrs;
    unsigned numAttrs;
} CUlaunchConfig;

enum {
    not_initialized = 3,
    attribute_processors = 16,
    attribute_l2 = 38,
    attribute_major = 75,
    attribute_minor = 76,
    attribute_shared_optin = 97,
    function_shared = 1,
    function_dynamic_shared = 8,
    host_portable_mapped = 1 | 2,
    stream_non_blocking = 1,
    capture_thread_local = 1,
    launch_programmatic_stream_serialization = 6,
    ipc_lazy_peer_access = 1,
    peer_access_already_enabled = 704
};

#define DRIVER(X)                                                                                                      \
    X(cuInit, "cuInit", (unsigned))                                                                                    \
    X(cuDriverGetVersion, "cuDriverGetVersion", (int *))                                                               \
    X(cuGetErrorName, "cuGetErrorName", (CUresult, const char **))                                                     \
    X(cuGetErrorString, "cuGetErrorString", (CUresult, const char **))                                                 \
    X(cuDeviceGetCount, "cuDeviceGetCount", (int *))                                                                   \
    X(cuDeviceGet, "cuDeviceGet", (int *, int))                                                                        \
    X(cuDeviceGetName, "cuDeviceGetName", (char *, int, int))                                                          \
    X(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int *, int, int))                                                 \
    X(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t *, int))                                                        \
    X(cuDeviceGetUuid, "cuDeviceGetUuid_v2", (char *, int))                                                            \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (void **, int))                                            \
    X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (int))                                                \
    X(cuCtxSetCurrent, "cuCtxSetCurrent", (void *))                                                                    \
    X(cuMemGetInfo, "cuMemGetInfo_v2", (size_t *, size_t *))                                                           \
    X(cuMemAlloc, "cuMemAlloc_v2", (uint64_t *, size_t))                                                               \
    X(cuMemFree, "cuMemFree_v2", (uint64_t))                                                                           \
    X(cuIpcGetMemHandle, "cuIpcGetMemHandle", (CUipcMemHandle *, uint64_t))                                            \
    X(cuIpcOpenMemHandle, "cuIpcOpenMemHandle_v2", (uint64_t *, CUipcMemHandle, unsigned))                             \
    X(cuIpcCloseMemHandle, "cuIpcCloseMemHandle", (uint64_t))                                                          \
    X(cuCtxEnablePeerAccess, "cuCtxEnablePeerAccess", (void *, unsigned))                                              \
    X(cuDeviceCanAccessPeer, "cuDeviceCanAccessPeer", (int *, int, int))                                               \
    X(cuMemHostAlloc, "cuMemHostAlloc", (void **, size_t, unsigned))                                                   \
    X(cuMemHostGetDevicePointer, "cuMemHostGetDevicePointer_v2", (uint64_t *, void *, unsigned))                       \
    X(cuMemFreeHost, "cuMemFreeHost", (void *))                                                                        \
    X(cuMemHostRegister, "cuMemHostRegister_v2", (void *, size_t, unsigned))                                           \
    X(cuMemHostUnregister, "cuMemHostUnregister", (void *))                                                            \
    X(cuMemsetD8, "cuMemsetD8_v2", (uint64_t, unsigned char, size_t))                                                  \
    X(cuMemcpy2DAsync, "cuMemcpy2DAsync_v2", (const CUDA_MEMCPY2D *, void *))                                          \
    X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (uint64_t, const void *, size_t, void *))                             \
    X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *, uint64_t, size_t, void *))                                   \
    X(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (uint64_t, uint64_t, size_t, void *))                                 \
    X(cuStreamCreate, "cuStreamCreate", (void **, unsigned))                                                           \
    X(cuStreamDestroy, "cuStreamDestroy_v2", (void *))                                                                 \
    X(cuStreamSynchronize, "cuStreamSynchronize", (void *))                                                            \
    X(cuStreamWaitEvent, "cuStreamWaitEvent", (void *, void *, unsigned))                                              \
    X(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (void *, int))                                                  \
    X(cuStreamEndCapture, "cuStreamEndCapture", (void *, void **))                                                     \
    X(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags", (void **, void *, unsigned long long))               \
    X(cuGraphLaunch, "cuGraphLaunch", (void *, void *))                                                                \
    X(cuGraphDestroy, "cuGraphDestroy", (void *))                                                                      \
    X(cuGraphExecDestroy, "cuGraphExecDestroy", (void *))                                                              \
    X(cuModuleLoadData, "cuModuleLoadData", (void **, const void *))                                                   \
    X(cuModuleUnload, "cuModuleUnload", (void *))                                                                      \
    X(cuModuleGetFunction, "cuModuleGetFunction", (void **, void *, const char *))                                     \
    X(cuFuncSetAttribute, "cuFuncSetAttribute", (void *, int, int))                                                    \
    X(cuFuncGetAttribute, "cuFuncGetAttribute", (int *, int, void *))                                                  \
    X(cuLaunchKernelEx, "cuLaunchKernelEx", (const CUlaunchConfig *, void *, void **, void **))                        \
    X(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled", (void *, int, uint32_t, void *, const uint64_t *, const uint64_t *, const uint32_t *, const uint32_t *, int, int, int, int)) \
    X(cuEventCreate, "cuEventCreate", (void **, unsigned))                                                             \
    X(cuEventDestroy, "cuEventDestroy_v2", (void *))                                                                   \
    X(cuEventRecord, "cuEventRecord", (void *, void *))                                                                \
    X(cuEventSynchronize, "cuEventSynchronize", (void *))                                                              \
    X(cuEventElapsedTime, "cuEventElapsedTime", (float *, void *, void *))

#define POINTER(name, symbol, args) static CUresult(*name) args;
DRIVER(POINTER)

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

static void *resolve(void *library, const char *symbol, char *why, size_t n) {
    void *p = dlsym(library, symbol);
    if (p == NULL && why[0] == 0) snprintf(why, n, "%s is missing in it", symbol);
    return p;
}

void *library_open(const char *names, char *why, size_t n) {
    void *library = NULL;
    char name[1024], *end;
    for (const char *at = names; library == NULL && *at != 0; at += strlen(name) + (at[strlen(name)] == '\n')) {
        snprintf(name, sizeof name, "%s", at);
        if ((end = strchr(name, '\n')) != NULL) *end = 0;
        library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library == NULL) snprintf(why, n, "%s", dlerror());
    return library;
}

static int open_driver(char *why, size_t n) {
    why[0] = 0;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(why, n, "%s", dlerror());
        return -1;
    }
#define RESOLVE(name, symbol, args) *(void **)&name = resolve(library, symbol, why, n);
    DRIVER(RESOLVE)
    if (why[0] != 0) return -1;
    CUresult r = cuInit(0);
    if (r != 0) {
        const char *text = cuda_meaning(r);
        snprintf(why, n, "cuInit: %s", text);
        return -1;
    }
    return 0;
}

int cuda_open(char *why, size_t n) {
    static int opened;
    pthread_mutex_lock(&opening);
    if (!opened && open_driver(why, n) == 0) opened = 1;
    pthread_mutex_unlock(&opening);
    return opened ? 0 : -1;
}

const char *cuda_meaning(int code) {
    static __thread char text[256];
    const char *name = NULL, *meaning = NULL;
    if (cuGetErrorName == NULL || cuGetErrorName(code, &name) != 0 || name == NULL) name = "unknown error";
    if (cuGetErrorString == NULL || cuGetErrorString(code, &meaning) != 0 || meaning == NULL) meaning = "no description";
    snprintf(text, sizeof text, "%s (%d): %s", name, code, meaning);
    return text;
}

#define P(h) ((void *)(uintptr_t)(h))
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        CUresult r_ = (call);                                                                                          \
        if (r_ != 0) return r_;                                                                                        \
    } while (0)

int cuda_version(int *driver) { return cuDriverGetVersion(driver); }
int cuda_count(int *devices) { return cuDeviceGetCount(devices); }

int cuda_device(int ordinal, char *name, size_t n, int *major, int *minor, int *processors, int *l2, int *shared_optin,
                uint64_t *memory) {
    int d;
    size_t total;
    TRY(cuDeviceGet(&d, ordinal));
    TRY(cuDeviceGetName(name, (int)n, d));
    TRY(cuDeviceGetAttribute(major, attribute_major, d));
    TRY(cuDeviceGetAttribute(minor, attribute_minor, d));
    TRY(cuDeviceGetAttribute(processors, attribute_processors, d));
    TRY(cuDeviceGetAttribute(l2, attribute_l2, d));
    TRY(cuDeviceGetAttribute(shared_optin, attribute_shared_optin, d));
    TRY(cuDeviceTotalMem(&total, d));
    *memory = total;
    return 0;
}

int cuda_uuid(int ordinal, char uuid[16]) {
    int d;
    TRY(cuDeviceGet(&d, ordinal));
    return cuDeviceGetUuid(uuid, d);
}

int cuda_reaches(int ordinal, int other, int *yes) {
    int d, o;
    TRY(cuDeviceGet(&d, ordinal));
    TRY(cuDeviceGet(&o, other));
    return cuDeviceCanAccessPeer(yes, d, o);
}

int cuda_context(int ordinal, handle *ctx) {
    int d;
    void *c;
    TRY(cuDeviceGet(&d, ordinal));
    TRY(cuDevicePrimaryCtxRetain(&c, d));
    *ctx = (handle)(uintptr_t)c;
    return 0;
}

int cuda_release(int ordinal) {
    int d;
    TRY(cuDeviceGet(&d, ordinal));
    return cuDevicePrimaryCtxRelease(d);
}

static CUresult enter(handle ctx) { return cuCtxSetCurrent(P(ctx)); }
int cuda_enter(handle ctx) { return enter(ctx); }

int cuda_box(handle ctx, uint64_t map[16], handle address, uint64_t cols, uint64_t rows, uint64_t stride, uint32_t box_cols,
             uint32_t box_rows) {
    _Alignas(64) uint64_t made[16];
    const uint64_t size[2] = {cols, rows}, strides[1] = {stride};
    const uint32_t box[2] = {box_cols, box_rows}, steps[2] = {1, 1};
    enum { uint16 = 1, plain = 0, swizzle_128 = 3, l2_256 = 3, zeros = 0 };
    TRY(enter(ctx)); /* it looks the address up, though nothing is sent to the card */
    TRY(cuTensorMapEncodeTiled(made, uint16, 2, P(address), size, strides, box, steps, plain, swizzle_128, l2_256, zeros));
    memcpy(map, made, sizeof made);
    return 0;
}

int cuda_memory(handle ctx, uint64_t *free, uint64_t *total) {
    size_t f, t;
    TRY(enter(ctx));
    TRY(cuMemGetInfo(&f, &t));
    *free = f, *total = t;
    return 0;
}

int cuda_alloc(handle ctx, uint64_t size, handle *address) {
    TRY(enter(ctx));
    return cuMemAlloc(address, size);
}

int cuda_free(handle ctx, handle address) {
    TRY(enter(ctx));
    return cuMemFree(address);
}

int cuda_ipc_handle(handle ctx, handle address, void *key) {
    TRY(enter(ctx));
    return cuIpcGetMemHandle(key, address);
}

int cuda_ipc_open(handle ctx, const void *key, handle *address) {
    CUipcMemHandle k;
    memcpy(&k, key, sizeof k);
    TRY(enter(ctx));
    return cuIpcOpenMemHandle(address, k, ipc_lazy_peer_access);
}

int cuda_ipc_close(handle ctx, handle address) {
    TRY(enter(ctx));
    return cuIpcCloseMemHandle(address);
}

int cuda_peer(handle ctx, handle other) {
    TRY(enter(ctx));
    CUresult r = cuCtxEnablePeerAccess(P(other), 0);
    return r == peer_access_already_enabled ? 0 : r;
}

int cuda_host_alloc(handle ctx, uint64_t size, void **p, handle *address) {
    TRY(enter(ctx));
    TRY(cuMemHostAlloc(p, size, host_portable_mapped));
    return cuMemHostGetDevicePointer(address, *p, 0);
}

int cuda_host_free(handle ctx, void *p) {
    TRY(enter(ctx));
    return cuMemFreeHost(p);
}

int cuda_host_register(handle ctx, void *p, uint64_t size) {
    TRY(enter(ctx));
    return cuMemHostRegister(p, size, host_portable_mapped);
}

int cuda_host_unregister(handle ctx, void *p) {
    TRY(enter(ctx));
    return cuMemHostUnregister(p);
}

int cuda_zero(handle ctx, handle dst, uint64_t size) {
    TRY(enter(ctx));
    TRY(cuMemsetD8(dst, 0, size));
    return cuStreamSynchronize(NULL);
}

int cuda_stream_new(handle ctx, handle *stream) {
    void *s;
    TRY(enter(ctx));
    TRY(cuStreamCreate(&s, stream_non_blocking));
    *stream = (handle)(uintptr_t)s;
    return 0;
}

int cuda_stream_free(handle ctx, handle stream) {
    TRY(enter(ctx));
    return cuStreamDestroy(P(stream));
}

int cuda_stream_wait(handle ctx, handle stream) {
    TRY(enter(ctx));
    return cuStreamSynchronize(P(stream));
}

int cuda_module(handle ctx, const void *image, handle *module) {
    void *m;
    TRY(enter(ctx));
    TRY(cuModuleLoadData(&m, image));
    *module = (handle)(uintptr_t)m;
    return 0;
}

int cuda_module_free(handle ctx, handle module) {
    TRY(enter(ctx));
    return cuModuleUnload(P(module));
}

int cuda_function(handle ctx, handle module, const char *name, int shared_optin, handle *function) {
    void *f;
    int shared;
    TRY(enter(ctx));
    TRY(cuModuleGetFunction(&f, P(module), name));
    TRY(cuFuncGetAttribute(&shared, function_shared, f));
    TRY(cuFuncSetAttribute(f, function_dynamic_shared, shared_optin - shared));
    *function = (handle)(uintptr_t)f;
    return 0;
}

int cuda_event_new(handle ctx, handle *event) {
    void *e;
    TRY(enter(ctx));
    TRY(cuEventCreate(&e, 0));
    *event = (handle)(uintptr_t)e;
    return 0;
}

int cuda_event_free(handle ctx, handle event) {
    TRY(enter(ctx));
    return cuEventDestroy(P(event));
}

int cuda_event_record(handle ctx, handle event, handle stream) {
    TRY(enter(ctx));
    return cuEventRecord(P(event), P(stream));
}

int cuda_event_wait(handle ctx, handle stream, handle event) {
    TRY(enter(ctx));
    return cuStreamWaitEvent(P(stream), P(event), 0);
}

int cuda_event_elapsed(handle ctx, handle from, handle to, float *ms) {
    TRY(enter(ctx));
    TRY(cuEventSynchronize(P(to)));
    return cuEventElapsedTime(ms, P(from), P(to));
}

static CUresult run_launch(const launch *l, void *stream) {
    void *args[] = {(void *)(l + 1)}; /* one struct; the driver knows how long it is and where it is to lie */
    CUlaunchAttribute beside = {.id = launch_programmatic_stream_serialization, .value.programmatic_stream_serialization = 1};
    CUlaunchConfig config = {l->grid[0], l->grid[1], l->grid[2], l->block, 1, 1, l->shared, stream, &beside, l->head.beside ? 1 : 0};
    return cuLaunchKernelEx(&config, P(l->function), args, NULL);
}

static CUresult run_copy(const copy *c, void *stream) {
    if (c->height == 1) {
        if (c->src_host) return cuMemcpyHtoDAsync(c->dst, P(c->src), c->width, stream);
        if (c->dst_host) return cuMemcpyDtoHAsync(P(c->dst), c->src, c->width, stream);
        return cuMemcpyDtoDAsync(c->dst, c->src, c->width, stream);
    }
    CUDA_MEMCPY2D m;
    memset(&m, 0, sizeof m);
    m.srcMemoryType = c->src_host ? 1 : 2, m.srcHost = P(c->src), m.srcDevice = c->src, m.srcPitch = c->src_pitch;
    m.dstMemoryType = c->dst_host ? 1 : 2, m.dstHost = P(c->dst), m.dstDevice = c->dst, m.dstPitch = c->dst_pitch;
    m.WidthInBytes = c->width, m.Height = c->height;
    return cuMemcpy2DAsync(&m, stream);
}

static int run_record(const record *r, void *stream) {
    switch (r->kind) {
    case record_launch: return run_launch((const launch *)r, stream);
    case record_copy: return run_copy((const copy *)r, stream);
    }
    int status = blas_multiply((const product *)r, stream);
    return status == 0 ? 0 : blas_failed + status;
}

int cuda_run(handle ctx, handle stream, const void *queue, uint64_t size, uint32_t *op) {
    TRY(enter(ctx));
    for (uint64_t at = 0; at < size;) {
        const record *r = (const record *)((const char *)queue + at);
        int e = run_record(r, P(stream));
        if (e != 0) {
            *op = r->op;
            return e;
        }
        at += r->size;
    }
    return 0;
}

int cuda_graph(handle ctx, handle stream, const void *queue, uint64_t size, handle *graph, uint32_t *op) {
    void *g = NULL, *x = NULL;
    TRY(enter(ctx));
    TRY(cuStreamBeginCapture(P(stream), capture_thread_local));
    int e = cuda_run(ctx, stream, queue, size, op), f = cuStreamEndCapture(P(stream), &g);
    if (e == 0) e = f;
    if (e == 0) e = cuGraphInstantiateWithFlags(&x, g, 0);
    if (g != NULL) cuGraphDestroy(g);
    if (e != 0) return e;
    *graph = (handle)(uintptr_t)x;
    return cuGraphLaunch(x, P(stream));
}

int cuda_graph_run(handle ctx, handle stream, handle graph) {
    TRY(enter(ctx));
    return cuGraphLaunch(P(graph), P(stream));
}

int cuda_graph_free(handle ctx, handle graph) {
    TRY(enter(ctx));
    return cuGraphExecDestroy(P(graph));
}
