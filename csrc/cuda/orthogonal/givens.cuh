// y = rounds of plane rotations of x, and its gradient.
//
// Floor: x and y once (the backward pass: y, its gradient and dx once); 4 multiply-adds a pair and round (backward: 10).
// Twelve rounds of 4096 bfloat16 features are 4 bytes and 24 multiply-adds an element: memory's, on an H100 and up.
// Idea: a tile of rows lies in shared memory as float. A pass (givens_passes.cuh) takes up to four rounds (backward:
// three) at once: a thread reads a group of 16 columns that these rounds do not leave, rotates it in registers, writes it
// back, and does the same to the same columns of the tile's other rows with the same cosines and sines. So shared memory
// is read and written once a pass, and the coefficients come from the cache once a tile. Rows that shared memory cannot
// hold go through global memory, a launch a pass.
//
// The backward pass walks y and its gradient g back together; d angle = sum over rows of g_j y_i - g_i y_j is the same on
// either side of the rotation. Each block adds its tiles in order and has sums of its own; a second kernel adds those.
#pragma once

#include <type_traits>

#include "cuda/orthogonal/givens_passes.cuh"
#include "device/element_view.cuh"
#include "device/launch.cuh"
#include "device/smem.cuh"
#include "device/split_sum.cuh"
#include "device/vector.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kGivensThreads = 256;

/// A matrix whose rows are contiguous.
template <class Pointer>
struct Rows {
  Pointer data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::kFloat32;
  bool wide = false;  // 16-byte accesses are aligned, and a row is whole ones

  Rows() = default;
  template <class View>
  explicit Rows(const View& view) : data(view.data), stride(view.row_stride), dtype(view.dtype) {
    const size_t bytes = size_of(view.dtype);
    wide = (reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.row_stride) * bytes | uintptr_t(view.cols) * bytes) %
               16 == 0;
  }
};

/// cos and sin of every angle; the inverse rotates by -angle. And zeros, to which the backward pass adds.
struct GivensTableParameters {
  const float* angles = nullptr;
  int64_t angles_stride = 0;
  int64_t rounds = 0, pairs = 0;
  bool inverse = false;
  float2* table = nullptr;  // [rounds, pairs], rounds in the order of application
  float* partials = nullptr;
  int64_t partials_count = 0;
};

__global__ void __launch_bounds__(kGivensThreads) givens_table_kernel(const GivensTableParameters parameters) {
  const int64_t index = int64_t(blockIdx.x) * kGivensThreads + threadIdx.x;
  const int64_t threads = int64_t(gridDim.x) * kGivensThreads;
  for (int64_t i = index; i < parameters.partials_count; i += threads) parameters.partials[i] = 0.0f;
  if (index >= parameters.rounds * parameters.pairs) return;
  const int64_t round = index / parameters.pairs, pair = index - round * parameters.pairs;
  const int64_t row = parameters.inverse ? parameters.rounds - 1 - round : round;
  const float angle = parameters.angles[row * parameters.angles_stride + pair];
  float2 entry;
  entry.x = cosf(angle), entry.y = parameters.inverse ? -sinf(angle) : sinf(angle);
  store_vector(parameters.table + index, entry);
}

/// Where a row's column lies in shared memory: a gap after every 32, so that threads 16 columns apart meet no bank twice.
__device__ __forceinline__ int padded(int column) { return column + column / 32; }
inline int64_t padded_floats(int64_t features) { return features + features / 32; }

struct PaddedRow {
  float* data;
  __device__ __forceinline__ float& operator[](int column) const { return data[padded(column)]; }
};

/// A thread's group of 2^kRounds columns with the coefficients of its pairs, and what walks them.
template <int kRounds>
struct GroupRotation {
  static constexpr int kMembers = 1 << kRounds, kPairs = kMembers / 2;
  int first;                 // the column of member 0
  int offset[kRounds];       // between the members of a pair
  int features;
  float cos[kRounds][kPairs], sin[kRounds][kPairs];
  int table_index[kRounds];  // of a round's first pair

