// What a running CUDA thread asks of the emulator: who it is, barriers, warp-wide operations, shared and global
// addresses, cp.async, grid dependencies. cuda_language.h and the PTX wrappers are written over this and nothing else;
// everything here is implemented in block.cpp and the files below it, which are never instrumented, so the checked
// mode sees a kernel's own accesses and what the wrappers declare, not the emulator's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lrk::emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr size_t count() const { return size_t(x) * y * z; }
};

constexpr int kWarpSize = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

/// Ends the launch: the kernel did in `operation` what a GPU would not survive or not define. The report names kernel,
/// block, thread and line. (Wrappers build no strings: their code is instrumented as the kernel's is.)
[[noreturn]] void fault(const char* operation, const char* problem);

// --- Who runs.

Dim3 thread_index();
Dim3 block_index();
Dim3 block_dim();
Dim3 grid_dim();
int lane();

/// Calls of two places stay two: in checked mode the place tells whether a warp came together. (g++ needs flags: see
/// CMakeLists.txt.)
#if defined(__has_attribute)
#if __has_attribute(nomerge)
#define LRK_OWN_PLACE __attribute__((nomerge))
#endif
#endif
#if !defined(LRK_OWN_PLACE)
#define LRK_OWN_PLACE
#endif

// --- Barriers of the block. They order memory among those who take part.

/// __syncthreads: every thread of the block must come, also those that have nothing left to do.
LRK_OWN_PLACE void sync_threads();

/// bar.sync id, threads: waits until `threads` threads (a multiple of 32) have come, by sync or arrive, and is ordered
/// after all of them. Barrier 0 with all threads is __syncthreads. All are .aligned: whole warps come, by one call.
LRK_OWN_PLACE void barrier_sync(unsigned id, unsigned threads);

/// bar.arrive id, threads: comes without waiting.
LRK_OWN_PLACE void barrier_arrive(unsigned id, unsigned threads);

// --- Warp-wide operations.

struct Warp;

/// One lane's part in a warp-wide operation.
struct LaneSlot {
  const void* input = nullptr;
  void* output = nullptr;
  const char* operation = nullptr;
  uint32_t mask = 0;
  const void* called_at = nullptr;
  void (*work)(Warp& warp, const void* closure) = nullptr;
};

struct Warp {
  LaneSlot lane[kWarpSize];

  template <class T>
  __attribute__((always_inline)) const T& input(int index) const { return *static_cast<const T*>(lane[index].input); }
  template <class T>
  __attribute__((always_inline)) T& output(int index) const { return *static_cast<T*>(lane[index].output); }
};

/// For a `work` of the following: what it touches is nobody's access unless it says so, and need not be instrumented.
#define LRK_UNINSTRUMENTED __attribute__((no_sanitize("thread")))

/// What warp_collective() and warp_aligned() are made of: the last lane of `mask` to come calls work(warp, closure).
LRK_OWN_PLACE void warp_rendezvous(const char* operation, bool aligned, uint32_t mask, const void* input, void* output,
                                   void (*work)(Warp& warp, const void* closure), const void* closure);

/// The lanes of `mask` meet in `operation`; the last to come runs work(warp) for all of them, reading each lane's input
/// and writing each lane's output (of the lanes in `mask`; the others' are null). Orders no memory: of the warp-wide
/// instructions only bar.warp.sync does (sync_warp below). `operation` is compared by its text, Work by its type.
template <class Work>
__attribute__((always_inline)) inline void warp_collective(const char* operation, uint32_t mask, const void* input,
                                                           void* output, const Work& work) {
  warp_rendezvous(
      operation, false, mask, input, output,
      [](Warp& warp, const void* closure) LRK_UNINSTRUMENTED { (*static_cast<const Work*>(closure))(warp); }, &work);
}

/// The same for an instruction that the manual calls .aligned (mma, ldmatrix, stmatrix): all lanes of the warp execute
/// it, and from the same place. In checked mode lanes that come from different lines are a fault.
template <class Work>
__attribute__((always_inline)) inline void warp_aligned(const char* operation, const void* input, void* output,
                                                        const Work& work) {
  warp_rendezvous(
      operation, true, kAllLanes, input, output,
      [](Warp& warp, const void* closure) LRK_UNINSTRUMENTED { (*static_cast<const Work*>(closure))(warp); }, &work);
}

/// __syncwarp (bar.warp.sync): the lanes of `mask` meet and their memory accesses are ordered.
void sync_warp(uint32_t mask);

// --- Memory that a wrapper touches on a thread's behalf. A wrapper that reads or writes in the calling thread, outside
// of work(warp), may simply do so (its copy is instrumented like any other access of the kernel), but must ask for the
// pointer here, because that checks bounds and alignment in every mode. Inside work(warp) nothing is instrumented: each
// access must be declared with the lanes whose access it is, those that receive the bytes or whose registers they are.

constexpr uint32_t kCallingLane = 0;

/// The start of the block's shared memory. A shared address, as PTX takes it, is an offset from here.
char* shared_base();

/// "`lanes` read (write) the shared bytes [address, address + bytes) now": checks bounds, alignment and, in checked
/// mode, that the bytes were written, are not the target of a cp.async in flight, and are not raced for. `lanes` is a
/// mask over the calling thread's warp, kCallingLane the caller alone; a write has exactly one lane.
const char* shared_for_read(uint32_t address, size_t bytes, size_t alignment, const char* operation,
                            uint32_t lanes = kCallingLane);
char* shared_for_write(uint32_t address, size_t bytes, size_t alignment, const char* operation,
                       uint32_t lanes = kCallingLane);

/// The same for global memory, where bounds are known in checked mode only (device/global_memory.cuh).
const char* global_for_read(const void* address, size_t bytes, size_t alignment, const char* operation,
                            uint32_t lanes = kCallingLane);
char* global_for_write(void* address, size_t bytes, size_t alignment, const char* operation,
                       uint32_t lanes = kCallingLane);

/// ld.global.nc: a read that may come from a cache which no write reaches, so nobody may write the bytes during the
/// launch, in whatever order. The caller's own copy is instrumented.
const char* global_for_constant_read(const void* address, size_t bytes, size_t alignment, const char* operation);

/// Faults unless `address`, in any memory, is a multiple of `alignment`: for vector accesses of plain pointers.
void check_alignment(const void* address, size_t alignment, const char* operation);

// --- cp.async: a copy lands when a wait of its thread forces it to and no sooner.

void async_copy(uint32_t destination, const void* source, int bytes, int source_bytes);
void async_commit();
void async_wait(size_t pending_groups);
void async_wait_all();

// --- Waiting for others, and for the launch before this one.

/// To be called in the body of a loop that waits for memory to change, which would otherwise keep all others from
/// running. Faults when nobody is left who could change anything. (device/spin.cuh is the loop.)
void spin_wait();
/// What it waited for has come: the thread has moved on, whatever it wrote or read meanwhile.
void spin_done();

/// griddepcontrol.wait: until the launch before this one has finished and its writes are visible.
void grid_dependency_wait();
/// griddepcontrol.launch_dependents: the next launch may start once every block has called this or exited.
void grid_dependency_trigger();

}  // namespace lrk::emulator
