// What the kernels of attention share, and with it the order of sums that gives a token the same bits in all those of its
// type and head size: alone or in a prompt, walked by one block or by several.
// Shapes  out, q [tokens, heads·dim] of A; the cache's layer: [block][kv head]{K [tokens of a block][dim], V the same}; with
//         LATENT no V, which is the last `values` of each key, and out is [tokens, heads·values];
//         position, seq [tokens]; start [seqs+1] first token of each sequence; blocks [seqs, most blocks]; context [seqs]
//         or none (causal).
// Order   the positions of a sequence come in pieces of 512 and tiles of 64, both counted from its first one. A token: its
//         pieces ascending, each started from nothing and added to those before by fold. On tensor cores a tile's logits
//         are summed over dimensions ascending, 16 a step, and a piece is its tiles ascending, by online softmax in float32; a
//         tile's weights are rounded to A before they meet V, 16 positions a step, and summed by row_mass. A sink comes last.
#pragma once
#include "mma.cuh"

struct attention_args {
    mat out, q, blocks;
    const void* cache;
    const int *position, *seq, *start, *context;
    int *fault, *tasks; // tasks: two zeros, of the tasks of prompts (sm90_attention.cu)
    float* partials; // of tokens whose context several blocks share: [slots][heads][DIM] sums, then [slots][heads] maxima and masses
    int tokens, seqs, heads, kv_heads, dim, block_tokens, cache_blocks, window;
    float scale; // with log₂e; on tensor cores above 0
    int op;
    int slots; // that partials has
    int run;   // pieces that one of a token's blocks walks at most
    int parts; // blocks of a token
    int values; // with LATENT: of a key, its last ones
    float* before; // of attention_latent.cu: sums of earlier pieces, of each block
    const float* slopes; // [heads], with ALIBI, which is causal
#if defined(SINKS)
    const float* sinks; // [heads]
#endif
};

enum { tile_tokens = 64, piece_tokens = 512, piece_tiles = piece_tokens / tile_tokens };

// How many times dim a position takes in the cache, and the values of a head of out.
#if defined(LATENT)
enum { kv_parts = 1 };
inline int values_of(const attention_args& a) { return a.values; }
#else
enum { kv_parts = 2 };
inline int values_of(const attention_args& a) { return a.dim; }
#endif

// What a token sees of its sequence.
inline void span(const attention_args& a, i64 token, int seq, int& lo, int& hi) {
    const int last = a.position[token] + 1;
    hi = a.context != nullptr ? a.context[seq] : last;
    lo = a.window > 0 ? max(0, last - a.window) : 0;
}

// Where position p of a sequence with these blocks lies, counted in rows of the layer's cache, K's of that head; V's is
// block_tokens rows on. -1: the step does not look at it, and it counts as zeros.
inline int cache_row(const attention_args& a, const int* blocks, int kv_head, int p, int lo, int hi) {
    if (p < lo || p >= hi) return -1;
    const int at = p / a.block_tokens, block = at < a.blocks.stride ? blocks[at] : -1;
    if (block >= 0 && block < a.cache_blocks) return (block * a.kv_heads + kv_head) * kv_parts * a.block_tokens + p % a.block_tokens;
    note_fault(a.fault, a.op, block, p);
    return -1;
}

// 2^x. The sums and products around it are named one by one: no compiler may fuse them in one kernel and not in another.
inline float power2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// What a row adds to each of its scaled logits, so that the largest comes to 0; with nothing seen yet, 0.
inline float shift_of(float top, float scale) { return top == -infinity ? 0.0f : -__fmul_rn(top, scale); }
// A logit's weight. Scale is positive.
inline float weight(float logit, float scale, float shift) { return power2(__fmaf_rn(logit, scale, shift)); }
// What sums of weights below `before` are multiplied by to be among those below top; exactly 1 where these are the same.
inline float lowered(float before, float top, float scale) {
    return top == -infinity ? 0.0f : power2(__fmul_rn(__fsub_rn(before, top), scale));
}

// The new maximum of a row's logits, and what its sums so far are multiplied by.
inline float raise(float& top, float found, float scale) {
    const float before = top;
    top = fmaxf(top, found);
    return lowered(before, top, scale);
}

// A row's sums over some pieces, and how those of the next piece come to them.
struct row_sum {
    float top, mass;
    float keep, share; // of fold: what the sums so far and those of the piece are multiplied by

    void begin() { top = -infinity, mass = 0; }
    void fold(float piece_top, float piece_mass, float scale) {
        keep = raise(top, piece_top, scale), share = lowered(piece_top, top, scale);
        mass = folded(mass, piece_mass);
    }
    float folded(float sum, float piece) const { return fmaf(piece, share, __fmul_rn(sum, keep)); }
#if defined(SINKS)
    // A head's sink comes last: a weight of 1 that has no value. Only inverse is to be asked for then.
    void sink(float logit, float scale) { fold(logit, 1, scale); }
    float inverse() const { return mass == 0 ? 0.0f : __fdiv_rn(keep, mass); }
#else
    // What a sum is multiplied by in the end: one division a row, since one for each sum is code that a block meets once.
    float inverse() const { return mass == 0 ? 0.0f : 1.0f / mass; }
#endif
    static float result(float sum, float inverse) { return __fmul_rn(sum, inverse) + 0.0f; } // never -0
};

