/* Every C function that Go may call. C takes pointers and sizes, keeps no pointer and never calls back; the memory
 * that it allocates has a _new or _alloc and a _free. Sizes and strides count elements unless they say bytes. */
#ifndef DSBATCH_CPU_H
#define DSBATCH_CPU_H

#include <stddef.h>
#include <stdint.h>

/* features.c */
uint32_t cpu_features(void);

/* peak.c: products from registers, n times round the loop, returns how many; 0: the level has no such instruction. */
double cpu_peak_products(int level, int type, int vnni, int64_t n);
uint64_t cpu_peak_read(int level, const void *from, int64_t bytes); /* bytes: a multiple of 256 */
double gemm_amx_peak(int type, int64_t n);

/* gemm*.c, pack.c, mxfp4.c: y = e(x·Wᵀ + b) with W in panels of 32 outputs.
 *
 * A panel holds k in units: [⌈k/u⌉][32][u] values, u = 1 for float32 and float16, 2 for bfloat16, 4 for int8, so that a
 * unit of an output is adjacent; for tiles 16 units of 16 outputs, then those of the other 16, before the next 16 units, so
 * that a tile is 1 KiB without gaps. k is padded with zeros to a multiple of step. int8 has its inputs in groups, each
 * padded for itself and followed by scale [32] float32 and offset [32] int32 = −128·Σ of the output's values.
 * Where gated, a panel is 16 outputs of gate, then the same 16 of up.
 *
 * Rows of x are cut into tiles of at most tile_rows, as even as can be, or where tile_space is set into whole ones and the
 * rest, since the hardware's tiles take as long for few rows as for 16; a row's sums do not depend on its tile. */
enum { GEMM_PANEL = 32, GEMM_MAX_TILE = 32 };
enum gemm_type { GEMM_F32, GEMM_BF16, GEMM_F16, GEMM_I8, GEMM_MXFP4 };
enum gemm_level { GEMM_GENERIC, GEMM_AVX2, GEMM_AVX512, GEMM_AVX512BF16, GEMM_AMX };
enum gemm_activation { GEMM_IDENTITY, GEMM_GELU_TANH, GEMM_GELU_ERF, GEMM_SILU, GEMM_RELU, GEMM_CLAMPED_SWIGLU };

typedef struct gemm_depth { /* how k is cut: groups of group inputs, each padded to padded */
    int64_t groups, group, padded;
} gemm_depth;

typedef struct gemm_output { /* what becomes of the sums */
    float *y;          /* [rows, columns], rows stride apart */
    const float *bias; /* [panels][32] in the order of the panels, or NULL */
    int64_t stride, columns;
    int32_t gated, activation, add;
    float limit; /* of GEMM_CLAMPED_SWIGLU */
} gemm_output;

typedef struct gemm_fetch { /* memory to bring into L2 meanwhile, pace bytes (up to 128) for each unit of k */
    const char *from;
    int64_t pace;
} gemm_fetch;

typedef struct gemm_task gemm_task;
typedef void gemm_pack_fn(void *packed, const float *const *x, int rows, const gemm_depth *d);
/* the units of inputs [32·from, 32·to) of an MXFP4 panel with so many groups of 32, in bfloat16 */
typedef void gemm_widen_fn(uint32_t *units, const void *panel, int64_t groups, int64_t from, int64_t to);
typedef void gemm_finish_fn(const gemm_output *o, float *sums, int rows, int64_t row, int64_t panel);

