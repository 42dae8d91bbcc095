/* MXFP4 panels: packed at load, and widened to the bfloat16 units that a level's kernel reads, some inputs at a time, into a
 * block in L1 that all tiles of rows then meet. So a level's sums are those of its bfloat16 weights, bit for bit.
 *
 * Panel   [k/32][4 quarters][32 outputs][2 inputs] 16 bits: the numbers of a quarter's four units, the first one lowest. Then
 *         [k/32][32 outputs] bytes, 252 − scale, what a number's exponent is too large by in the tables below. */
#include "cpu.h"

enum { GROUP = 32, UNITS = GROUP / 2, GROUP_BYTES = GROUP * GEMM_PANEL / 2, LARGEST = 252 };

int64_t gemm_mxfp4_bytes(int64_t k) { return (k / GROUP * (GROUP_BYTES + GEMM_PANEL) + 63) / 64 * 64; }

void gemm_pack_mxfp4(void *panel, int64_t column, int64_t columns, const uint8_t *numbers, const uint8_t *scales, int64_t k) {
    const int64_t groups = k / GROUP;
    uint8_t *const excess = (uint8_t *)panel + groups * GROUP_BYTES;
    for (int64_t c = column; c < column + columns; c++) {
        for (int64_t g = 0; g < groups; g++, numbers += UNITS) {
            uint32_t *const to = (uint32_t *)panel + g * (GROUP_BYTES / 4) + c;
            for (int q = 0; q < 4; q++) {
                uint32_t lanes = 0;
                for (int n = 0; n < 4; n++) {
                    const uint32_t two = numbers[4 * q + n];
                    lanes |= (two & 15) << 4 * n | (two >> 4) << (16 + 4 * n);
                }
                to[q * GEMM_PANEL] = lanes;
            }
            excess[g * GEMM_PANEL + c] = (uint8_t)(LARGEST - *scales++);
        }
    }
}

/* The numbers times 2^125, in bfloat16. */
#define MAGNITUDES 0, 0x7d80, 0x7e00, 0x7e40, 0x7e80, 0x7ec0, 0x7f00, 0x7f40
#define NEGATIVE 0x8000, 0xfd80, 0xfe00, 0xfe40, 0xfe80, 0xfec0, 0xff00, 0xff40

void gemm_widen_generic(uint32_t *units, const void *panel, int64_t groups, int64_t from, int64_t to) {
    static const uint16_t magnitudes[8] = {MAGNITUDES};
    const uint8_t *const excess = (const uint8_t *)panel + groups * GROUP_BYTES;
    for (int64_t g = from; g < to; g++) {
        const uint32_t *const lanes = (const uint32_t *)panel + g * (GROUP_BYTES / 4);
        for (int u = 0; u < UNITS; u++, units += GEMM_PANEL) {
            for (int c = 0; c < GEMM_PANEL; c++) {
                const uint32_t two = lanes[u / 4 * GEMM_PANEL + c] >> u % 4 * 4;
                uint32_t unit = 0;
                for (int i = 0; i < 2; i++) {
                    const uint32_t number = two >> 16 * i & 15, magnitude = magnitudes[number & 7];
                    const uint32_t less = (uint32_t)excess[g * GEMM_PANEL + c] << 7;
                    unit |= ((magnitude ? magnitude - less : 0) | number >> 3 << 15) << 16 * i;
                }
                units[c] = unit;
            }
        }
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

/* Low bytes of the magnitudes, then high ones: a lane's two bytes ask for one each. Of 0 saturation leaves 0. */
__attribute__((target("avx2"))) void gemm_widen_avx2(uint32_t *units, const void *panel, int64_t groups, int64_t from, int64_t to) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, (char)0x80, 0, 0x40, (char)0x80, (char)0xc0, 0, 0x40, 0, 0x7d, 0x7e, 0x7e, 0x7e, 0x7e, 0x7f, 0x7f));
    const __m256i magnitude = _mm256_set1_epi16(7), high = _mm256_set1_epi16(0x0800), sign = _mm256_set1_epi16((short)0x8000);
    const char *const excess = (const char *)panel + groups * GROUP_BYTES;
    for (int64_t g = from; g < to; g++, units += UNITS * GEMM_PANEL) {
        for (int c = 0; c < GEMM_PANEL; c += 8) {
            const __m256i its = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(excess + g * GEMM_PANEL + c)));
            const __m256i less = _mm256_or_si256(_mm256_slli_epi32(its, 7), _mm256_slli_epi32(its, 23));
            const uint32_t *const lanes = (const uint32_t *)panel + g * (GROUP_BYTES / 4) + c;
            for (int q = 0; q < 4; q++) {
                const __m256i four = _mm256_load_si256((const __m256i *)(lanes + q * GEMM_PANEL));
#define UNIT(n)                                                                                                        \
    {                                                                                                                  \
        const __m256i m = _mm256_and_si256(_mm256_srli_epi16(four, 4 * n), magnitude);                                 \
        const __m256i place = _mm256_or_si256(_mm256_or_si256(m, _mm256_slli_epi16(m, 8)), high);                      \
        const __m256i v = _mm256_subs_epu16(_mm256_shuffle_epi8(table, place), less);                                  \
        const __m256i s = _mm256_and_si256(_mm256_slli_epi16(four, 12 - 4 * n), sign);                                 \
        _mm256_store_si256((__m256i *)(units + (4 * q + n) * GEMM_PANEL + c), _mm256_or_si256(v, s));                  \
    }
                UNIT(0)
                UNIT(1)
                UNIT(2)
                UNIT(3)
#undef UNIT
            }
        }
    }
}

