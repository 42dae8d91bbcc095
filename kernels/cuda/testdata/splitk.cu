// y = x·Wᵀ as matrix products for few rows are usually made: the inputs are cut into as many slices as it takes to fill the
// card, and the slices' sums are added. One slice gives a row other bits than two, and how many there are follows from the
// number of rows.
// Shapes  y [rows, out], x [rows, in] of A; w [out, in] float32; sums [slices, rows, out].
// Launch  multiply: a warp for each output, row and slice; add: one for 32 outputs of a row.
#include "common.cuh"

struct slices_args {
    mat y, x, w;
    float* sums;
    int rows, out, in, slices;
};

extern "C" __global__ void multiply(const slices_args a) {
    after_earlier();
    const int o = blockIdx.x, row = blockIdx.y, slice = blockIdx.z;
    const A* x = row_of<A>(a.x, row);
    const float* w = row_of<float>(a.w, o);
    float sum = 0;
    for (int k = a.in * slice / a.slices + threadIdx.x; k < a.in * (slice + 1) / a.slices; k += 32) sum += to_float(x[k]) * w[k];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) a.sums[((i64)slice * a.rows + row) * a.out + o] = sum;
}

extern "C" __global__ void add(const slices_args a) {
    after_earlier();
    const int o = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y;
    if (o >= a.out) return;
    float sum = 0;
    for (int slice = 0; slice < a.slices; slice++) sum += a.sums[((i64)slice * a.rows + row) * a.out + o];
    row_of<A>(a.y, row)[o] = from_float<A>(sum);
}
