// What all kernels share: the element types, rows of a tensor, and sums over a block in a fixed order.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef signed char i8;

#define infinity __int_as_float(0x7f800000)

struct bf16 { u16 bits; };
struct f16 { u16 bits; };
struct mxfp4; // of weights, never one by itself (mxfp4.cuh)

// The first statement of every kernel: what was launched earlier is done and its results are seen. From Hopper on a kernel
// is set up while the one before still runs; the next one may then be set up beside this.
inline void after_earlier_alone() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
inline void after_earlier() { after_earlier_alone(), let_next_begin(); }

// A tensor [rows, cols]: elements of a row are adjacent, rows stride elements apart, neither aligned beyond an element.
struct mat {
    void* data;
    i64 stride;
};

template <class T> T* row_of(const mat& m, i64 row) { return (T*)m.data + row * m.stride; }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
inline float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> inline f16 from_float<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// The value that T holds for x.
template <class T> float rounded(float x) { return to_float(from_float<T>(x)); }

// Two values as one register of T, the first in the low half.
template <class T> u32 pair_of(float lo, float hi);
template <> inline u32 pair_of<bf16>(float lo, float hi) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}
template <> inline u32 pair_of<f16>(float lo, float hi) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}

// A chunk is 8 values of a row. Which thread has which chunk never depends on alignment; how it is loaded does.
template <class T> bool aligned(const T* p) { return ((u64)p & 15) == 0; }

inline void load8(float (&v)[8], const float* p, int n) {
    if (n >= 8 && aligned(p)) {
        const float4 a = *(const float4*)p, b = *(const float4*)(p + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = i < n ? p[i] : 0.0f;
}

template <class T> void load8(float (&v)[8], const T* p, int n) {
    union { uint4 all; T each[8]; } x;
    if (n >= 8 && aligned(p)) {
        x.all = *(const uint4*)p;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x.each[i].bits = 0;
            if (i < n) x.each[i] = p[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = to_float(x.each[i]);
}

inline void store8(float* p, const float (&v)[8], int n) {
    if (n >= 8 && aligned(p)) {
        *(float4*)p = make_float4(v[0], v[1], v[2], v[3]);
        *(float4*)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) p[i] = v[i];
}

template <class T> void store8(T* p, const float (&v)[8], int n) {
    if (n >= 8 && aligned(p)) {
        *(uint4*)p = make_uint4(pair_of<T>(v[0], v[1]), pair_of<T>(v[2], v[3]), pair_of<T>(v[4], v[5]), pair_of<T>(v[6], v[7]));
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) p[i] = from_float<T>(v[i]);
}

// Larger numbers for larger values, equal for equal ones; a NaN is below everything.
inline u32 order_of(float x) {
    if (x != x) return 0;
    const u32 b = __float_as_uint(x == 0 ? 0.0f : x);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

// Sums over a warp and over a block: butterflies, the same value in every thread.
template <class T> T warp_sum(T v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

inline float warp_max(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

// All threads of the block call; at most 32 warps.
template <class T> T block_sum(T v) {
    __shared__ T part[33];
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        const T w = warp_sum(threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : T(0));
        if (threadIdx.x == 0) part[32] = w;
    }
    __syncthreads();
    return part[32];
}

// The number of set flags before this thread, in thread order, and of all.
inline int block_rank(bool flag, int& all) {
    __shared__ int part[33];
    const u32 votes = __ballot_sync(0xffffffffu, flag);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();
    if (lane == 0) part[warp] = __popc(votes);
    __syncthreads();
    if (warp == 0) {
        const int mine = lane < blockDim.x / 32 ? part[lane] : 0;
        int sum = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const int below = __shfl_up_sync(0xffffffffu, sum, o);
            if (lane >= o) sum += below;
        }
        part[lane] = sum - mine;
        if (lane == 31) part[32] = sum;
    }
    __syncthreads();
    all = part[32];
    return part[warp] + __popc(votes & ((1u << lane) - 1));
}

// An index out of range is left alone and told to the host: op, index, where it stood.
inline void note_fault(int* fault, int op, int index, int at) {
    fault[1] = index, fault[2] = at;
    fault[0] = op;
}
