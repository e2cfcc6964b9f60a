// Range finder and randomised SVD (Halko, Martinsson and Tropp, SIAM Review 2011, algorithms 4.4 and 5.1), and the exact
// polar factor: products by the caller's library, our QR after each of them, the SVD of the triangle that is left. Only
// the host's loop over steps is here; nothing waits for the device.
#include <algorithm>

#include "cuda/sketch/columns_launch.cuh"
#include "cuda/sketch/gaussian.cuh"
#include "cuda/sketch/launchers.cuh"
#include "cuda/sketch/small_svd.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

constexpr const char* kRangeFinder = "range_finder_sm80";
constexpr const char* kRsvd = "rsvd_sm80_jacobi";
constexpr const char* kExactPolar = "polar_exact_sm80_jacobi";

MutableMatrices columns_of(const MutableMatrices& stack, int64_t first, int64_t count) {
  MutableMatrices part = stack;
  part.first.data = static_cast<float*>(stack.first.data) + first * stack.first.col_stride, part.first.cols = count;
  return part;
}

/// As on the CPU (cpu/sketch/rsvd.cpp says why).
bool starts_gaussian(int64_t cols, int64_t size) { return cols <= 64 || 2 * size > cols; }

/// out = the first columns of a Omega, Omega of `size` sparse signs a row: one product where the stack is one matrix of
/// more rows.
Status product_with_signs(const Matrices& a, uint64_t seed, int64_t size, const MutableMatrices& out,
                          const Context& context) {
  SketchProductArgs args;
  args.kind = SketchKind::kSparseSign, args.seed = seed, args.size = size, args.x = a.first, args.y = out.first;
  const auto stacked = [](const MatrixView& first, int64_t stride) { return stride == first.rows * first.row_stride; };
  if (a.count == 1 || (stacked(a.first, a.stride) && stacked(out.first, out.stride))) {
    args.x.rows *= a.count, args.y.rows *= a.count;
    return run_sketch_product(args, context);
  }
  for (int64_t n = 0; n < a.count; ++n) {
    args.x.data = static_cast<const float*>(a.first.data) + n * a.stride;
    args.y.data = static_cast<float*>(out.first.data) + n * out.stride;
    if (Status status = run_sketch_product(args, context); !status.ok()) return status;
  }
  return {};
}

class RangeFinder {
 public:
  RangeFinder(const char* operation, const BatchedRangeFinderArgs& args, int64_t size, const Context& context)
      : args_(args),
        context_(context),
        count_(args.a.count),
        rows_(args.a.first.rows),
        cols_(args.a.first.cols),
        size_(size),
        warm_(args.q0.present() ? args.q0.first.cols : 0),
        of_rows_(operation, count_, rows_, size, 0, context),
        of_cols_(operation, count_, cols_, size, 0, context),
        of_warm_(operation, count_, cols_, warm_, 0, context) {}

  void reserve(Workspace& workspace) {
    other_ = workspace.reserve(size_t(count_ * cols_ * std::max(size_, warm_)) * sizeof(float));
    if (starts_gaussian(cols_, size_)) gaussian_ = workspace.reserve(size_t(cols_ * size_) * sizeof(float));
    of_rows_.reserve(workspace), of_cols_.reserve(workspace), of_warm_.reserve(workspace);
  }
  Status check() const {
    for (const ColumnQr* qr : {&of_rows_, &of_cols_, &of_warm_})
      if (Status status = qr->check(); !status.ok()) return status;
    return {};
  }

  /// q [rows, size], contiguous.
  Status run(const Workspace& workspace, const MutableMatrices& q) const {
    const Matrices &a = args_.a, at = args_.a.transposed();
    if (warm_ > 0) {
      const MutableMatrices known = contiguous(workspace.at(other_), count_, cols_, warm_);
      if (Status status = args_.product(at, args_.q0, known); !status.ok()) return status;
      if (Status status = make_orthonormal(of_warm_, workspace, known); !status.ok()) return status;
      if (Status status = args_.product(a, known, columns_of(q, 0, warm_)); !status.ok()) return status;
    }
    if (size_ > warm_) {
      // The columns that remain are the first of Omega, as where there is no basis of before.
      const MutableMatrices rest = columns_of(q, warm_, size_ - warm_);
      if (Status status = product_with_start(workspace, rest); !status.ok()) return status;
    }
    if (Status status = make_orthonormal(of_rows_, workspace, q); !status.ok()) return status;
    const MutableMatrices other = contiguous(workspace.at(other_), count_, cols_, size_);
    for (int64_t step = 0; step < args_.power_iters; ++step) {
      if (Status status = args_.product(at, q, other); !status.ok()) return status;
      if (Status status = make_orthonormal(of_cols_, workspace, other); !status.ok()) return status;
      if (Status status = args_.product(a, other, q); !status.ok()) return status;
      if (Status status = make_orthonormal(of_rows_, workspace, q); !status.ok()) return status;
    }
    return {};
  }
  /// AT q in the workspace of the steps, which are over.
  Status project(const Workspace& workspace, const Matrices& q, MutableMatrices& out) const {
    out = contiguous(workspace.at(other_), count_, cols_, size_);
    return args_.product(args_.a.transposed(), q, out);
  }

