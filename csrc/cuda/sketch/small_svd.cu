#include "cuda/sketch/small_svd.cuh"

#include "cuda/sketch/jacobi.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

SmallSvd::SmallSvd(const char* operation, int64_t count, int64_t size, int64_t rank, const Context& context)
    : count_(count),
      size_(size),
      rank_(rank),
      context_(context),
      in_shared_(jacobi_shared_bytes(size, true) <= shared_bytes_of_block(context.device)),
      completion_(operation, 2 * count, size, rank, 0, context) {}

void SmallSvd::reserve(Workspace& workspace) {
  if (!in_shared_) rows_ = workspace.reserve(size_t(count_ * size_ * size_) * sizeof(double));
  vectors_ = workspace.reserve(size_t(2 * count_ * size_ * rank_) * sizeof(float));
  completion_.reserve(workspace);
}

Status SmallSvd::check() const { return completion_.check(); }

MutableMatrices SmallSvd::at(const Workspace& workspace, int64_t first) const {
  float* const data = static_cast<float*>(workspace.at(vectors_)) + first * size_ * rank_;
  return {{data, DType::kFloat32, size_, rank_, rank_, 1}, count_, size_ * rank_};
}

Status SmallSvd::run(const Workspace& workspace, const ConstStack& r, float* values) const {
  JacobiParameters parameters;
  parameters.r = r, parameters.size = int(size_), parameters.rank = int(rank_), parameters.in_shared = in_shared_;
  if (!in_shared_) parameters.rows = static_cast<double*>(workspace.at(rows_));
  parameters.values = values;
  parameters.w = MutableStack(w(workspace)), parameters.y = MutableStack(y(workspace));
  const LaunchConfig config(dim3(unsigned(count_)), dim3(kJacobiThreads), jacobi_shared_bytes(size_, in_shared_),
                            context_);
  if (Status status = launch(jacobi_kernel, config, parameters); !status.ok()) return status;
  MutableMatrices both = w(workspace);
  both.count = 2 * count_;
  const MutableStack vectors(both);
  return completion_.orthonormalize(workspace, read_only(vectors), vectors, ColumnQr::kFewPasses);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
