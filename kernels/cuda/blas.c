#define _GNU_SOURCE
#include "blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* cuBLASLt's ABI, as far as it is used here, declared anew. */
typedef struct {
    uint64_t algorithm[8];
    size_t room;
    int state;
    float waves;
    int reserved[4];
} heuristic;

enum {
    compute_f32 = 68, /* products of 16-bit values are exact, sums float32 */
    transposed = 1,
    desc_trans_a = 3,
    preference_room = 1,
    preference_sums = 3, /* which ways to add parts are allowed, by bits */
    preference_align_a = 5, /* and b, c, d */
    config_parts = 2,
    config_sums = 3,
    any_sums = 7,
    not_supported = 15
};

#define LIBRARY(X)                                                                                                     \
    X(cublasLtCreate, (void **))                                                                                       \
    X(cublasLtMatmulDescCreate, (void **, int, int))                                                                   \
    X(cublasLtMatmulDescDestroy, (void *))                                                                             \
    X(cublasLtMatmulDescSetAttribute, (void *, int, const void *, size_t))                                             \
    X(cublasLtMatrixLayoutCreate, (void **, int, uint64_t, uint64_t, int64_t))                                         \
    X(cublasLtMatrixLayoutDestroy, (void *))                                                                           \
    X(cublasLtMatmulPreferenceCreate, (void **))                                                                       \
    X(cublasLtMatmulPreferenceDestroy, (void *))                                                                       \
    X(cublasLtMatmulPreferenceSetAttribute, (void *, int, const void *, size_t))                                       \
    X(cublasLtMatmulAlgoGetHeuristic, (void *, void *, void *, void *, void *, void *, void *, int, heuristic *, int *)) \
    X(cublasLtMatmulAlgoCheck, (void *, void *, void *, void *, void *, void *, const void *, heuristic *))            \
    X(cublasLtMatmulAlgoConfigGetAttribute, (const void *, int, void *, size_t, size_t *))                             \
    X(cublasLtMatmul, (void *, void *, const void *, const void *, void *, const void *, void *, const void *,         \
                       const void *, void *, void *, void *, const void *, void *, size_t, void *))

#define POINTER(name, args) static int(*name) args;
LIBRARY(POINTER)
static size_t (*cublasLtGetVersion)(void);
static const char *(*cublasLtGetStatusName)(int);
static const char *(*cublasLtGetStatusString)(int);

#define P(h) ((void *)(uintptr_t)(h))
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int failed_ = (call);                                                                                          \
        if (failed_ != 0) return failed_;                                                                              \
    } while (0)

