// What the matrix products share: a block's weights and tokens on their way to shared memory, and its sums on theirs to y.
#pragma once
#include "mma.cuh"
#include "tiles.cuh"
#include "mxfp4.cuh"

struct gemm_args {
    mat x, y;
    const void* w;
    const float* bias;  // [experts][padded rows], or none
    const float* scale; // i8: [experts][groups][padded rows]
    const int *offsets, *index;
    int* fault;
    int experts, rows, tokens, div; // rows of y, of x
    int in, out, padded_in, padded_rows;
    int gated, act, add, group, aligned, y_f32, op;
    int most; // tokens of a tile, where the kernel leaves the choice
};

enum { depth = 64 }; // inputs a stage

// Bytes of 64 rows' weights of a stage.
template <class T> struct packed { enum { bytes = 64 * depth * 2 }; };
template <> struct packed<i8> { enum { bytes = 64 * depth }; };
template <> struct packed<mxfp4> { enum { bytes = mxfp4_stage }; };

// The sums of ROWS packed rows of an expert, from row on, on their way through shared memory to y, by THREADS threads of
// which this is one. A token's sums are together, ROWS + 4 floats apart from the next one's.
template <int ROWS, int THREADS> struct sums_to_y {
    enum { stride = ROWS + 4 };

    const gemm_args& a;
    float* shared;
    int thread, expert, row;

    // The sums of rows at·16 … by tokens token … of a tensor core tile. Nothing is done to them here, where the code is
    // repeated for every tile.
    void put(const float (&c)[4], int at, int token) const {
        const int lane = threadIdx.x % 32;
        float* out = shared + (token + lane % 4 * 2) * stride + at * 16 + lane / 4;
        out[0] = c[0], out[stride] = c[1], out[8] = c[2], out[stride + 8] = c[3];
    }

    // 8 finished sums of a token from the at-th row on, but for the activation.
    void take(float (&v)[8], int token, int at) const {
        const float4* from = (const float4*)(shared + token * stride + at);
        const float4 x = from[0], y = from[1];
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w, v[4] = y.x, v[5] = y.y, v[6] = y.z, v[7] = y.w;
        const i64 place = (i64)expert * a.padded_rows + row + at;
        if (a.scale != nullptr && a.group == 0) {
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] *= a.scale[place + j];
        }
        if (a.bias != nullptr) {
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] += a.bias[place + j];
        }
    }

    // Rows first … first + count - 1 of y from what was put for the tokens 0 … count - 1, whole.
    template <class Y> void write_rows(int first, int count) const {
        enum { chunks = ROWS / 8 }; // of 8 packed rows, a power of two
        static_assert((chunks & (chunks - 1)) == 0 && THREADS % chunks == 0, "a thread stays with its columns");
        const int per = chunks >> a.gated, at = thread % per * 8, column = (row >> a.gated) + at, n = a.out - column;
        if (n <= 0) return;
#pragma unroll 1
        for (int token = thread / per; token < count; token += THREADS / per) {
            float v[8];
            take(v, token, at << a.gated);
#if defined(SWIGLU_LIMIT)
            float up[8];
            take(up, token, (at << 1) + 8);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] = clamped_swiglu(v[j], up[j], true);
#else
            activate8(a.act, v);
            if (a.gated) {
                float up[8];
                take(up, token, (at << 1) + 8);
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] *= up[j];
            }
#endif
            Y* y = row_of<Y>(a.y, first + token) + column;
            if (a.add) {
                float old[8];
                load8(old, y, n);
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] += old[j];
            }
            store8(y, v, n);
        }
    }
    void write(int first, int count) const {
        if (a.y_f32) write_rows<float>(first, count);
        else write_rows<A>(first, count);
    }
};

// A block of BLOCKS·64 packed rows by TOKENS tokens, STAGES stages of 64 inputs, THREADS threads. A stage is the rows'
// weights as pack.cu leaves them, then the tokens, gathered, 128 bytes each, in 16-byte pieces exchanged by the token's
// number modulo 8.
template <int BLOCKS, int TOKENS, int STAGES, int THREADS> struct gemm_block {
    enum {
        weight_bytes = packed<B>::bytes,
        tokens_at = (BLOCKS * weight_bytes + 1023) / 1024 * 1024, // in a stage
        stage_bytes = tokens_at + TOKENS * depth * 2,
        loads = TOKENS * 8 / THREADS // of 16 bytes of tokens, a thread and stage
    };
    static_assert(TOKENS * 8 % THREADS == 0, "each thread loads as many tokens");

    const gemm_args& a;
    char* shared;
    tile t;
    const char* w;
    const A* x[loads];

    gemm_block(const gemm_args& a, char* shared) : a(a), shared(shared) {}

    int steps() const { return a.padded_in / depth; }
    int first_row() const { return blockIdx.x * BLOCKS * 64; }

    // Finds the block's work; false where there is none.
    bool find() {
        t = find_tile(a.offsets, a.experts, a.rows, TOKENS, blockIdx.y);
        w = (const char*)a.w + ((i64)t.expert * (a.padded_rows / 64) + blockIdx.x * BLOCKS) * steps() * weight_bytes;
        return t.rows > 0;
    }

    // Finds the rows of x; those beyond the tile's are computed and thrown away.
    void find_tokens() {
#pragma unroll
        for (int i = 0; i < loads; i++) {
            const int row = i * (THREADS / 8) + threadIdx.x / 8;
            int source = t.first + min(row, t.rows - 1);
            if (a.index != nullptr) source = a.index[source] / a.div;
            if (source < 0 || source >= a.tokens) {
                note_fault(a.fault, a.op, source, t.first + row);
                source = 0;
            }
            x[i] = row_of<A>(a.x, source);
        }
    }

    void load_weights(int step) {
        char* to = shared + step % STAGES * stage_bytes;
#pragma unroll
        for (int i = 0; i < (BLOCKS * weight_bytes / 16 + THREADS - 1) / THREADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * 16, block = at / weight_bytes;
            if (at >= BLOCKS * weight_bytes) break;
            const bool is = first_row() + block * 64 < a.padded_rows;
            const char* from = w + ((i64)block * steps() + step) * weight_bytes + at % weight_bytes;
            copy16(shared_address(to + at), is ? from : (const char*)a.w, is ? 16 : 0);
        }
    }

    void load_tokens(int step) {
        char* to = shared + step % STAGES * stage_bytes;
        const int piece = threadIdx.x % 8, k = step * depth + piece * 8, left = a.in - k;
#pragma unroll
        for (int i = 0; i < loads; i++) {
            const int row = i * (THREADS / 8) + threadIdx.x / 8;
            char* place = to + tokens_at + row * (depth * 2) + ((piece ^ row % 8) << 4);
            if (a.aligned) {
                copy16(shared_address(place), left > 0 ? x[i] + k : x[i], left >= 8 ? 16 : left > 0 ? left * 2 : 0);
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    A v = {0};
                    if (j < left) v = x[i][k + j];
                    ((A*)place)[j] = v;
                }
            }
        }
    }

    sums_to_y<BLOCKS * 64, THREADS> sums() const { return {a, (float*)shared, (int)threadIdx.x, t.expert, first_row()}; }
    void put(const float (&c)[4], int at, int token) { sums().put(c, at, token); }
    void write() {
        __syncthreads();
        sums().write(t.first, t.rows);
    }
};
