// MXFP4 weights as products read them, and how they are widened to bfloat16 in registers.
// Layout  64 rows by 64 inputs, a stage, are 2176 adjacent bytes. First the numbers [half of 32 inputs][16 rows][lane]: lane
//         4g+t has of row g and of row g+8 a word each of 8 numbers, which are four pairs of inputs: 2t and 2t+1 and those 8, 16
//         and 24 further on. Then the scales [16 rows][g]: a word of four bytes, scale + 126, of row g for both halves, and of
//         row g+8.
// Word    A pair's bits as bfloat16 has them: signs at 15 and 31, magnitudes at 6 to 8 and 22 to 24, which is the number times
//         2⁻¹²⁶. The second and third pair lie there rotated by 3 and 6; the last one in the 8 bits that are left.
#pragma once
#include "common.cuh"

enum { mxfp4_numbers = 2048, mxfp4_stage = mxfp4_numbers + 128 };

// The word of the four bytes, two numbers each, from low to high.
inline u32 mxfp4_word(const unsigned char (&bytes)[4]) {
    u32 word = 0;
#pragma unroll
    for (int pair = 0; pair < 4; pair++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 n = bytes[pair] >> (4 * i) & 15;
            const u32 at = pair < 3 ? (n & 7) << 6 | n >> 3 << 15 : n >> 1 & 3 | (n & 1) << 3 | n >> 3 << 4;
            word |= __funnelshift_l(at << 16 * i, at << 16 * i, pair < 3 ? 3 * pair : 0);
        }
    return word;
}

// A pair of a word, times a power of two: exact. The bits of scale are twice those of a bfloat16.
inline u32 mxfp4_pair(u32 word, int pair, u32 scale) {
    u32 v = (pair < 3 ? __funnelshift_r(word, word, 3 * pair) : 0) & 0x81c081c0u;
    if (pair == 3) v = (word << 7 & 0x01800180u) | (word << 3 & 0x00400040u) | (word << 11 & 0x80008000u);
    u32 y;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(v), "r"(scale), "r"(0x80008000u)); // −0, so that −0 stays
    return y;
}

// Of a lane's scales of 16 rows, that of row g, or of g+8 (upper), for a half of the inputs.
inline u32 mxfp4_scale(u32 scales, int upper, int half) { return __byte_perm(scales, 0, 0x4440 + upper * 2 + half) * 0x00800080u; }

// A lane's numbers of half a stage of 64 rows, its warp's 16 among them, and its scales of the stage.
inline uint2 mxfp4_numbers_of(const char* from, int half) { return *(const uint2*)(from + half * (mxfp4_numbers / 2) + threadIdx.x % 128 * 8); }
inline u32 mxfp4_scales(const char* from) { return *(const u32*)(from + mxfp4_numbers + threadIdx.x % 128 / 4 * 4); }

// A lane's weights of half a stage of 64 rows, its warp's 16 among them, as mma's A operand: of two steps of 16 inputs each.
inline void mxfp4_half(u32 (&w)[2][4], const char* from, int half) {
    const uint2 v = mxfp4_numbers_of(from, half);
    const u32 scales = mxfp4_scales(from);
    const u32 low = mxfp4_scale(scales, 0, half), high = mxfp4_scale(scales, 1, half);
#pragma unroll
    for (int pair = 0; pair < 4; pair++)
        w[pair / 2][pair % 2 * 2] = mxfp4_pair(v.x, pair, low), w[pair / 2][pair % 2 * 2 + 1] = mxfp4_pair(v.y, pair, high);
}