static int open_library(const char *names, char *why, size_t n) {
    void *library = library_open(names, why, n);
    if (library == NULL) return -1;
    why[0] = 0;
#define RESOLVE(symbol, args)                                                                                          \
    if ((*(void **)&symbol = dlsym(library, #symbol)) == NULL && why[0] == 0)                                          \
        snprintf(why, n, "%s is missing in it", #symbol);
    LIBRARY(RESOLVE)
    RESOLVE(cublasLtGetVersion, )
    RESOLVE(cublasLtGetStatusName, )
    RESOLVE(cublasLtGetStatusString, )
    return why[0] == 0 ? 0 : -1;
}

int blas_open(const char *names, char *why, size_t n) {
    static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
    static int opened;
    pthread_mutex_lock(&opening);
    if (!opened && open_library(names, why, n) == 0) opened = 1;
    int is = opened;
    pthread_mutex_unlock(&opening);
    return is ? 0 : -1;
}

const char *blas_meaning(int code) {
    static __thread char text[256];
    snprintf(text, sizeof text, "%s (%d): %s", cublasLtGetStatusName(code), code, cublasLtGetStatusString(code));
    return text;
}

int blas_version(void) { return (int)cublasLtGetVersion(); }

int blas_create(handle ctx, handle *library) {
    static pthread_mutex_t creating = PTHREAD_MUTEX_INITIALIZER;
    void *l;
    if (cuda_enter(ctx) != 0) return 1; /* not initialised */
    pthread_mutex_lock(&creating);
    int status = cublasLtCreate(&l);
    pthread_mutex_unlock(&creating);
    TRY(status);
    *library = (handle)(uintptr_t)l;
    return 0;
}

/* To cuBLASLt, whose matrices are column by column, w is [in, out], to be transposed, x [in, rows], y [out, rows]. */
typedef struct {
    void *product, *w, *x, *y;
} description;

static int describe(const product *p, description *d) {
    const int turn = transposed;
    TRY(cublasLtMatmulDescCreate(&d->product, compute_f32, blas_f32));
    TRY(cublasLtMatmulDescSetAttribute(d->product, desc_trans_a, &turn, sizeof turn));
    TRY(cublasLtMatrixLayoutCreate(&d->w, p->type, p->in, p->out, p->w_stride));
    TRY(cublasLtMatrixLayoutCreate(&d->x, p->type, p->in, p->rows, p->x_stride));
    return cublasLtMatrixLayoutCreate(&d->y, p->y_type, p->out, p->rows, p->y_stride);
}

static void forget(description *d) {
    if (d->product != NULL) cublasLtMatmulDescDestroy(d->product);
    if (d->w != NULL) cublasLtMatrixLayoutDestroy(d->w);
    if (d->x != NULL) cublasLtMatrixLayoutDestroy(d->x);
    if (d->y != NULL) cublasLtMatrixLayoutDestroy(d->y);
}

static int prefer(void *preference, uint64_t room, int split) {
    const uint32_t sums = split ? any_sums : 0, bytes = 16;
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, preference_room, &room, sizeof room));
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, preference_sums, &sums, sizeof sums));
    for (int i = 0; i < 4; i++) TRY(cublasLtMatmulPreferenceSetAttribute(preference, preference_align_a + i, &bytes, sizeof bytes));
    return 0;
}

static int choose(const product *p, const description *d, void *preference, algorithm *all, int *found) {
    enum { most = 16 };
    heuristic h[most];
    int n = 0, wanted = *found < most ? *found : most;
    *found = 0;
    int status = cublasLtMatmulAlgoGetHeuristic(P(p->library), d->product, d->w, d->x, d->y, d->y, preference, wanted, h, &n);
    if (status == not_supported) return 0; /* there is none */
    TRY(status);
    for (int i = 0; i < n; i++) {
        if (h[i].state != 0) continue;
        algorithm *a = &all[(*found)++];
        size_t written;
        memcpy(a->words, h[i].algorithm, sizeof a->words);
        a->room = h[i].room, a->parts = 1, a->sums = 0; /* where an algorithm has no such thing */
        cublasLtMatmulAlgoConfigGetAttribute(a->words, config_parts, &a->parts, sizeof a->parts, &written);
        cublasLtMatmulAlgoConfigGetAttribute(a->words, config_sums, &a->sums, sizeof a->sums, &written);
    }
    return 0;
}

int blas_choose(handle ctx, const product *p, int split, algorithm *all, int *found) {
    description d = {0};
    void *preference = NULL;
    if (cuda_enter(ctx) != 0) return 1;
    int status = describe(p, &d);
    if (status == 0) status = cublasLtMatmulPreferenceCreate(&preference);
    if (status == 0) status = prefer(preference, p->room_bytes, split);
    if (status == 0) status = choose(p, &d, preference, all, found);
    if (preference != NULL) cublasLtMatmulPreferenceDestroy(preference);
    forget(&d);
    return status;
}

int blas_check(handle ctx, const product *p) {
    description d = {0};
    heuristic h;
    if (cuda_enter(ctx) != 0) return 1;
    int status = describe(p, &d);
    if (status == 0) status = cublasLtMatmulAlgoCheck(P(p->library), d.product, d.w, d.x, d.y, d.y, p->algorithm, &h);
    if (status == 0 && h.room > p->room_bytes) status = not_supported;
    forget(&d);
    return status;
}

int blas_multiply(const product *p, void *stream) {
    const float one = 1, none = 0;
    description d = {0};
    int status = describe(p, &d);
    if (status == 0)
        status = cublasLtMatmul(P(p->library), d.product, &one, P(p->w), d.w, P(p->x), d.x, &none, P(p->y), d.y, P(p->y), d.y,
                                p->algorithm, P(p->room), p->room_bytes, stream);
    forget(&d);
    return status;
}
