// Hopper's matrix instruction (sm_90a): 64 rows of weights by N tokens by 16 inputs, both from shared memory, the sums in
// registers. A warpgroup of 4 warps issues it together; it runs beside what follows until it is waited for.
#pragma once
#include "common.cuh"

inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// What this thread wrote to shared memory is seen by the matrix units, after the next barrier.
inline void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A warpgroup's share of the multiprocessor's registers. All its threads call, once.
template <int REGISTERS> void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

// The sums of multiplications under way may not be touched: nothing of what touches them moves across this.
template <int N> void wgmma_hold(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}

// Where an operand lies: pieces of 8 rows × 16 bytes. Plain: each piece is 128 bytes, along the rows 128 bytes apart and
// along the inputs 1024 (pack.cu). Swizzled: rows of 128 bytes whose 16-byte pieces are exchanged by the row's number
// modulo 8, from an address that is a multiple of 1024.
inline u64 plain_operand(u32 address) { return (u64)(address >> 4 & 0x3fff) | (u64)(1024 >> 4) << 16 | (u64)(128 >> 4) << 32; }
inline u64 swizzled_operand(u32 address) { return (u64)(address >> 4 & 0x3fff) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62; }
// 16 inputs of 64 rows of weights of a stage: packed in pieces (pack.cu), or, IN_ROWS, in rows in memory too, which the copy
// engine swizzles on their way.
inline u64 weights_operand(u32 address, int k16) {
#ifdef IN_ROWS
    return swizzled_operand(address + k16 * 32);
#else
    return plain_operand(address + k16 * 2048);
#endif
}
// Its N adjacent in swizzled rows of 64, halves bytes from one 64 to the next.
inline u64 wide_operand(u32 address, u32 halves) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(halves >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

// Four 8×8 matrices of 16-bit values, transposed; lane l gives the row l%8 of matrix l/8.
inline void store_transposed(u32 to, u32 r0, u32 r1, u32 r2, u32 r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}

// c = a · b, or c += a · b, for N tokens. Lane 4g+t of warp w holds of c rows 16w+g and 16w+g+8 at tokens 8n+2t, 8n+2t+1.
template <class T, int N> struct wgmma;

// N tokens are N/2 sums a thread: "%0, %1 … " names them in the instruction, SUMS_… binds them, from c[n] on.
#define REGISTERS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define REGISTERS_16 REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_32 REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                                                                       \
    REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"                        \
             ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_96                                                                                                       \
    REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"                        \
                 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SUMS_4(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SUMS_8(n) SUMS_4(n), SUMS_4(n + 1)
#define SUMS_16(n) SUMS_8(n), SUMS_8(n + 2)
#define SUMS_32(n) SUMS_16(n), SUMS_16(n + 4)
#define SUMS_64(n) SUMS_32(n), SUMS_32(n + 8)
#define SUMS_96(n) SUMS_64(n), SUMS_32(n + 16)

// WGMMA(T, N, sums, …): the instruction of a type and a width, and the numbers of its operands a, b and add, which
// follow the sums.
#define WGMMA(T, N, SUMS, A, B, ADD)                                                                                   \
    template <> struct wgmma<T, N> {                                                                                   \
        static void run(bool add, float (&c)[N / 8][4], u64 a, u64 b) {                                                \
            asm volatile("{.reg .pred p; setp.ne.b32 p, " ADD ", 0; "                                                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {"                              \
                         REGISTERS_##SUMS "}, " A ", " B ", p, 1, 1, 0, 0;}"                                               \
                         : SUMS_##SUMS(0)                                                                              \
                         : "l"(a), "l"(b), "r"((int)add));                                                             \
        }                                                                                                              \
    };
#define WGMMA_OF(T)                                                                                                    \
    WGMMA(T, 16, 8, "%8", "%9", "%10")                                                                                 \
    WGMMA(T, 32, 16, "%16", "%17", "%18")                                                                              \
    WGMMA(T, 64, 32, "%32", "%33", "%34")                                                                              \
    WGMMA(T, 128, 64, "%64", "%65", "%66")                                                                             \
    WGMMA(T, 192, 96, "%96", "%97", "%98")
WGMMA_OF(bf16)
WGMMA_OF(f16)

// c (+)= a · b, with a [64, 16] in registers, as mma's A operand. b lies as in wgmma, or, where WIDE, as wide_operand says.
template <class T, int N, bool WIDE> struct wgmma_rows;
#define WGMMA_ROWS(T, N, WIDE, TURNED, SUMS, A0, A1, A2, A3, B, ADD)                                                   \
    template <> struct wgmma_rows<T, N, WIDE> {                                                                        \
        static void run(bool add, float (&c)[N / 8][4], const u32 (&a)[4], u64 b) {                                    \
            asm volatile("{.reg .pred p; setp.ne.b32 p, " ADD ", 0; "                                                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" REGISTERS_##SUMS "}, {"      \
                         A0 ", " A1 ", " A2 ", " A3 "}, " B ", p, 1, 1, " TURNED ";}"                                  \
                         : SUMS_##SUMS(0)                                                                              \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));                         \
        }                                                                                                              \
    };
#define WGMMA_ROWS_OF(T)                                                                                               \
    WGMMA_ROWS(T, 16, false, "0", 8, "%8", "%9", "%10", "%11", "%12", "%13")                                           \
    WGMMA_ROWS(T, 32, false, "0", 16, "%16", "%17", "%18", "%19", "%20", "%21")                                        \
    WGMMA_ROWS(T, 128, false, "0", 64, "%64", "%65", "%66", "%67", "%68", "%69")                                       \
    WGMMA_ROWS(T, 64, false, "0", 32, "%32", "%33", "%34", "%35", "%36", "%37")                                        \
    WGMMA_ROWS(T, 64, true, "1", 32, "%32", "%33", "%34", "%35", "%36", "%37")                                         \
    WGMMA_ROWS(T, 128, true, "1", 64, "%64", "%65", "%66", "%67", "%68", "%69")
WGMMA_ROWS_OF(bf16)
WGMMA_ROWS_OF(f16)
