// Moving between strided memory of any dtype and blocks of float (or double): the way in (stage), dropout on the way
// (drop), and the way out with one rounding (finish). Written once, compiled once per instruction set.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/gemm/element.h"
#include "cpu/gemm/kernels.h"

namespace lrk::cpu {
namespace {

/// Calls body with a value of the storage type that `dtype` names, among those a block of Scalar is made from.
template <class Scalar, class Body>
void with_element(DType dtype, Body body) {
  if constexpr (sizeof(Scalar) == 8) {
    if (dtype == DType::kFloat64) return body(double{});
    body(float{});
  } else {
    if (dtype == DType::kBFloat16) return body(BFloat16{});
    if (dtype == DType::kFloat16) return body(Float16{});
    body(float{});
  }
}

/// lane l of a and lane l + step of b, by the bit `step` of l: one half of a butterfly.
template <class Vector, int step, bool second>
[[gnu::always_inline]] inline typename Vector::Register exchange(typename Vector::Register a,
                                                                 typename Vector::Register b) {
  constexpr int L = Vector::kLanes;
  constexpr auto index = [](int lane) {
    const bool from_b = (lane & step) != 0;
    if (second) return from_b ? L + lane : lane + step;
    return from_b ? L + lane - step : lane;
  };
#if defined(__clang__)
  return [&]<int... lane>(std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(a, b, index(lane)...);
  }(std::make_integer_sequence<int, L>{});
#else
  using Index = std::conditional_t<sizeof(typename Vector::Scalar) == 8, int64_t, int32_t>;
  typedef Index Indices __attribute__((vector_size(L * sizeof(Index))));
  return [&]<int... lane>(std::integer_sequence<int, lane...>) __attribute__((always_inline)) {
    return __builtin_shuffle(a, b, Indices{index(lane)...});
  }(std::make_integer_sequence<int, L>{});
#endif
}

template <class Vector, int step>
[[gnu::always_inline]] inline void transpose(typename Vector::Register (&rows)[Vector::kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < Vector::kLanes; ++i) {
    if ((i & step) != 0) continue;
    const typename Vector::Register a = rows[i], b = rows[i + step];
    rows[i] = exchange<Vector, step, false>(a, b);
    rows[i + step] = exchange<Vector, step, true>(a, b);
  }
  if constexpr (step > 1) transpose<Vector, step / 2>(rows);
}

template <class Vector, class Element>
void stage_rows(typename Vector::Scalar* out, int64_t out_stride, const Element* in, int64_t row_stride, int64_t rows,
                int64_t cols, int64_t padded_cols) {
  constexpr int L = Vector::kLanes;
  // Short rows far apart are no stream that hardware follows.
  const int64_t ahead = cols <= 4 * L ? 16 * row_stride : 0;
  for (int64_t i = 0; i < rows; ++i, in += row_stride, out += out_stride) {
    int64_t j = 0;
    for (; j + L <= cols; j += L) {
      Vector::store(out + j, Vector::load(in + j));
      if (ahead != 0) __builtin_prefetch(in + ahead + j);
    }
    if (j < cols) Vector::store(out + j, Vector::load(in + j, int(cols - j)), int(cols - j));
    for (j = cols; j < padded_cols; ++j) out[j] = 0;
  }
}

/// Column-contiguous input: L x L blocks are transposed in registers.
template <class Vector, class Element>
void stage_columns(typename Vector::Scalar* out, int64_t out_stride, const Element* in, int64_t col_stride,
                   int64_t rows, int64_t cols, int64_t padded_cols) {
  constexpr int L = Vector::kLanes;
  for (int64_t j = 0; j < padded_cols; j += L) {
    const int present = cols - j < L ? (cols > j ? int(cols - j) : 0) : L;
    const int written = padded_cols - j < L ? int(padded_cols - j) : L;
    const Element* const from = in + j * col_stride;
    for (int64_t i = 0; i < rows; i += L) {
      const int count = rows - i < L ? int(rows - i) : L;
      typename Vector::Register block[L];
      if (count == L) {
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) block[l] = l < present ? Vector::load(from + l * col_stride + i) : Vector::zero();
      } else {
        for (int l = 0; l < L; ++l)
          block[l] = l < present ? Vector::load(from + l * col_stride + i, count) : Vector::zero();
      }
      transpose<Vector, L / 2>(block);
      typename Vector::Scalar* to = out + i * out_stride + j;
      if (count == L && written == L) {
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) Vector::store(to + l * out_stride, block[l]);
      } else {
        for (int l = 0; l < count; ++l) Vector::store(to + l * out_stride, block[l], written);
      }
    }
  }
}

template <class Vector>
void stage(typename Vector::Scalar* out, int64_t out_stride, const Source& in, int64_t rows, int64_t cols,
           int64_t padded_cols) {
  with_element<typename Vector::Scalar>(in.dtype, [&](auto element) {
    using Element = decltype(element);
    const Element* from = static_cast<const Element*>(in.data);
    if (in.col_stride == 1) {
      stage_rows<Vector>(out, out_stride, from, in.row_stride, rows, cols, padded_cols);
    } else if (in.row_stride == 1) {
      stage_columns<Vector>(out, out_stride, from, in.col_stride, rows, cols, padded_cols);
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        typename Vector::Scalar* to = out + i * out_stride;
        for (int64_t j = 0; j < cols; ++j) to[j] = widen(from[i * in.row_stride + j * in.col_stride]);
        for (int64_t j = cols; j < padded_cols; ++j) to[j] = 0;
      }
    }
  });
}