  /// The member that is the first of a round's pair.
  __device__ __forceinline__ static constexpr int first_member(int round, int pair) {
    return (pair >> round << (round + 1)) | (pair & ((1 << round) - 1));
  }

  __device__ __forceinline__ int column(int member) const {
    int column = first;
#pragma unroll
    for (int k = 0; k < kRounds; ++k) column += (member >> k & 1) * offset[k];
    return column;
  }

  /// The pair's number within its round.
  __device__ __forceinline__ static int pair_number(const GivensPass& pass, const GivensGroup& group, int round,
                                                    int member) {
    int q = group.q;
#pragma unroll
    for (int k = 0; k < kRounds; ++k) q += (member >> k & 1) << pass.exponent[k];
    const int e = pass.exponent[round];
    return ((q >> (e + 1) << e) | (q & ((1 << e) - 1))) * pass.unit + group.r;
  }

  __device__ __forceinline__ GroupRotation(const GivensPass& pass, const GivensGroup& group, const float2* table,
                                           int64_t pairs, int features_)
      : first(group.q * pass.unit + group.r), features(features_) {
#pragma unroll
    for (int k = 0; k < kRounds; ++k) offset[k] = pass.unit << pass.exponent[k];
#pragma unroll
    for (int k = 0; k < kRounds; ++k)
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int member = first_member(k, pair);
        cos[k][pair] = 1.0f, sin[k][pair] = 0.0f;
        if (column(member) + offset[k] >= features) continue;  // no partner
        const float2 entry =
            load_vector<float2>(table + (pass.first_round + k) * pairs + pair_number(pass, group, k, member));
        cos[k][pair] = entry.x, sin[k][pair] = entry.y;
      }
  }

  template <class Row>
  __device__ __forceinline__ void load(const Row& row, float (&value)[kMembers]) const {
#pragma unroll
    for (int m = 0; m < kMembers; ++m) value[m] = column(m) < features ? row[column(m)] : 0.0f;
  }

  template <class Row>
  __device__ __forceinline__ void store(const Row& row, const float (&value)[kMembers]) const {
#pragma unroll
    for (int m = 0; m < kMembers; ++m)
      if (column(m) < features) row[column(m)] = value[m];
  }

  __device__ __forceinline__ void rotate(float (&value)[kMembers]) const {
#pragma unroll
    for (int k = 0; k < kRounds; ++k)
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int i = first_member(k, pair), j = i | 1 << k;
        const float a = value[i], b = value[j];
        value[i] = cos[k][pair] * a - sin[k][pair] * b;
        value[j] = sin[k][pair] * a + cos[k][pair] * b;
      }
  }

  /// y and its gradient before the rounds, from what they are after; `sums` collects d angle.
  __device__ __forceinline__ void undo(float (&y)[kMembers], float (&g)[kMembers], float (&sums)[kRounds][kPairs]) const {
#pragma unroll
    for (int k = kRounds - 1; k >= 0; --k)
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int i = first_member(k, pair), j = i | 1 << k;
        const float c = cos[k][pair], s = sin[k][pair];
        sums[k][pair] += g[j] * y[i] - g[i] * y[j];
        const float yi = y[i], gi = g[i];
        y[i] = c * yi + s * y[j], y[j] = c * y[j] - s * yi;
        g[i] = c * gi + s * g[j], g[j] = c * g[j] - s * gi;
      }
  }
};

/// Calls body with the number of rounds of a pass as a constant.
template <int kMost, class Body>
__device__ __forceinline__ void with_rounds(int rounds, const Body& body) {
  if constexpr (kMost > 1) {
    if (rounds < kMost) return with_rounds<kMost - 1>(rounds, body);
  }
  body(std::integral_constant<int, kMost>());
}

// --- Rows between global and shared memory.

template <class T>
__device__ __forceinline__ void copy_in(const Rows<const void*>& source, int64_t row, int features, float* tile) {
  const T* const from = static_cast<const T*>(source.data) + row * source.stride;
  constexpr int kElements = 16 / int(sizeof(T));
  if (source.wide) {
    for (int column = int(threadIdx.x) * kElements; column < features; column += kGivensThreads * kElements) {
      const uint4 words = load_vector<uint4>(from + column);
      T values[kElements];
      memcpy(values, &words, sizeof(words));
#pragma unroll
      for (int i = 0; i < kElements; ++i) tile[padded(column + i)] = to_float(values[i]);
    }
  } else {
    for (int column = int(threadIdx.x); column < features; column += kGivensThreads)
      tile[padded(column)] = to_float(from[column]);
  }
}

