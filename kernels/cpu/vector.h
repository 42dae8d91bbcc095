/* Vectors of float as wide as the level's registers. A file that is compiled once a level (level_*.c) includes this
 * after it has said which level it is, and uses these names only; a level's results never depend on how many elements
 * a tail has, since products and sums are fused exactly where vec_fma says so.
 *
 *   vec, ivec   LANES floats, LANES int32: + - * and comparisons are the compiler's
 *   *_first     the first n lanes, 0 < n <= LANES; what is not loaded is 0 */
#ifndef DSBATCH_VECTOR_H
#define DSBATCH_VECTOR_H

#include "cpu.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

#if defined(LEVEL_AVX512)
#include <immintrin.h>
enum { LANES = 16 };
typedef __m512 vec;
#elif defined(LEVEL_AVX2)
#include <immintrin.h>
enum { LANES = 8 };
typedef __m256 vec;
#else
enum { LANES = 4 };
typedef float vec __attribute__((vector_size(16)));
#endif
typedef int32_t ivec __attribute__((vector_size(sizeof(vec))));

INLINE vec vec_load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vec_store(float *p, vec v) { memcpy(p, &v, sizeof v); }

INLINE vec vec_zero(void) { return (vec){0}; }

/* mask ? a : b, mask from a comparison. */
INLINE vec vec_select(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

INLINE ivec ivec_max(ivec a, ivec b) {
    const ivec m = a > b;
    return (a & m) | (b & ~m);
}

#if defined(LEVEL_AVX512)

INLINE vec vec_set(float x) { return _mm512_set1_ps(x); }
INLINE vec vec_load_first(const float *p, int64_t n) { return _mm512_maskz_loadu_ps((__mmask16)(0xffffu >> (LANES - n)), p); }
INLINE void vec_store_first(float *p, vec v, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (LANES - n)), v); }
INLINE vec vec_first(vec v, int64_t n) { return _mm512_maskz_mov_ps((__mmask16)(0xffffu >> (LANES - n)), v); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vec_bf16(const uint16_t *p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
INLINE vec vec_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void vec_store_f16(uint16_t *p, vec v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
INLINE void vec_store_low(uint16_t *p, ivec v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)v)); }
/* The lowest lane that equals x, or -1. */
INLINE int ivec_find(ivec v, int32_t x) {
    const unsigned m = _mm512_cmpeq_epi32_mask((__m512i)v, _mm512_set1_epi32(x));
    return m ? __builtin_ctz(m) : -1;
}
/* The lowest lane that is above x, or -1. */
INLINE int vec_above(vec v, float x) {
    const unsigned m = _mm512_cmp_ps_mask(v, _mm512_set1_ps(x), _CMP_GT_OQ);
    return m ? __builtin_ctz(m) : -1;
}

#elif defined(LEVEL_AVX2)

INLINE __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec vec_set(float x) { return _mm256_set1_ps(x); }
INLINE vec vec_load_first(const float *p, int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
INLINE void vec_store_first(float *p, vec v, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
INLINE vec vec_first(vec v, int64_t n) { return _mm256_and_ps(v, (vec)first_lanes(n)); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec vec_bf16(const uint16_t *p) {
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
INLINE vec vec_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE void vec_store_f16(uint16_t *p, vec v) { _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
INLINE void vec_store_low(uint16_t *p, ivec v) {
    const __m256i low = _mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xffff));
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(both));
}
INLINE int ivec_find(ivec v, int32_t x) {
    const int m = _mm256_movemask_ps((vec)_mm256_cmpeq_epi32((__m256i)v, _mm256_set1_epi32(x)));
    return m ? __builtin_ctz((unsigned)m) : -1;
}
INLINE int vec_above(vec v, float x) {
    const int m = _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(x), _CMP_GT_OQ));
    return m ? __builtin_ctz((unsigned)m) : -1;
}

#else

