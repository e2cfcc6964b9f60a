// Where the sums of the indexed products go: rows scattered to the caller's order, in float, rounded once.
#pragma once

#include "cuda/lowrank/linear_output.cuh"
#include "device/element_view.cuh"
#include "lrk/lowrank_indexed.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// What a kernel knows of a Routing.
struct RoutedRows {
  const RowTile* tiles = nullptr;
  const int32_t *order = nullptr, *offsets = nullptr, *ranks = nullptr;
  int adapters = 0;

  RoutedRows() = default;
  explicit RoutedRows(const Routing& routing)
      : tiles(routing.tiles), order(routing.order), offsets(routing.offsets), ranks(routing.ranks),
        adapters(int(routing.adapters)) {}
};

/// s = scales[i] * p; p itself is stored too when it is wanted. Zero for rows without an adapter, whatever the scales.
struct IndexedProjectOutput {
  MutableElementView s, projected;  // [rows, rank]; projected may be absent
  ElementView scales;               // [adapters, 1]; may be absent
  const int32_t* segments_of_rows = nullptr;
  int adapters = 0;

  __device__ __forceinline__ void write(int row, int col, float sum) const {
    if (projected.data != nullptr) projected.store(row, col, sum);
    if (scales.data != nullptr) {
      const int segment = segments_of_rows[row];
      if (segment < adapters) sum *= scales.load(segment, 0);
    }
    s.store(row, col, sum);
  }
};

/// LinearOutput for the rows of one tile.
struct RoutedLinearOutput {
  const LinearOutput& output;
  const int32_t* order;  // of the tile's rows
  int rows;
  bool wide;

  __device__ __forceinline__ RoutedLinearOutput(const LinearOutput& output_, const int32_t* order_, int rows_)
      : output(output_), order(order_), rows(rows_), wide(output_.wide) {}

  /// Rows past the tile's end are rows past the output's.
  __device__ __forceinline__ int row_of(int row) const { return row < rows ? order[row] : output.rows; }
  __device__ __forceinline__ void write(int row, int col, float value) const { output.write(row_of(row), col, value); }
  __device__ __forceinline__ void load_bias(int col, float (&values)[8]) const { output.load_bias(col, values); }
  template <class T>
  __device__ __forceinline__ uint4 load_base(int row, int col) const {
    return output.load_base<T>(row_of(row), col);
  }
  template <class T>
  __device__ __forceinline__ void write_chunk(int row, int col, const float4& low, const float4& high,
                                              const uint4& base_words, const float (&bias_values)[8]) const {
    output.write_chunk<T>(row_of(row), col, low, high, base_words, bias_values);
  }
};

/// grads[i] = scales[i] * the sum, exactly zero from the adapter's rank on.
struct IndexedGradOutput {
  MutableElementView grads;  // of adapter 0, [rank, cols]
  int64_t stack_stride = 0;
  ElementView scales;        // [adapters, 1]; may be absent

  __device__ __forceinline__ void write(int adapter, int used_ranks, int rank, int col, float sum) const {
    if (scales.data != nullptr) sum *= scales.load(adapter, 0);
    store_element(grads.data, grads.dtype,
                  adapter * stack_stride + rank * grads.row_stride + col * grads.col_stride,
                  rank < used_ranks ? sum : 0.0f);
  }
};

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