template <class T>
__device__ __forceinline__ void copy_out(const float* tile, const Rows<void*>& destination, int64_t row, int features) {
  T* const to = static_cast<T*>(destination.data) + row * destination.stride;
  constexpr int kElements = 16 / int(sizeof(T));
  if (destination.wide) {
    for (int column = int(threadIdx.x) * kElements; column < features; column += kGivensThreads * kElements) {
      T values[kElements];
#pragma unroll
      for (int i = 0; i < kElements; ++i) values[i] = from_float<T>(tile[padded(column + i)]);
      uint4 words;
      memcpy(&words, values, sizeof(words));
      store_vector(to + column, words);
    }
  } else {
    for (int column = int(threadIdx.x); column < features; column += kGivensThreads)
      to[column] = from_float<T>(tile[padded(column)]);
  }
}

__device__ __forceinline__ void copy_in(const Rows<const void*>& source, int64_t row, int features, float* tile) {
  if (source.dtype == DType::kFloat32) return copy_in<float>(source, row, features, tile);
  if (source.dtype == DType::kBFloat16) return copy_in<BFloat16>(source, row, features, tile);
  copy_in<Float16>(source, row, features, tile);
}

__device__ __forceinline__ void copy_out(const float* tile, const Rows<void*>& destination, int64_t row, int features) {
  if (destination.dtype == DType::kFloat32) return copy_out<float>(tile, destination, row, features);
  if (destination.dtype == DType::kBFloat16) return copy_out<BFloat16>(tile, destination, row, features);
  copy_out<Float16>(tile, destination, row, features);
}

// --- A tile of rows in shared memory, all passes in one launch.

struct GivensTileParameters {
  Rows<const void*> x;         // backward: y
  Rows<const void*> grad;      // backward only
  Rows<void*> y;               // backward: dx
  Rows<void*> y_before;        // backward: y before these passes; may be absent
  int64_t rows = 0;
  int features = 0, tile_rows = 0;
  int64_t row_floats = 0;      // of shared memory
  const float2* table = nullptr;
  int64_t pairs = 0;           // of a round of the table
  float* partials = nullptr;   // [blocks, rounds, pairs]
  int64_t partials_stride = 0; // of a block
  GivensPasses passes;
};

template <int kRounds>
__device__ __forceinline__ void rotate_tile(const GivensTileParameters& parameters, const GivensPass& pass, float* tile,
                                            int rows) {
#pragma unroll 1
  for (int index = int(threadIdx.x); index < pass.groups; index += kGivensThreads) {
    const GroupRotation<kRounds> rotation(pass, GivensGroup(pass, index), parameters.table, parameters.pairs,
                                          parameters.features);
#pragma unroll 1
    for (int row = 0; row < rows; ++row) {
      const PaddedRow values{tile + row * parameters.row_floats};
      float value[1 << kRounds];
      rotation.load(values, value);
      rotation.rotate(value);
      rotation.store(values, value);
    }
  }
}

__global__ void __launch_bounds__(kGivensThreads, 2) givens_tile_kernel(const GivensTileParameters parameters) {
  float* const tile = dynamic_shared<float>();
  const int64_t first = int64_t(blockIdx.x) * parameters.tile_rows, left = parameters.rows - first;
  const int rows = left < parameters.tile_rows ? int(left) : parameters.tile_rows, features = parameters.features;
  for (int row = 0; row < rows; ++row)
    copy_in(parameters.x, first + row, features, tile + row * parameters.row_floats);
  __syncthreads();
#pragma unroll 1
  for (int index = 0; index < parameters.passes.count; ++index) {
    const GivensPass& pass = parameters.passes.pass[index];
    with_rounds<kMostRounds>(pass.rounds, [&](auto rounds) {
      rotate_tile<decltype(rounds)::value>(parameters, pass, tile, rows);
    });
    __syncthreads();
  }
  for (int row = 0; row < rows; ++row)
    copy_out(tile + row * parameters.row_floats, parameters.y, first + row, features);
}

