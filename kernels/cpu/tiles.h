/* AMX tiles as text: gcc 12's intrinsics tell the compiler of 8 of the 64 bytes of a configuration and of no memory at
 * all. Every tile is 16 rows of 64 bytes. Built with EMULATED_TILES they are memory, and what an instruction does is what
 * Intel's manual says of it, so that a machine without AMX can test the kernels: slowly, as level amx. */
#include "cpu.h"
#include <immintrin.h>
#include <string.h>

enum { TILE_ROWS = 16, TILE_ROW = 64, TILE_BYTES = TILE_ROWS * TILE_ROW };

/* tile, sum, x, w: numbers from 0 to 7. stride: bytes. dots of bfloat16 pairs in float32 or of int8 quads in int32. */
#ifndef EMULATED_TILES
#define TILE_LOAD(tile, from, stride)                                                                                  \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(tile, to, stride)                                                                                   \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)(stride)) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define TILE_DOT(type, sum, x, w)                                                                                      \
    do {                                                                                                               \
        if ((type) == GEMM_I8) __asm__ volatile("tdpbssd %%tmm" #w ", %%tmm" #x ", %%tmm" #sum : :);                   \
        else __asm__ volatile("tdpbf16ps %%tmm" #w ", %%tmm" #x ", %%tmm" #sum : :);                                   \
    } while (0)

static void configure_tiles(int tiles) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } c __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < tiles; i++) c.row_bytes[i] = TILE_ROW, c.rows[i] = TILE_ROWS;
    __asm__ volatile("ldtilecfg %0" : : "m"(c));
}

static void release_tiles(void) { __asm__ volatile("tilerelease" : :); }
#else
#include <math.h>

static __thread char tile_memory[8][TILE_ROWS][TILE_ROW] __attribute__((aligned(64)));

#define TILE_LOAD(tile, from, stride) load_tile(tile_memory[tile], from, stride)
#define TILE_STORE(tile, to, stride) store_tile(tile_memory[tile], to, stride)
#define TILE_ZERO(tile) memset(tile_memory[tile], 0, TILE_BYTES)
#define TILE_DOT(type, sum, x, w)                                                                                      \
    do {                                                                                                               \
        if ((type) == GEMM_I8) dot_quads((void *)tile_memory[sum], (void *)tile_memory[x], (void *)tile_memory[w]);    \
        else dot_pairs((void *)tile_memory[sum], (void *)tile_memory[x], (void *)tile_memory[w]);                      \
    } while (0)

static inline void load_tile(char (*tile)[TILE_ROW], const void *from, int64_t stride) {
    for (int r = 0; r < TILE_ROWS; r++) memcpy(tile[r], (const char *)from + r * stride, TILE_ROW);
}

static inline void store_tile(char (*tile)[TILE_ROW], void *to, int64_t stride) {
    for (int r = 0; r < TILE_ROWS; r++) memcpy((char *)to + r * stride, tile[r], TILE_ROW);
}

static inline void dot_quads(int32_t (*sum)[16], int8_t (*x)[16][4], int8_t (*w)[16][4]) {
    for (int m = 0; m < 16; m++) {
        for (int k = 0; k < 16; k++) {
            for (int n = 0; n < 16; n++) {
                for (int i = 0; i < 4; i++) sum[m][n] += x[m][k][i] * w[k][n][i];
            }
        }
    }
}

/* The even inputs and the odd ones by themselves, fused, then both, then the sum; what is below 2⁻¹²⁶ is 0. */
static inline float flushed(float v) { return fabsf(v) < 0x1p-126f ? copysignf(0, v) : v; }

static inline float widened(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return flushed(v);
}

__attribute__((target("avx2,fma"))) static inline void dot_pairs(float (*sum)[16], uint16_t (*x)[16][2], uint16_t (*w)[16][2]) {
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 16; n++) {
            float even = 0, odd = 0;
            for (int k = 0; k < 16; k++) {
                even = flushed(__builtin_fmaf(widened(x[m][k][0]), widened(w[k][n][0]), even));
                odd = flushed(__builtin_fmaf(widened(x[m][k][1]), widened(w[k][n][1]), odd));
            }
            sum[m][n] = flushed(flushed(sum[m][n]) + flushed(even + odd));
        }
    }
}

static inline void configure_tiles(int tiles) { (void)tiles; }
static inline void release_tiles(void) {}
#endif
