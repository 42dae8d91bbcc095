/* Packs rows of x for a tile: units of 32 bits (a float32, two bfloat16, four int8), [units][rows].
 * A row is rounded or quantised by itself, so its units do not depend on the rows beside it.
 * About 1 cycle a unit; x is read once, the result is read by every panel. */
#include "cpu.h"
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
enum { BLOCK = 16 };  /* units of a row in one register */
enum { ABREAST = 4 }; /* rows that are read at once: each is on pages of its own, which begin slowly */

/* to[j·rows + r] = from[r][j] for n <= 16 units of each row: 4 × 4 at a time where they are whole. */
INLINE void interleave(uint32_t *to, const uint32_t (*from)[BLOCK], int rows, int64_t n) {
    int r = 0;
    for (; r + 4 <= rows && n == BLOCK; r += 4) {
        for (int j = 0; j < BLOCK; j += 4) {
            const __m128 a = _mm_load_ps((const float *)&from[r][j]), b = _mm_load_ps((const float *)&from[r + 1][j]);
            const __m128 c = _mm_load_ps((const float *)&from[r + 2][j]), d = _mm_load_ps((const float *)&from[r + 3][j]);
            const __m128 ab0 = _mm_unpacklo_ps(a, b), ab1 = _mm_unpackhi_ps(a, b);
            const __m128 cd0 = _mm_unpacklo_ps(c, d), cd1 = _mm_unpackhi_ps(c, d);
            float *const at = (float *)to + (int64_t)j * rows + r;
            _mm_storeu_ps(at, _mm_movelh_ps(ab0, cd0));
            _mm_storeu_ps(at + rows, _mm_movehl_ps(cd0, ab0));
            _mm_storeu_ps(at + 2 * rows, _mm_movelh_ps(ab1, cd1));
            _mm_storeu_ps(at + 3 * rows, _mm_movehl_ps(cd1, ab1));
        }
    }
    for (; r < rows; r++) {
        for (int64_t j = 0; j < n; j++) to[j * rows + r] = from[r][j];
    }
}

/* The first n of 16 floats, zeros after them; n may be any number. */
INLINE __m512 load_first(const float *x, int64_t n) {
    if (n >= 16) return _mm512_loadu_ps(x);
    return _mm512_maskz_loadu_ps(n > 0 ? (__mmask16)((1u << n) - 1) : 0, x);
}

TARGET void gemm_rows_f32_avx512(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    uint32_t unit[GEMM_MAX_TILE][BLOCK] __attribute__((aligned(64)));
    for (int64_t p = 0; p < d->padded; p += BLOCK) {
        for (int r = 0; r < rows; r++) _mm512_store_ps(unit[r], load_first(x[r] + p, d->group - p));
        const int64_t n = d->padded - p < BLOCK ? d->padded - p : BLOCK;
        interleave((uint32_t *)packed + p * rows, unit, rows, n);
    }
}

