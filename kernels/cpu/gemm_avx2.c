/* y = x·Wᵀ on 256-bit registers: float32, float16 and bfloat16 weights widened to float32, int8 quads by VPMADDUBSW.
 *
 * Shapes  sums [rows][32] = packed x [k/u][rows][u] · panel [k/u][32][u]; see cpu.h.
 * Tiles   up to 3 tokens × 32 outputs: 12 accumulators, 3 registers of x, 1 of weights. int8: 2 tokens, 8 accumulators,
 *         2 registers of x and 2 of its magnitudes, 1 of weights, 1 of ones.
 * Order   an accumulator an output, k ascending, fused; int8 as at every level: exact a group, then groups ascending,
 *         fused, in float32, then times the scale of the row. The same for any number of rows.
 * Speed   one core of a Zen 4, N=K=2048: float32 82–86 % of the peak at M=256, bf16 and float16 62 and 86, M=1 29 GB/s.
 * int8    |x|, at most 127, times w with the sign of x: two products fit 16 bits, where 255·127·2 would not. */
#include "cpu.h"
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define TILE 3
#define QUAD_TILE 2
#define EACH_ROW _Pragma("GCC unroll 3") for (int r = 0; r < rows; r++)
#define EACH_PART _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++)

/* One copy of a loop for each number of rows, so that the accumulators are registers. */
#define ROWS_1_TO_3(f, ...)                                                                                            \
    switch (rows) {                                                                                                    \
    case 1: f(1, __VA_ARGS__); break;                                                                                  \
    case 2: f(2, __VA_ARGS__); break;                                                                                  \
    case 3: f(3, __VA_ARGS__); break;                                                                                  \
    }

#define MULTIPLY(name)                                                                                                 \
    TARGET static void name(float *sums, const void *x, const void *w, int rows, const gemm_depth *d, int more, gemm_fetch f)

INLINE void fetch(gemm_fetch *f) {
    _mm_prefetch(f->from, _MM_HINT_T1);
    _mm_prefetch(f->from + (f->pace > 64 ? 64 : 0), _MM_HINT_T1);
    f->from += f->pace;
}

enum weights { FLOAT, HALF, EVEN, ODD }; /* EVEN, ODD: the low and high halves of a unit of bfloat16 */

INLINE __m256 widen(const enum weights type, const char *w, int c) {
    const __m256i *const unit = (const __m256i *)w + c;
    switch (type) {
    case FLOAT: return _mm256_load_ps((const float *)w + 8 * c);
    case HALF: return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)w + c));
    case EVEN: return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_load_si256(unit), 16));
    case ODD: /* two shifts, since a mask would take the seventeenth register */
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(_mm256_load_si256(unit), 16), 16));
    }
    return _mm256_setzero_ps();
}

INLINE void add_products(const int rows, const enum weights type, __m256 s[TILE][4], const float *x, const char *w) {
    __m256 v[TILE];
    EACH_ROW v[r] = _mm256_broadcast_ss(x + r);
    EACH_PART {
        const __m256 part = widen(type, w, c);
        EACH_ROW s[r][c] = _mm256_fmadd_ps(v[r], part, s[r][c]);
    }
}

INLINE void multiply(const int rows, const enum weights type, float *sums, const float *x, const char *w, int64_t k,
                     int more, gemm_fetch f) {
    __m256 s[TILE][4];
    EACH_ROW EACH_PART s[r][c] = more ? _mm256_load_ps(sums + 32 * r + 8 * c) : _mm256_setzero_ps();
    const int values = type == EVEN ? 2 : 1;
    for (int64_t p = 0; p < k; p += values, x += values * rows, w += type == HALF ? 64 : 128) {
        if (rows == TILE) fetch(&f);
        add_products(rows, type, s, x, w);
        if (type == EVEN) add_products(rows, ODD, s, x + rows, w);
    }
    EACH_ROW EACH_PART _mm256_store_ps(sums + 32 * r + 8 * c, s[r][c]);
}

MULTIPLY(multiply_f32) { ROWS_1_TO_3(multiply, FLOAT, sums, x, w, d->padded, more, f) }
MULTIPLY(multiply_f16) { ROWS_1_TO_3(multiply, HALF, sums, x, w, d->padded, more, f) }
MULTIPLY(multiply_bf16) { ROWS_1_TO_3(multiply, EVEN, sums, x, w, d->padded, more, f) }

