// Rows of experts from rank to rank by the kernels themselves. Each rank has a window: memory that the kernels of all ranks
// of a group write, and only its own read. An exchange is send, arrive, (the experts), return, collect, on all ranks alike.
//
// Window  for each source rank a header: the number of the last exchange whose rows have arrived, that of the last whose
//         results have, and the source's offsets for the experts here; then for each source room rows that arrive, each
//         at its slot of the source; then room rows for this rank's results, each at its slot.
// Order   rows, a release of all of them, then the number, which whoever waits acquires: at the system's scope, since
//         writer and reader are different GPUs. A rank sends again when it has collected from all ranks, so nothing is
//         written that is still to be read, and nothing has to be cleared.
// Launch  send and return: a block a row, or more rows; the last block that is through tells the other ranks. arrive and
//         collect: one block, so that nothing waits for multiprocessors that wait. Counts stay on the device.
// Bound   NVLink. Checked by TestWindows against the host, for ranks of one GPU and of several.
#include "reach.cuh"

// What a rank keeps of its exchanges, for itself.
struct exchanges {
    u64 number;         // of the one under way, from 1
    int sent, returned; // blocks of the running kernel that are through
    int lost;           // whether a rank did not come: nothing is waited for any more
};

struct header {
    u64 arrived, pad1[15];
    u64 returned, pad2[15];
    int offsets[2]; // [local experts + 1], slots of the source
};

struct window {
    const u64* peers; // [ranks], where their windows lie for this rank
    exchanges* own;
    int* fault;
    i64 rows, back;       // from a window's begin to what arrives and to results, bytes
    int headers, pitch;   // bytes of a header, of a row
    int rank, ranks, room; // room: rows
    int name;             // that the host knows it by
};

inline header* header_at(const window& w, int at, int from) { return (header*)(w.peers[at] + (u64)from * w.headers); }

// dst begins at a multiple of 16 bytes.
template <class T> void copy_row(T* dst, const T* src, int cols) {
    for (int at = threadIdx.x * 8; at < cols; at += blockDim.x * 8) {
        if (at + 8 <= cols && aligned(src + at)) {
#pragma unroll
            for (int j = 0; j < sizeof(T) / 2; j++) ((uint4*)(dst + at))[j] = ((const uint4*)(src + at))[j];
            continue;
        }
        for (int j = at; j < min(at + 8, cols); j++) dst[j] = src[j];
    }
}

// Whether all other blocks are through; what they have written is then written before what this one writes.
inline bool last_block(int* through) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        fence_system();
        last = atomicAdd(through, 1) == gridDim.x - 1;
        if (last) *through = 0;
        fence_system();
    }
    __syncthreads();
    return last;
}

struct send_args {
    window w;
    mat x;
    const int *offsets, *choices;
    int tokens, k, local, cols, op, pad;
};

template <class T> void send(const send_args& a) {
    const window& w = a.w;
    if (w.own->lost) return;
    const int sent = a.offsets[w.ranks * a.local];
    int to = 0;
    for (int slot = blockIdx.x; slot < sent; slot += gridDim.x) {
        while (slot >= a.offsets[(to + 1) * a.local]) to++;
        const int choice = a.choices[slot];
        if (choice < 0 || choice / a.k >= a.tokens) {
            if (threadIdx.x == 0) note_fault(a.w.fault, a.op, choice, slot);
            continue;
        }
        char* dst = (char*)w.peers[to] + w.rows + ((i64)w.rank * w.room + slot) * w.pitch;
        copy_row((T*)dst, row_of<T>(a.x, choice / a.k), a.cols);
    }
    if (!last_block(&w.own->sent)) return;
    const u64 number = w.own->number + 1;
    for (int i = threadIdx.x; i < w.ranks * (a.local + 1); i += blockDim.x) {
        const int to = i / (a.local + 1), e = i % (a.local + 1);
        header_at(w, to, w.rank)->offsets[e] = a.offsets[to * a.local + e];
    }
    fence_system();
    __syncthreads();
    for (int to = threadIdx.x; to < w.ranks; to += blockDim.x) release(&header_at(w, to, w.rank)->arrived, number);
    if (threadIdx.x == 0) w.own->number = number;
}

extern "C" __global__ void __launch_bounds__(256) send2(const send_args a) { after_earlier(), send<u16>(a); }
extern "C" __global__ void __launch_bounds__(256) send4(const send_args a) { after_earlier(), send<u32>(a); }

