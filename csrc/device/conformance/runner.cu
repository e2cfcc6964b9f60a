// Puts the table together and runs a case of it, on copies of the operands that are exactly as large as the case
// declares: in the memory of a GPU, or of the emulator.
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "device/conformance/case.cuh"
#include "device/conformance/conformance.h"
#include "device/global_memory.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

template <class Visit>
void for_each_case(Visit visit) {
  for (const Table table : {conversion_cases(), memory_cases(), matrix_cases(), product_cases(), warp_cases(),
                            synchronization_cases()})
    for (size_t i = 0; i < table.count; ++i) visit(table.cases[i]);
}

const Case* find(const std::string& name) {
  const Case* found = nullptr;
  for_each_case([&](const Case& candidate) {
    if (name == candidate.name) found = &candidate;
  });
  return found;
}

/// Memory of the device that runs the kernels, zeroed, and the copies to it and back.
class DeviceArray {
 public:
  DeviceArray() = default;
  ~DeviceArray() {
#if defined(LRK_EMULATE)
    ::operator delete(data_, kAlignment);
#else
    cudaFree(data_);
#endif
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  Status allocate(size_t bytes) {
    bytes_ = bytes;
#if defined(LRK_EMULATE)
    data_ = static_cast<unsigned char*>(::operator new(bytes, kAlignment));
    memset(data_, 0, bytes);
    return {};
#else
    const cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&data_), bytes);
    return device_status(error == cudaSuccess ? cudaMemset(data_, 0, bytes) : error, "cudaMalloc");
#endif
  }

  unsigned char* data() const { return data_; }

  Status copy_from(const void* source) const {
#if defined(LRK_EMULATE)
    memcpy(data_, source, bytes_);
    return {};
#else
    return device_status(cudaMemcpy(data_, source, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy to the device");
#endif
  }

  Status copy_to(void* target) const {
#if defined(LRK_EMULATE)
    memcpy(target, data_, bytes_);
    return {};
#else
    return device_status(cudaMemcpy(target, data_, bytes_, cudaMemcpyDeviceToHost), "kernel or cudaMemcpy to the host");
#endif
  }

 private:
#if defined(LRK_EMULATE)
  static constexpr std::align_val_t kAlignment{256};
#endif
  size_t bytes_ = 0;
  unsigned char* data_ = nullptr;
};

Status run(const std::string& name, size_t trials, const std::vector<const void*>& inputs, void* output) {
  const Case* chosen = find(name);
  if (chosen == nullptr) return Status::invalid("no conformance case is named " + name);
  Operands operands = {};
  DeviceArray arrays[kMaxInputs], result;
  GlobalMemory memory;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (const Status allocated = arrays[i].allocate(trials * chosen->input_bytes[i]); !allocated.ok()) return allocated;
    if (const Status copied = arrays[i].copy_from(inputs[i]); !copied.ok()) return copied;
    memory.reads(arrays[i].data(), trials * chosen->input_bytes[i], "an input");
    operands.input[i] = arrays[i].data(), operands.input_bytes[i] = chosen->input_bytes[i];
  }
  if (const Status allocated = result.allocate(trials * chosen->output_bytes); !allocated.ok()) return allocated;
  memory.writes(result.data(), trials * chosen->output_bytes, "the output");
  operands.output = result.data(), operands.output_bytes = chosen->output_bytes, operands.blocks = chosen->blocks;
  LaunchConfig config(dim3(unsigned(trials) * chosen->blocks), dim3(chosen->threads), chosen->shared_bytes, Context{});
  config.cooperative = chosen->cooperative;
  if (const Status launched = launch(chosen->kernel, config, operands); !launched.ok()) return launched;
  if (chosen->dependent != nullptr) {
    config.programmatic = true;
    if (const Status launched = launch(chosen->dependent, config, operands); !launched.ok()) return launched;
  }
  return result.copy_to(output);
}

std::vector<ConformanceCase> cases() {
  std::vector<ConformanceCase> listed;
  for_each_case([&](const Case& from) {
    ConformanceCase to{from.name, {}, from.output_bytes};
    for (const size_t bytes : from.input_bytes)
      if (bytes != 0) to.input_bytes.push_back(bytes);
    listed.push_back(to);
  });
  return listed;
}

const ConformanceTarget kTarget{cases, run};

}  // namespace
}  // namespace conformance
}  // namespace LRK_TARGET

#if defined(LRK_EMULATE)
const ConformanceTarget& conformance_cuda_emulated() { return conformance::kTarget; }
#else
const ConformanceTarget& conformance_cuda() { return conformance::kTarget; }
#endif

}  // namespace lrk