// The weights of a row in a piece. Of a tile four threads have two positions in eight each, and sum those of each sixteen
// positions apart from the others, since a warp of decode has no more; in the end the sixteens meet, then the threads.
struct row_mass {
    float of[4];

    void begin() { of[0] = of[1] = of[2] = of[3] = 0; }
    static void add(float& mass, float keep, float a, float b, float c, float d) {
        mass = __fmaf_rn(mass, keep, __fadd_rn(__fadd_rn(a, b), __fadd_rn(c, d)));
    }
    float all() const {
        float x = __fadd_rn(__fadd_rn(of[0], of[1]), __fadd_rn(of[2], of[3]));
        x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 1));
        return __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 2));
    }
};

#if defined(SINKS)
// A head's sink as one of its logits, before these are scaled.
inline float sink_of(const attention_args& a, int head, float scale) { return __fdiv_rn(__fmul_rn(a.sinks[head], 0x1.715476p+0f), scale); }
#endif

#if defined(ALIBI)
// ALiBi on tensor cores, before logits are scaled: what one of a head loses for each position up to the token's, and a logit
// less that.
inline float lean_of(const attention_args& a, int head) { return __fdiv_rn(__fmul_rn(a.slopes[head], 0x1.715476p+0f), a.scale); }
inline float leant(float logit, float lean, int back) { return __fmaf_rn(lean, (float)back, logit); } // back <= 0
#endif

inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The only token of a sequence in the step; -1 where it has several, or none: those are prefill's.
inline i64 alone(const attention_args& a, int seq) {
    if (a.tokens == a.seqs) return seq;
    const int token = a.start[seq];
    return a.start[seq + 1] - token == 1 ? token : -1;
}

// Where a token's context is shared among blocks, its first one walks the first `run` pieces and leaves one result, the
// others walk as many and leave one for each, so that the results of all are its pieces' in order.
struct share {
    int from, to;    // pieces
    int slot, slots; // of the results: this block's first one, the token's number; -1, 0: none, one block walks all
};

// How many results the blocks of a sequence leave; 0: it has one block.
inline int results(const attention_args& a, int lo, int hi) {
    const int pieces = hi > lo ? (hi - 1) / piece_tokens - lo / piece_tokens + 1 : 0;
    return pieces > a.run && pieces <= a.run * a.parts ? pieces - a.run + 1 : 0;
}

// A part of the context of sequence seq, whose only token sees [lo, hi). Results that find no slot are not shared work
// but one block's: bits are the same. All threads of the block call.
inline share share_of(const attention_args& a, int seq, int lo, int hi, int part) {
    const int first = lo / piece_tokens, end = (hi + piece_tokens - 1) / piece_tokens, slots = results(a, lo, hi);
    const share nothing = {0, 0, -1, 0}, whole = {first, end, -1, 0};
    if (slots == 0) return part == 0 ? whole : nothing;
    if (first + part * a.run >= end) return nothing;
    int before = 0; // results of the sequences before
    for (int i = threadIdx.x; i < seq; i += blockDim.x) {
        const i64 token = alone(a, i);
        if (token < 0) continue;
        int l, h;
        span(a, token, a.seq[token], l, h);
        before += results(a, l, h);
    }
    before = block_sum(before);
    if (before + slots > a.slots) return part == 0 ? whole : nothing;
    const int from = first + part * a.run;
    return {from, min(from + a.run, end), part == 0 ? before : before + 1 + (part - 1) * a.run, slots};
}

// Where the parts of a token leave their results: sums, and their maximum and mass.
inline i64 result_at(const attention_args& a, int slot, int head) { return (i64)slot * a.heads + head; }
inline float2* masses_of(const attention_args& a, int dim) { return (float2*)(a.partials + (i64)a.slots * a.heads * dim); }

// The results of the parts of a sequence's only token, in their order, for heads that fill DIM values, of logits in units of
// scale: a block a head, a thread a dimension.
template <int DIM> void combine_parts(const attention_args& a, float scale) {
    const i64 token = alone(a, blockIdx.x);
    if (token < 0) return;
    int lo, hi;
    span(a, token, a.seq[token], lo, hi);
    const share first = share_of(a, blockIdx.x, lo, hi, 0);
    if (first.slot < 0) return;
    const int head = blockIdx.y, d = threadIdx.x;
    enum { ahead = 16 }; // pieces that are read at once
    row_sum row;
    row.begin();
    float all = 0;
    for (int i = 0; i < first.slots; i += ahead) {
        float o[ahead];
        float2 m[ahead];
#pragma unroll
        for (int j = 0; j < ahead; j++)
            if (i + j < first.slots) {
                const i64 at = result_at(a, first.slot + i + j, head);
                o[j] = a.partials[at * DIM + d], m[j] = masses_of(a, DIM)[at];
            }
#pragma unroll
        for (int j = 0; j < ahead; j++)
            if (i + j < first.slots) {
                row.fold(m[j].x, m[j].y, scale);
                all = row.folded(all, o[j]);
            }
    }
#if defined(SINKS)
    row.sink(sink_of(a, head, scale), scale);
#endif
    if (d < values_of(a)) row_of<A>(a.out, token)[head * values_of(a) + d] = from_float<A>(row_sum::result(all, row.inverse()));
}
