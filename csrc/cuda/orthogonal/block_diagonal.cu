// Host side of block-diagonal products: which kernel, how rows are split for the matrices' gradient, and the launches.
#include <algorithm>
#include <limits>

#include "cuda/orthogonal/block_diagonal_mma.cuh"
#include "cuda/orthogonal/block_diagonal_simt.cuh"
#include "cuda/orthogonal/launchers.cuh"
#include "device/global_memory.cuh"
#include "device/split_sum.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {
namespace {

/// split_matrices_kernel counts the elements of a block, padded to whole tiles, in int.
constexpr int64_t kLargestSplitBlock = 46336;
static_assert(kLargestSplitBlock % kSplitColumns == 0 &&
              kLargestSplitBlock * kLargestSplitBlock + kSplitThreads <= std::numeric_limits<int>::max());

int64_t tiles_of(int64_t extent, int64_t tile) { return (extent + tile - 1) / tile; }

/// One product of rows with matrices: the forward pass, and dx.
struct Apply {
  const char* operation;
  MatrixView x, blocks;
  int64_t block;
  bool transpose;
  MutableMatrixView y;

  bool shared() const { return blocks.rows == block; }
  int64_t count() const { return x.cols / block; }
  int64_t matrices() const { return shared() ? 1 : count(); }
};

bool is_half(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16; }

std::string unsupported(const char* operation, const MatrixView& x, const MatrixView& blocks) {
  const std::string name = operation;
  if (x.dtype == DType::kFloat64) return name + ": float64 has no CUDA kernel";
  if (x.col_stride != 1 || blocks.col_stride != 1) return name + ": rows must be contiguous";
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  if (x.rows > kMost || x.cols > kMost) return name + ": an extent is too large";
  if (is_half(x.dtype) && blocks.cols > kLargestSplitBlock)
    return name + ": blocks of " + std::to_string(blocks.cols) + " are too large, of half x the CUDA kernel takes up to " +
           std::to_string(kLargestSplitBlock);
  return {};
}

/// x's rows, of which a kernel takes `block` columns a time.
Lines lines_of(const MatrixView& view, int64_t block) {
  Lines lines;
  lines.data = view.data, lines.stride = view.row_stride, lines.lines = int(view.rows), lines.length = int(block);
  const uintptr_t bits = reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.row_stride) * 2 | uintptr_t(block) * 2;
  lines.copy_bytes = bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
  return lines;
}

bool chunks_align(const MutableMatrixView& view, int64_t block, size_t bytes) {
  const size_t element = size_of(view.dtype);
  return (reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.row_stride) * element | uintptr_t(block) * element) %
             bytes == 0;
}

// --- y_n = x_n R_n ---

/// Where the halves of half x's matrices lie: two of float32 ones, one of x's dtype.
struct SplitMatrices {
  int64_t tiles, stride, halves;
  size_t lines = 0, scales = 0;

  SplitMatrices(const Apply& apply, Workspace& workspace)
      : tiles(tiles_of(apply.block, kSplitColumns)), stride(round_up(apply.block, 8)),
        halves(apply.blocks.dtype == apply.x.dtype ? 1 : 2) {
    if (!is_half(apply.x.dtype)) return;
    lines = workspace.reserve(size_t(apply.matrices() * tiles * halves * kSplitColumns * stride) * sizeof(uint16_t));
    scales = workspace.reserve(size_t(apply.matrices()) * sizeof(float));
  }
};