TARGET void gemm_rows_bf16_avx512(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    uint32_t unit[GEMM_MAX_TILE][BLOCK] __attribute__((aligned(64)));
    const int64_t units = d->padded / 2;
    for (int64_t u = 0; u < units; u += BLOCK) {
        for (int r = 0; r < rows; r++) {
            const __m512 a = load_first(x[r] + 2 * u, d->group - 2 * u);
            const __m512 b = load_first(x[r] + 2 * u + 16, d->group - 2 * u - 16);
            _mm512_store_si512(unit[r], (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
        interleave((uint32_t *)packed + u * rows, unit, rows, units - u < BLOCK ? units - u : BLOCK);
    }
}

/* 64 values of a group quantised; u8 = value + 128. */
INLINE __m512i quantize(const float *x, int64_t n, __m512 inverse) {
    __m512i q = _mm512_setzero_si512();
#define QUARTER(i)                                                                                                     \
    q = _mm512_inserti32x4(q, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(                                                 \
        _mm512_mul_ps(load_first(x + 16 * i, n - 16 * i), inverse))), i)
    QUARTER(0);
    QUARTER(1);
    QUARTER(2);
    QUARTER(3);
#undef QUARTER
    return q;
}

/* The largest magnitude of n floats of each row, by their bits: a NaN is above infinity. */
INLINE void magnitude_bits(uint32_t *most, const float *const *x, const int rows, int64_t n) {
    __m512i m[ABREAST];
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    EACH_ROW m[r] = _mm512_setzero_si512();
    for (int64_t p = 0; p < n; p += 16) {
        EACH_ROW m[r] = _mm512_max_epu32(m[r], _mm512_and_si512(_mm512_castps_si512(load_first(x[r] + p, n - p)), mask));
    }
    EACH_ROW most[r] = _mm512_reduce_max_epu32(m[r]);
}

TARGET void gemm_rows_u8_avx512(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    uint32_t unit[GEMM_MAX_TILE][BLOCK] __attribute__((aligned(64)));
    const __m512i plus_128 = _mm512_set1_epi8((char)0x80);
    const int64_t units = d->padded / 4;
    float inverse[GEMM_MAX_TILE], *const scale = (float *)((char *)packed + d->groups * d->padded * rows);
    for (int r = 0; r < rows; r++) {
        uint32_t most;
        magnitude_bits(&most, x + r, 1, d->groups * d->group);
        inverse[r] = gemm_quantum(most, &scale[r]);
    }
    uint32_t *to = packed;
    for (int64_t g = 0; g < d->groups; g++, to += units * rows) {
        for (int64_t u = 0; u < units; u += BLOCK) {
            for (int r = 0; r < rows; r++) {
                const __m512i q = quantize(x[r] + g * d->group + 4 * u, d->group - 4 * u, _mm512_set1_ps(inverse[r]));
                _mm512_store_si512(unit[r], _mm512_xor_si512(q, plus_128));
            }
            interleave(to + u * rows, unit, rows, units - u < BLOCK ? units - u : BLOCK);
        }
    }
}

/* For tiles: [steps of 64 bytes][32 rows][64 bytes]. Rows that a tile lacks keep what was there: they are computed
 * and thrown away. */
enum { TILE_STEP = GEMM_MAX_TILE * 64 };

TARGET void gemm_rows_bf16_amx(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    for (int first = 0; first < rows; first += ABREAST) {
        const int end = rows - first < ABREAST ? rows : first + ABREAST;
        char *to = packed;
        for (int64_t p = 0; p < d->padded; p += 32, to += TILE_STEP) {
            for (int r = first; r < end; r++) {
                const __m512 a = load_first(x[r] + p, d->group - p), b = load_first(x[r] + p + 16, d->group - p - 16);
                _mm512_store_si512(to + 64 * r, (__m512i)_mm512_cvtne2ps_pbh(b, a));
            }
        }
    }
}

TARGET void gemm_rows_s8_amx(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    float *const scale = (float *)((char *)packed + d->groups * d->padded * GEMM_MAX_TILE);
    for (int first = 0; first < rows; first += ABREAST) {
        const int n = rows - first < ABREAST ? rows - first : ABREAST;
        const float *from[ABREAST];
        uint32_t most[ABREAST];
        __m512 inverse[ABREAST];
        for (int r = 0; r < ABREAST; r++) from[r] = x[first + (r < n ? r : 0)];
        magnitude_bits(most, from, ABREAST, d->groups * d->group);
        for (int r = 0; r < n; r++) inverse[r] = _mm512_set1_ps(gemm_quantum(most[r], &scale[first + r]));
        char *to = (char *)packed + 64 * first;
        for (int64_t g = 0; g < d->groups; g++) {
            for (int64_t p = 0; p < d->padded; p += 64, to += TILE_STEP) {
                for (int r = 0; r < n; r++) {
                    _mm512_store_si512(to + 64 * r, quantize(from[r] + g * d->group + p, d->group - p, inverse[r]));
                }
            }
        }
    }
}
#endif
