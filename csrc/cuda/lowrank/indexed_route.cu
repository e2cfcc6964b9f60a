#include "cuda/lowrank/indexed_route.cuh"

#include <algorithm>

#include "cuda/lowrank/operands.cuh"
#include "device/smem.cuh"
#include "lrk/plan.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

constexpr int kRouteThreads = 256, kRouteWarps = kRouteThreads / 32;
constexpr int64_t kSmallestRun = 256, kMostWarps = 128;  // rows a warp counts, and warps that count
constexpr unsigned kAll = 0xffffffffu;

enum RoutePhase : int { kCount = 1, kScan = 2, kPlace = 4 };

struct RouteParameters {
  const void* index = nullptr;
  bool index_is_int64 = false;
  const int64_t* ranks = nullptr;
  int rows = 0, adapters = 0, rank = 0;
  int tile_rows = 0, tiles_bound = 0;
  int warps = 0, run = 0;             // rows of a warp
  int* counters = nullptr;            // [warps][segments]
  int* tile_offsets = nullptr;        // [segments + 1]
  int32_t *order = nullptr, *offsets = nullptr, *segments_of_rows = nullptr, *ranks_out = nullptr;
  RowTile* tiles = nullptr;

  __device__ __forceinline__ int segments() const { return adapters + 2; }

  __device__ __forceinline__ int segment_of(int row) const {
    const int64_t value = index_is_int64 ? static_cast<const int64_t*>(index)[row]
                                         : int64_t(static_cast<const int32_t*>(index)[row]);
    return value == -1 ? adapters : value < 0 || value >= adapters ? adapters + 1 : int(value);
  }
};

__device__ __forceinline__ int set_bits(unsigned bits) {
  bits -= bits >> 1 & 0x55555555u;
  bits = (bits & 0x33333333u) + (bits >> 2 & 0x33333333u);
  return int(((bits + (bits >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}

/// Visits a warp's rows, 32 at a time, as visit(row, segment, rows before it in the group that shares its segment,
/// whether it is the first of the group, the group's size). All lanes visit; row is -1 past the end.
template <class Visit>
__device__ __forceinline__ void visit_rows(const RouteParameters& parameters, int warp, const Visit& visit) {
  const int lane = int(threadIdx.x) % 32, begin = warp * parameters.run;
  const int end = parameters.rows - begin > parameters.run ? begin + parameters.run : parameters.rows;
#pragma unroll 1
  for (int first = begin; first < end; first += 32) {
    const int row = first + lane < end ? first + lane : -1;
    const int segment = row >= 0 ? parameters.segment_of(row) : -1;
    const unsigned group = __match_any_sync(kAll, segment), before = group & ((1u << lane) - 1);
    visit(row, segment, set_bits(before), before == 0, set_bits(group));
    __syncwarp();
  }
}

__device__ __forceinline__ void count_rows(const RouteParameters& parameters, int warp) {
  int* const counters = parameters.counters + int64_t(warp) * parameters.segments();
  for (int segment = int(threadIdx.x) % 32; segment < parameters.segments(); segment += 32) counters[segment] = 0;
  __syncwarp();
  visit_rows(parameters, warp, [&](int row, int segment, int, bool is_first, int size) {
    if (row < 0) return;
    parameters.segments_of_rows[row] = segment;
    if (is_first) counters[segment] += size;
  });
}

__device__ __forceinline__ void place_rows(const RouteParameters& parameters, int warp) {
  int* const counters = parameters.counters + int64_t(warp) * parameters.segments();
  visit_rows(parameters, warp, [&](int row, int segment, int before, bool is_first, int size) {
    const int position = row >= 0 ? parameters.offsets[segment] + counters[segment] : 0;
    if (row >= 0) parameters.order[position + before] = row;
    __syncwarp();  // all have read the counter that the first one moves on
    if (row >= 0 && is_first) counters[segment] += size;
  });
}

/// The sum of `value` over the threads before this one; `total` becomes that over all. Ends with a barrier.
__device__ __forceinline__ int scan_block(int value, int* shared, int& total) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAll, sum, unsigned(step));
    if (lane >= step) sum += other;
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
#pragma unroll
  for (int i = 0; i < kRouteWarps; ++i) {
    if (i == warp) before = total;
    total += shared[i];
  }
  __syncthreads();
  return before + sum - value;
}

/// Counters become sums over the warps before; then where segments and their tiles begin, and the tiles themselves.
__device__ __forceinline__ void scan_counters(const RouteParameters& parameters) {
  int* const shared = dynamic_shared<int>();
  const int thread = int(threadIdx.x), segments = parameters.segments();
  int first_row = 0, first_tile = 0;
#pragma unroll 1
  for (int base = 0; base < segments; base += kRouteThreads) {
    const int segment = base + thread;
    int rows = 0;
    if (segment < segments) {
#pragma unroll 4
      for (int warp = 0; warp < parameters.warps; ++warp) {
        int& counter = parameters.counters[int64_t(warp) * segments + segment];
        const int count = counter;
        counter = rows, rows += count;
      }
    }
    int all_rows, all_tiles;
    const int row = first_row + scan_block(rows, shared, all_rows);
    const int tile = first_tile + scan_block((rows + parameters.tile_rows - 1) / parameters.tile_rows, shared, all_tiles);
    if (segment < segments) parameters.offsets[segment] = row, parameters.tile_offsets[segment] = tile;
    if (segment < parameters.adapters) {
      const int64_t rank = parameters.ranks != nullptr ? parameters.ranks[segment] : parameters.rank;
      parameters.ranks_out[segment] = int(rank < 0 ? 0 : rank > parameters.rank ? parameters.rank : rank);
    }
    first_row += all_rows, first_tile += all_tiles;
  }
  if (thread == 0) parameters.offsets[segments] = first_row, parameters.tile_offsets[segments] = first_tile;
  __syncthreads();

#pragma unroll 1
  for (int index = thread; index < parameters.tiles_bound; index += kRouteThreads) {
    RowTile tile;
    if (index < first_tile) {
      int low = 0, high = segments;  // tile_offsets[low] <= index < tile_offsets[high]
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (parameters.tile_offsets[middle] <= index) low = middle; else high = middle;
      }
      const int before = (index - parameters.tile_offsets[low]) * parameters.tile_rows;
      const int left = parameters.offsets[low + 1] - parameters.offsets[low] - before;
      tile.segment = low, tile.first = parameters.offsets[low] + before;
      tile.rows = left < parameters.tile_rows ? left : parameters.tile_rows;
      tile.rank = low < parameters.adapters ? parameters.ranks_out[low] : 0;
    }
    parameters.tiles[index] = tile;
  }
}

__global__ void __launch_bounds__(kRouteThreads) route_kernel(const RouteParameters parameters, int phases) {
  const int warp = int(blockIdx.x) * kRouteWarps + int(threadIdx.x) / 32;
  if ((phases & kCount) != 0 && warp < parameters.warps) count_rows(parameters, warp);
  __syncthreads();
  if ((phases & kScan) != 0) scan_counters(parameters);
  __syncthreads();
  if ((phases & kPlace) != 0 && warp < parameters.warps) place_rows(parameters, warp);
}

}  // namespace

