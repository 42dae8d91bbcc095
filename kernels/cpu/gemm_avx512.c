/* y = x·Wᵀ on 512-bit registers: float32, float16 and bfloat16 weights widened to float32, bfloat16 pairs by
 * VDPBF16PS, int8 quads by VPDPBUSD.
 *
 * Shapes  sums [rows][32] = packed x [k/u][rows][u] · panel [k/u][32][u]; see cpu.h.
 * Tiles   up to 12 tokens × 32 outputs: 24 accumulators, 2 or 4 registers of weights, 1 of x.
 * Order   an accumulator an output, k ascending: fused multiply-add for float32; a pair a step for VDPBF16PS, whose
 *         roundings are the instruction's; exact integers a group for int8, then groups ascending, fused, in float32,
 *         then times the scale of the row. The number of rows is a constant of each copy of the loop, nothing else.
 * Memory  a panel streams once a tile, from L2 but for the first; the next one is fetched meanwhile; x is in L2.
 * Speed   one core, N=K=2048, of the peak from registers: Zen 4 float32 93–96 % at M=256, 85–91 % at M=16, bf16 pairs 90
 *         and 88 %, int8 90 and 90 %; M=1 25–32 GB/s, all there is. Sapphire Rapids float32 90 % and 65 % (14 GB/s, all
 *         there is), int8 93 and 60 %. No spill in any loop (objdump). */
#include "cpu.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define TILE 12
#define UNITS 4 /* of k in a round of a loop */
#define EACH_UNIT _Pragma("GCC unroll 4") for (int u = 0; u < UNITS; u++)
#define EACH_ROW _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)

/* One copy of a loop for each number of rows, so that the accumulators are registers. */
#define ROWS_1_TO_12(f, ...)                                                                                           \
    switch (rows) {                                                                                                    \
    case 1: f(1, __VA_ARGS__); break;                                                                                  \
    case 2: f(2, __VA_ARGS__); break;                                                                                  \
    case 3: f(3, __VA_ARGS__); break;                                                                                  \
    case 4: f(4, __VA_ARGS__); break;                                                                                  \
    case 5: f(5, __VA_ARGS__); break;                                                                                  \
    case 6: f(6, __VA_ARGS__); break;                                                                                  \
    case 7: f(7, __VA_ARGS__); break;                                                                                  \
    case 8: f(8, __VA_ARGS__); break;                                                                                  \
    case 9: f(9, __VA_ARGS__); break;                                                                                  \
    case 10: f(10, __VA_ARGS__); break;                                                                                \
    case 11: f(11, __VA_ARGS__); break;                                                                                \
    case 12: f(12, __VA_ARGS__); break;                                                                                \
    }

#define MULTIPLY(name)                                                                                                 \
    TARGET static void name(float *sums, const void *x, const void *w, int rows, const gemm_depth *d, int more, gemm_fetch f)

/* Fetches what is read next: a quarter to a half more speed where products and memory take about as long. Few rows
 * leave the memory no rest anyhow, and there it only costs. */
INLINE void fetch(const int rows, gemm_fetch *f) {
    if (rows < 4) return;
#pragma GCC unroll 1
    for (int64_t line = 0; line < UNITS * f->pace; line += 64) _mm_prefetch(f->from + line, _MM_HINT_T1);
    f->from += UNITS * f->pace;
}

/* gcc 12 moves registers around these intrinsics, in rounds of several units to the stack, so they are written as they
 * stand. */
#define FMA(sum, x, w) __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w))
#define FMA_OF(sum, x, w) __asm__("vfmadd231ps %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(x), "v"(w)) /* of one x in memory */
#define DOT(sum, u8, s8) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u8), "v"(s8))

INLINE void store_sums(const int rows, float *sums, const __m512 *lo, const __m512 *hi) {
    EACH_ROW {
        _mm512_store_ps(sums + 32 * r, lo[r]);
        _mm512_store_ps(sums + 32 * r + 16, hi[r]);
    }
}

