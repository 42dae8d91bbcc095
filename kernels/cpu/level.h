/* The functions of one level: included by level_*.c, which say which. Order matters: later files use earlier ones. */
#include "convert.c"
#include "norm.c"
#include "rope.c"
#include "attention.c"
#include "gate.c"
#include "combine.c"
#include "reduce.c"
#include "score.c"

const kernel_set LEVEL = {
    .norm = norm_rows,
    .convert = convert_rows,
    .embed = embed_rows,
    .store = store_rows,
    .attend = attend,
    .gate = gate_rows,
    .combine = combine_rows,
    .mix = mix_rows,
    .add = add_rows,
    .reduce = reduce_rows,
    .score = score_rows,
    .log_sum = log_sum,
    .token_weights = token_weights,
    .next_above = next_above,
    .masses_above = masses_above,
    .weights_between = weights_between,
};
