// Every configuration of split_mma.cuh for one dtype.
#pragma once

#include "cuda/lowrank/launchers.cuh"
#include "device/split_sum.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

template <class Product, class Output>
Status start_split_mma(const SplitMmaParameters<Output>& parameters, const Context& context) {
  const int64_t blocks = tiles_of(parameters.extent_m, Product::kTileM) * tiles_of(parameters.rank, Product::kTileN) *
                         parameters.splits;
  if (Status status = check_grid("lowrank", blocks); !status.ok()) return status;
  return launch(split_mma_kernel<Product, Output>,
                LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

template <class T, Major kMajorA, Major kMajorB, class Output>
Status launch_split_tile(SplitTile tile, const SplitMmaParameters<Output>& parameters, const Context& context) {
  switch (tile) {
    case SplitTile::k64x128x64:
      return start_split_mma<TileProduct<T, 64, 128, 64, 4, 1, 3, kMajorA, kMajorB>>(parameters, context);
    case SplitTile::k64x64x64:
      return start_split_mma<TileProduct<T, 64, 64, 64, 4, 1, 4, kMajorA, kMajorB>>(parameters, context);
    case SplitTile::k64x16x64:
      return start_split_mma<TileProduct<T, 64, 16, 64, 4, 1, 4, kMajorA, kMajorB>>(parameters, context);
    case SplitTile::kNarrow64x64x64:
      return start_split_mma<TileProduct<T, 64, 64, 64, 4, 1, 3, kMajorA, kMajorB, false>>(parameters, context);
    default:
      return Status::unsupported("lowrank: this tile is for float32");
  }
}

template <class T>
Status launch_project_mma(SplitTile tile, bool factor_across, const SplitMmaParameters<ProjectOutput>& parameters,
                          const Context& context) {
  constexpr Major kAlong = Major::kAlongSum, kAcross = Major::kAcrossSum;
  return factor_across ? launch_split_tile<T, kAlong, kAcross>(tile, parameters, context)
                       : launch_split_tile<T, kAlong, kAlong>(tile, parameters, context);
}

template <class T>
Status launch_factor_grad_mma(SplitTile tile, const SplitMmaParameters<FactorGradOutput>& parameters,
                              const Context& context) {
  return launch_split_tile<T, Major::kAcrossSum, Major::kAcrossSum>(tile, parameters, context);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