/* float32 and float16: a unit is one value, widened where half is set. */
INLINE void multiply_f(const int rows, const int half, float *sums, const float *x, const char *w, int64_t k,
                       int more, gemm_fetch f) {
    __m512 lo[TILE], hi[TILE];
    EACH_ROW {
        lo[r] = more ? _mm512_load_ps(sums + 32 * r) : _mm512_setzero_ps();
        hi[r] = more ? _mm512_load_ps(sums + 32 * r + 16) : _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < k; p += UNITS) {
        fetch(rows, &f);
        EACH_UNIT {
            const __m512 w0 = half ? _mm512_cvtph_ps(_mm256_load_si256((const void *)w)) : _mm512_load_ps(w);
            const __m512 w1 = half ? _mm512_cvtph_ps(_mm256_load_si256((const void *)(w + 32))) : _mm512_load_ps(w + 64);
            EACH_ROW {
                FMA_OF(lo[r], x[r], w0);
                FMA_OF(hi[r], x[r], w1);
            }
            x += rows, w += half ? 64 : 128;
        }
    }
    store_sums(rows, sums, lo, hi);
}

MULTIPLY(multiply_f32) {
    ROWS_1_TO_12(multiply_f, 0, sums, x, w, d->padded, more, f)
}

MULTIPLY(multiply_f16) {
    ROWS_1_TO_12(multiply_f, 1, sums, x, w, d->padded, more, f)
}

/* bfloat16 widened: the even inputs of 16 outputs are the low halves of a register, the odd ones its high halves. */
INLINE void multiply_widened(const int rows, float *sums, const float *x, const char *w, int64_t k,
                       int more, gemm_fetch f) {
    __m512 lo[TILE], hi[TILE];
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    EACH_ROW {
        lo[r] = more ? _mm512_load_ps(sums + 32 * r) : _mm512_setzero_ps();
        hi[r] = more ? _mm512_load_ps(sums + 32 * r + 16) : _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < k; p += 2 * UNITS) {
        fetch(rows, &f);
        EACH_UNIT {
            const __m512i pair0 = _mm512_load_si512(w), pair1 = _mm512_load_si512(w + 64);
            const __m512 even0 = _mm512_castsi512_ps(_mm512_slli_epi32(pair0, 16));
            const __m512 even1 = _mm512_castsi512_ps(_mm512_slli_epi32(pair1, 16));
            EACH_ROW {
                const __m512 v = _mm512_set1_ps(x[r]);
                FMA(lo[r], v, even0);
                FMA(hi[r], v, even1);
            }
            const __m512 odd0 = _mm512_castsi512_ps(_mm512_and_si512(pair0, high));
            const __m512 odd1 = _mm512_castsi512_ps(_mm512_and_si512(pair1, high));
            EACH_ROW {
                const __m512 v = _mm512_set1_ps(x[rows + r]);
                FMA(lo[r], v, odd0);
                FMA(hi[r], v, odd1);
            }
            x += 2 * rows, w += 128;
        }
    }
    store_sums(rows, sums, lo, hi);
}

MULTIPLY(multiply_bf16_widened) {
    ROWS_1_TO_12(multiply_widened, sums, x, w, d->padded, more, f)
}

/* bfloat16 pairs: both of a pair in one instruction. */
INLINE void multiply_pairs(const int rows, float *sums, const float *x, const char *w, int64_t k,
                       int more, gemm_fetch f) {
    __m512 lo[TILE], hi[TILE];
    EACH_ROW {
        lo[r] = more ? _mm512_load_ps(sums + 32 * r) : _mm512_setzero_ps();
        hi[r] = more ? _mm512_load_ps(sums + 32 * r + 16) : _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < k; p += 2 * UNITS) {
        fetch(rows, &f);
        EACH_UNIT {
            const __m512bh w0 = (__m512bh)_mm512_load_si512(w), w1 = (__m512bh)_mm512_load_si512(w + 64);
            EACH_ROW {
                const __m512bh v = (__m512bh)_mm512_set1_ps(x[r]);
                lo[r] = _mm512_dpbf16_ps(lo[r], v, w0);
                hi[r] = _mm512_dpbf16_ps(hi[r], v, w1);
            }
            x += rows, w += 128;
        }
    }
    store_sums(rows, sums, lo, hi);
}

MULTIPLY(multiply_bf16) {
    ROWS_1_TO_12(multiply_pairs, sums, x, w, d->padded, more, f)
}

