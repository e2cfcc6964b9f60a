// orthonormalize: the QR decomposition of the first min(rows, cols) columns, and Q^T times all of them.
#include <algorithm>

#include "cuda/sketch/column_qr.cuh"
#include "cuda/sketch/launchers.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

constexpr const char* kKernel = "orthonormalize_sm80_cholesky_qr";

ColumnQr qr_of(const BatchedOrthonormalizeArgs& args, const Context& context) {
  const MatrixView& a = args.a.first;
  return ColumnQr("orthonormalize", args.a.count, a.rows, std::min(a.rows, a.cols), args.r.present() ? a.cols : 0,
                  context);
}

}  // namespace

Plan plan_orthonormalize(const BatchedOrthonormalizeArgs& args, const Context& context) {
  Plan plan;
  plan.kernel = kKernel;
  plan.reason = "CholeskyQR from float64 Gram matrices, repeated while a flag on the device says that it is needed";
  Workspace workspace;
  qr_of(args, context).reserve(workspace);
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Status run_orthonormalize(const BatchedOrthonormalizeArgs& args, const Context& context) {
  const MatrixView& a = args.a.first;
  if (a.dtype == DType::kFloat64) return Status::unsupported("orthonormalize: float64 has no CUDA kernel");
  if (args.a.count == 0 || a.rows == 0 || a.cols == 0) return {};
  ColumnQr qr = qr_of(args, context);
  if (Status status = qr.check(); !status.ok()) return status;
  GlobalMemory memory;
  add_reads(memory, args.a, "a"), add_writes(memory, args.q, "q"), add_writes(memory, args.r, "r");
  Workspace workspace;
  qr.reserve(workspace);
  if (Status status = workspace.allocate("orthonormalize", context, memory); !status.ok()) return status;
  record_dispatch(kKernel);
  const ConstStack from(args.a);
  const MutableStack q(args.q);
  if (Status status = qr.orthonormalize(workspace, from, q); !status.ok() || !args.r.present()) return status;
  return qr.triangle(workspace, read_only(q), from, MutableStack(args.r));
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
