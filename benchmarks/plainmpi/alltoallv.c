/* What a plain MPI program reaches: the counts and the two exchanges of one MoE layer, by MPI_Alltoall and MPI_Alltoallv.
 * Usage  mpirun -n 2 ./alltoallv ROWS...   rows of 4096 bytes that each rank sends to each rank, itself included
 * Prints "rate ROWS BYTES/S" a size: bytes that a rank gets a second, its own included, in the best of many short windows,
 * as exchangeRate of comm.go counts them. "dsbatch bench comm" compiles and runs it. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_BYTES = 4096, MAX_RANKS = 64, WINDOW = 256 << 10, WINDOWS = 40 };

static void layer(char *x, char *y, const int *counts, const int *offsets) {
    int out[MAX_RANKS] = {0}, in[MAX_RANKS];
    MPI_Alltoall(out, 1, MPI_INT, in, 1, MPI_INT, MPI_COMM_WORLD);
    MPI_Alltoallv(x, counts, offsets, MPI_BYTE, y, counts, offsets, MPI_BYTE, MPI_COMM_WORLD);
    MPI_Alltoallv(y, counts, offsets, MPI_BYTE, x, counts, offsets, MPI_BYTE, MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    int level, rank, ranks;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks > MAX_RANKS) MPI_Abort(MPI_COMM_WORLD, 1);
    for (int i = 1; i < argc; i++) {
        const int each = atoi(argv[i]) * ROW_BYTES;
        const size_t all = (size_t)each * ranks;
        char *x = malloc(all), *y = malloc(all);
        int counts[MAX_RANKS], offsets[MAX_RANKS];
        memset(x, 1, all);
        memset(y, 1, all);
        for (int r = 0; r < ranks; r++) counts[r] = each, offsets[r] = r * each;
        const int layers = each < WINDOW ? WINDOW / each : 1;
        double best = 1e30;
        layer(x, y, counts, offsets);
        for (int window = 0; window < WINDOWS; window++) {
            MPI_Barrier(MPI_COMM_WORLD);
            const double begun = MPI_Wtime();
            for (int k = 0; k < layers; k++) layer(x, y, counts, offsets);
            MPI_Barrier(MPI_COMM_WORLD);
            const double spent = (MPI_Wtime() - begun) / layers;
            if (spent < best) best = spent;
        }
        if (rank == 0) printf("rate %s %g\n", argv[i], 2.0 * all / best);
        free(x);
        free(y);
    }
    MPI_Finalize();
    return 0;
}
