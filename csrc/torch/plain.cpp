#include "torch/plain.h"

#include <cstdlib>
#include <string>

#include "lrk/cuda_device.h"
#include "torch/bridge.h"
#include "torch/inspection.h"

namespace lrk::binding {

std::string why_no_kernels(AtenTensorHandle tensor) {
  int32_t dtype = 0, device_type = 0, device = 0;
  aoti_torch_get_device_type(tensor, &device_type);
  const bool cpu = device_type == aoti_torch_device_type_cpu();
  if (cpu && !emulating()) return {};
  aoti_torch_get_dtype(tensor, &dtype);
  if (dtype == aoti_torch_dtype_float64()) return "lrkernels has no float64 kernels on CUDA";
  if (cpu) return {};
  aoti_torch_get_device_index(tensor, &device);
  const std::string problem = cuda_device_problem(device);
  return problem.empty() ? problem : "lrkernels' CUDA kernels cannot run on cuda:" + std::to_string(device) + ": " + problem;
}

void call_plain(const char* op, const std::string& why, StableIValue* stack) {
  if (const char* strict = std::getenv("LRK_STRICT"); strict != nullptr && std::string(strict) == "1")
    fail(op, why + " (LRK_STRICT=1)");
  if (planning()) {
    Plan plan;
    plan.kernel = "plain_torch", plan.reason = why;
    add_plan("plain", plan);
  } else {
    record_dispatch("plain_torch");
  }
  const std::string plain = "lrk::_plain_" + std::string(op);
  if (torch_call_dispatcher(plain.c_str(), "", stack, TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    fail(op, "the plain torch expression, which serves here because " + why + ", failed" +
                 torchs_reason(" (torch printed why on standard error)"));
}

}  // namespace lrk::binding