typedef struct gemm_kernel {
    int32_t type; /* gemm_type */
    int32_t tile_rows;
    int32_t tile_space; /* rows that each tile takes in packed x; 0: as many as it has */
    int32_t step;
    int32_t x_bytes; /* of a packed value of x; a row has k padded of them, and 4 bytes for its scale */
    /* packs rows of x (row i at x[i], k values) for multiply */
    gemm_pack_fn *pack;
    /* sums [rows][32] (+)= packed x · panel, for one tile and one panel, or a block of k of both where weights are
     * float. Or NULL, and */
    void (*multiply)(float *sums, const void *packed, const void *panel, int rows, const gemm_depth *d, int more,
                     gemm_fetch f);
    /* the whole of a task, where one panel at a time would not do */
    void (*run)(const gemm_task *t);
    /* stores rows of sums, the first of them row of y; overwrites sums */
    gemm_finish_fn *finish;
    int32_t tiled; /* whether panels are for tiles */
    /* Weights are MXFP4 (mxfp4.c), which this makes units of type of, GEMM_BF16, for multiply; NULL: panels hold units */
    gemm_widen_fn *widen;
    /* before the first multiply of a task and after its last, or NULL */
    void (*begin)(void), (*end)(void);
} gemm_kernel;

struct gemm_task { /* the arguments of gemm_run */
    const gemm_kernel *kernel;
    const char *packed, *panels;
    const char *ahead; /* the first panels of what this thread will likely multiply next, or NULL */
    int64_t ahead_panels, row_bytes, panel_bytes, rows, tiles, tile0, tile1, panel0, panel1;
    gemm_depth depth;
    gemm_output output;
};

/* First row of a tile, and where its rows of packed x start. */
static inline int64_t gemm_tile_row(const gemm_task *t, int64_t tile) {
    if (!t->kernel->tile_space) return tile * t->rows / t->tiles;
    return tile < t->tiles ? tile * t->kernel->tile_rows : t->rows;
}
static inline const void *gemm_tile_packed(const gemm_task *t, int64_t tile) {
    const int64_t space = t->kernel->tile_space;
    return t->packed + (space ? tile * space : gemm_tile_row(t, tile)) * t->row_bytes;
}

/* The tables, and what stands in several of them. */
extern const gemm_kernel gemm_generic[5]; /* by gemm_type */
extern const gemm_kernel gemm_avx2[5], gemm_avx512[5], gemm_avx512_bf16, gemm_avx512_bf16_mxfp4, gemm_avx512_without_vnni,
    gemm_amx_bf16, gemm_amx_mxfp4, gemm_amx_i8;
gemm_pack_fn gemm_rows_f32_avx512, gemm_rows_bf16_avx512, gemm_rows_u8_avx512, gemm_rows_bf16_amx, gemm_rows_s8_amx;
gemm_finish_fn gemm_finish_avx2, gemm_finish_avx512;
gemm_widen_fn gemm_widen_generic, gemm_widen_avx2, gemm_widen_avx512, gemm_widen_tiles;

gemm_depth gemm_depth_of(const gemm_kernel *kernel, int64_t k, int64_t group); /* group 0: all of k */

/* Steps of int8: the scale of a group or row whose largest magnitude has these bits, and what to multiply values by.
 * Too small a magnitude gives 0 and 0; an infinity or a NaN gives NaN and 0. As quantize in pack_reference.go. */
float gemm_quantum(uint32_t magnitude_bits, float *scale);

/* The kernel of a level for weights of a type; vnni tells whether a 512-bit level may use AVX512_VNNI. */
const gemm_kernel *gemm_kernel_of(int level, int type, int vnni);

/* Bytes of a panel, and of a packed row of x. */
int64_t gemm_panel_bytes(const gemm_kernel *kernel, int64_t k, int64_t group);
int64_t gemm_row_bytes(const gemm_kernel *kernel, int64_t k, int64_t group);

/* Packs tiles [tile0, tile1) of rows rows of x, row i being x[index ? index[i]/div : i]. */
void gemm_pack_rows(const gemm_kernel *kernel, void *packed, const float *x, int64_t stride, const int32_t *index,
                    int64_t div, int64_t rows, int64_t tile0, int64_t tile1, int64_t k, int64_t group);

/* y for tiles [tile0, tile1) of rows rows and panels [panel0, panel1). panels is the matrix's first one, y its row 0.
 * ahead is as in gemm_task. */
