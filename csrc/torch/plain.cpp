#include "torch/plain.h"

#include <cstdlib>
#include <string>

#include "torch/bridge.h"
#include "torch/inspection.h"

namespace lrk::binding {

bool has_kernels_for(AtenTensorHandle tensor) {
  int32_t dtype = 0, device_type = 0;
  if (aoti_torch_get_dtype(tensor, &dtype) != AOTI_TORCH_SUCCESS || dtype != aoti_torch_dtype_float64()) return true;
  aoti_torch_get_device_type(tensor, &device_type);
  return device_type == aoti_torch_device_type_cpu() && !emulating();
}

void call_plain(const char* op, StableIValue* stack) {
  if (const char* strict = std::getenv("LRK_STRICT"); strict != nullptr && std::string(strict) == "1")
    fail(op, "lrkernels has no torch.float64 kernel on CUDA (LRK_STRICT=1)");
  if (planning()) {
    Plan plan;
    plan.kernel = "plain_torch", plan.reason = "lrkernels has no float64 kernel on CUDA";
    add_plan("plain", plan);
  } else {
    record_dispatch("plain_torch");
  }
  const std::string plain = "lrk::_plain_" + std::string(op);
  if (torch_call_dispatcher(plain.c_str(), "", stack, TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    fail(op, "the plain torch expression, which serves torch.float64 on CUDA, failed" +
                 torchs_reason(" (its error is printed above)"));
}

}  // namespace lrk::binding
