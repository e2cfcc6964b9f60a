// The same takes in the same order as the algorithms themselves, from an allocator that only counts: what is given back
// and taken again counts once, as there.
#include "cpu/sketch/workspace_bytes.h"

#include "cpu/sketch/householder_qr.h"
#include "cpu/sketch/kernels.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/tall_products.h"
#include "device/sketch_rules.h"

namespace lrk::cpu {
namespace {

class Count {
 public:
  Count() : scratch_((context_.allocate = [this](size_t bytes) { return add(bytes); }, context_)) {}

  size_t bytes() const { return bytes_; }
  Scratch& scratch() { return scratch_; }
  template <class T>
  void take(int64_t count) {
    scratch_.take<T>(count);
  }

 private:
  void* add(size_t bytes) {
    bytes_ += bytes;
    return this;  // nobody writes there
  }

  size_t bytes_ = 0;
  Context context_;
  Scratch scratch_;
};

template <class T>
void count_gram(Count& count, int64_t rows, int64_t cols) {
  const Scratch::Frame frame(count.scratch());
  if (const int64_t sums = gram_sums(rows, cols); sums > 0) count.take<double>(sums);
}

template <class T>
void count_upper(Count& count, int64_t rows, int64_t cols) {
  const Scratch::Frame frame(count.scratch());
  const UpperProduct product = upper_product<T>(rows, cols);
  count.take<T>(product.triangle);
  if (product.copy > 0) count.take<T>(product.copy);
}

void count_reflections(Count& count, int64_t rows, int64_t cols) {
  const Scratch::Frame frame(count.scratch());
  for (const int64_t elements : householder_scratch(rows, cols)) count.take<double>(elements);
}

template <class T>
void count_orthonormalize(Count& count, int64_t rows, int64_t cols, bool with_r) {
  if (rows == 0 || cols == 0) return;
  const Scratch::Frame frame(count.scratch());
  if (with_r) count.take<T>(rows * cols);
  count.take<double>(cols * cols), count.take<double>(cols * cols);
  count.take<int>(cols), count.take<double>(2 * cols), count.take<T>(cols);
  if (reflects_at_once(rows, cols)) {
    const Scratch::Frame inner(count.scratch());
    count.take<double>(rows * cols);
    count_reflections(count, rows, cols);
  } else {
    count_gram<T>(count, rows, cols), count_upper<T>(count, rows, cols);
  }
}

template <class T>
void count_normalize(Count& count, int64_t rows, int64_t cols) {
  if (sizeof(T) == 8) return count_orthonormalize<T>(count, rows, cols, false);
  const Scratch::Frame frame(count.scratch());
  count.take<double>(cols * cols), count.take<double>(cols * cols);
  count_gram<T>(count, rows, cols), count_upper<T>(count, rows, cols);
}

template <class T>
void count_range(Count& count, const RangeFinderArgs& args, int64_t size) {
  const Scratch::Frame frame(count.scratch());
  const int64_t rows = args.a.rows, cols = args.a.cols, warm = args.q0.present() ? args.q0.cols : 0;
  count.take<T>(cols * std::max(size, warm));
  if (warm > 0) count_orthonormalize<T>(count, cols, warm, false);
  if (warm < size) {
    const Scratch::Frame start(count.scratch());
    if (starts_gaussian(cols, size)) {
      count.take<T>(cols * size);
    } else {
      const SparseProduct product = sparse_product(rows, cols, size);
      count.take<int32_t>(product.codes), count.take<T>(product.sums);
    }
  }
  for (int64_t step = 0; step < args.power_iters; ++step)
    count_normalize<T>(count, rows, size), count_normalize<T>(count, cols, size);
  count_orthonormalize<T>(count, rows, size, false);
}

void count_small_svd(Count& count, int64_t size, bool own_eigen) {
  const Scratch::Frame frame(count.scratch());
  count.take<double>(size * size), count.take<double>(size * size), count.take<double>(size), count.take<int64_t>(size);
  const Scratch::Frame inner(count.scratch());
  if (own_eigen) count.take<double>(3 * size * size);
}

}  // namespace

template <class T>
size_t workspace_bytes(const OrthonormalizeArgs& args) {
  const int64_t size = std::min(args.a.rows, args.a.cols);
  if (size == 0) return 0;
  Count count;
  if (args.r.present()) count.take<double>(size * size);
  count_orthonormalize<T>(count, args.a.rows, size, args.r.present());
  return count.bytes();
}

template <class T>
size_t workspace_bytes(const RangeFinderArgs& args) {
  if (args.q.rows == 0 || args.q.cols == 0) return 0;
  Count count;
  count_range<T>(count, args, args.q.cols);
  return count.bytes();
}

template <class T>
size_t workspace_bytes(const RsvdArgs& args) {
  const int64_t rows = args.range.a.rows, cols = args.range.a.cols, size = args.basis, rank = args.s.cols;
  if (rank == 0) return 0;
  Count count;
  count.take<T>(rows * size), count.take<T>(cols * size);
  count_range<T>(count, args.range, size);
  count.take<T>(size * rank), count.take<double>(size);
  const Scratch::Frame frame(count.scratch());
  if (sizeof(T) == 4) {
    count.take<double>(size * size);
    count_gram<T>(count, cols, size);
    {
      const Scratch::Frame eigen(count.scratch());
      if (!args.eigen) count.take<double>(3 * size * size);
    }
    count_orthonormalize<T>(count, cols, rank, false);
  } else {
    for (int square = 0; square < 3; ++square) count.take<double>(size * size);
    count_orthonormalize<T>(count, cols, size, true);
    count_small_svd(count, size, !args.eigen);
  }
  return count.bytes();
}

template <class T>
size_t workspace_bytes(const PolarArgs& args) {
  const int64_t rows = args.a.rows, cols = args.a.cols, small = std::min(rows, cols), large = std::max(rows, cols);
  if (small == 0) return 0;
  Count count;
  count.take<T>(rows * cols);
  if (args.exact) {
    for (int square = 0; square < 3; ++square) count.take<double>(small * small);
    count.take<double>(small), count.take<T>(small * small), count.take<T>(rows * cols);
    count_orthonormalize<T>(count, large, small, true);
    count_small_svd(count, small, !args.eigen);
  } else {
    count.take<T>(rows * cols), count.take<T>(small * small), count.take<T>(small * small);
    const int64_t pieces = norm_pieces(rows * cols);
    count.take<T>(pieces), count.take<double>(pieces);
  }
  return count.bytes();
}

size_t workspace_bytes(const SpectralNormBoundArgs& args) {
  const int64_t small = std::min(args.weight.rows, args.weight.cols);
  if (small == 0) return 0;
  Count count;
  count.take<double>(args.weight.rows * args.weight.cols);
  count.take<double>(small * small), count.take<double>(small * small);
  return count.bytes();
}

template size_t workspace_bytes<float>(const OrthonormalizeArgs&);
template size_t workspace_bytes<double>(const OrthonormalizeArgs&);
template size_t workspace_bytes<float>(const RangeFinderArgs&);
template size_t workspace_bytes<double>(const RangeFinderArgs&);
template size_t workspace_bytes<float>(const RsvdArgs&);
template size_t workspace_bytes<double>(const RsvdArgs&);
template size_t workspace_bytes<float>(const PolarArgs&);
template size_t workspace_bytes<double>(const PolarArgs&);

}  // namespace lrk::cpu
