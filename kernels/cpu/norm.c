/* y = norm(x)·weight + bias over each of groups parts of a row; before it x += delta, in place.
 * Shapes  x, y, delta [rows, cols], weight, bias [cols/groups]; delta and bias may be NULL, y may be x.
 * Order   4·LANES partial sums, element i in sum i mod 4·LANES, then halves added to halves: by cols alone. The
 *         variance is that of x - mean, a second pass over a row that is in L1 by then.
 * Memory  x once, y once, delta once. Checked by optest.Norm against norm.go. */
#if defined(LEVEL)
#include "vector.h"

/* x += delta where there is one, and the sums of (x-shift) and of its square. */
INLINE float row_sum(float *x, const float *delta, int64_t n) {
    vec s[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            vec v = vec_load(x + i + u * LANES);
            if (delta) vec_store(x + i + u * LANES, v = v + vec_load(delta + i + u * LANES));
            s[u] = s[u] + v;
        }
    }
    for (int u = 0; i < n; i += LANES, u++) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec v = vec_load_first(x + i, left);
        if (delta) vec_store_first(x + i, v = v + vec_load_first(delta + i, left), left);
        s[u] = s[u] + v;
    }
    return vec_sum((s[0] + s[1]) + (s[2] + s[3]));
}

INLINE float row_squares(const float *x, float shift, int64_t n) {
    const vec m = vec_set(shift);
    vec s[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            const vec d = vec_load(x + i + u * LANES) - m;
            s[u] = vec_fma(d, d, s[u]);
        }
    }
    for (int u = 0; i < n; i += LANES, u++) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        const vec d = vec_first(vec_load_first(x + i, left) - m, left);
        s[u] = vec_fma(d, d, s[u]);
    }
    return vec_sum((s[0] + s[1]) + (s[2] + s[3]));
}

INLINE void row_scale(float *y, const float *x, const float *weight, const float *bias, float shift, float scale, int64_t n) {
    const vec m = vec_set(shift), r = vec_set(scale);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        const vec d = (vec_load_first(x + i, left) - m) * r;
        const vec b = bias ? vec_load_first(bias + i, left) : vec_zero();
        vec_store_first(y + i, vec_fma(d, vec_load_first(weight + i, left), b), left);
    }
}

static void norm_rows(const norm_args *a, int64_t from, int64_t to) {
    const int64_t n = a->cols / a->groups;
    for (int64_t t = from; t < to; t++) {
        float *const x = a->x + t * a->x_stride, *const y = a->y + t * a->y_stride;
        const float *const delta = a->delta ? a->delta + t * a->delta_stride : NULL;
        for (int64_t g = 0; g < a->cols; g += n) {
            float mean = 0;
            if (delta || !a->rms) mean = row_sum(x + g, delta ? delta + g : NULL, n) / (float)n;
            if (a->rms) mean = 0;
            const float variance = row_squares(x + g, mean, n) / (float)n;
            row_scale(y + g, x + g, a->weight, a->bias, mean, 1 / sqrtf(variance + a->eps), n);
        }
    }
}

#endif