INLINE void multiply_quads(const int rows, float *sums, const char *x, const char *w, const gemm_depth *d, gemm_fetch f) {
    const float *const row_scale = (const float *)(x + d->groups * d->padded * rows);
    const __m256i ones = _mm256_set1_epi16(1);
    EACH_ROW EACH_PART _mm256_store_ps(sums + 32 * r + 8 * c, _mm256_setzero_ps());
    for (int64_t g = 0; g < d->groups; g++, w += 256) {
        __m256i s[TILE][4];
        EACH_ROW EACH_PART s[r][c] = _mm256_setzero_si256();
        for (const char *const end = w + d->padded * 32; w < end; x += 4 * rows, w += 128) {
            if (rows == QUAD_TILE) fetch(&f);
            __m256i v[TILE], magnitude[TILE];
            EACH_ROW {
                int32_t quad;
                memcpy(&quad, x + 4 * r, sizeof quad);
                v[r] = _mm256_set1_epi32(quad);
                magnitude[r] = _mm256_abs_epi8(v[r]);
            }
            EACH_PART {
                const __m256i part = _mm256_load_si256((const __m256i *)w + c);
                EACH_ROW {
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude[r], _mm256_sign_epi8(part, v[r]));
                    s[r][c] = _mm256_add_epi32(s[r][c], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        EACH_ROW EACH_PART {
            float *const to = sums + 32 * r + 8 * c;
            const __m256 scale = _mm256_load_ps((const float *)w + 8 * c);
            _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[r][c]), scale, _mm256_load_ps(to)));
        }
    }
    EACH_ROW EACH_PART {
        float *const to = sums + 32 * r + 8 * c;
        _mm256_store_ps(to, _mm256_mul_ps(_mm256_load_ps(to), _mm256_broadcast_ss(row_scale + r)));
    }
}

MULTIPLY(multiply_i8) {
    (void)more; /* int8 takes all of k at once */
    if (rows == 1) multiply_quads(1, sums, x, w, d, f);
    else multiply_quads(2, sums, x, w, d, f);
}

static void rows_f32(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    float *to = packed;
    for (int64_t p = 0; p < d->group; p++) {
        for (int r = 0; r < rows; r++) *to++ = x[r][p];
    }
    memset(to, 0, (d->padded - d->group) * rows * sizeof *to);
}

TARGET static uint32_t magnitude_bits(const float *x, int64_t n) {
    uint32_t most = 0;
    for (int64_t p = 0; p < n; p++) {
        uint32_t b;
        memcpy(&b, x + p, sizeof b);
        b &= 0x7fffffff;
        most = b > most ? b : most;
    }
    return most;
}

TARGET static void rows_s8(void *packed, const float *const *x, int rows, const gemm_depth *d) {
    float *const scale = (float *)((char *)packed + d->groups * d->padded * rows);
    memset(packed, 0, d->groups * d->padded * rows);
    for (int r = 0; r < rows; r++) {
        const float inverse = gemm_quantum(magnitude_bits(x[r], d->groups * d->group), &scale[r]);
        if (inverse == 0) continue;
        for (int64_t g = 0; g < d->groups; g++) {
            const float *const from = x[r] + g * d->group;
            int8_t *const to = (int8_t *)packed + g * d->padded * rows + 4 * r;
            for (int64_t p = 0; p < d->group; p++) to[p / 4 * 4 * rows + p % 4] = (int8_t)rintf(from[p] * inverse);
        }
    }
}

const gemm_kernel gemm_avx2[5] = {
    [GEMM_F32] = {.type = GEMM_F32, .tile_rows = TILE, .step = 1, .x_bytes = 4, .pack = rows_f32,
                  .multiply = multiply_f32, .finish = gemm_finish_avx2},
    [GEMM_BF16] = {.type = GEMM_BF16, .tile_rows = TILE, .step = 2, .x_bytes = 4, .pack = rows_f32,
                   .multiply = multiply_bf16, .finish = gemm_finish_avx2},
    [GEMM_F16] = {.type = GEMM_F16, .tile_rows = TILE, .step = 1, .x_bytes = 4, .pack = rows_f32,
                  .multiply = multiply_f16, .finish = gemm_finish_avx2},
    [GEMM_I8] = {.type = GEMM_I8, .tile_rows = QUAD_TILE, .step = 4, .x_bytes = 1, .pack = rows_s8,
                 .multiply = multiply_i8, .finish = gemm_finish_avx2},
    [GEMM_MXFP4] = {.type = GEMM_BF16, .tile_rows = TILE, .step = 2, .x_bytes = 4, .pack = rows_f32,
                    .multiply = multiply_bf16, .finish = gemm_finish_avx2, .widen = gemm_widen_avx2},
};

/* What the 512-bit levels run where VNNI is missing: the same integers, the ending of their own. */
const gemm_kernel gemm_avx512_without_vnni = {
    .type = GEMM_I8, .tile_rows = QUAD_TILE, .step = 4, .x_bytes = 1, .pack = rows_s8, .multiply = multiply_i8,
    .finish = gemm_finish_avx512,
};
#endif
