#include "cuda/sketch/columns.cuh"

#include "cuda/sketch/columns_launch.cuh"
#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

namespace {

int64_t copy_blocks(const MutableMatrices& to) {
  return (to.first.rows * to.first.cols * to.count + kColumnThreads - 1) / kColumnThreads;
}

}  // namespace

Status check_copy(const MutableMatrices& to, const char* operation) { return check_grid(operation, copy_blocks(to)); }

Status copy_matrices(const Matrices& from, const MutableMatrices& to, const Context& context) {
  CopyParameters parameters;
  parameters.x = ConstStack(from), parameters.out = MutableStack(to);
  parameters.rows = from.first.rows, parameters.cols = from.first.cols, parameters.count = from.count;
  const int64_t blocks = copy_blocks(to);
  if (blocks == 0) return {};
  return launch(copy_kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kColumnThreads), 0, context), parameters);
}

Status fix_signs(const MutableMatrices& u, const MutableMatrices& v, const Context& context) {
  SignParameters parameters;
  parameters.u = MutableStack(u), parameters.v = MutableStack(v);
  parameters.u_rows = u.first.rows, parameters.v_rows = v.first.rows, parameters.rank = int(u.first.cols);
  parameters.tiles = (parameters.rank + 31) / 32;
  const LaunchConfig config(dim3(unsigned(u.count * parameters.tiles)), dim3(kColumnThreads), kSignsSharedBytes, context);
  return launch(column_signs_kernel, config, parameters);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