/// Adds a group's sums to this block's partials.
template <int kRounds>
__device__ __forceinline__ void add_to_partials(const GivensPass& pass, const GivensGroup& group,
                                                const GroupRotation<kRounds>& rotation,
                                                const float (&sums)[kRounds][(1 << kRounds) / 2], float* partials,
                                                int64_t pairs) {
#pragma unroll
  for (int k = 0; k < kRounds; ++k)
#pragma unroll
    for (int pair = 0; pair < (1 << kRounds) / 2; ++pair) {
      const int member = GroupRotation<kRounds>::first_member(k, pair);
      if (rotation.column(member) + rotation.offset[k] >= rotation.features) continue;
      partials[(pass.first_round + k) * pairs + GroupRotation<kRounds>::pair_number(pass, group, k, member)] +=
          sums[k][pair];
    }
}

constexpr int kMostBackwardRounds = 3;  // more do not leave registers for two rows and the sums

template <int kRounds>
__device__ __forceinline__ void undo_tile(const GivensTileParameters& parameters, const GivensPass& pass, float* y_tile,
                                          float* g_tile, int rows, float* partials) {
#pragma unroll 1
  for (int index = int(threadIdx.x); index < pass.groups; index += kGivensThreads) {
    const GivensGroup group(pass, index);
    const GroupRotation<kRounds> rotation(pass, group, parameters.table, parameters.pairs, parameters.features);
    float sums[kRounds][(1 << kRounds) / 2] = {};
#pragma unroll 1
    for (int row = 0; row < rows; ++row) {
      const PaddedRow y_row{y_tile + row * parameters.row_floats}, g_row{g_tile + row * parameters.row_floats};
      float y[1 << kRounds], g[1 << kRounds];
      rotation.load(y_row, y);
      rotation.load(g_row, g);
      rotation.undo(y, g, sums);
      rotation.store(y_row, y);
      rotation.store(g_row, g);
    }
    add_to_partials<kRounds>(pass, group, rotation, sums, partials, parameters.pairs);
  }
}

__global__ void __launch_bounds__(kGivensThreads, 2) givens_tile_backward_kernel(const GivensTileParameters parameters) {
  float *const y_tile = dynamic_shared<float>(), *const g_tile = y_tile + parameters.tile_rows * parameters.row_floats;
  const int features = parameters.features;
  float* const partials = parameters.partials + int64_t(blockIdx.x) * parameters.partials_stride;
#pragma unroll 1
  for (int64_t first = int64_t(blockIdx.x) * parameters.tile_rows; first < parameters.rows;
       first += int64_t(gridDim.x) * parameters.tile_rows) {
    const int64_t left = parameters.rows - first;
    const int rows = left < parameters.tile_rows ? int(left) : parameters.tile_rows;
    for (int row = 0; row < rows; ++row) {
      copy_in(parameters.x, first + row, features, y_tile + row * parameters.row_floats);
      copy_in(parameters.grad, first + row, features, g_tile + row * parameters.row_floats);
    }
    __syncthreads();
#pragma unroll 1
    for (int index = parameters.passes.count - 1; index >= 0; --index) {
      const GivensPass& pass = parameters.passes.pass[index];
      with_rounds<kMostBackwardRounds>(pass.rounds, [&](auto rounds) {
        undo_tile<decltype(rounds)::value>(parameters, pass, y_tile, g_tile, rows, partials);
      });
      __syncthreads();
    }
    for (int row = 0; row < rows; ++row) {
      copy_out(g_tile + row * parameters.row_floats, parameters.y, first + row, features);
      if (parameters.y_before.data != nullptr)
        copy_out(y_tile + row * parameters.row_floats, parameters.y_before, first + row, features);
    }
    __syncthreads();  // the next tile comes into the same memory
  }
}

// --- Rows in global memory, a launch a pass. Blocks of one column take all groups of their rows.

