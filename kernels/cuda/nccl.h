/* What Go may call of NCCL, opened at run time like the driver: exchanges of rows between the GPUs of several ranks.
 * Results are ncclResult_t codes, 0 for success; nccl_meaning tells what they mean. A communicator travels as a number. */
#ifndef DSBATCH_CUDA_NCCL_H
#define DSBATCH_CUDA_NCCL_H

#include "driver.h"

enum { nccl_key_bytes = 128 };

/* Opens the first of the libraries, names separated by newlines, that loads; 0, or -1 with the reason in why. */
int nccl_open(const char *names, char *why, size_t n);
const char *nccl_meaning(int code);
int nccl_version(int *version); /* 22703 is 2.27.3 */
int nccl_key(void *key);        /* of nccl_key_bytes */
/* Waits until all ranks have called. */
int nccl_join(handle ctx, const void *key, int rank, int ranks, handle *comm);
/* Enqueues: to[r] bytes of send, laid out by rank, to each rank, from[r] bytes from each into recv, likewise. */
int nccl_exchange(handle ctx, handle stream, handle comm, int ranks, handle recv, const uint64_t *from, handle send,
                  const uint64_t *to);
/* Enqueues: the bytes of send, bytes[rank] of them, to each other rank, bytes[r] from each into recv[r]. */
int nccl_gather(handle ctx, handle stream, handle comm, int ranks, int rank, const handle *recv, const uint64_t *bytes, handle send);
/* Either ends a communicator; after abort its work under way ends too, wherever it waits. */
int nccl_leave(handle ctx, handle comm);
int nccl_abort(handle ctx, handle comm);

#endif
