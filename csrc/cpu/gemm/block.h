// Pieces every driver of the inner kernels shares: views of sub-blocks, balanced splits, tasks, block products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "cpu/gemm/kernels.h"
#include "lrk/context.h"

namespace lrk::cpu {

/// What a task keeps on its stack: one block of C, and one block of staged operands.
constexpr int64_t kBlockRows = 112;
constexpr int64_t kBlockCols = 256;
constexpr int64_t kStagedDepth = 128;

inline int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

/// The size of each part when `total` is cut into the fewest parts of at most `largest`, all about equal.
inline int64_t balanced_part(int64_t total, int64_t largest) {
  return total <= 0 ? 1 : ceil_div(total, ceil_div(total, largest));
}

inline Source source_at(const MatrixView& view, int64_t row, int64_t col) {
  const int64_t offset = (row * view.row_stride + col * view.col_stride) * int64_t(size_of(view.dtype));
  return {static_cast<const char*>(view.data) + offset, view.dtype, view.row_stride, view.col_stride};
}

inline Destination destination_at(const MutableMatrixView& view, int64_t row, int64_t col) {
  const int64_t offset = (row * view.row_stride + col * view.col_stride) * int64_t(size_of(view.dtype));
  return {static_cast<char*>(view.data) + offset, view.dtype, view.row_stride, view.col_stride};
}

/// Runs body over [0, tasks): on this thread when there is too little to do for others to be worth waking.
inline void run_tasks(const Context& context, int64_t tasks, int64_t multiply_adds,
                      const std::function<void(int64_t, int64_t)>& body) {
  constexpr int64_t kWorthWaking = 1 << 18;
  if (tasks <= 0) return;
  if (tasks == 1 || multiply_adds < kWorthWaking) {
    body(0, tasks);
  } else {
    context.parallel_for(tasks, body);
  }
}

inline Status out_of_memory(const char* what, size_t bytes) {
  return {StatusCode::kOutOfMemory,
          std::string(what) + ": could not allocate " + std::to_string(bytes) + " bytes of workspace"};
}

/// Panels of `height` rows of A and of tile_cols columns of B, all `depth` long.
template <class T>
struct Panels {
  const T* data;
  int64_t panel_stride;  // between the first elements of two panels
  int64_t depth_stride;  // between k and k + 1 within a panel
};

/// c (rows x cols rounded up to whole panels) = a b, or += when `accumulate`.
template <class T>
void multiply_block(const Kernels<T>& kernels, const Panels<T>& a, int64_t rows, const Panels<T>& b, int64_t cols,
                    int64_t depth, T* c, int64_t c_stride, bool accumulate) {
  const int64_t height = a.depth_stride;
  for (int64_t i = 0, panel = 0; i < rows; i += height, ++panel) {
    const T* a_panel = a.data + panel * a.panel_stride;
    const T* b_panel = b.data;
    // Each tile asks for its share of the next panel of A, which comes from farther away than B.
    const bool last = i + height >= rows;
    const int64_t share = last ? 0 : ceil_div(depth * height, ceil_div(cols, kernels.tile_cols));
    const T* fetch = last ? a_panel : a_panel + a.panel_stride;
    for (int64_t j = 0; j < cols; j += kernels.tile_cols, b_panel += b.panel_stride, fetch += share) {
      kernels.multiply(std::min(height, rows - i), depth, a_panel, height, b_panel, b.depth_stride,
                       c + i * c_stride + j, c_stride, accumulate, fetch, share);
    }
  }
}

/// c(i, j) = sum_k streamed(i, k) resident(j, k), in the tiles of Kernels::dot.
template <class T>
void dot_block(const Kernels<T>& kernels, const Source& streamed, int64_t streamed_rows, const T* resident,
               int64_t resident_stride, int64_t resident_rows, int64_t depth, T* out, int64_t out_i, int64_t out_j,
               bool accumulate) {
  const int64_t group = balanced_part(resident_rows, kernels.dot_resident);
  const int64_t row_bytes = streamed.row_stride * int64_t(size_of(streamed.dtype));
  for (int64_t j = 0; j < resident_rows; j += group) {
    for (int64_t i = 0; i < streamed_rows; i += kernels.dot_streamed) {
      Source rows = streamed;
      rows.data = static_cast<const char*>(streamed.data) + i * row_bytes;
      kernels.dot(rows, std::min<int64_t>(kernels.dot_streamed, streamed_rows - i), resident + j * resident_stride,
                  resident_stride, std::min(group, resident_rows - j), depth, out + i * out_i + j * out_j, out_i,
                  out_j, accumulate);
    }
  }
}

template <class T>
void scale_block(T* block, int64_t count, T scale) {
  if (scale == T(1)) return;
  for (int64_t i = 0; i < count; ++i) block[i] *= scale;
}

/// Carves one allocation into aligned arrays.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : wanted_(bytes) {}
  static size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }
  bool allocate(const Context& context) {
    if (wanted_ == 0) return true;
    next_ = static_cast<char*>(context.allocate(wanted_));
    return next_ != nullptr;
  }
  template <class T>
  T* take(int64_t count) {
    T* const result = reinterpret_cast<T*>(next_);
    next_ += padded(size_t(count) * sizeof(T));
    return result;
  }

 private:
  size_t wanted_;
  char* next_ = nullptr;
};

}  // namespace lrk::cpu
