// How a conformance kernel is written down: what it is given, and its line in the table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {

constexpr int kMaxInputs = 4;

/// The arrays of a launch. A trial is kBlocks consecutive blocks and has its own slice of each array.
struct Operands {
  const unsigned char* input[kMaxInputs];
  unsigned char* output;
  size_t input_bytes[kMaxInputs], output_bytes;
  unsigned blocks;

  template <class T>
  __device__ __forceinline__ const T* in(int index) const {
    return reinterpret_cast<const T*>(input[index] + blockIdx.x / blocks * input_bytes[index]);
  }
  template <class T>
  __device__ __forceinline__ T* out() const {
    return reinterpret_cast<T*>(output + blockIdx.x / blocks * output_bytes);
  }
  /// This block's number in its trial.
  __device__ __forceinline__ unsigned block() const { return blockIdx.x % blocks; }
};

using Kernel = void (*)(Operands);

/// One line of the table. The output is zeroed before the launch.
struct Case {
  const char* name;
  Kernel kernel;
  unsigned threads;
  size_t input_bytes[kMaxInputs];
  size_t output_bytes;
  size_t shared_bytes = 0;
  unsigned blocks = 1;
  bool cooperative = false;    // all blocks of a launch are alive at once
  Kernel dependent = nullptr;  // launched right behind, and may start before the first has finished
};

struct Table {
  const Case* cases;
  size_t count;
};

template <size_t kCount>
constexpr Table table_of(const Case (&cases)[kCount]) { return {cases, kCount}; }

// One group a file.
Table conversion_cases();
Table memory_cases();
Table matrix_cases();
Table product_cases();
Table warp_cases();
Table synchronization_cases();

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
