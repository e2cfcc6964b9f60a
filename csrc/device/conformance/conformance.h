// The conformance table: for every PTX wrapper of csrc/device/ptx and every intrinsic of the emulated language a kernel
// of a few lines, compiled for the emulator and for the GPU. The same bytes in must give the same bytes out.
// A development build has it (LRK_EMULATOR=1); tests/device says what each case computes and compares the two.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "lrk/types.h"

namespace lrk {

/// A case works on independent trials; sizes are bytes of one trial.
struct ConformanceCase {
  std::string name;
  std::vector<size_t> input_bytes;
  size_t output_bytes = 0;
};

/// One machine that runs the table.
struct ConformanceTarget {
  std::vector<ConformanceCase> (*cases)();
  /// Runs a case on host memory: each input holds `trials` times its input_bytes, the output likewise.
  Status (*run)(const std::string& name, size_t trials, const std::vector<const void*>& inputs, void* output);
};

const ConformanceTarget& conformance_cuda_emulated();
const ConformanceTarget& conformance_cuda();

}  // namespace lrk