template <class T, int kHalves>
Status apply_halves(const Apply& apply, const SplitMatrices& split, const Workspace& workspace, const Context& context) {
  SplitMatricesParameters halves;
  halves.blocks = ElementView(apply.blocks), halves.block = int(apply.block);
  halves.tiles = int(split.tiles), halves.stride = int(split.stride), halves.transpose = apply.transpose;
  halves.halves = kHalves, halves.scaled = apply.x.dtype == DType::kFloat16 && kHalves == 2;
  halves.lines = static_cast<uint16_t*>(workspace.at(split.lines));
  halves.scales = static_cast<float*>(workspace.at(split.scales));
  if (Status status = check_grid(apply.operation, apply.matrices()); !status.ok()) return status;
  const LaunchConfig config(dim3(unsigned(apply.matrices())), dim3(kSplitThreads), kSplitThreads * sizeof(float),
                            context);
  if (Status status = launch(split_matrices_kernel<T>, config, halves); !status.ok()) return status;

  BlockApplyMmaParameters parameters;
  parameters.x = lines_of(apply.x, apply.block), parameters.block = int(apply.block);
  parameters.count = apply.count(), parameters.shared = apply.shared();
  parameters.matrices = halves.lines, parameters.scales = halves.scales;
  parameters.tiles = int(split.tiles), parameters.stride = int(split.stride);
  parameters.y = apply.y.data, parameters.y_stride = apply.y.row_stride;
  parameters.wide_y = chunks_align(apply.y, apply.block, 16);
  using Wide = BlockApplyProduct<T, true, kHalves>;
  const int64_t blocks = tiles_of(apply.x.rows, Wide::kTileM) * split.tiles * apply.count();
  if (Status status = check_grid(apply.operation, blocks); !status.ok()) return status;
  const LaunchConfig grid(dim3(unsigned(blocks)), dim3(Wide::kThreads), Wide::kSharedBytes, context);
  return parameters.x.copy_bytes == 16
             ? launch(block_apply_mma_kernel<Wide>, grid, parameters)
             : launch(block_apply_mma_kernel<BlockApplyProduct<T, false, kHalves>>, grid, parameters);
}

template <class T>
Status apply_mma(const Apply& apply, const SplitMatrices& split, const Workspace& workspace, const Context& context) {
  return split.halves == 1 ? apply_halves<T, 1>(apply, split, workspace, context)
                           : apply_halves<T, 2>(apply, split, workspace, context);
}

