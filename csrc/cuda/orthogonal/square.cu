// Host side of what is done to square matrices.
#include "cuda/orthogonal/square.cuh"

#include <algorithm>

#include "device/global_memory.cuh"
#include "device/launch.cuh"
#include "device/workspace.cuh"
#include "lrk/square.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {
namespace {

constexpr const char* kMirrorSum = "square_mirror_sum_sm80_32x32";
constexpr const char* kInvert = "square_invert_sm80";

Plan plan(const char* kernel) {
  Plan plan;
  plan.kernel = kernel, plan.reason = "the only kernel there is";
  return plan;
}

Plan plan_mirror_sum(const MirrorSumArgs&, const Context&) { return plan(kMirrorSum); }

InversePlace place_of(const InvertArgs& args, const Context& context) {
  const int64_t size = std::max<int64_t>(args.matrices.cols, 1);
  return InversePlace(size, args.matrices.rows / size, context);
}

Plan plan_invert(const InvertArgs& args, const Context& context) {
  Plan result = plan(kInvert);
  Workspace workspace;
  workspace.reserve(place_of(args, context).workspace_bytes);
  result.workspace_bytes = workspace.bytes();
  return result;
}

Status run_mirror_sum(const MirrorSumArgs& args, const Context& context) {
  if (args.a.dtype == DType::kFloat64 || args.out.dtype == DType::kFloat64)
    return Status::unsupported("mirror_sum: float64 has no CUDA kernel");
  const int64_t size = args.a.cols;
  if (args.a.rows == 0 || size == 0) return {};
  const int64_t tiles = (size + kMirrorTile - 1) / kMirrorTile, count = args.a.rows / size;
  if (tiles > 65535 || count > 65535) return Status::unsupported("mirror_sum: the matrix needs more blocks than a grid has");
  GlobalMemory memory;
  memory.reads(args.a, "a").writes(args.out, "out");
  MirrorSumParameters parameters;
  parameters.a = ElementView(args.a), parameters.out = MutableElementView(args.out), parameters.size = int(size);
  parameters.alpha = float(args.alpha), parameters.beta = float(args.beta), parameters.gamma = float(args.gamma);
  parameters.strictly_upper = args.strictly_upper;
  record_dispatch(kMirrorSum);
  const dim3 grid{unsigned(tiles), unsigned(tiles), unsigned(count)}, block{kMirrorTile * kMirrorRows, 1, 1};
  const size_t shared = kMirrorTile * (kMirrorTile + 1) * sizeof(float);
  return launch(mirror_sum_kernel, LaunchConfig(grid, block, shared, context), parameters);
}

Status run_invert(const InvertArgs& args, const Context& context) {
  if (args.matrices.dtype != DType::kFloat32) return Status::unsupported("invert: only float32 has a CUDA kernel");
  const int64_t size = args.matrices.cols;
  if (args.matrices.rows == 0 || size == 0) return {};
  if (size > kMostInvertedRows) return Status::unsupported("invert: more rows than a block holds");
  const InversePlace place = place_of(args, context);
  if (Status status = check_grid("invert", place.blocks); !status.ok()) return status;
  GlobalMemory memory;
  if (args.matrices.data != args.inverses.data) memory.reads(args.matrices, "matrices");
  memory.writes(args.inverses, "inverses");
  Workspace workspace;
  workspace.reserve(place.workspace_bytes);
  if (Status status = workspace.allocate("invert", context, memory); !status.ok()) return status;
  InvertParameters parameters;
  parameters.matrices = ElementView(args.matrices), parameters.inverses = MutableElementView(args.inverses);
  parameters.size = int(size), parameters.count = args.matrices.rows / size;
  parameters.memory = place.memory(workspace.at(0));
  record_dispatch(kInvert);
  return launch(invert_kernel, place.config(context), parameters);
}

std::vector<std::string> kernel_names() { return {kMirrorSum, kInvert}; }

#if defined(LRK_EMULATE)
constexpr const char* kName = "cuda_emulated";
#else
constexpr const char* kName = "cuda";
#endif

const SquareBackend kBackend = {kName, plan_mirror_sum, run_mirror_sum, plan_invert, run_invert, kernel_names};

}  // namespace

const SquareBackend* square_backend() { return &kBackend; }

}  // namespace orthogonal
}  // namespace LRK_TARGET

#if defined(LRK_EMULATE)
const SquareBackend* square_cuda_emulated() { return orthogonal::square_backend(); }
#else
const SquareBackend* square_cuda() { return orthogonal::square_backend(); }
#endif

}  // namespace lrk