/* int8 quads: x is u8 = value + 128, which the panel's offsets take back. */
INLINE void multiply_quads(const int rows, float *sums, const char *x, const char *w, const gemm_depth *d, gemm_fetch f) {
    const float *const row_scale = (const float *)(x + d->groups * d->padded * rows);
    EACH_ROW {
        _mm512_store_ps(sums + 32 * r, _mm512_setzero_ps());
        _mm512_store_ps(sums + 32 * r + 16, _mm512_setzero_ps());
    }
    for (int64_t g = 0; g < d->groups; g++, w += 256) {
        __m512i lo[TILE], hi[TILE];
        const char *const end = w + d->padded * 32;
        EACH_ROW {
            lo[r] = _mm512_load_si512(end + 128);
            hi[r] = _mm512_load_si512(end + 192);
        }
        while (w < end) {
            fetch(rows, &f);
            EACH_UNIT {
                const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
                EACH_ROW {
                    const __m512i v = _mm512_set1_epi32(((const int32_t *)x)[r]);
                    DOT(lo[r], v, w0);
                    DOT(hi[r], v, w1);
                }
                x += 4 * rows, w += 128;
            }
        }
        const __m512 s0 = _mm512_load_ps(end), s1 = _mm512_load_ps(end + 64);
        EACH_ROW {
            float *const to = sums + 32 * r;
            _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(lo[r]), s0, _mm512_load_ps(to)));
            _mm512_store_ps(to + 16, _mm512_fmadd_ps(_mm512_cvtepi32_ps(hi[r]), s1, _mm512_load_ps(to + 16)));
        }
    }
    EACH_ROW {
        float *const to = sums + 32 * r;
        const __m512 scale = _mm512_set1_ps(row_scale[r]);
        _mm512_store_ps(to, _mm512_mul_ps(_mm512_load_ps(to), scale));
        _mm512_store_ps(to + 16, _mm512_mul_ps(_mm512_load_ps(to + 16), scale));
    }
}

MULTIPLY(multiply_i8) {
    (void)more; /* int8 takes all of k at once */
    ROWS_1_TO_12(multiply_quads, sums, x, w, d, f)
}

const gemm_kernel gemm_avx512[5] = {
    [GEMM_F32] = {.type = GEMM_F32, .tile_rows = TILE, .step = UNITS, .x_bytes = 4, .pack = gemm_rows_f32_avx512,
                  .multiply = multiply_f32, .finish = gemm_finish_avx512},
    [GEMM_BF16] = {.type = GEMM_BF16, .tile_rows = TILE, .step = 2 * UNITS, .x_bytes = 4, .pack = gemm_rows_f32_avx512,
                   .multiply = multiply_bf16_widened, .finish = gemm_finish_avx512},
    [GEMM_F16] = {.type = GEMM_F16, .tile_rows = TILE, .step = UNITS, .x_bytes = 4, .pack = gemm_rows_f32_avx512,
                  .multiply = multiply_f16, .finish = gemm_finish_avx512},
    [GEMM_I8] = {.type = GEMM_I8, .tile_rows = TILE, .step = 4 * UNITS, .x_bytes = 1, .pack = gemm_rows_u8_avx512,
                 .multiply = multiply_i8, .finish = gemm_finish_avx512}, /* with VNNI; without it AVX2's */
    [GEMM_MXFP4] = {.type = GEMM_BF16, .tile_rows = TILE, .step = 2 * UNITS, .x_bytes = 4, .pack = gemm_rows_f32_avx512,
                    .multiply = multiply_bf16_widened, .finish = gemm_finish_avx512, .widen = gemm_widen_avx512},
};

const gemm_kernel gemm_avx512_bf16 = {
    .type = GEMM_BF16, .tile_rows = TILE, .step = 2 * UNITS, .x_bytes = 2, .pack = gemm_rows_bf16_avx512,
    .multiply = multiply_bf16, .finish = gemm_finish_avx512,
};
const gemm_kernel gemm_avx512_bf16_mxfp4 = {
    .type = GEMM_BF16, .tile_rows = TILE, .step = 2 * UNITS, .x_bytes = 2, .pack = gemm_rows_bf16_avx512,
    .multiply = multiply_bf16, .finish = gemm_finish_avx512, .widen = gemm_widen_avx512,
};
#endif