/* 16 outputs at a time. A lane's lowest five bits ask the table, which repeats after 16. Where tiled, 16 units of 16 outputs
 * come before those of the other 16. */
__attribute__((target("avx512f,avx512bw"))) static inline __attribute__((always_inline)) void widen(
    const int tiled, uint32_t *units, const void *panel, int64_t groups, int64_t from, int64_t to) {
    static const uint16_t numbers[32] __attribute__((aligned(64))) = {MAGNITUDES, NEGATIVE, MAGNITUDES, NEGATIVE};
    const __m512i table = _mm512_load_si512(numbers), magnitude = _mm512_set1_epi16(7);
    const char *const excess = (const char *)panel + groups * GROUP_BYTES;
    for (int64_t g = from; g < to; g++, units += UNITS * GEMM_PANEL) {
        for (int c = 0; c < GEMM_PANEL; c += 16) {
            const __m512i its = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(excess + g * GEMM_PANEL + c)));
            const __m512i less = _mm512_or_si512(_mm512_slli_epi32(its, 7), _mm512_slli_epi32(its, 23));
            const uint32_t *const lanes = (const uint32_t *)panel + g * (GROUP_BYTES / 4) + c;
            for (int q = 0; q < 4; q++) {
                __m512i four = _mm512_load_si512(lanes + q * GEMM_PANEL);
                for (int n = 0; n < 4; n++, four = _mm512_srli_epi16(four, 4)) {
                    const __m512i v = _mm512_permutexvar_epi16(four, table);
                    const __mmask32 some = _mm512_test_epi16_mask(four, magnitude);
                    const int unit = 4 * q + n;
                    uint32_t *const at = tiled ? units + c * UNITS + unit * 16 : units + unit * GEMM_PANEL + c;
                    _mm512_store_si512(at, _mm512_mask_sub_epi16(v, some, v, less));
                }
            }
        }
    }
}

__attribute__((target("avx512f,avx512bw"))) void gemm_widen_avx512(uint32_t *units, const void *panel, int64_t groups, int64_t from, int64_t to) {
    widen(0, units, panel, groups, from, to);
}
__attribute__((target("avx512f,avx512bw"))) void gemm_widen_tiles(uint32_t *units, const void *panel, int64_t groups, int64_t from, int64_t to) {
    widen(1, units, panel, groups, from, to);
}
#endif