void gemm_run(const gemm_kernel *kernel, float *y, int64_t stride, const void *packed, const void *panels,
              const void *ahead, int64_t ahead_panels, int64_t panel_bytes, const float *bias, int64_t rows, int64_t tile0, int64_t tile1, int64_t columns,
              int64_t panel0, int64_t panel1, int64_t k, int64_t group, int gated, int activation, int add, float limit);

/* Fills columns [column, column+columns) of a zeroed panel from a matrix whose value (output i, input p) is
 * source[i·output_stride + p·input_stride]; source type as gemm_type, not int8. */
void gemm_pack_panel(const gemm_kernel *kernel, void *panel, int64_t column, int64_t columns, const void *source,
                     int source_type, int64_t output_stride, int64_t input_stride, int64_t k, int64_t group);

/* mxfp4.c: bytes of a panel of MXFP4, and columns [column, column+columns) of a zeroed one from adjacent rows of numbers, two a
 * byte, and of scales. */
int64_t gemm_mxfp4_bytes(int64_t k);
void gemm_pack_mxfp4(void *panel, int64_t column, int64_t columns, const uint8_t *numbers, const uint8_t *scales, int64_t k);

/* kernelset.c: what every level has of the other ops. A level's functions are compiled from norm.c, rope.c, … with its
 * registers (level_*.c); these call the level's. Rows [from, to) of the tensors are done; data is that of row 0. */
enum cpu_level { CPU_GENERIC, CPU_AVX2, CPU_AVX512 };
enum cpu_type { CPU_F32, CPU_BF16, CPU_F16 };
enum {
    CPU_PANEL = 16,           /* positions of K side by side in a cache, see cache.go */
    CPU_ATTENTION_ROWS = 128, /* query heads of tokens at once */
    CPU_ATTENTION_SCRATCH = 2 * 64 + CPU_ATTENTION_ROWS /* floats that attend needs, for each of dim */
};

typedef struct norm_args {
    float *x, *y;
    const float *delta, *weight, *bias; /* delta, bias: or NULL */
    int64_t x_stride, y_stride, delta_stride, cols, groups;
    float eps;
    int32_t rms;
} norm_args;

typedef struct convert_args {
    void *dst;
    const void *src;
    int64_t dst_stride, src_stride, cols;
    int32_t dst_type, src_type;
} convert_args;

typedef struct embed_args {
    float *y;
    const void *table, *positions; /* positions: or NULL */
    const int32_t *ids, *pos;
    int64_t y_stride, table_stride, positions_stride, cols;
    int32_t table_type, positions_type;
} embed_args;

typedef struct store_args {
    float *q, *k;
    const float *v, *cos, *sin; /* v: NULL where keys hold the values */
    void *data; /* of the cache's layer */
    const int32_t *position, *slot;
    int64_t q_stride, k_stride, v_stride, cos_stride, sin_stride, q_cols;
    int64_t block_tokens, width, kv_heads, dim, rotated;
    int32_t type, interleaved;
} store_args;

typedef struct attention_args {
    float *out;
    const float *q;
    const void *data; /* of the cache's layer */
    const int32_t *position, *blocks, *context; /* context: NULL where causal */
    const float *slopes;                        /* of the heads, or NULL: no ALiBi */
    const float *sinks;                         /* of the heads, or NULL */
    int64_t out_stride, q_stride, blocks_stride, block_tokens, width, kv_heads, dim, group, window;
    int64_t values, head_step, value_step; /* of a head's value; elements from head to head of a block, and, of a token in no panel, from key to value */
    float scale;
    int32_t type;
} attention_args;

typedef struct attention_item { /* tokens [from, to) of a sequence, one KV head */
    int64_t seq, from, to, head;
} attention_item;

typedef struct gate_args {
    const float *logits, *bias; /* bias: or NULL */
    int32_t *expert;
    float *weight;
    int64_t logits_stride, expert_stride, weight_stride, experts, k, groups, top_groups, group_best;
    float scale;
    int32_t sigmoid, renormalise, limited;
} gate_args;

