// What the algorithms of this family compute with: work memory by the stack, and products.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cpu/gemm/block.h"
#include "lrk/lowrank.h"
#include "lrk/sketch.h"

namespace lrk::cpu {

/// Work memory in the order of a stack, from blocks that the context allocates and that are used again.
class Scratch {
 public:
  explicit Scratch(const Context& context) : context_(context) {}

  /// nullptr when out of memory, once and for all: ask failed() after taking everything.
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = Workspace::padded(size_t(std::max<int64_t>(count, 1)) * sizeof(T));
    while (block_ < blocks_.size() && blocks_[block_].used + bytes > blocks_[block_].size) ++block_;
    if (block_ == blocks_.size()) {
      const size_t size = std::max(bytes, kBlockBytes);
      char* const data = failed_bytes_ == 0 ? static_cast<char*>(context_.allocate(size)) : nullptr;
      if (data == nullptr) return failed_bytes_ = std::max(failed_bytes_, bytes), nullptr;
      blocks_.push_back({data, size, 0});
    }
    Block& block = blocks_[block_];
    block.used += bytes;
    return reinterpret_cast<T*>(block.data + block.used - bytes);
  }

  bool failed() const { return failed_bytes_ != 0; }
  Status failure(const char* what) const { return out_of_memory(what, failed_bytes_); }

  /// Gives back, when it goes, what was taken while it lived.
  class Frame {
   public:
    explicit Frame(Scratch& scratch)
        : scratch_(scratch),
          block_(scratch.block_),
          used_(block_ < scratch.blocks_.size() ? scratch.blocks_[block_].used : 0) {}
    Frame(const Frame&) = delete;
    ~Frame() {
      for (size_t b = block_; b < scratch_.blocks_.size(); ++b) scratch_.blocks_[b].used = b == block_ ? used_ : 0;
      scratch_.block_ = block_;
    }

   private:
    Scratch& scratch_;
    size_t block_, used_;
  };

 private:
  static constexpr size_t kBlockBytes = 1 << 16;
  struct Block {
    char* data;
    size_t size, used;
  };
  const Context& context_;
  std::vector<Block> blocks_;
  size_t block_ = 0, failed_bytes_ = 0;
};

template <class T>
constexpr DType kDTypeOf = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

/// A contiguous matrix.
template <class T>
MutableMatrixView view_of(T* data, int64_t rows, int64_t cols) {
  return {data, kDTypeOf<T>, rows, cols, cols, 1};
}
template <class T>
MatrixView view_of(const T* data, int64_t rows, int64_t cols) {
  return {data, kDTypeOf<T>, rows, cols, cols, 1};
}

struct Workbench {
  const Context& context;
  const MatrixProduct& given;
  const SymmetricEigen given_eigen;
  Scratch scratch;

  Workbench(const Context& run_with, const MatrixProduct& product, SymmetricEigen eigen = {})
      : context(run_with), given(product), given_eigen(std::move(eigen)), scratch(run_with) {}

  /// out = a b; empty operands give zeros.
  Status product(const MatrixView& a, const MatrixView& b, const MutableMatrixView& out) const {
    if (out.rows == 0 || out.cols == 0) return {};
    if (given && a.cols > 0) return given(a, b, out);
    LinearArgs args;
    args.s = a, args.up = b.transposed(), args.y = out;
    return lowrank_cpu().linear(args, context);
  }
};

/// Leaves the function with a Status that is not ok.
#define LRK_RETURN_IF_FAILED(expression)                    \
  do {                                                      \
    if (::lrk::Status failed = (expression); !failed.ok()) return failed; \
  } while (false)

}  // namespace lrk::cpu
