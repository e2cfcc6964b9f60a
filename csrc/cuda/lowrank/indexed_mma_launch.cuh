// Every configuration of indexed_mma.cuh for one dtype.
#pragma once

#include "cuda/lowrank/indexed_launchers.cuh"
#include "cuda/lowrank/launchers.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

constexpr char kIndexed[] = "lowrank_linear_indexed";

template <class Product, class Kernel, class Parameters>
Status start_indexed(Kernel kernel, int64_t blocks, const Parameters& parameters, const Context& context) {
  if (blocks == 0) return {};
  if (Status status = check_grid(kIndexed, blocks); !status.ok()) return status;
  return launch(kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

inline Status wrong_indexed_tile() { return Status::unsupported("lowrank_linear_indexed: not a tile of this product"); }

template <class Product>
Status start_indexed_project(int64_t tiles, const IndexedProjectMmaParameters& parameters, const Context& context) {
  return start_indexed<Product>(indexed_project_mma_kernel<Product>,
                                tiles * tiles_of(parameters.rank, Product::kTileN) * parameters.splits, parameters,
                                context);
}

template <class T, Major kMajorB>
Status launch_indexed_project_tile(IndexedTile tile, int64_t tiles, const IndexedProjectMmaParameters& parameters,
                                   const Context& context) {
  constexpr Major kAlong = Major::kAlongSum;
  switch (tile) {
    case IndexedTile::k16x64x64:
      return start_indexed_project<TileProduct<T, 16, 64, 64, 1, 4, 4, kAlong, kMajorB>>(tiles, parameters, context);
    case IndexedTile::k64x16x64:
      return start_indexed_project<TileProduct<T, 64, 16, 64, 4, 1, 4, kAlong, kMajorB>>(tiles, parameters, context);
    case IndexedTile::k64x64x64:
      return start_indexed_project<TileProduct<T, 64, 64, 64, 4, 1, 4, kAlong, kMajorB>>(tiles, parameters, context);
    case IndexedTile::kNarrow64x64x64:
      return start_indexed_project<TileProduct<T, 64, 64, 64, 4, 1, 3, kAlong, kMajorB, false>>(tiles, parameters,
                                                                                               context);
    default:
      return wrong_indexed_tile();
  }
}

template <class T>
Status launch_indexed_project(IndexedTile tile, bool across, int64_t tiles,
                              const IndexedProjectMmaParameters& parameters, const Context& context) {
  return across ? launch_indexed_project_tile<T, Major::kAcrossSum>(tile, tiles, parameters, context)
                : launch_indexed_project_tile<T, Major::kAlongSum>(tile, tiles, parameters, context);
}

template <class Product>
Status start_indexed_linear(const IndexedLinearMmaParameters& parameters, const Context& context) {
  return start_indexed<Product>(indexed_linear_mma_kernel<Product>,
                                parameters.tiles_bound * tiles_of(parameters.output.out, Product::kTileN), parameters,
                                context);
}

template <class T, Major kMajorB>
Status launch_indexed_linear_tile(IndexedTile tile, const IndexedLinearMmaParameters& parameters,
                                  const Context& context) {
  constexpr Major kAlong = Major::kAlongSum;
  switch (tile) {
    case IndexedTile::k16x64x64Linear:
      return start_indexed_linear<TileProduct<T, 16, 64, 64, 1, 4, 4, kAlong, kMajorB>>(parameters, context);
    case IndexedTile::k64x64x32:
      return start_indexed_linear<TileProduct<T, 64, 64, 32, 2, 2, 4, kAlong, kMajorB>>(parameters, context);
    case IndexedTile::kNarrow64x64x32:
      return start_indexed_linear<TileProduct<T, 64, 64, 32, 2, 2, 4, kAlong, kMajorB, false>>(parameters, context);
    default:
      return wrong_indexed_tile();
  }
}

template <class T>
Status launch_indexed_linear(IndexedTile tile, bool across, const IndexedLinearMmaParameters& parameters,
                             const Context& context) {
  return across ? launch_indexed_linear_tile<T, Major::kAcrossSum>(tile, parameters, context)
                : launch_indexed_linear_tile<T, Major::kAlongSum>(tile, parameters, context);
}

template <class Product>
Status start_indexed_grad(const IndexedGradMmaParameters& parameters, const Context& context) {
  return start_indexed<Product>(indexed_grad_mma_kernel<Product>,
                                tiles_of(parameters.cols, Product::kTileM) * tiles_of(parameters.rank, Product::kTileN) *
                                    parameters.routed.adapters,
                                parameters, context);
}

template <class T>
Status launch_indexed_grad(IndexedTile tile, const IndexedGradMmaParameters& parameters, const Context& context) {
  constexpr Major kAcross = Major::kAcrossSum;
  switch (tile) {
    case IndexedTile::k64x16x64:
      return start_indexed_grad<TileProduct<T, 64, 16, 64, 4, 1, 4, kAcross, kAcross>>(parameters, context);
    case IndexedTile::k64x64x64:
      return start_indexed_grad<TileProduct<T, 64, 64, 64, 4, 1, 4, kAcross, kAcross>>(parameters, context);
    case IndexedTile::kNarrow64x64x64:
      return start_indexed_grad<TileProduct<T, 64, 64, 64, 4, 1, 3, kAcross, kAcross, false>>(parameters, context);
    default:
      return wrong_indexed_tile();
  }
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
