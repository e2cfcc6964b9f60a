// Host side of the unit rows of Householder vectors and of panels' inverses.
#include <algorithm>

#include "cuda/orthogonal/householder.cuh"
#include "cuda/orthogonal/householder_panel.cuh"
#include "device/global_memory.cuh"
#include "device/launch.cuh"
#include "device/workspace.cuh"
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
constexpr const char* kPanels = "householder_panel_inverses_sm80";

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

// --- S of every panel ---

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

/// How columns are cut into parts, so that few panels keep a device busy too: a pure function of the shape.
struct PanelShape {
  static constexpr int64_t kBlocks = 256, kLeastColumns = 256;  // wanted; of a part
  int64_t rows, panels, tiles, columns, parts;

  explicit PanelShape(const PanelInverseArgs& args)
      : rows(args.inverses.cols), panels(rows == 0 ? 0 : args.inverses.rows / rows), tiles(ceil_div(rows, kGramTile)) {
    const int64_t blocks = std::max<int64_t>(triangle_tiles(tiles) * panels, 1), features = args.units.cols;
    const int64_t wanted = std::min(ceil_div(kBlocks, blocks), ceil_div(features, kLeastColumns));
    columns = std::max<int64_t>(round_up(ceil_div(features, std::max<int64_t>(wanted, 1)), kGramDepth), kGramDepth);
    parts = std::max<int64_t>(ceil_div(features, columns), 1);
  }
  size_t gram_bytes() const { return size_t(panels * parts * rows * rows) * sizeof(double); }
};

struct PanelMemory {
  Workspace workspace;
  InversePlace place;
  size_t gram, matrices;

  PanelMemory(const PanelShape& shape, const Context& context)
      : place(shape.rows, shape.panels, context),
        gram(workspace.reserve(shape.gram_bytes())),
        matrices(workspace.reserve(place.workspace_bytes)) {}
};

std::string unsupported(const PanelInverseArgs& args) {
  if (args.units.dtype != DType::kFloat32) return "householder: float64 has no CUDA kernel";
  if (args.units.col_stride != 1) return "householder: unit rows must be contiguous";
  if (args.inverses.cols > kMostPanelRows) return "householder: a panel has more rows than are inverted at once";
  return {};
}

Plan plan_panel_inverses(const PanelInverseArgs& args, const Context& context) {
  Plan result = plan(kPanels);
  if (const std::string reason = unsupported(args); !reason.empty()) {
    result.kernel = "none", result.reason = reason;
    return result;
  }
  const PanelShape shape(args);
  result.reason = "float64 Gram matrices, their columns in " + std::to_string(shape.parts) + " parts";
  result.workspace_bytes = shape.panels == 0 ? 0 : PanelMemory(shape, context).workspace.bytes();
  return result;
}

Status run_panel_inverses(const PanelInverseArgs& args, const Context& context) {
  if (const std::string reason = unsupported(args); !reason.empty()) return Status::unsupported(reason);
  const PanelShape shape(args);
  if (shape.panels == 0) return {};
  PanelMemory memory(shape, context);
  GlobalMemory operands;
  operands.reads(args.units, "units").writes(args.inverses, "inverses");
  if (Status status = memory.workspace.allocate("householder", context, operands); !status.ok()) return status;
  record_dispatch(kPanels);
  PanelGramParameters gram;
  gram.units = static_cast<const float*>(args.units.data), gram.stride = args.units.row_stride;
  gram.features = args.units.cols, gram.columns = shape.columns;
  gram.rows = int(shape.rows), gram.tiles = int(shape.tiles), gram.parts = int(shape.parts);
  gram.gram = static_cast<double*>(memory.workspace.at(memory.gram));
  const int64_t blocks = triangle_tiles(shape.tiles) * shape.parts * shape.panels;
  if (Status status = check_grid("householder", blocks); !status.ok()) return status;
  const LaunchConfig config(dim3(unsigned(blocks)), dim3(kGramThreads), kGramSharedBytes, context);
  if (Status status = launch(panel_gram_kernel, config, gram); !status.ok()) return status;
  PanelInverseParameters inverse;
  inverse.gram = gram.gram, inverse.rows = gram.rows, inverse.parts = gram.parts, inverse.panels = shape.panels;
  inverse.memory = memory.place.memory(memory.workspace.at(memory.matrices));
  inverse.inverses = MutableElementView(args.inverses);
  return launch(panel_inverse_kernel, memory.place.config(context), inverse);
}

std::vector<std::string> kernel_names() { return {kForward, kBackward, kPanels}; }

#if defined(LRK_EMULATE)
constexpr const char* kName = "cuda_emulated";
#else
constexpr const char* kName = "cuda";
#endif

const HouseholderBackend kBackend = {
    kName,        plan_unit_rows,      run_unit_rows,      plan_unit_rows_backward, run_unit_rows_backward,
    kernel_names, plan_panel_inverses, run_panel_inverses,
};

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