 private:
  static Status make_orthonormal(const ColumnQr& qr, const Workspace& workspace, const MutableMatrices& columns) {
    const MutableStack stack(columns);
    return qr.orthonormalize(workspace, read_only(stack), stack);
  }

  /// out = a's product with the first columns of Omega.
  Status product_with_start(const Workspace& workspace, const MutableMatrices& out) const {
    if (!starts_gaussian(cols_, size_)) return product_with_signs(args_.a, args_.seed, size_, out, context_);
    GaussianParameters parameters;
    parameters.seed = args_.seed, parameters.features = cols_, parameters.size = size_;
    parameters.matrix = static_cast<float*>(workspace.at(gaussian_));
    const int64_t pairs = (size_ + 1) / 2 * cols_, blocks = (pairs + kGaussianThreads - 1) / kGaussianThreads;
    const LaunchConfig config(dim3(unsigned(blocks)), dim3(kGaussianThreads), 0, context_);
    if (Status status = launch(gaussian_kernel, config, parameters); !status.ok()) return status;
    // One matrix for the whole stack.
    const MatrixView first{parameters.matrix, DType::kFloat32, cols_, out.first.cols, size_, 1};
    return args_.product(args_.a, Matrices{first, count_, 0}, out);
  }

  const BatchedRangeFinderArgs& args_;
  const Context& context_;
  int64_t count_, rows_, cols_, size_, warm_;
  ColumnQr of_rows_, of_cols_, of_warm_;
  size_t other_ = 0, gaussian_ = 0;
};

/// Everything of a randomised SVD.
struct RsvdProblem {
  const BatchedRsvdArgs& args;
  int64_t count, rows, cols, basis, rank;
  RangeFinder range;
  ColumnQr of_projection;
  SmallSvd svd;
  Workspace workspace;
  size_t q, p, r;

  RsvdProblem(const BatchedRsvdArgs& args_, const Context& context)
      : args(args_),
        count(args_.range.a.count),
        rows(args_.range.a.first.rows),
        cols(args_.range.a.first.cols),
        basis(args_.basis),
        rank(args_.u.first.cols),
        range("rsvd", args_.range, basis, context),
        of_projection("rsvd", count, cols, basis, basis, context),
        svd("rsvd", count, basis, rank, context) {
    q = workspace.reserve(size_t(count * rows * basis) * sizeof(float));
    p = workspace.reserve(size_t(count * cols * basis) * sizeof(float));
    r = workspace.reserve(size_t(count * basis * basis) * sizeof(float));
    range.reserve(workspace), of_projection.reserve(workspace), svd.reserve(workspace);
  }
};

/// Of a [rows, cols], rows >= cols: a = q r, r = y s wT, out = q (y wT).
struct ExactPolarProblem {
  Matrices a;
  MutableMatrices out;
  int64_t count, rows, cols;
  ColumnQr qr;
  SmallSvd svd;
  Workspace workspace;
  size_t q, r, turn, values, wide;

  static bool turned(const BatchedPolarArgs& args) { return args.a.first.rows < args.a.first.cols; }
  ExactPolarProblem(const BatchedPolarArgs& args, const Context& context)
      : a(turned(args) ? args.a.transposed() : args.a),
        out(args.out),
        count(a.count),
        rows(a.first.rows),
        cols(a.first.cols),
        qr("polar", count, rows, cols, cols, context),
        svd("polar", count, cols, cols, context) {
    if (turned(args)) out.first = out.first.transposed();
    q = workspace.reserve(size_t(count * rows * cols) * sizeof(float));
    wide = workspace.reserve(size_t(count * rows * cols) * sizeof(float));
    r = workspace.reserve(size_t(count * cols * cols) * sizeof(float));
    turn = workspace.reserve(size_t(count * cols * cols) * sizeof(float));
    values = workspace.reserve(size_t(count * cols) * sizeof(float));
    qr.reserve(workspace), svd.reserve(workspace);
  }
};

bool is_empty(const Matrices& stack) { return stack.count == 0 || stack.first.rows == 0 || stack.first.cols == 0; }

}  // namespace

