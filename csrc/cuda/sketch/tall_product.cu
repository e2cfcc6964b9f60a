#include "cuda/sketch/tall_product.cuh"

#include <algorithm>

#include "device/launch.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

int64_t tiles_of(int64_t cols) { return (cols + kTallTile - 1) / kTallTile; }

}  // namespace

TallProduct::TallProduct(int64_t count_, int64_t rows_, int64_t x_cols_, int64_t y_cols_, const Context& context)
    : count(count_), rows(rows_), x_cols(x_cols_), y_cols(y_cols_) {
  // Eight blocks of 64 threads a multiprocessor, of at least 128 rows each. More than eight parts would take one block of
  // threads longer to add than they save.
  constexpr int64_t kLeastRows = 128, kMostParts = 8;
  const int64_t blocks = std::max<int64_t>(1, tiles_of(x_cols) * (tiles_of(y_cols) + 1) / 2 * count);
  const int64_t wanted = 8 * std::max(1, multiprocessors(context.device)) / blocks;
  parts = std::max<int64_t>(1, std::min({wanted, rows / kLeastRows, kMostParts}));
}

Status TallProduct::check(const char* operation) const {
  if (Status status = check_grid(operation, count * parts * tiles_of(x_cols) * tiles_of(y_cols)); !status.ok())
    return status;
  return check_grid(operation, (count * x_cols * y_cols + kTriangleSumThreads - 1) / kTriangleSumThreads);
}

Status TallProduct::run(const ConstStack& x, const ConstStack& y, double* sums, const Progress& progress,
                        const Context& context) const {
  TallProductParameters parameters;
  parameters.x = x, parameters.y = y, parameters.sums = sums, parameters.progress = progress;
  parameters.rows = rows, parameters.length = round_up((rows + parts - 1) / parts, kTallDepth);
  parameters.x_cols = int(x_cols), parameters.y_cols = int(y_cols), parameters.parts = int(parts);
  parameters.x_tiles = int(tiles_of(x_cols)), parameters.y_tiles = int(tiles_of(y_cols));
  const int64_t blocks = count * parts * parameters.x_tiles * parameters.y_tiles;
  return launch(tall_product_kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kTallThreads), kTallSharedBytes, context),
                parameters);
}

Status TallProduct::sum_triangle(const double* sums, const MutableStack& r, const Context& context) const {
  TriangleSumParameters parameters;
  parameters.sums = sums, parameters.x_cols = int(x_cols), parameters.y_cols = int(y_cols);
  parameters.parts = int(parts), parameters.count = count, parameters.r = r;
  const int64_t blocks = (count * x_cols * y_cols + kTriangleSumThreads - 1) / kTriangleSumThreads;
  return launch(triangle_sum_kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kTriangleSumThreads), 0, context),
                parameters);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