Status run_route(const RouteArgs& args, const Context& context, Routing& routing) {
  const int64_t segments = args.adapters + 2, bound = indexed_tiles_bound(args.rows, args.adapters);
  if (!fits_int(args.rows) || !fits_int(segments) || !fits_int(args.rank))
    return Status::unsupported("lowrank_linear_indexed: an extent is too large");
  RouteParameters parameters;
  parameters.index = args.index, parameters.index_is_int64 = args.index_is_int64, parameters.ranks = args.ranks;
  parameters.rows = int(args.rows), parameters.adapters = int(args.adapters), parameters.rank = int(args.rank);
  parameters.tile_rows = int(indexed_tile_rows(args.rows, args.adapters)), parameters.tiles_bound = int(bound);
  parameters.run = int(round_up(std::max(kSmallestRun, (args.rows + kMostWarps - 1) / kMostWarps), 32));
  parameters.warps = int(std::max<int64_t>(1, (args.rows + parameters.run - 1) / parameters.run));

  Workspace workspace;
  const size_t order = workspace.reserve(size_t(args.rows) * 4), of_rows = workspace.reserve(size_t(args.rows) * 4);
  const size_t offsets = workspace.reserve(size_t(segments + 1) * 4), ranks = workspace.reserve(size_t(args.adapters) * 4);
  const size_t tile_offsets = workspace.reserve(size_t(segments + 1) * 4);
  const size_t tiles = workspace.reserve(size_t(bound) * sizeof(RowTile));
  const size_t counters = workspace.reserve(size_t(parameters.warps) * size_t(segments) * 4);
  GlobalMemory memory;
  memory.reads(args.index, size_t(args.rows) * (args.index_is_int64 ? 8 : 4), "index");
  memory.reads(args.ranks, size_t(args.adapters) * 8, "ranks");
  if (Status status = workspace.allocate("lowrank_linear_indexed", context, memory); !status.ok()) return status;
  parameters.order = static_cast<int32_t*>(workspace.at(order));
  parameters.segments_of_rows = static_cast<int32_t*>(workspace.at(of_rows));
  parameters.offsets = static_cast<int32_t*>(workspace.at(offsets));
  parameters.ranks_out = static_cast<int32_t*>(workspace.at(ranks));
  parameters.tile_offsets = static_cast<int*>(workspace.at(tile_offsets));
  parameters.tiles = static_cast<RowTile*>(workspace.at(tiles));
  parameters.counters = static_cast<int*>(workspace.at(counters));

  record_dispatch("lowrank_indexed_route");
  const int64_t blocks = (parameters.warps + kRouteWarps - 1) / kRouteWarps;
  const auto start = [&](int64_t grid, int phases) {
    return launch(route_kernel, LaunchConfig(dim3(unsigned(grid)), dim3(kRouteThreads), kRouteWarps * 4, context),
                  parameters, phases);
  };
  if (blocks == 1) {
    if (Status status = start(1, kCount | kScan | kPlace); !status.ok()) return status;
  } else {
    if (Status status = start(blocks, kCount); !status.ok()) return status;
    if (Status status = start(1, kScan); !status.ok()) return status;
    if (Status status = start(blocks, kPlace); !status.ok()) return status;
  }
  routing.rows = args.rows, routing.adapters = args.adapters, routing.rank = args.rank;
  routing.order = parameters.order, routing.offsets = parameters.offsets, routing.ranks = parameters.ranks_out;
  routing.segments_of_rows = parameters.segments_of_rows, routing.tiles = parameters.tiles;
  routing.tile_rows = parameters.tile_rows, routing.tiles_bound = bound;
  return {};
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
