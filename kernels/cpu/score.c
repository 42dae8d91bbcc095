/* Over the n logits of a row: the argmax, log Σ exp, weights exp((x - top)/temperature), the next above a bound.
 * Order   Σ exp in blocks of BLOCK: LANES partial sums in float32, their sum added to a float64, blocks ascending: by n
 *         alone. Two passes, the second over what the first brought into the caches.
 * Checked by optest.Score and optest.Sample against score.go and sample.go. */
#if defined(LEVEL)
#include "vector.h"

enum { SUM_BLOCK = 4096 };

/* The largest of x, a NaN only where there is nothing else. */
INLINE float largest_of(const float *x, int64_t n) {
    const vec low = vec_set(-INFINITY);
    vec top = low;
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec v = vec_load_first(x + i, left);
        if (left < LANES) v = vec_select((ivec)vec_first(vec_set(1), left) != 0, v, low);
        top = vec_select(v > top, v, top);
    }
    return vec_largest(top);
}

INLINE int64_t index_of(const float *x, float value, int64_t n) {
    int32_t b;
    const float plain = value + 0.0f; /* -0 is 0 */
    memcpy(&b, &plain, sizeof b);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        const int lane = ivec_find((ivec)(vec_load_first(x + i, left) + 0.0f), b);
        if (lane >= 0 && lane < left) return i + lane;
    }
    return 0; /* of NaN alone */
}

static int64_t log_sum(const float *x, int64_t n, double *result) {
    const float top = largest_of(x, n);
    double sum = 0;
    for (int64_t at = 0; at < n; at += SUM_BLOCK) sum += sum_exp(x + at, top, n - at < SUM_BLOCK ? n - at : SUM_BLOCK);
    *result = (double)top + log(sum);
    return index_of(x, top, n);
}

static void score_rows(const score_args *a, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) {
        const float *const x = a->logits + t * a->logits_stride;
        double sum;
        const int64_t best = log_sum(x, a->vocab, &sum);
        a->logprob[t * a->logprob_stride] = (float)((double)x[a->target[t]] - sum);
        a->greedy[t * a->greedy_stride] = best == a->target[t];
    }
}

static void token_weights(float *dst, const float *x, int64_t n, float top, float temperature) {
    const vec m = vec_set(top), t = vec_set(temperature);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        const vec w = vec_exp((vec_load_first(x + i, left) - m) / t);
        vec_store_first(dst + i, (vec)((ivec)w & (ivec)(w > vec_zero())), left); /* 0 of NaN */
    }
}

/* The first index >= from whose x is above bound, or n. */
static int64_t next_above(const float *x, int64_t from, int64_t n, float bound) {
    for (int64_t i = from; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        const int lane = vec_above(vec_load_first(x + i, left), bound);
        if (lane >= 0 && lane < left) return i + lane;
    }
    return n;
}

#endif
