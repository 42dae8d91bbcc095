#define _GNU_SOURCE
#include "nccl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NCCL's ABI, as far as it is used here, declared anew. */
typedef struct {
    char internal[nccl_key_bytes];
} ncclUniqueId;
enum { nccl_bytes = 0 /* ncclInt8 */ };

#define LIBRARY(X)                                                                                                     \
    X(ncclGetVersion, (int *))                                                                                         \
    X(ncclGetUniqueId, (ncclUniqueId *))                                                                               \
    X(ncclCommInitRank, (void **, int, ncclUniqueId, int))                                                             \
    X(ncclCommDestroy, (void *))                                                                                       \
    X(ncclCommAbort, (void *))                                                                                         \
    X(ncclSend, (const void *, size_t, int, int, void *, void *))                                                      \
    X(ncclRecv, (void *, size_t, int, int, void *, void *))                                                            \
    X(ncclGroupStart, (void))                                                                                          \
    X(ncclGroupEnd, (void))

#define POINTER(name, args) static int(*name) args;
LIBRARY(POINTER)
static const char *(*ncclGetErrorString)(int);

#define P(h) ((void *)(uintptr_t)(h))
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int r_ = (call);                                                                                               \
        if (r_ != 0) return r_;                                                                                        \
    } while (0)

static int open_library(const char *names, char *why, size_t n) {
    void *library;
    /* Multicast over NVLink serves reductions, of which there are none here; it would take memory of every GPU. */
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    if ((library = library_open(names, why, n)) == NULL) return -1;
    why[0] = 0;
#define RESOLVE(symbol, args)                                                                                          \
    if ((*(void **)&symbol = dlsym(library, #symbol)) == NULL) snprintf(why, n, "%s is missing in it", #symbol);
    LIBRARY(RESOLVE)
    if ((*(void **)&ncclGetErrorString = dlsym(library, "ncclGetErrorString")) == NULL)
        snprintf(why, n, "ncclGetErrorString is missing in it");
    return why[0] == 0 ? 0 : -1;
}

int nccl_open(const char *names, char *why, size_t n) {
    static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
    static int opened;
    pthread_mutex_lock(&opening);
    if (!opened && open_library(names, why, n) == 0) opened = 1;
    pthread_mutex_unlock(&opening);
    return opened ? 0 : -1;
}

const char *nccl_meaning(int code) { return ncclGetErrorString(code); }
int nccl_version(int *version) { return ncclGetVersion(version); }
int nccl_key(void *key) { return ncclGetUniqueId(key); }

/* NCCL takes the GPU whose context is current. */
static int enter(handle ctx) { return cuda_enter(ctx) == 0 ? 0 : 1; /* ncclUnhandledCudaError */ }

int nccl_join(handle ctx, const void *key, int rank, int ranks, handle *comm) {
    ncclUniqueId id;
    void *c = NULL;
    memcpy(&id, key, sizeof id);
    TRY(enter(ctx));
    TRY(ncclCommInitRank(&c, ranks, id, rank));
    *comm = (handle)(uintptr_t)c;
    return 0;
}

int nccl_exchange(handle ctx, handle stream, handle comm, int ranks, handle recv, const uint64_t *from, handle send,
                  const uint64_t *to) {
    TRY(enter(ctx));
    TRY(ncclGroupStart());
    int result = 0;
    for (int r = 0; r < ranks; r++) {
        if (result == 0 && to[r] > 0) result = ncclSend(P(send), to[r], nccl_bytes, r, P(comm), P(stream));
        if (result == 0 && from[r] > 0) result = ncclRecv(P(recv), from[r], nccl_bytes, r, P(comm), P(stream));
        send += to[r], recv += from[r];
    }
    int end = ncclGroupEnd();
    return result != 0 ? result : end;
}

int nccl_gather(handle ctx, handle stream, handle comm, int ranks, int rank, const handle *recv, const uint64_t *bytes, handle send) {
    TRY(enter(ctx));
    TRY(ncclGroupStart());
    int result = 0;
    for (int r = 0; r < ranks; r++) {
        if (r == rank) continue;
        if (result == 0 && bytes[rank] > 0) result = ncclSend(P(send), bytes[rank], nccl_bytes, r, P(comm), P(stream));
        if (result == 0 && bytes[r] > 0) result = ncclRecv(P(recv[r]), bytes[r], nccl_bytes, r, P(comm), P(stream));
    }
    int end = ncclGroupEnd();
    return result != 0 ? result : end;
}

int nccl_leave(handle ctx, handle comm) {
    TRY(enter(ctx));
    return ncclCommDestroy(P(comm));
}

int nccl_abort(handle ctx, handle comm) {
    TRY(enter(ctx));
    return ncclCommAbort(P(comm));
}