typedef struct combine_args {
    float *y;
    const float *out, *weight;
    const int32_t *place;
    int64_t y_stride, out_stride, weight_stride, cols, k;
} combine_args;

typedef struct mix_args {
    float *y;
    const float *moe, *mlp, *coef;
    int64_t y_stride, moe_stride, mlp_stride, coef_stride, cols;
    int32_t shared; /* coef has one column */
} mix_args;

typedef struct add_args {
    float *y;
    const float *x;
    int64_t y_stride, x_stride, cols;
} add_args;

typedef struct reduce_args {
    float *y;
    const float *parts; /* [count·rows, cols] */
    int64_t y_stride, parts_stride, rows, cols, count;
    int32_t add;
} reduce_args;

typedef struct score_args {
    const float *logits;
    const int32_t *target;
    float *logprob;
    int32_t *greedy;
    int64_t logits_stride, logprob_stride, greedy_stride, vocab;
} score_args;

typedef struct kernel_set {
    void (*norm)(const norm_args *a, int64_t from, int64_t to);
    void (*convert)(const convert_args *a, int64_t from, int64_t to);
    void (*embed)(const embed_args *a, int64_t from, int64_t to);
    void (*store)(const store_args *a, int64_t from, int64_t to);
    void (*attend)(const attention_args *a, const attention_item *it, const attention_item *after, float *scratch);
    void (*gate)(const gate_args *a, int64_t from, int64_t to, int32_t *key);
    void (*combine)(const combine_args *a, int64_t from, int64_t to);
    void (*mix)(const mix_args *a, int64_t from, int64_t to);
    void (*add)(const add_args *a, int64_t from, int64_t to);
    void (*reduce)(const reduce_args *a, int64_t from, int64_t to);
    void (*score)(const score_args *a, int64_t from, int64_t to);
    int64_t (*log_sum)(const float *x, int64_t n, double *result, const float *ahead);
    double (*token_weights)(float *dst, const float *x, int64_t n, float top, float temperature);
    int64_t (*next_above)(const float *x, int64_t from, int64_t n, float bound);
    void (*masses_above)(const float *w, int64_t n, const float *bound, double *mass, int64_t *count);
    int64_t (*weights_between)(float *to, int32_t *to_id, const float *w, const int32_t *id, int64_t n, float low, float high);
} kernel_set;
extern const kernel_set kernels_generic, kernels_avx2, kernels_avx512;

void cpu_norm(int level, norm_args a, int64_t from, int64_t to);
void cpu_convert(int level, convert_args a, int64_t from, int64_t to);
void cpu_embed(int level, embed_args a, int64_t from, int64_t to);
void cpu_store(int level, store_args a, int64_t from, int64_t to);
/* scratch has CPU_ATTENTION_SCRATCH·dim floats. */
void cpu_attention(int level, attention_args a, const attention_item *items, int64_t n, float *scratch);
/* key has experts places, rounded up to 16; twice that and groups more where the gate is limited. */
void cpu_gate(int level, gate_args a, int64_t from, int64_t to, int32_t *key);
void cpu_combine(int level, combine_args a, int64_t from, int64_t to);
void cpu_mix(int level, mix_args a, int64_t from, int64_t to);
void cpu_add(int level, add_args a, int64_t from, int64_t to);
void cpu_reduce(int level, reduce_args a, int64_t from, int64_t to);
void cpu_score(int level, score_args a, int64_t from, int64_t to);
/* Returns the argmax of x and gives log Σ exp(x). */
int64_t cpu_log_sum(int level, const float *x, int64_t n, double *result);
double cpu_token_weights(int level, float *dst, const float *x, int64_t n, float top, float temperature);
int64_t cpu_next_above(int level, const float *x, int64_t from, int64_t n, float bound);
void cpu_masses_above(int level, const float *w, int64_t n, const float *bound, double *mass, int64_t *count);
int64_t cpu_weights_between(int level, float *to, int32_t *to_id, const float *w, const int32_t *id, int64_t n, float low, float high);

#endif