Plan plan_range_finder(const BatchedRangeFinderArgs& args, const Context& context) {
  Plan plan;
  plan.kernel = kRangeFinder;
  plan.reason = "subspace iteration from a random start by the library's products, orthonormalised after every one";
  Workspace workspace;
  RangeFinder("range_finder", args, args.q.first.cols, context).reserve(workspace);
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Status run_range_finder(const BatchedRangeFinderArgs& args, const Context& context) {
  if (args.a.first.dtype != DType::kFloat32) return Status::unsupported("range_finder: only float32 has a CUDA kernel");
  if (is_empty(args.q)) return {};
  RangeFinder finder("range_finder", args, args.q.first.cols, context);
  if (Status status = finder.check(); !status.ok()) return status;
  GlobalMemory memory;
  add_writes(memory, args.q, "q");
  Workspace workspace;
  finder.reserve(workspace);
  if (Status status = workspace.allocate("range_finder", context, memory); !status.ok()) return status;
  record_dispatch(kRangeFinder);
  return finder.run(workspace, args.q);
}

Plan plan_rsvd(const BatchedRsvdArgs& args, const Context& context) {
  Plan plan;
  plan.kernel = kRsvd;
  plan.reason = "the range finder, then Jacobi rotations of the triangle that is left of QT A, a block of threads a matrix";
  plan.workspace_bytes = RsvdProblem(args, context).workspace.bytes();
  return plan;
}

Status run_rsvd(const BatchedRsvdArgs& args, const Context& context) {
  // AT Q = P R and R = Y S WT give A ~ Q QT A = Q RT PT = (Q W) S (P Y)T.
  if (args.range.a.first.dtype != DType::kFloat32) return Status::unsupported("rsvd: only float32 has a CUDA kernel");
  if (args.range.a.count == 0 || args.u.first.cols == 0) return {};
  RsvdProblem problem(args, context);
  if (Status status = problem.range.check(); !status.ok()) return status;
  if (Status status = problem.of_projection.check(); !status.ok()) return status;
  if (Status status = problem.svd.check(); !status.ok()) return status;
  GlobalMemory memory;
  add_writes(memory, args.u, "u"), add_writes(memory, args.v, "v");
  memory.writes(args.s, size_t(problem.count * problem.rank) * sizeof(float), "s");
  Workspace& workspace = problem.workspace;
  if (Status status = workspace.allocate("rsvd", context, memory); !status.ok()) return status;
  record_dispatch(kRsvd);
  const MutableMatrices q = contiguous(workspace.at(problem.q), problem.count, problem.rows, problem.basis);
  const MutableMatrices p = contiguous(workspace.at(problem.p), problem.count, problem.cols, problem.basis);
  const MutableMatrices r = contiguous(workspace.at(problem.r), problem.count, problem.basis, problem.basis);
  if (Status status = problem.range.run(workspace, q); !status.ok()) return status;
  MutableMatrices projected;
  if (Status status = problem.range.project(workspace, q, projected); !status.ok()) return status;
  const ConstStack of_a{Matrices(projected)};
  const MutableStack basis_of_rows(p);
  if (Status status = problem.of_projection.orthonormalize(workspace, of_a, basis_of_rows); !status.ok()) return status;
  if (Status status = problem.of_projection.triangle(workspace, read_only(basis_of_rows), of_a, MutableStack(r));
      !status.ok())
    return status;
  if (Status status = problem.svd.run(workspace, ConstStack{Matrices(r)}, args.s); !status.ok()) return status;
  if (Status status = args.range.product(q, problem.svd.w(workspace), args.u); !status.ok()) return status;
  if (Status status = args.range.product(p, problem.svd.y(workspace), args.v); !status.ok()) return status;
  return fix_signs(args.u, args.v, context);
}

Plan plan_exact_polar(const BatchedPolarArgs& args, const Context& context) {
  Plan plan;
  plan.kernel = kExactPolar, plan.reason = "the SVD of the triangle of a QR, by Jacobi rotations";
  plan.workspace_bytes = ExactPolarProblem(args, context).workspace.bytes();
  return plan;
}

Status run_exact_polar(const BatchedPolarArgs& args, const Context& context) {
  if (args.a.first.dtype == DType::kFloat64) return Status::unsupported("polar: float64 has no CUDA kernel");
  if (is_empty(args.a)) return {};
  ExactPolarProblem problem(args, context);
  if (Status status = problem.qr.check(); !status.ok()) return status;
  if (Status status = problem.svd.check(); !status.ok()) return status;
  GlobalMemory memory;
  add_reads(memory, args.a, "a"), add_writes(memory, args.out, "out");
  Workspace& workspace = problem.workspace;
  if (Status status = workspace.allocate("polar", context, memory); !status.ok()) return status;
  record_dispatch(kExactPolar);
  const int64_t count = problem.count, rows = problem.rows, cols = problem.cols;
  const MutableMatrices q = contiguous(workspace.at(problem.q), count, rows, cols);
  const MutableMatrices r = contiguous(workspace.at(problem.r), count, cols, cols);
  const MutableMatrices turn = contiguous(workspace.at(problem.turn), count, cols, cols);
  const MutableMatrices wide = contiguous(workspace.at(problem.wide), count, rows, cols);
  const ConstStack a(problem.a);
  const MutableStack basis(q);
  if (Status status = problem.qr.orthonormalize(workspace, a, basis); !status.ok()) return status;
  if (Status status = problem.qr.triangle(workspace, read_only(basis), a, MutableStack(r)); !status.ok()) return status;
  float* const values = static_cast<float*>(workspace.at(problem.values));
  if (Status status = problem.svd.run(workspace, ConstStack{Matrices(r)}, values); !status.ok()) return status;
  const Matrices w = problem.svd.w(workspace);
  if (Status status = args.product(problem.svd.y(workspace), w.transposed(), turn); !status.ok()) return status;
  if (Status status = args.product(q, turn, wide); !status.ok()) return status;
  return copy_matrices(wide, problem.out, context);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
