#include "cuda/sketch/column_qr.cuh"

#include <algorithm>
#include <cmath>

#include "cuda/sketch/deferred_cholesky.cuh"
#include "cuda/sketch/substitution.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

/// Two are the rule. Float32's numbers hold eight digits, of which a pass resolves five; columns that depend on others take
/// one more to be known as such, and random ones two to take their places.
constexpr int kMostPasses = 6;

int64_t tiles_of(int64_t cols) { return (cols + kTallTile - 1) / kTallTile; }

int solve_warps(int64_t cols, const Context& context) {
  const size_t limit = shared_bytes_of_block(context.device);
  int warps = kMostSolveWarps;
  while (warps > 1 && substitution_shared_bytes(cols, warps) > limit / 2) warps /= 2;
  return warps;
}

}  // namespace

ColumnQr::ColumnQr(const char* operation, int64_t count, int64_t rows, int64_t cols, int64_t triangle_cols,
                   const Context& context)
    : operation_(operation),
      count_(count),
      rows_(rows),
      cols_(cols),
      triangle_cols_(triangle_cols),
      context_(context),
      gram_parts_(parts_of(cols, true)),
      triangle_parts_(triangle_cols > 0 ? parts_of(triangle_cols, false) : 0) {}

int64_t ColumnQr::parts_of(int64_t y_cols, bool gram) const {
  // Eight blocks of 64 threads a multiprocessor, of at least 128 rows each. One block adds up a Gram matrix's parts, so
  // that more than eight would take longer to add than they save.
  constexpr int64_t kLeastRows = 128, kMostParts = 8;
  const int64_t tiles = tiles_of(cols_), blocks = gram ? tiles * (tiles + 1) / 2 : tiles * tiles_of(y_cols);
  const int64_t wanted = 8 * std::max(1, multiprocessors(context_.device)) / std::max<int64_t>(1, blocks * count_);
  return std::max<int64_t>(1, std::min({wanted, rows_ / kLeastRows, kMostParts}));
}

void ColumnQr::reserve(Workspace& workspace) {
  const size_t squares = size_t(count_ * cols_ * cols_), columns = size_t(count_ * cols_);
  const size_t sums = std::max(squares * size_t(gram_parts_),
                               size_t(count_ * triangle_parts_ * cols_ * triangle_cols_));
  sums_ = workspace.reserve(sums * sizeof(double));
  triangles_ = workspace.reserve(squares * sizeof(double));
  per_unit_ = workspace.reserve(columns * sizeof(double));
  replaced_ = workspace.reserve(columns * sizeof(int));
  finished_ = workspace.reserve(size_t(count_) * sizeof(int));
}

Status ColumnQr::check() const {
  constexpr int64_t kMostColumns = 4096;  // a square is counted in int, and a row must fit into shared memory
  if (cols_ > kMostColumns || substitution_shared_bytes(cols_, 1) > shared_bytes_of_block(context_.device))
    return Status::unsupported(std::string(operation_) + ": more columns than the CUDA kernels take");
  const int64_t tiles = tiles_of(cols_) * tiles_of(std::max(cols_, triangle_cols_));
  return check_grid(operation_, count_ * std::max(tiles * std::max(gram_parts_, triangle_parts_), rows_));
}

Status ColumnQr::launch_product(const ConstStack& x, const ConstStack& y, int64_t y_cols, bool gram, double* sums,
                                int pass, const int* finished) const {
  TallProductParameters parameters;
  const int64_t parts = gram ? gram_parts_ : triangle_parts_;
  parameters.x = x, parameters.y = y, parameters.sums = sums, parameters.upper = true;
  parameters.rows = rows_, parameters.length = round_up((rows_ + parts - 1) / parts, kTallDepth);
  parameters.x_cols = int(cols_), parameters.y_cols = int(y_cols), parameters.parts = int(parts);
  parameters.x_tiles = int(tiles_of(cols_)), parameters.y_tiles = int(tiles_of(y_cols));
  parameters.progress = {finished, pass};
  const int64_t blocks = count_ * parts * parameters.x_tiles * parameters.y_tiles;
  return launch(tall_product_kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kTallThreads), kTallSharedBytes, context_),
                parameters);
}

Status ColumnQr::orthonormalize(const Workspace& workspace, const ConstStack& a, const MutableStack& q) const {
  const bool in_shared = cholesky_shared_bytes(cols_, true) <= shared_bytes_of_block(context_.device);
  CholeskyParameters cholesky;
  cholesky.size = int(cols_), cholesky.parts = int(gram_parts_), cholesky.in_shared = in_shared;
  cholesky.sums = static_cast<const double*>(workspace.at(sums_));
  cholesky.triangle = static_cast<double*>(workspace.at(triangles_));
  cholesky.per_unit = static_cast<double*>(workspace.at(per_unit_));
  cholesky.replaced = static_cast<int*>(workspace.at(replaced_));
  cholesky.finished = static_cast<int*>(workspace.at(finished_));
  SubstitutionParameters solve;
  const int warps = solve_warps(cols_, context_);
  solve.q = q, solve.rows = rows_, solve.size = int(cols_), solve.sign = float(1 / std::sqrt(double(rows_)));
  solve.row_blocks = (rows_ + warps * kSolveRows - 1) / (warps * kSolveRows);
  solve.triangles = cholesky.triangle, solve.replaced = cholesky.replaced;
  const auto config = [&](int64_t blocks, int threads, size_t shared) {
    return LaunchConfig(dim3(unsigned(blocks)), dim3(unsigned(threads)), shared, context_);
  };
  for (int pass = 0; pass < kMostPasses; ++pass) {
    const ConstStack from = pass == 0 ? a : read_only(q);
    double* const sums = static_cast<double*>(workspace.at(sums_));
    if (Status status = launch_product(from, from, cols_, true, sums, pass, cholesky.finished); !status.ok())
      return status;
    cholesky.pass = pass;
    const size_t cholesky_bytes = cholesky_shared_bytes(cols_, in_shared);
    if (Status status = launch(cholesky_kernel, config(count_, kCholeskyThreads, cholesky_bytes), cholesky); !status.ok())
      return status;
    solve.a = from, solve.progress = {cholesky.finished, pass};
    const LaunchConfig solves =
        config(count_ * solve.row_blocks, warps * 32, substitution_shared_bytes(cols_, warps));
    if (Status status = launch(substitution_kernel, solves, solve); !status.ok()) return status;
  }
  return {};
}

Status ColumnQr::triangle(const Workspace& workspace, const ConstStack& q, const ConstStack& a,
                          const MutableStack& r) const {
  double* const sums = static_cast<double*>(workspace.at(sums_));
  if (Status status = launch_product(q, a, triangle_cols_, false, sums, 0, nullptr); !status.ok()) return status;
  TriangleSumParameters parameters;
  parameters.sums = sums, parameters.x_cols = int(cols_), parameters.y_cols = int(triangle_cols_);
  parameters.parts = int(triangle_parts_), parameters.count = count_, parameters.r = r;
  const int64_t blocks = (count_ * cols_ * triangle_cols_ + kTriangleSumThreads - 1) / kTriangleSumThreads;
  if (Status status = check_grid(operation_, blocks); !status.ok()) return status;
  return launch(triangle_sum_kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kTriangleSumThreads), 0, context_),
                parameters);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