INLINE vec vec_set(float x) { return (vec){x, x, x, x}; }
INLINE vec vec_load_first(const float *p, int64_t n) {
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
INLINE void vec_store_first(float *p, vec v, int64_t n) { memcpy(p, &v, (size_t)n * sizeof *p); }
INLINE vec vec_first(vec v, int64_t n) {
    const ivec lane = {0, 1, 2, 3};
    return (vec)((ivec)v & (lane < (int32_t)n));
}
INLINE vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
INLINE vec vec_max(vec a, vec b) { return vec_select(a > b, a, b); }
INLINE vec vec_bf16(const uint16_t *p) { return (vec)((ivec){p[0], p[1], p[2], p[3]} << 16); }
INLINE void vec_store_low(uint16_t *p, ivec v) {
    for (int i = 0; i < LANES; i++) p[i] = (uint16_t)v[i];
}
INLINE int ivec_find(ivec v, int32_t x) {
    for (int i = 0; i < LANES; i++) {
        if (v[i] == x) return i;
    }
    return -1;
}
INLINE int vec_above(vec v, float x) {
    for (int i = 0; i < LANES; i++) {
        if (v[i] > x) return i;
    }
    return -1;
}

#endif

/* Lanes widened to float64, half by half. */
typedef double dvec __attribute__((vector_size(sizeof(vec))));
typedef int64_t lvec __attribute__((vector_size(sizeof(vec))));
typedef struct wide {
    dvec half[2];
} wide;

#if defined(LEVEL_AVX512)
INLINE wide wide_of(vec v) {
    return (wide){{_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))}};
}
/* sum += w where that is above x; returns how many are. */
INLINE int wide_add_above(wide *sum, wide w, vec v, float x) {
    const unsigned m = _mm512_cmp_ps_mask(v, _mm512_set1_ps(x), _CMP_GT_OQ);
    sum->half[0] = _mm512_mask_add_pd(sum->half[0], (__mmask8)m, sum->half[0], w.half[0]);
    sum->half[1] = _mm512_mask_add_pd(sum->half[1], (__mmask8)(m >> 8), sum->half[1], w.half[1]);
    return __builtin_popcount(m);
}
#else
INLINE wide wide_of(vec v) {
    wide w;
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i++) w.half[i / (LANES / 2)][i % (LANES / 2)] = v[i];
    return w;
}
INLINE int wide_add_above(wide *sum, wide w, vec v, float x) {
    (void)v;
    int64_t n = 0;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const lvec above = w.half[h] > (double)x;
        sum->half[h] += (dvec)((lvec)w.half[h] & above);
#pragma GCC unroll 4
        for (int i = 0; i < LANES / 2; i++) n -= above[i];
    }
    return (int)n;
}
#endif
INLINE wide wide_add(wide a, wide b) { return (wide){{a.half[0] + b.half[0], a.half[1] + b.half[1]}}; }
INLINE double wide_sum(wide w) {
    const dvec both = w.half[0] + w.half[1];
    double sum = 0;
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) sum += both[i];
    return sum;
}

/* The sum of all lanes, and the largest: halves with halves, down to one. */
#if defined(LEVEL_AVX512) || defined(LEVEL_AVX2)
INLINE float sum_of_4(__m128 v) {
    v = v + _mm_movehl_ps(v, v);
    return v[0] + v[1];
}
INLINE float sum_of_8(__m256 v) { return sum_of_4(_mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1)); }
INLINE float largest_of_8(__m256 v) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return h[0] > h[1] ? h[0] : h[1];
}
INLINE int32_t ilargest_of_8(__m256i v) {
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return _mm_cvtsi128_si32(h);
}
#endif

#if defined(LEVEL_AVX512)
INLINE float vec_sum(vec v) { return sum_of_8(_mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1)); }
INLINE float vec_largest(vec v) { return largest_of_8(_mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))); }
INLINE int32_t ivec_largest(ivec v) {
    const __m512i w = (__m512i)v;
    return ilargest_of_8(_mm256_max_epi32(_mm512_castsi512_si256(w), _mm512_extracti32x8_epi32(w, 1)));
}
#elif defined(LEVEL_AVX2)
INLINE float vec_sum(vec v) { return sum_of_8(v); }
INLINE float vec_largest(vec v) { return largest_of_8(v); }
INLINE int32_t ivec_largest(ivec v) { return ilargest_of_8((__m256i)v); }
#else
INLINE float vec_sum(vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
INLINE float vec_largest(vec v) {
    const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
}
INLINE int32_t ivec_largest(ivec v) {
    const int32_t a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
}
#endif

/* eˣ for x <= 88, within 2 units of the last place; 0 below -86.6, so that no result is denormal; NaN of NaN.
 * x = n·ln 2 + r, |r| <= ln 2 / 2; eʳ by its Taylor polynomial of degree 7, whose error is below 2e-8. */
INLINE vec vec_exp(vec x) {
    const vec magic = vec_set(0x1.8p23f); /* added, it leaves n in the low bits */
    const vec t = vec_fma(x, vec_set(0x1.715476p0f), magic), n = t - magic;
    const vec r = vec_fma(n, vec_set(2.12194440e-4f), vec_fma(n, vec_set(-0.693359375f), x)); /* the first is exact */
    vec p = vec_set(1.0f / 5040);
    p = vec_fma(p, r, vec_set(1.0f / 720));
    p = vec_fma(p, r, vec_set(1.0f / 120));
    p = vec_fma(p, r, vec_set(1.0f / 24));
    p = vec_fma(p, r, vec_set(1.0f / 6));
    p = vec_fma(p, r, vec_set(0.5f));
    p = vec_fma(p, r, vec_set(1));
    p = vec_fma(p, r, vec_set(1));
    const vec y = (vec)((ivec)p + ((ivec)t << 23));
    return (vec)((ivec)y & ~(ivec)(x < vec_set(-86.6f)));
}

/* eˣ of one number, by the same steps. */
INLINE float exp_of(float x) {
    const vec y = vec_exp(vec_set(x));
    return y[0];
}

#endif
