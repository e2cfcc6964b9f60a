#include "torch/inspection.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "lrk/build_info.h"
#include "lrk/householder.h"
#include "lrk/lowrank_indexed.h"
#include "lrk/orthogonal.h"
#include "lrk/sketch.h"
#include "lrk/sketch_batched.h"
#include "lrk/sparse24.h"
#include "lrk/square.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

// An op runs on its caller's thread, so explaining one never disturbs what other threads compute.
thread_local bool planning_now = false;
thread_local std::vector<std::string> plans;
std::atomic<bool> emulating_now{false};

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += c == '\n' ? ' ' : c;
  }
  return json + "\"";
}

std::string to_json(const char* primitive, const Plan& plan) {
  std::string json = "{\"primitive\": " + quoted(primitive) + ", \"kernel\": " + quoted(plan.kernel) +
                     ", \"reason\": " + quoted(plan.reason) +
                     ", \"workspace_bytes\": " + std::to_string(plan.workspace_bytes) +
                     ", \"hardware_verified\": " + (plan.hardware_verified ? "true" : "false") + ", \"rejected\": [";
  for (size_t i = 0; i < plan.rejected.size(); ++i) {
    json += (i ? ", " : "") + std::string("{\"kernel\": ") + quoted(plan.rejected[i].kernel) +
            ", \"reason\": " + quoted(plan.rejected[i].reason) + "}";
  }
  return json + "]}";
}

void start_planning() {
  plans.clear();
  planning_now = true;
}

std::vector<std::string> stop_planning() {
  planning_now = false;
  return std::move(plans);
}

void force(std::string kernel) { force_kernel(kernel); }
std::string forced() { return forced_kernel(); }

template <class Backend>
void add_kernel_names(std::initializer_list<const Backend*> backends, std::vector<std::string>& names) {
  for (const Backend* backend : backends) {
    if (backend == nullptr) continue;
    const std::vector<std::string> more = backend->kernel_names();
    names.insert(names.end(), more.begin(), more.end());
  }
}

/// Of every backend in this build, whether its device is here or not.
std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  add_kernel_names({&lowrank_cpu(), lowrank_cuda(), lowrank_cuda_emulated()}, names);
  add_kernel_names({&lowrank_indexed_cpu(), lowrank_indexed_cuda(), lowrank_indexed_cuda_emulated()}, names);
  add_kernel_names({&orthogonal_cpu(), orthogonal_cuda(), orthogonal_cuda_emulated()}, names);
  add_kernel_names({&householder_cpu(), householder_cuda(), householder_cuda_emulated()}, names);
  add_kernel_names({&sketch_cpu()}, names);
  add_kernel_names({sketch_cuda(), sketch_cuda_emulated()}, names);
  add_kernel_names({&sparse24_cpu(), sparse24_cuda(), sparse24_cuda_emulated()}, names);
  add_kernel_names({&square_cpu(), square_cuda(), square_cuda_emulated()}, names);
  return names;
}

/// For the products that the gradient formulas in Python leave to torch.
void record(std::string kernel) { record_dispatch(kernel); }

void emulate(bool on) {
  if (on && lowrank_cuda_emulated() == nullptr) {
    fail("testing.backend", "this build has no emulated CUDA kernels (build with LRK_EMULATOR=1, as `make test` does)");
  }
  emulating_now = on;
}

std::string missing_kernels(const Tensor& x) { return why_no_kernels(x.get()); }
bool has_cuda() { return lowrank_cuda() != nullptr; }
bool has_emulator() { return lowrank_cuda_emulated() != nullptr; }

}  // namespace

bool planning() { return planning_now; }
bool reference_only() {
  const char* value = std::getenv("LRK_REFERENCE");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

bool emulating() { return emulating_now.load(std::memory_order_relaxed); }

void add_plan(const char* primitive, const Plan& plan) { plans.push_back(to_json(primitive, plan)); }

}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("_start_trace() -> ()");
  m.def("_stop_trace() -> str[]");
  m.def("_start_planning() -> ()");
  m.def("_stop_planning() -> str[]");
  m.def("_record_dispatch(str kernel) -> ()");
  m.def("_kernel_names() -> str[]");
  m.def("_force(str kernel) -> ()");
  m.def("_forced() -> str");
  m.def("_emulate(bool on) -> ()");
  m.def("_why_no_kernels(Tensor x) -> str");
  m.def("_has_cuda() -> bool");
  m.def("_has_emulator() -> bool");
  m.def("_cpu_isa() -> str");
  m.def("_cpu_features() -> str[]");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CompositeExplicitAutograd, m) {
  using namespace lrk::binding;
  m.impl("_start_trace", TORCH_BOX(&lrk::start_trace));
  m.impl("_stop_trace", TORCH_BOX(&lrk::stop_trace));
  m.impl("_start_planning", TORCH_BOX(&start_planning));
  m.impl("_stop_planning", TORCH_BOX(&stop_planning));
  m.impl("_record_dispatch", TORCH_BOX(&record));
  m.impl("_kernel_names", TORCH_BOX(&kernel_names));
  m.impl("_force", TORCH_BOX(&force));
  m.impl("_forced", TORCH_BOX(&forced));
  m.impl("_emulate", TORCH_BOX(&emulate));
  m.impl("_why_no_kernels", TORCH_BOX(&missing_kernels));
  m.impl("_has_cuda", TORCH_BOX(&has_cuda));
  m.impl("_has_emulator", TORCH_BOX(&has_emulator));
  m.impl("_cpu_isa", TORCH_BOX(&lrk::cpu_isa));
  m.impl("_cpu_features", TORCH_BOX(&lrk::cpu_features));
}
