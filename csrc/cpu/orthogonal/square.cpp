// square_cpu(): sums with the transpose go block by block, both blocks through the first level cache; small inverses are
// small_inverse.h's, a matrix a task.
#include "cpu/gemm/block.h"
#include "cpu/orthogonal/small_inverse.h"
#include "lrk/square.h"
#include "runtime/cpu_features.h"

namespace lrk {
namespace {

using cpu::ceil_div;

constexpr int64_t kBlock = 48;  // of rows and of columns

std::string kernel_name(const char* operation) {
  return std::string("square_") + operation + "_" + name_of(selected_cpu_isa());
}

Plan plan(const char* operation, size_t workspace) {
  Plan plan;
  plan.kernel = kernel_name(operation), plan.reason = "the only kernel there is", plan.workspace_bytes = workspace;
#if defined(__x86_64__)
  plan.hardware_verified = true;
#endif
  return plan;
}

template <class T>
void mirror_sum_block(const MirrorSumArgs& args, int64_t top, int64_t row, int64_t col) {
  const cpu::Kernels<T>& kernels = cpu::selected_kernels<T>();
  const int64_t size = args.a.cols, rows = std::min(kBlock, size - row), cols = std::min(kBlock, size - col);
  alignas(64) T sum[kBlock * kBlock], mirrored[kBlock * kBlock];
  kernels.stage(sum, kBlock, cpu::source_at(args.a, top + row, col), rows, cols, cols);
  if (args.beta != 0.0) {
    const MatrixView transposed = args.a.transposed();
    kernels.stage(mirrored, kBlock, cpu::source_at(transposed, row, top + col), rows, cols, cols);
  }
  const T alpha = T(args.alpha), beta = T(args.beta), gamma = T(args.gamma);
  for (int64_t i = 0; i < rows; ++i) {
    T* const line = sum + i * kBlock;
    const T* const other = mirrored + i * kBlock;
    if (args.beta != 0.0)
      for (int64_t j = 0; j < cols; ++j) line[j] = alpha * line[j] + beta * other[j];
    else
      for (int64_t j = 0; j < cols; ++j) line[j] *= alpha;
    const int64_t diagonal = row + i - col;
    if (args.strictly_upper) std::fill_n(line, std::clamp<int64_t>(diagonal + 1, 0, cols), T(0));
    if (diagonal >= 0 && diagonal < cols) line[diagonal] += gamma;
  }
  kernels.finish(sum, kBlock, rows, cols, nullptr, nullptr, cpu::destination_at(args.out, top + row, col));
}

template <class T>
Status mirror_sum_of(const MirrorSumArgs& args, const Context& context) {
  const int64_t size = args.a.cols, count = args.a.rows / size, blocks = ceil_div(size, kBlock);
  cpu::run_tasks(context, count * blocks, 4 * args.a.rows * size, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      for (int64_t col = 0; col < size; col += kBlock)
        mirror_sum_block<T>(args, task / blocks * size, task % blocks * kBlock, col);
  });
  return {};
}

Plan plan_mirror_sum(const MirrorSumArgs&, const Context&) { return plan("mirror_sum", 0); }

Status mirror_sum(const MirrorSumArgs& args, const Context& context) {
  if (args.a.rows == 0 || args.a.cols == 0) return {};
  record_dispatch(kernel_name("mirror_sum"));
  const bool in_double = args.a.dtype == DType::kFloat64 || args.out.dtype == DType::kFloat64;
  return in_double ? mirror_sum_of<double>(args, context) : mirror_sum_of<float>(args, context);
}

template <class T>
size_t invert_workspace(const InvertArgs& args) {
  const int64_t size = args.matrices.cols;
  return size == 0 ? 0 : size_t(args.matrices.rows * cpu::padded_for_inverse(size)) * sizeof(T);
}

template <class T>
Status invert_of(const InvertArgs& args, const Context& context) {
  const cpu::Kernels<T>& kernels = cpu::selected_kernels<T>();
  const int64_t size = args.matrices.cols, count = args.matrices.rows / size, stride = cpu::padded_for_inverse(size);
  const size_t bytes = invert_workspace<T>(args);
  cpu::Workspace workspace(bytes);
  if (!workspace.allocate(context)) return cpu::out_of_memory("invert", bytes);
  T* const copies = workspace.take<T>(count * size * stride);
  cpu::run_tasks(context, count, count * size * size * size, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      T* const copy = copies + index * size * stride;
      kernels.stage(copy, stride, cpu::source_at(args.matrices, index * size, 0), size, size, stride);
      cpu::small_inverse(copy, size, stride);
      kernels.finish(copy, stride, size, size, nullptr, nullptr, cpu::destination_at(args.inverses, index * size, 0));
    }
  });
  return {};
}

Plan plan_invert(const InvertArgs& args, const Context&) {
  return plan("invert", args.matrices.dtype == DType::kFloat64 ? invert_workspace<double>(args)
                                                               : invert_workspace<float>(args));
}

Status invert(const InvertArgs& args, const Context& context) {
  if (args.matrices.rows == 0 || args.matrices.cols == 0) return {};
  record_dispatch(kernel_name("invert"));
  return args.matrices.dtype == DType::kFloat64 ? invert_of<double>(args, context) : invert_of<float>(args, context);
}

std::vector<std::string> kernel_names() { return {kernel_name("mirror_sum"), kernel_name("invert")}; }

}  // namespace

const SquareBackend& square_cpu() {
  static constexpr SquareBackend backend{"cpu", plan_mirror_sum, mirror_sum, plan_invert, invert, kernel_names};
  return backend;
}

}  // namespace lrk
