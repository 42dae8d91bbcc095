/* Over the n logits of a row: the argmax, log Σ exp, weights exp((x - top)/temperature), what a search among those needs.
 * Order   Σ exp in blocks of BLOCK: LANES partial sums in float32, their sum added to a float64, blocks ascending: by n
 *         alone. Two passes, the second over what the first brought into the caches, while the next row comes nearer.
 *         Sums of weights are LANES partial sums in float64.
 * Checked by optest.Score and optest.Sample against score.go and sample.go. */
#if defined(LEVEL)
#include "vector.h"

enum { SUM_BLOCK = 4096 };

/* The largest of x, a NaN only where there is nothing else. */
INLINE float largest_of(const float *x, int64_t n) {
    vec top[4];
    for (int u = 0; u < 4; u++) top[u] = vec_set(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) top[u] = vec_max(vec_load(x + i + u * LANES), top[u]);
    }
    for (int u = 1; u < 4; u++) top[0] = vec_max(top[u], top[0]);
    for (; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec v = vec_load_first(x + i, left);
        if (left < LANES) v = vec_select((ivec)vec_first(vec_set(1), left) != 0, v, vec_set(-INFINITY));
        top[0] = vec_max(v, top[0]);
    }
    return vec_largest(top[0]);
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

static int64_t log_sum(const float *x, int64_t n, double *result, const float *ahead) {
    const float top = largest_of(x, n);
    double sum = 0;
    for (int64_t at = 0; at < n; at += SUM_BLOCK) {
        const int64_t some = n - at < SUM_BLOCK ? n - at : SUM_BLOCK;
        sum += sum_exp(x + at, top, some, ahead ? ahead + at : NULL);
    }
    *result = (double)top + log(sum);
    return index_of(x, top, n);
}

static void score_rows(const score_args *a, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) {
        const float *const x = a->logits + t * a->logits_stride;
        double sum;
        const int64_t best = log_sum(x, a->vocab, &sum, t + 1 < to ? x + a->logits_stride : NULL);
        a->logprob[t * a->logprob_stride] = (float)((double)x[a->target[t]] - sum);
        a->greedy[t * a->greedy_stride] = best == a->target[t];
    }
}

/* Returns the sum of the weights. */
static double token_weights(float *dst, const float *x, int64_t n, float top, float temperature) {
    const vec m = vec_set(top), t = vec_set(temperature);
    wide sum = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec w = left == LANES ? vec_load(x + i) : vec_load_first(x + i, left);
        w = vec_exp((w - m) / t);
        w = vec_max(w, vec_zero()); /* 0 of NaN */
        if (left == LANES) {
            vec_store(dst + i, w);
        } else {
            w = vec_first(w, left);
            vec_store_first(dst + i, w, left);
        }
        sum = wide_add(sum, wide_of(w));
    }
    return wide_sum(sum);
}

/* The sum and the number of the weights above each of three bounds >= -1. */
static void masses_above(const float *w, int64_t n, const float *bound, double *mass, int64_t *count) {
    wide sum[3] = {0};
    int64_t number[3] = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec v = left == LANES ? vec_load(w + i) : vec_load_first(w + i, left);
        if (left < LANES) v = vec_select((ivec)vec_first(vec_set(1), left) != 0, v, vec_set(-2));
        const wide both = wide_of(v);
#pragma GCC unroll 3
        for (int b = 0; b < 3; b++) number[b] += wide_add_above(&sum[b], both, v, bound[b]);
    }
#pragma GCC unroll 3
    for (int b = 0; b < 3; b++) {
        mass[b] = wide_sum(sum[b]);
        count[b] = number[b];
    }
}

/* Puts the weights in (low, high] and their ids, which are those at id or the places in w, to the front of to and
 * to_id, which may be w and id and have room for n + LANES. Returns how many. */
static int64_t weights_between(float *to, int32_t *to_id, const float *w, const int32_t *id, int64_t n, float low, float high) {
    int64_t found = 0, i = 0;
#if defined(LEVEL_AVX512)
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i + LANES <= n; i += LANES) {
        const vec v = vec_load(w + i);
        const __m512i ids = id ? _mm512_loadu_si512(id + i) : _mm512_add_epi32(_mm512_set1_epi32((int)i), lanes);
        const __mmask16 m = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, vec_set(low), _CMP_GT_OQ), v, vec_set(high), _CMP_LE_OQ);
        vec_store(to + found, _mm512_maskz_compress_ps(m, v));
        _mm512_storeu_si512(to_id + found, _mm512_maskz_compress_epi32(m, ids));
        found += __builtin_popcount(m);
    }
#endif
    for (; i < n; i++) {
        const float v = w[i];
        const int32_t at = id ? id[i] : (int32_t)i;
        to[found] = v;
        to_id[found] = at;
        found += (v > low) & (v <= high);
    }
    return found;
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
