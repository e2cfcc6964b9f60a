// Randomised SVD (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 5.1) and the exact polar factor: a basis, the
// SVD of the triangle that is left, products by the caller's library. Only the host's part is here; nothing waits for the
// device, and nothing is launched before all sizes are checked and all memory is there.
//
// Launches of ours, of an rsvd with one power step: 32 for the basis of A's columns (range_finder.cuh), 21 for the QR of
// AT Q and its triangle, 11 for the SVD of that, 1 for the signs: 65.
#include "cuda/sketch/columns_launch.cuh"
#include "cuda/sketch/launchers.cuh"
#include "cuda/sketch/range_finder.cuh"
#include "cuda/sketch/small_svd.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

constexpr const char* kRsvd = "rsvd_sm80_jacobi";
constexpr const char* kExactPolar = "polar_exact_sm80_jacobi";

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
  add_reads(memory, args.range.a, "a"), add_writes(memory, args.u, "u"), add_writes(memory, args.v, "v");
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
  if (Status status = check_copy(problem.out, "polar"); !status.ok()) return status;
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
