// What ranks that hold slices have for each other goes through their boards: each rank's message to each rank, rows of any stride.
// Shapes  send[r] what is for rank r, recv[r] where what comes from it goes, [rows, cols] each of 2 or 4 bytes an element; send[rank]
//         goes to recv[rank] unless it lies there.
// Order   nothing is added: bits move.
// Launch  128 blocks or as many as the longest message has segments, alike on all ranks. Bound: NVLink. Checked by TestBoards.
#include "board.cuh"

constexpr int MOST = 16; // ranks

struct message {
    mat x;
    int rows, cols;
};

struct gather_args {
    board b;
    message send[MOST], recv[MOST];
};

template <class T> void gather(const gather_args& a) {
    const board& b = a.b;
    if (b.own->lost) return;
    const u64 number = b.own->number + 1;
    for (int i = 1; i <= b.ranks; i++) { // beginning with another one on each rank, the own one last
        const int to = (b.rank + i) % b.ranks;
        const message& m = a.send[to];
        if (to == b.rank && m.x.data == a.recv[to].x.data) continue;
        each_segment(m.rows, m.cols, [&](int row, int at, int n) {
            T* dst = to == b.rank ? row_of<T>(a.recv[to].x, row) : message_row<T>(b, to, b.rank, number, row, m.cols);
            copy_segment(dst + at, row_of<T>(m.x, row) + at, n);
        });
    }
    if (!meet(b, number)) return;
    for (int i = 1; i < b.ranks; i++) {
        const int from = (b.rank + i) % b.ranks;
        const message& m = a.recv[from];
        each_segment(m.rows, m.cols, [&](int row, int at, int n) {
            copy_segment(row_of<T>(m.x, row) + at, message_row<T>(b, b.rank, from, number, row, m.cols) + at, n);
        });
    }
    through(b, number);
}

extern "C" __global__ void __launch_bounds__(256) gather2(const gather_args a) { after_earlier(), gather<u16>(a); }
extern "C" __global__ void __launch_bounds__(256) gather4(const gather_args a) { after_earlier(), gather<u32>(a); }
