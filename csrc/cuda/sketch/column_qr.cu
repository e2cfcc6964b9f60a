#include "cuda/sketch/column_qr.cuh"

#include <algorithm>
#include <cmath>

#include "cuda/sketch/deferred_cholesky.cuh"
#include "cuda/sketch/gram_schmidt.cuh"
#include "cuda/sketch/substitution.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

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
      gram_(count, rows, cols, cols, context),
      onto_basis_(count, rows, cols, triangle_cols, context) {}

void ColumnQr::reserve(Workspace& workspace) {
  const size_t squares = size_t(count_ * cols_ * cols_), columns = size_t(count_ * cols_);
  sums_ = workspace.reserve(std::max(gram_.bytes(), onto_basis_.bytes()));
  triangles_ = workspace.reserve(squares * sizeof(double));
  per_unit_ = workspace.reserve(columns * sizeof(double));
  replaced_ = workspace.reserve(columns * sizeof(int));
  finished_ = workspace.reserve(size_t(count_) * sizeof(int));
}

Status ColumnQr::check() const {
  constexpr int64_t kMostColumns = 4096;  // a square is counted in int, and a row must fit into shared memory
  const size_t bytes = std::max(substitution_shared_bytes(cols_, 1), gram_schmidt_shared_bytes(cols_));
  if (cols_ > kMostColumns || bytes > shared_bytes_of_block(context_.device))
    return Status::unsupported(std::string(operation_) + ": more columns than the CUDA kernels take");
  for (const TallProduct& product : {gram_, onto_basis_})
    if (Status status = product.check(operation_); !status.ok()) return status;
  return check_grid(operation_, count_ * rows_);
}

Status ColumnQr::orthonormalize(const Workspace& workspace, const ConstStack& a, const MutableStack& q,
                                int passes) const {
  if (Status status = run_passes(workspace, a, q, passes); !status.ok()) return status;
  GramSchmidtParameters parameters;
  parameters.q = q, parameters.rows = rows_, parameters.size = int(cols_);
  parameters.progress = {static_cast<const int*>(workspace.at(finished_)), passes};
  const LaunchConfig config(dim3(unsigned(count_)), dim3(kGramSchmidtThreads), gram_schmidt_shared_bytes(cols_), context_);
  return launch(gram_schmidt_kernel, config, parameters);
}

Status ColumnQr::normalize(const Workspace& workspace, const MutableStack& q) const {
  constexpr int kPassesBetweenProducts = 2;
  return run_passes(workspace, read_only(q), q, kPassesBetweenProducts);
}

Status ColumnQr::run_passes(const Workspace& workspace, const ConstStack& a, const MutableStack& q, int passes) const {
  const bool in_shared = cholesky_shared_bytes(cols_, true) <= shared_bytes_of_block(context_.device);
  CholeskyParameters cholesky;
  cholesky.size = int(cols_), cholesky.parts = int(gram_.parts), cholesky.in_shared = in_shared;
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
  for (int pass = 0; pass < passes; ++pass) {
    const ConstStack from = pass == 0 ? a : read_only(q);
    double* const sums = static_cast<double*>(workspace.at(sums_));
    const Progress progress{cholesky.finished, pass};
    if (Status status = gram_.run(from, from, sums, progress, context_); !status.ok()) return status;
    cholesky.pass = pass;
    const size_t cholesky_bytes = cholesky_shared_bytes(cols_, in_shared);
    if (Status status = launch(cholesky_kernel, config(count_, kCholeskyThreads, cholesky_bytes), cholesky); !status.ok())
      return status;
    solve.a = from, solve.progress = progress;
    const LaunchConfig solves =
        config(count_ * solve.row_blocks, warps * 32, substitution_shared_bytes(cols_, warps));
    if (Status status = launch(substitution_kernel, solves, solve); !status.ok()) return status;
  }
  return {};
}

Status ColumnQr::triangle(const Workspace& workspace, const ConstStack& q, const ConstStack& a,
                          const MutableStack& r) const {
  double* const sums = static_cast<double*>(workspace.at(sums_));
  if (Status status = onto_basis_.run(q, a, sums, {}, context_); !status.ok()) return status;
  return onto_basis_.sum_triangle(sums, r, context_);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
