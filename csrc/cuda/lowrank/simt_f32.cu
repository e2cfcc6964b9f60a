#include "cuda/lowrank/launchers.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

using Product128x128 = SimtProduct<128, 128, 256, 16>;
using Product64x64 = SimtProduct<64, 64, 256, 16>;
using Product128x16 = SimtProduct<128, 16, 128, 4>;

template <class Product, class Kernel, class Parameters>
Status start(Kernel kernel, int64_t tiles, int64_t splits, const Parameters& parameters, const Context& context) {
  const int64_t blocks = tiles * splits;
  if (Status status = check_grid("lowrank", blocks); !status.ok()) return status;
  return launch(kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

template <class Product>
Status start_linear(const LinearSimtParameters& parameters, const Context& context) {
  const LinearOutput& output = parameters.output;
  const int64_t tiles = tiles_of(output.rows, Product::kTileM) * tiles_of(output.out, Product::kTileN);
  return start<Product>(linear_simt_kernel<Product>, tiles, 1, parameters, context);
}

template <bool kRankFirst, class Output>
Status start_split(SplitTile tile, const SplitSimtParameters<Output>& parameters, const Context& context) {
  const int m = parameters.a.extent, rank = parameters.b.extent;
  if (tile == SplitTile::kSimt128x16x16)
    return start<Product128x16>(split_simt_kernel<Product128x16, Output, kRankFirst>,
                                tiles_of(m, 128) * tiles_of(rank, 16), parameters.splits, parameters, context);
  return start<Product64x64>(split_simt_kernel<Product64x64, Output, kRankFirst>, tiles_of(m, 64) * tiles_of(rank, 64),
                             parameters.splits, parameters, context);
}

}  // namespace

Status launch_linear_simt(LinearTile tile, const LinearSimtParameters& parameters, const Context& context) {
  return tile == LinearTile::kSimt128x128x16 ? start_linear<Product128x128>(parameters, context)
                                             : start_linear<Product64x64>(parameters, context);
}

Status launch_split_simt(SplitTile tile, const SplitSimtParameters<ProjectOutput>& parameters, const Context& context) {
  return start_split<false>(tile, parameters, context);
}

Status launch_split_simt(SplitTile tile, const SplitSimtParameters<FactorGradOutput>& parameters,
                         const Context& context) {
  return start_split<true>(tile, parameters, context);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