// Waits until a word of every rank's header says that it has come as far as this rank. The whole block calls. False: one did
// not come for so long, now or before.
inline bool await(const window& w, bool returned, i64 patience, int op) {
    __shared__ int silent;
    if (w.own->lost) return false;
    if (threadIdx.x == 0) silent = w.ranks;
    __syncthreads();
    const u64 number = w.own->number;
    for (int from = threadIdx.x; from < w.ranks; from += blockDim.x) {
        const header* h = header_at(w, w.rank, from);
        const u64* word = returned ? &h->returned : &h->arrived;
        if (!comes(word, number, patience)) atomicMin(&silent, from);
    }
    __syncthreads();
    const int from = silent;
    if (from == w.ranks) return true;
    if (threadIdx.x == 0) {
        w.own->lost = 1;
        w.fault[3] = w.name;
        note_fault(w.fault, op, from, returned);
    }
    return false;
}

struct arrive_args {
    window w;
    int *offsets, *index;
    i64 patience;
    int local, most, op, pad;
};

// The sum over the threads before this one, and over all.
inline int block_before(int v, int& all) {
    __shared__ int part[33];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = v;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const int below = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += below;
    }
    __syncthreads();
    if (lane == 31) part[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        const int mine = lane < blockDim.x / 32 ? part[lane] : 0;
        int up = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const int below = __shfl_up_sync(0xffffffffu, up, o);
            if (lane >= o) up += below;
        }
        part[lane] = up - mine;
        if (lane == 31) part[32] = up;
    }
    __syncthreads();
    all = part[32];
    return part[warp] + sum - v;
}

// offsets [local+1] and index of the rows that have arrived, by expert, of each by source: what Grouped reads them by.
extern "C" __global__ void __launch_bounds__(1024) arrive(const arrive_args a) {
    after_earlier_alone();
    const window& w = a.w;
    extern __shared__ int first[]; // [local · ranks], slots before each run of a source's rows for an expert
    const bool came = await(w, false, a.patience, a.op);
    let_next_begin();
    const int runs = a.local * w.ranks;
    const auto from = [&](int run) { return (const volatile int*)header_at(w, w.rank, run % w.ranks)->offsets + run / w.ranks; };
    int before = 0;
    for (int at = 0; came && at < runs; at += blockDim.x) {
        const int run = at + threadIdx.x;
        int n = 0, all;
        if (run < runs) n = from(run)[1] - from(run)[0];
        const int earlier = block_before(n, all);
        if (run < runs) first[run] = before + earlier;
        before += all;
    }
    __syncthreads();
    const bool fits = before <= a.most;
    if (!fits && threadIdx.x == 0) note_fault(w.fault, a.op, before, a.most);
    const bool good = came && fits;
    for (int e = threadIdx.x; e <= a.local; e += blockDim.x) a.offsets[e] = !good ? 0 : e < a.local ? first[e * w.ranks] : before;
    if (!good) return;
    for (int run = threadIdx.x / 32; run < runs; run += blockDim.x / 32) {
        const int slot = from(run)[0], n = from(run)[1] - slot, row = run % w.ranks * w.room + slot;
        for (int i = threadIdx.x % 32; i < n; i += 32) a.index[first[run] + i] = row + i;
    }
}

struct return_args {
    window w;
    mat y;
    const int *offsets, *index;
    int local, cols;
};

template <class T> void give_back(const return_args& a) {
    const window& w = a.w;
    if (w.own->lost) return;
    const int rows = a.offsets[a.local];
    for (int i = blockIdx.x; i < rows; i += gridDim.x) {
        const int from = a.index[i] / w.room, slot = a.index[i] % w.room;
        copy_row((T*)((char*)w.peers[from] + w.back + (i64)slot * w.pitch), row_of<T>(a.y, i), a.cols);
    }
    if (!last_block(&w.own->returned)) return;
    for (int to = threadIdx.x; to < w.ranks; to += blockDim.x) release(&header_at(w, to, w.rank)->returned, w.own->number);
}

extern "C" __global__ void __launch_bounds__(256) return2(const return_args a) { after_earlier(), give_back<u16>(a); }
extern "C" __global__ void __launch_bounds__(256) return4(const return_args a) { after_earlier(), give_back<u32>(a); }

struct collect_args {
    window w;
    i64 patience;
    int op, pad;
};

extern "C" __global__ void __launch_bounds__(128) collect(const collect_args a) {
    after_earlier_alone();
    await(a.w, true, a.patience, a.op);
    let_next_begin();
}