struct GivensPassParameters {
  Rows<const void*> x, grad;
  Rows<void*> y, y_before;     // backward: dx and y before the pass; y_before may be absent
  int64_t rows = 0, rows_a_block = 0;
  int features = 0;
  const float2* table = nullptr;
  int64_t pairs = 0;
  float* partials = nullptr;
  int64_t partials_stride = 0;
  GivensPass pass;
};

/// A row of any dtype, read and written as float.
template <class Pointer>
struct AnyRow {
  const Rows<Pointer>& rows;
  int64_t first;
  struct Element {
    const AnyRow& row;
    int column;
    __device__ __forceinline__ operator float() const {
      return load_element(row.rows.data, row.rows.dtype, row.first + column);
    }
    __device__ __forceinline__ void operator=(float value) const {
      store_element(row.rows.data, row.rows.dtype, row.first + column, value);
    }
  };
  __device__ __forceinline__ AnyRow(const Rows<Pointer>& rows_, int64_t row) : rows(rows_), first(row * rows_.stride) {}
  __device__ __forceinline__ Element operator[](int column) const { return {*this, column}; }
};

template <int kRounds>
__device__ __forceinline__ void rotate_rows(const GivensPassParameters& parameters, const GivensGroup& group,
                                            int64_t begin, int64_t end) {
  const GroupRotation<kRounds> rotation(parameters.pass, group, parameters.table, parameters.pairs, parameters.features);
#pragma unroll 1
  for (int64_t row = begin; row < end; ++row) {
    float value[1 << kRounds];
    rotation.load(AnyRow<const void*>(parameters.x, row), value);
    rotation.rotate(value);
    rotation.store(AnyRow<void*>(parameters.y, row), value);
  }
}

template <int kRounds>
__device__ __forceinline__ void undo_rows(const GivensPassParameters& parameters, const GivensGroup& group,
                                          int64_t begin, int64_t end) {
  const GroupRotation<kRounds> rotation(parameters.pass, group, parameters.table, parameters.pairs, parameters.features);
  float sums[kRounds][(1 << kRounds) / 2] = {};
#pragma unroll 1
  for (int64_t row = begin; row < end; ++row) {
    float y[1 << kRounds], g[1 << kRounds];
    rotation.load(AnyRow<const void*>(parameters.x, row), y);
    rotation.load(AnyRow<const void*>(parameters.grad, row), g);
    rotation.undo(y, g, sums);
    if (parameters.y_before.data != nullptr) rotation.store(AnyRow<void*>(parameters.y_before, row), y);
    rotation.store(AnyRow<void*>(parameters.y, row), g);
  }
  add_to_partials<kRounds>(parameters.pass, group, rotation, sums,
                           parameters.partials + int64_t(blockIdx.y) * parameters.partials_stride, parameters.pairs);
}

template <bool kBackward>
__global__ void __launch_bounds__(kGivensThreads) givens_pass_kernel(const GivensPassParameters parameters) {
  const GivensPass& pass = parameters.pass;
  const int64_t begin = int64_t(blockIdx.y) * parameters.rows_a_block;
  const int64_t end = begin + parameters.rows_a_block < parameters.rows ? begin + parameters.rows_a_block : parameters.rows;
#pragma unroll 1
  for (int index = int(blockIdx.x) * kGivensThreads + int(threadIdx.x); index < pass.groups;
       index += int(gridDim.x) * kGivensThreads) {
    const GivensGroup group(pass, index);
    with_rounds<kBackward ? kMostBackwardRounds : kMostRounds>(pass.rounds, [&](auto rounds) {
      if constexpr (kBackward)
        undo_rows<decltype(rounds)::value>(parameters, group, begin, end);
      else
        rotate_rows<decltype(rounds)::value>(parameters, group, begin, end);
    });
  }
}

// --- d angles, from the sums of blocks (device/split_sum.cuh).

struct AngleGradOutput {
  MutableElementView dangles;
  int rounds = 0;
  bool inverse = false;

  __device__ __forceinline__ void write(int round, int pair, float sum) const {
    dangles.store(inverse ? rounds - 1 - round : round, pair, inverse ? -sum : sum);
  }
};

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