/// The Philox4x32-10 words of WordVector::kLanes consecutive counters, in element order.
inline void philox_words(uint64_t seed, uint64_t counter, uint32_t* words) {
  using V = WordVector;
  constexpr int groups = V::kLanes / 4;
  // Lane 4 g + q takes counter offset q * groups + g, so that after the 4x4 transpositions vector q holds, in order,
  // the blocks q * groups .. q * groups + groups - 1.
  uint32_t offsets[V::kLanes];
  for (int lane = 0; lane < V::kLanes; ++lane) offsets[lane] = uint32_t((lane & 3) * groups + (lane >> 2));
  const V::Register low_start = V::broadcast(uint32_t(counter));
  V::Register c0 = V::add(low_start, V::load(offsets));
  V::Register c1 = V::add(V::broadcast(uint32_t(counter >> 32)), V::less(c0, low_start));
  V::Register c2 = V::broadcast(0), c3 = V::broadcast(0);
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  const V::Register factor0 = V::broadcast(0xD2511F53u), factor1 = V::broadcast(0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    V::Register high0, low0, high1, low1;
    V::multiply(c0, factor0, high0, low0);
    V::multiply(c2, factor1, high1, low1);
    c0 = V::exclusive_or(high1, c1, V::broadcast(key0));
    c2 = V::exclusive_or(high0, c3, V::broadcast(key1));
    c1 = low1, c3 = low0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  V::transpose4(c0, c1, c2, c3);
  V::store(words, c0), V::store(words + V::kLanes, c1);
  V::store(words + 2 * V::kLanes, c2), V::store(words + 3 * V::kLanes, c3);
}

template <class Vector>
void drop(typename Vector::Scalar* block, int64_t stride, int64_t rows, int64_t cols, uint64_t first_index,
          uint64_t index_stride, const DropoutMask& mask) {
  using Scalar = typename Vector::Scalar;
  constexpr int64_t kWords = 4 * WordVector::kLanes;
  const Scalar scale = Scalar(mask.scale);
  const uint32_t threshold = mask.threshold;
  for (int64_t i = 0; i < rows; ++i) {
    Scalar* row = block + i * stride;
    if (mask.scale == 0.0) {  // probability 1: NaN is dropped too
      for (int64_t j = 0; j < cols; ++j) row[j] = 0;
      continue;
    }
    const uint64_t index = first_index + uint64_t(i) * index_stride;
    int64_t skip = int64_t(index & 3);
    uint64_t counter = index >> 2;
    for (int64_t j = 0; j < cols; counter += WordVector::kLanes) {
      uint32_t words[kWords];
      philox_words(mask.seed, counter, words);
      const int64_t count = kWords - skip < cols - j ? kWords - skip : cols - j;
      const uint32_t* bits = words + skip;
      for (int64_t l = 0; l < count; ++l) row[j + l] = bits[l] >= threshold ? row[j + l] * scale : Scalar(0);
      j += count, skip = 0;
    }
  }
}

template <class Vector, class Element>
void finish_rows(const typename Vector::Scalar* block, int64_t stride, int64_t rows, int64_t cols, const Element* base,
                 int64_t base_stride, const typename Vector::Scalar* bias, Element* out, int64_t out_stride) {
  constexpr int L = Vector::kLanes;
  for (int64_t i = 0; i < rows; ++i, block += stride, out += out_stride) {
    int64_t j = 0;
    for (; j + L <= cols; j += L) {
      typename Vector::Register value = Vector::load(block + j);
      if (bias != nullptr) value = Vector::add(value, Vector::load(bias + j));
      if (base != nullptr) value = Vector::add(value, Vector::load(base + j));
      Vector::store(out + j, value);
    }
    if (j < cols) {
      const int count = int(cols - j);
      typename Vector::Register value = Vector::load(block + j, count);
      if (bias != nullptr) value = Vector::add(value, Vector::load(bias + j, count));
      if (base != nullptr) value = Vector::add(value, Vector::load(base + j, count));
      Vector::store(out + j, value, count);
    }
    if (base != nullptr) base += base_stride;
  }
}

template <class Vector>
void finish(const typename Vector::Scalar* block, int64_t stride, int64_t rows, int64_t cols, const Source* base,
            const typename Vector::Scalar* bias, const Destination& out) {
  with_element<typename Vector::Scalar>(out.dtype, [&](auto element) {
    using Element = decltype(element);
    Element* const to = static_cast<Element*>(out.data);
    const Element* const from = base == nullptr ? nullptr : static_cast<const Element*>(base->data);
    if (out.col_stride == 1 && (base == nullptr || base->col_stride == 1)) {
      finish_rows<Vector>(block, stride, rows, cols, from, base == nullptr ? 0 : base->row_stride, bias, to,
                          out.row_stride);
      return;
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        typename Vector::Scalar value = block[i * stride + j];
        if (bias != nullptr) value += bias[j];
        if (base != nullptr) value += widen(from[i * base->row_stride + j * base->col_stride]);
        to[i * out.row_stride + j * out.col_stride] = narrow(value, Element{});
      }
    }
  });
}

}  // namespace
}  // namespace lrk::cpu
