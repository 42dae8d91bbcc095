// Hopper's copy engine (sm_90) and the barriers in shared memory that its arrivals are counted by.
#pragma once
#include "common.cuh"

// A barrier for so many arrivals a phase, that of expect among them; bytes are counted beside it.
inline void begin_barrier(u32 barrier, int arrivals = 1) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
inline void arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
// Arrives for this thread once what it copied with copy16 until now is there.
inline void arrive_after_copies(u32 barrier) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory"); }
inline void expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
inline void wait_barrier(u32 barrier, int phase) {
    asm volatile("{.reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra again;}" ::"r"(barrier), "r"(phase) : "memory");
}

// A multiple of 16 adjacent bytes to shared memory.
inline void copy_bulk(u32 to, const void* from, int bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// Rows of 16-bit values as the copy engine knows them (driver.h, cuda_box). Lies in a kernel's arguments.
struct __align__(64) boxes { u64 words[16]; };

// Has the description of boxes come, which the first copy would wait for.
inline void fetch_boxes(const boxes& b) { asm volatile("prefetch.tensormap [%0];" ::"l"(&b) : "memory"); }

// A box from column and row on to shared memory, swizzled: its rows' 16-byte pieces exchanged by the row's number modulo 8.
inline void copy_box(u32 to, const boxes& from, int column, int row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(&from), "r"(column), "r"(row), "r"(barrier) : "memory");
}

// A multiple of 16 adjacent bytes from shared memory. Copies of a thread since the last commit_out end together.
inline void copy_out(void* to, u32 from, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
inline void commit_out() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
inline void wait_for_room() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); } // what they read may be overwritten
inline void wait_out() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
