// Host side of the unit rows of Householder vectors.
#include "cuda/orthogonal/householder.cuh"

#include "device/global_memory.cuh"
#include "device/launch.cuh"
#include "lrk/householder.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {
namespace {

constexpr size_t kSharedBytes = kUnitRowThreads * sizeof(float);

Plan plan(const char* kernel) {
  Plan plan;
  plan.kernel = kernel, plan.reason = "the only kernel there is";
  return plan;
}

constexpr const char* kForward = "householder_unit_rows_sm80";
constexpr const char* kBackward = "householder_unit_rows_backward_sm80";

Plan plan_unit_rows(const UnitRowsArgs&, const Context&) { return plan(kForward); }
Plan plan_unit_rows_backward(const UnitRowsBackwardArgs&, const Context&) { return plan(kBackward); }

LaunchConfig a_block_a_row(int64_t rows, const Context& context) {
  return LaunchConfig(dim3(unsigned(rows)), dim3(kUnitRowThreads), kSharedBytes, context);
}

Status run_unit_rows(const UnitRowsArgs& args, const Context& context) {
  if (args.units.dtype != DType::kFloat32) return Status::unsupported("householder: float64 has no CUDA kernel");
  if (Status status = check_grid("householder", args.units.rows); !status.ok()) return status;
  GlobalMemory memory;
  memory.reads(args.vectors, "vectors").writes(args.units, "units").writes(args.lengths, "lengths");
  UnitRowsParameters parameters;
  parameters.vectors = ElementView(args.vectors), parameters.units = MutableElementView(args.units);
  parameters.lengths = MutableElementView(args.lengths);
  parameters.features = args.units.cols, parameters.count = int(args.vectors.rows);
  record_dispatch(kForward);
  return launch(unit_rows_kernel, a_block_a_row(args.units.rows, context), parameters);
}

Status run_unit_rows_backward(const UnitRowsBackwardArgs& args, const Context& context) {
  if (args.units.dtype != DType::kFloat32) return Status::unsupported("householder: float64 has no CUDA kernel");
  if (Status status = check_grid("householder", args.dvectors.rows); !status.ok()) return status;
  GlobalMemory memory;
  memory.reads(args.units, "units").reads(args.lengths, "lengths").reads(args.first, "first");
  memory.reads(args.second, "second").writes(args.dvectors, "dvectors");
  UnitRowsBackwardParameters parameters;
  parameters.units = ElementView(args.units), parameters.lengths = ElementView(args.lengths);
  parameters.first = ElementView(args.first), parameters.second = ElementView(args.second);
  parameters.dvectors = MutableElementView(args.dvectors), parameters.features = args.dvectors.cols;
  record_dispatch(kBackward);
  return launch(unit_rows_backward_kernel, a_block_a_row(args.dvectors.rows, context), parameters);
}

std::vector<std::string> kernel_names() { return {kForward, kBackward}; }

#if defined(LRK_EMULATE)
constexpr const char* kName = "cuda_emulated";
#else
constexpr const char* kName = "cuda";
#endif

const HouseholderBackend kBackend = {kName,          plan_unit_rows,         run_unit_rows, plan_unit_rows_backward,
                                     run_unit_rows_backward, kernel_names};

}  // namespace

const HouseholderBackend* householder_backend() { return &kBackend; }

}  // namespace orthogonal
}  // namespace LRK_TARGET

#if defined(LRK_EMULATE)
const HouseholderBackend* householder_cuda_emulated() { return orthogonal::householder_backend(); }
#else
const HouseholderBackend* householder_cuda() { return orthogonal::householder_backend(); }
#endif

}  // namespace lrk
