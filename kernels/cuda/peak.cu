// What the card multiplies at most: products from registers alone, of numbers without a pattern. products_f32 by fused
// multiply-adds, products_mma of type A by mma.sync; sm90_peak.cu by wgmma.
// Launch  256 threads, two blocks a multiprocessor or more; out is written only where the sums say so, which they never do.
#include "mma.cuh"

struct peak_args {
    float* out;
    int rounds, pad;
};

inline u32 noise(u32 x) {
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// Two numbers of both signs, between ½ and 1 in magnitude: as many bits change from one to the next as in any data.
inline u32 pair_of_noise(u32 seed) {
    const u32 x = noise(seed);
    return pair_of<A>((x & 1 ? 0.5f : -0.5f) * (1 + (float)(x >> 20) / 4096), (x & 2 ? 0.5f : -0.5f) * (1 + (float)(x >> 8 & 4095) / 4096));
}

extern "C" __global__ void __launch_bounds__(256) products_f32(const peak_args a) { // 32 a thread and round
    after_earlier();
    float c[16] = {}, x = (float)noise(threadIdx.x) * 1e-10f, y = (float)noise(threadIdx.x + 7) * 1e-10f;
    for (int r = 0; r < a.rounds; r++) {
#pragma unroll
        for (int i = 0; i < 16; i++) c[i] = fmaf(x, c[i], y);
#pragma unroll
        for (int i = 0; i < 16; i++) c[i] = fmaf(y, c[i], x);
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) sum += c[i];
    if (sum == 1e30f) *a.out = sum;
}

extern "C" __global__ void __launch_bounds__(256) products_mma(const peak_args a) { // 8 of 16×8×16 a warp and round
    after_earlier();
    float c[8][4] = {};
    u32 x[4], y[8][2];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = pair_of_noise(threadIdx.x * 4 + i);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i][0] = pair_of_noise(~threadIdx.x * 16 + i), y[i][1] = pair_of_noise(~threadIdx.x * 16 + 8 + i);
    for (int r = 0; r < a.rounds; r++)
#pragma unroll
        for (int i = 0; i < 8; i++) mma<A>(c[i], x, y[i][0], y[i][1]);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    if (sum == 1e30f) *a.out = sum;
}