Status apply_simt(const Apply& apply, const Context& context) {
  using Product = BlockApplySimtProduct;
  BlockApplySimtParameters parameters;
  parameters.x.data = static_cast<const float*>(apply.x.data), parameters.x.stride = apply.x.row_stride;
  parameters.x.sum_stride = 1, parameters.x.extent = int(apply.x.rows);
  FloatOperand& matrices = parameters.matrices;
  matrices.data = static_cast<const float*>(apply.blocks.data), matrices.extent = int(apply.block);
  matrices.stride = apply.transpose ? apply.blocks.row_stride : 1;
  matrices.sum_stride = apply.transpose ? 1 : apply.blocks.row_stride;
  parameters.matrix_stride = apply.shared() ? 0 : apply.block * apply.blocks.row_stride;
  parameters.block = int(apply.block), parameters.count = apply.count();
  parameters.tiles = int(tiles_of(apply.block, Product::kTileN));
  parameters.y = static_cast<float*>(apply.y.data), parameters.y_stride = apply.y.row_stride;
  parameters.wide_y = chunks_align(apply.y, apply.block, 16);
  const int64_t blocks = tiles_of(apply.x.rows, Product::kTileM) * parameters.tiles * apply.count();
  if (Status status = check_grid(apply.operation, blocks); !status.ok()) return status;
  return launch(block_apply_simt_kernel,
                LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

Status run_apply(const Apply& apply, const SplitMatrices& split, const Workspace& workspace, const Context& context) {
  switch (apply.x.dtype) {
    case DType::kBFloat16: return apply_mma<BFloat16>(apply, split, workspace, context);
    case DType::kFloat16: return apply_mma<Float16>(apply, split, workspace, context);
    default: return apply_simt(apply, context);
  }
}

// --- dR_n = x_nt g_n ---

struct Gradient {
  const char* operation;
  MatrixView left, right;  // x and g, transposed g and x
  int64_t block;
  MutableMatrixView dblocks;

  int64_t count() const { return left.cols / block; }
  int64_t elements() const { return left.cols * block; }
};

/// Parts of the rows, so that few blocks keep every multiprocessor busy too: a pure function of shape and device.
struct RowSplits {
  static constexpr int64_t kLeastRows = 256, kTile = 32;
  int64_t tiles, splits, rows_a_split;

  RowSplits(const Gradient& gradient, const Context& context) : tiles(tiles_of(gradient.block, kTile)) {
    const int64_t processors = std::max(1, multiprocessors(context.device));
    const int64_t blocks = gradient.count() * tiles * tiles;
    splits = std::min(tiles_of(8 * processors, blocks), tiles_of(gradient.left.rows, kLeastRows));
    rows_a_split = round_up(tiles_of(gradient.left.rows, splits), 64);
    splits = tiles_of(gradient.left.rows, rows_a_split);
  }
  size_t bytes(const Gradient& gradient) const { return size_t(splits * gradient.elements()) * sizeof(float); }
};

template <class T>
Status gradient_mma(const Gradient& gradient, const RowSplits& rows, float* partials, const Context& context) {
  using Wide = BlockGradProduct<T, true>;
  static_assert(Wide::kTileM == RowSplits::kTile && Wide::kTileN == RowSplits::kTile, "RowSplits counts tiles");
  BlockGradMmaParameters parameters;
  parameters.left = lines_of(gradient.left, gradient.block), parameters.right = lines_of(gradient.right, gradient.block);
  parameters.block = int(gradient.block), parameters.tiles = int(rows.tiles), parameters.count = gradient.count();
  parameters.splits = int(rows.splits), parameters.rows_a_split = int(rows.rows_a_split);
  parameters.partials = partials;
  const int64_t blocks = gradient.count() * rows.tiles * rows.tiles * rows.splits;
  if (Status status = check_grid(gradient.operation, blocks); !status.ok()) return status;
  const LaunchConfig config(dim3(unsigned(blocks)), dim3(Wide::kThreads), Wide::kSharedBytes, context);
  const bool wide = parameters.left.copy_bytes == 16 && parameters.right.copy_bytes == 16;
  return wide ? launch(block_grad_mma_kernel<Wide>, config, parameters)
              : launch(block_grad_mma_kernel<BlockGradProduct<T, false>>, config, parameters);
}

FloatOperand across_rows(const MatrixView& view, int64_t block) {
  FloatOperand operand;
  operand.data = static_cast<const float*>(view.data);
  operand.stride = 1, operand.sum_stride = view.row_stride, operand.extent = int(block);
  return operand;
}

Status gradient_simt(const Gradient& gradient, const RowSplits& rows, float* partials, const Context& context) {
  using Product = BlockGradSimtProduct;
  static_assert(Product::kTileM == RowSplits::kTile && Product::kTileN == RowSplits::kTile, "RowSplits counts tiles");
  BlockGradSimtParameters parameters;
  parameters.left = across_rows(gradient.left, gradient.block);
  parameters.right = across_rows(gradient.right, gradient.block);
  parameters.block = int(gradient.block), parameters.tiles = int(rows.tiles), parameters.count = gradient.count();
  parameters.splits = int(rows.splits), parameters.rows_a_split = int(rows.rows_a_split);
  parameters.rows = int(gradient.left.rows), parameters.partials = partials;
  const int64_t blocks = gradient.count() * rows.tiles * rows.tiles * rows.splits;
  if (Status status = check_grid(gradient.operation, blocks); !status.ok()) return status;
  return launch(block_grad_simt_kernel,
                LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

struct DblocksOutput {
  MutableElementView dblocks;
  __device__ __forceinline__ void write(int row, int col, float sum) const { dblocks.store(row, col, sum); }
};

Status add_rows(const Gradient& gradient, const RowSplits& rows, float* partials, const Context& context) {
  switch (gradient.left.dtype) {
    case DType::kBFloat16: return gradient_mma<BFloat16>(gradient, rows, partials, context);
    case DType::kFloat16: return gradient_mma<Float16>(gradient, rows, partials, context);
    default: return gradient_simt(gradient, rows, partials, context);
  }
}

Status run_gradient(const Gradient& gradient, const RowSplits& rows, float* partials, const Context& context) {
  if (Status status = add_rows(gradient, rows, partials, context); !status.ok()) return status;
  // One matrix for every block: its sum goes over the blocks too.
  SplitSumParameters<DblocksOutput> sums;
  const bool shared = gradient.dblocks.rows == gradient.block;
  sums.partials = partials, sums.splits = int(rows.splits * (shared ? gradient.count() : 1));
  sums.rows = int(gradient.dblocks.rows), sums.cols = int(gradient.block);
  sums.output.dblocks = MutableElementView(gradient.dblocks);
  return launch_split_sum(gradient.operation, sums, context);
}

// --- The table's functions ---

Apply forward_of(const BlockDiagonalArgs& args) {
  return {"block_diagonal_apply", args.x, args.blocks, args.block, args.transpose, args.y};
}

Apply dx_of(const BlockDiagonalBackwardArgs& args) {
  return {"block_diagonal_backward", args.grad, args.blocks, args.block, !args.transpose, args.dx};
}

Gradient gradient_of(const BlockDiagonalBackwardArgs& args) {
  return {"block_diagonal_backward", args.transpose ? args.grad : args.x, args.transpose ? args.x : args.grad,
          args.block, args.dblocks};
}

std::string kernel_name(const char* operation, DType dtype) {
  return std::string(operation) + "_sm80_" + (is_half(dtype) ? "mma" : "simt");
}

Plan plan_of(const std::string& problem, const char* operation, const MatrixView& x, std::string reason, size_t bytes) {
  Plan plan;
  plan.kernel = problem.empty() ? kernel_name(operation, x.dtype) : "none";
  plan.reason = problem.empty() ? std::move(reason) : problem;
  plan.workspace_bytes = problem.empty() ? bytes : 0;
  return plan;
}

}  // namespace

Plan plan_block_diagonal(const BlockDiagonalArgs& args, const Context&) {
  const Apply apply = forward_of(args);
  Workspace workspace;
  const SplitMatrices split(apply, workspace);
  return plan_of(unsupported(apply.operation, args.x, args.blocks), "block_diagonal", args.x,
                 !is_half(args.x.dtype) ? "float32 products are FMAs"
                 : split.halves == 1    ? "matrices of x's dtype on tensor cores"
                                        : "matrices as two 16-bit halves on tensor cores",
                 workspace.bytes());
}

Status run_block_diagonal(const BlockDiagonalArgs& args, const Context& context) {
  const Apply apply = forward_of(args);
  if (const std::string reason = unsupported(apply.operation, args.x, args.blocks); !reason.empty())
    return Status::unsupported(reason);
  if (args.x.rows == 0 || args.x.cols == 0) return {};
  GlobalMemory operands;
  operands.reads(args.x, "x").reads(args.blocks, "blocks").writes(args.y, "y");
  Workspace workspace;
  const SplitMatrices split(apply, workspace);
  if (Status status = workspace.allocate(apply.operation, context, operands); !status.ok()) return status;
  record_dispatch(kernel_name("block_diagonal", args.x.dtype));
  return run_apply(apply, split, workspace, context);
}

Plan plan_block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context) {
  const std::string problem = unsupported("block_diagonal_backward", args.x, args.blocks);
  const Gradient gradient = gradient_of(args);
  Workspace workspace;
  if (problem.empty()) workspace.reserve(RowSplits(gradient, context).bytes(gradient));
  if (args.dx.present()) SplitMatrices(dx_of(args), workspace);
  return plan_of(problem, "block_diagonal_backward", args.x,
                 args.dx.present() ? "dx and dblocks by a kernel each" : "dblocks alone", workspace.bytes());
}

Status run_block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context) {
  const Gradient gradient = gradient_of(args);
  for (const MatrixView& operand : {args.x, args.grad}) {
    if (const std::string reason = unsupported(gradient.operation, operand, args.blocks); !reason.empty())
      return Status::unsupported(reason);
  }
  if (args.x.rows == 0 || args.x.cols == 0) return {};
  GlobalMemory operands;
  operands.reads(args.grad, "grad").reads(args.x, "x").reads(args.blocks, "blocks");
  operands.writes(args.dx, "dx").writes(args.dblocks, "dblocks");
  Workspace workspace;
  const RowSplits rows(gradient, context);
  const size_t partials = workspace.reserve(rows.bytes(gradient));
  const bool wants_dx = args.dx.present();
  const Apply apply = wants_dx ? dx_of(args) : Apply{gradient.operation, {}, {}, args.block, false, {}};
  const SplitMatrices split(apply, workspace);
  if (Status status = workspace.allocate(gradient.operation, context, operands); !status.ok()) return status;
  record_dispatch(kernel_name("block_diagonal_backward", args.x.dtype));
  if (wants_dx) {
    if (Status status = run_apply(apply, split, workspace, context); !status.ok()) return status;
  }
  return run_gradient(gradient, rows, static_cast<float*>(workspace.at(partials)), context);
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
