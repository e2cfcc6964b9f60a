#include "cuda/lowrank/indexed_launchers.cuh"
#include "cuda/lowrank/launchers.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

using Product64x64 = SimtProduct<64, 64, 256, 16>;
using Product64x16 = SimtProduct<64, 16, 64, 4>;

template <class Product, class Kernel, class Parameters>
Status start(Kernel kernel, int64_t blocks, const Parameters& parameters, const Context& context) {
  if (blocks == 0) return {};
  if (Status status = check_grid("lowrank_linear_indexed", blocks); !status.ok()) return status;
  return launch(kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

template <class Product>
Status start_project(int64_t tiles, const IndexedProjectSimtParameters& parameters, const Context& context) {
  return start<Product>(indexed_project_simt_kernel<Product>,
                        tiles * tiles_of(parameters.rank, Product::kTileN) * parameters.splits, parameters, context);
}

template <class Product>
Status start_grad(const IndexedGradSimtParameters& parameters, const Context& context) {
  return start<Product>(indexed_grad_simt_kernel<Product>,
                        tiles_of(parameters.cols, Product::kTileM) * tiles_of(parameters.rank, Product::kTileN) *
                            parameters.routed.adapters,
                        parameters, context);
}

}  // namespace

Status launch_indexed_project(IndexedTile tile, int64_t tiles, const IndexedProjectSimtParameters& parameters,
                              const Context& context) {
  return tile == IndexedTile::kSimt64x16x16 ? start_project<Product64x16>(tiles, parameters, context)
                                            : start_project<Product64x64>(tiles, parameters, context);
}

Status launch_indexed_linear(int64_t tiles, const IndexedLinearSimtParameters& parameters, const Context& context) {
  return start<Product64x64>(indexed_linear_simt_kernel<Product64x64>,
                             tiles * tiles_of(parameters.output.out, Product64x64::kTileN), parameters, context);
}

Status launch_indexed_grad(IndexedTile tile, const IndexedGradSimtParameters& parameters, const Context& context) {
  return tile == IndexedTile::kSimt64x16x16 ? start_grad<Product64x16>(parameters, context)
                                            : start_grad<Product64x64>(parameters, context);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
