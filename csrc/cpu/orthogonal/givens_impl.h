// The passes of givens_kernels.h over the vector types of gemm/vector_<isa>.h, compiled once per instruction set.
#pragma once

#include <cmath>

#include "cpu/orthogonal/givens_kernels.h"

namespace lrk::cpu {
namespace {

constexpr int kGivensRows = 4;  // rows that share a load of the coefficients

// --- Partners within a vector ---

/// partner[row] = v[row] with lane i taken from lane i ^ distance. The distance is decided once for all rows.
template <class Vector, int rows>
inline void gather_partners(const typename Vector::Register (&v)[rows], int64_t distance,
                            typename Vector::Register (&partner)[rows]) {
  const auto gather = [&]<int of>() {
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) partner[row] = Vector::template exchange<of < Vector::kLanes ? of : 1>(v[row]);
  };
  switch (distance) {
    case 1: return gather.template operator()<1>();
    case 2: return gather.template operator()<2>();
    case 4: return gather.template operator()<4>();
    default: return gather.template operator()<8>();
  }
}

/// v = cos v + signed_sin partner(v).
template <class Vector, int rows>
inline void rotate_lanes(typename Vector::Register (&v)[rows], int64_t distance, typename Vector::Register cos,
                         typename Vector::Register signed_sin) {
  typename Vector::Register partner[rows];
  gather_partners<Vector, rows>(v, distance, partner);
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row) v[row] = Vector::fma(cos, v[row], Vector::multiply(signed_sin, partner[row]));
}

template <class Vector, int rows>
void rotate_within(const GivensPass& pass, const typename Vector::Scalar* coefficients, typename Vector::Scalar* data,
                   int64_t stride, int64_t begin, int64_t end) {
  constexpr int L = Vector::kLanes;
  coefficients += begin / L * pass.rounds * 2 * L;
  for (int64_t column = begin; column < end; column += L) {
    typename Vector::Register v[rows];
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) v[row] = Vector::load(data + row * stride + column);
    for (int round = 0; round < pass.rounds; ++round, coefficients += 2 * L)
      rotate_lanes<Vector, rows>(v, pass.strides[round], Vector::load(coefficients), Vector::load(coefficients + L));
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) Vector::store(data + row * stride + column, v[row]);
  }
}

template <class Vector, int rows>
void undo_within(const GivensPass& pass, const typename Vector::Scalar* coefficients, typename Vector::Scalar* y,
                 typename Vector::Scalar* grad, int64_t stride, int64_t begin, int64_t end,
                 typename Vector::Scalar* sums) {
  constexpr int L = Vector::kLanes;
  coefficients += begin / L * pass.rounds * 2 * L, sums += begin / L * pass.rounds * L;
  for (int64_t column = begin; column < end; column += L) {
    typename Vector::Register v[rows], g[rows];
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) {
      v[row] = Vector::load(y + row * stride + column), g[row] = Vector::load(grad + row * stride + column);
    }
    for (int round = pass.rounds - 1; round >= 0; --round) {
      const typename Vector::Register cos = Vector::load(coefficients + round * 2 * L),
                                      sin = Vector::load(coefficients + round * 2 * L + L);
      typename Vector::Register sum = Vector::load(sums + round * L);
      typename Vector::Register partner[rows];
      gather_partners<Vector, rows>(g, pass.strides[round], partner);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) sum = Vector::fma(partner[row], v[row], sum);
      Vector::store(sums + round * L, sum);
      const typename Vector::Register back = Vector::subtract(Vector::zero(), sin);
      rotate_lanes<Vector, rows>(v, pass.strides[round], cos, back);
      rotate_lanes<Vector, rows>(g, pass.strides[round], cos, back);
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) {
      Vector::store(y + row * stride + column, v[row]), Vector::store(grad + row * stride + column, g[row]);
    }
    coefficients += pass.rounds * 2 * L, sums += pass.rounds * L;
  }
}

// --- Partners in other vectors ---

/// y_i = cos x_i - sin x_j, y_j = sin x_i + cos x_j.
template <class Vector>
inline void rotate_pair(typename Vector::Register& first, typename Vector::Register& second,
                        typename Vector::Register cos, typename Vector::Register sin) {
  const typename Vector::Register x = first;
  first = Vector::negated_fma(sin, second, Vector::multiply(cos, x));
  second = Vector::fma(sin, x, Vector::multiply(cos, second));
}

template <class Vector>
inline void undo_pair(typename Vector::Register& first, typename Vector::Register& second,
                      typename Vector::Register cos, typename Vector::Register sin) {
  const typename Vector::Register x = first;
  first = Vector::fma(sin, second, Vector::multiply(cos, x));
  second = Vector::negated_fma(sin, x, Vector::multiply(cos, second));
}

/// Walks the groups of 2^count vectors whose columns differ by sums of the pass's strides, and hands over their offsets.
template <int count, int lanes, class Body>
inline void for_each_group(const GivensPass& pass, int64_t begin, int64_t end, const Body& body) {
  int64_t offsets[1 << count], mask = 0;
  for (int member = 0; member < 1 << count; ++member) {
    offsets[member] = 0;
    for (int round = 0; round < count; ++round)
      if (member >> round & 1) offsets[member] += pass.strides[round];
  }
  for (int round = 0; round < count; ++round) mask |= pass.strides[round];
  // Addition carries over the bits that the group itself walks through.
  int64_t group = begin / (lanes << count);
  for (int64_t column = begin; column < end; column = ((column | mask) + lanes) & ~mask, ++group)
    body(column, offsets, group);
}

template <class Vector, int count>
void rotate_across(const GivensPass& pass, const typename Vector::Scalar* coefficients, typename Vector::Scalar* data,
                   int64_t stride, int64_t rows, int64_t begin, int64_t end) {
  constexpr int L = Vector::kLanes, kMembers = 1 << count;
  for_each_group<count, L>(pass, begin, end, [&](int64_t column, const int64_t(&offsets)[kMembers], int64_t group) {
    const auto* const of_group = coefficients + group * count * kMembers * L;
    for (int64_t row = 0; row < rows; ++row) {
      typename Vector::Scalar* const at = data + row * stride + column;
      const auto* next = of_group;
      typename Vector::Register v[kMembers];
#pragma GCC unroll 8
      for (int member = 0; member < kMembers; ++member) v[member] = Vector::load(at + offsets[member]);
#pragma GCC unroll 8
      for (int round = 0; round < count; ++round) {
#pragma GCC unroll 8
        for (int member = 0; member < kMembers; ++member) {
          if (member >> round & 1) continue;
          rotate_pair<Vector>(v[member], v[member | 1 << round], Vector::load(next), Vector::load(next + L));
          next += 2 * L;
        }
      }
#pragma GCC unroll 8
      for (int member = 0; member < kMembers; ++member) Vector::store(at + offsets[member], v[member]);
    }
  });
}

template <class Vector, int count>
void undo_across(const GivensPass& pass, const typename Vector::Scalar* coefficients, typename Vector::Scalar* y,
                 typename Vector::Scalar* grad, int64_t stride, int64_t rows, int64_t begin, int64_t end,
                 typename Vector::Scalar* sums) {
  constexpr int L = Vector::kLanes, kMembers = 1 << count, kPairs = kMembers / 2;
  for_each_group<count, L>(pass, begin, end, [&](int64_t column, const int64_t(&offsets)[kMembers], int64_t group) {
    const auto* const of_group = coefficients + group * count * kMembers * L;
    auto* const sums_of_group = sums + group * count * kPairs * L;
    for (int64_t row = 0; row < rows; ++row) {
      typename Vector::Scalar* const y_at = y + row * stride + column;
      typename Vector::Scalar* const grad_at = grad + row * stride + column;
      typename Vector::Register v[kMembers], g[kMembers];
#pragma GCC unroll 8
      for (int member = 0; member < kMembers; ++member) {
        v[member] = Vector::load(y_at + offsets[member]), g[member] = Vector::load(grad_at + offsets[member]);
      }
#pragma GCC unroll 8
      for (int round = count - 1; round >= 0; --round) {
        int pair = round * kPairs;
#pragma GCC unroll 8
        for (int member = 0; member < kMembers; ++member) {
          if (member >> round & 1) continue;
          const int partner = member | 1 << round;
          typename Vector::Register sum = Vector::load(sums_of_group + pair * L);
          sum = Vector::fma(g[partner], v[member], sum);
          Vector::store(sums_of_group + pair * L, Vector::negated_fma(g[member], v[partner], sum));
          const auto cos = Vector::load(of_group + 2 * pair * L), sin = Vector::load(of_group + 2 * pair * L + L);
          undo_pair<Vector>(v[member], v[partner], cos, sin);
          undo_pair<Vector>(g[member], g[partner], cos, sin);
          ++pair;
        }
      }
#pragma GCC unroll 8
      for (int member = 0; member < kMembers; ++member) {
        Vector::store(y_at + offsets[member], v[member]), Vector::store(grad_at + offsets[member], g[member]);
      }
    }
  });
}

// --- Any stride ---

/// Walks the pairs of one round a vector at a time: body(first column, pair, how many).
template <int lanes, class Body>
inline void for_each_pair(int64_t stride, int64_t features, int64_t begin, int64_t end, const Body& body) {
  for (int64_t block = begin; block < end; block += 2 * stride) {
    const int64_t pairs = block + 2 * stride <= features ? stride : features - block - stride;
    for (int64_t offset = 0; offset < pairs; offset += lanes) {
      const int64_t left = pairs - offset;
      body(block + offset, block / 2 + offset, left < lanes ? int(left) : lanes);
    }
  }
}

inline int64_t givens_pair_count(int64_t stride, int64_t features) {
  const int64_t whole = features / (2 * stride), left = features - whole * 2 * stride;
  return whole * stride + (left > stride ? left - stride : 0);
}

template <class Vector>
void rotate_any(const GivensPass& pass, int64_t features, const typename Vector::Scalar* coefficients,
                typename Vector::Scalar* data, int64_t stride, int64_t rows, int64_t begin, int64_t end) {
  const int64_t distance = pass.strides[0];
  const auto* const sines = coefficients + givens_pair_count(distance, features);
  for_each_pair<Vector::kLanes>(distance, features, begin, end, [&](int64_t column, int64_t pair, int count) {
    const auto cos = Vector::load(coefficients + pair, count), sin = Vector::load(sines + pair, count);
    for (int64_t row = 0; row < rows; ++row) {
      typename Vector::Scalar* const at = data + row * stride + column;
      auto first = Vector::load(at, count), second = Vector::load(at + distance, count);
      rotate_pair<Vector>(first, second, cos, sin);
      Vector::store(at, first, count), Vector::store(at + distance, second, count);
    }
  });
}

template <class Vector>
void undo_any(const GivensPass& pass, int64_t features, const typename Vector::Scalar* coefficients,
              typename Vector::Scalar* y, typename Vector::Scalar* grad, int64_t stride, int64_t rows, int64_t begin,
              int64_t end, typename Vector::Scalar* sums) {
  const int64_t distance = pass.strides[0];
  const auto* const sines = coefficients + givens_pair_count(distance, features);
  for_each_pair<Vector::kLanes>(distance, features, begin, end, [&](int64_t column, int64_t pair, int count) {
    const auto cos = Vector::load(coefficients + pair, count), sin = Vector::load(sines + pair, count);
    auto sum = Vector::load(sums + pair, count);
    for (int64_t row = 0; row < rows; ++row) {
      typename Vector::Scalar *const y_at = y + row * stride + column, *const grad_at = grad + row * stride + column;
      auto first = Vector::load(y_at, count), second = Vector::load(y_at + distance, count);
      auto g_first = Vector::load(grad_at, count), g_second = Vector::load(grad_at + distance, count);
      sum = Vector::negated_fma(g_first, second, Vector::fma(g_second, first, sum));
      undo_pair<Vector>(first, second, cos, sin);
      undo_pair<Vector>(g_first, g_second, cos, sin);
      Vector::store(y_at, first, count), Vector::store(y_at + distance, second, count);
      Vector::store(grad_at, g_first, count), Vector::store(grad_at + distance, g_second, count);
    }
    Vector::store(sums + pair, sum, count);
  });
}

// --- The table ---

template <class Vector>
void rotate(const GivensPass& pass, int64_t features, const typename Vector::Scalar* coefficients,
            typename Vector::Scalar* data, int64_t stride, int64_t rows, int64_t begin, int64_t end) {
  switch (pass.kind) {
    case GivensPassKind::kWithinVector:
      for (; rows >= kGivensRows; rows -= kGivensRows, data += kGivensRows * stride)
        rotate_within<Vector, kGivensRows>(pass, coefficients, data, stride, begin, end);
      for (; rows > 0; --rows, data += stride) rotate_within<Vector, 1>(pass, coefficients, data, stride, begin, end);
      return;
    case GivensPassKind::kAcrossVectors:
      if (pass.rounds == 1) return rotate_across<Vector, 1>(pass, coefficients, data, stride, rows, begin, end);
      if (pass.rounds == 2) return rotate_across<Vector, 2>(pass, coefficients, data, stride, rows, begin, end);
      return rotate_across<Vector, 3>(pass, coefficients, data, stride, rows, begin, end);
    case GivensPassKind::kAnyStride:
      return rotate_any<Vector>(pass, features, coefficients, data, stride, rows, begin, end);
  }
}

template <class Vector>
void undo(const GivensPass& pass, int64_t features, const typename Vector::Scalar* coefficients,
          typename Vector::Scalar* y, typename Vector::Scalar* grad, int64_t stride, int64_t rows, int64_t begin,
          int64_t end, typename Vector::Scalar* sums) {
  switch (pass.kind) {
    case GivensPassKind::kWithinVector:
      for (; rows >= kGivensRows; rows -= kGivensRows, y += kGivensRows * stride, grad += kGivensRows * stride)
        undo_within<Vector, kGivensRows>(pass, coefficients, y, grad, stride, begin, end, sums);
      for (; rows > 0; --rows, y += stride, grad += stride)
        undo_within<Vector, 1>(pass, coefficients, y, grad, stride, begin, end, sums);
      return;
    case GivensPassKind::kAcrossVectors:
      if (pass.rounds == 1) return undo_across<Vector, 1>(pass, coefficients, y, grad, stride, rows, begin, end, sums);
      if (pass.rounds == 2) return undo_across<Vector, 2>(pass, coefficients, y, grad, stride, rows, begin, end, sums);
      return undo_across<Vector, 3>(pass, coefficients, y, grad, stride, rows, begin, end, sums);
    case GivensPassKind::kAnyStride:
      return undo_any<Vector>(pass, features, coefficients, y, grad, stride, rows, begin, end, sums);
  }
}

/// cos and sin of floats. The angle is brought to [-pi/4, pi/4] in double, where up to 2^20 quarter turns subtract with
/// an error far below a float's; then Taylor polynomials of degree 9 and 10, whose error is below 2e-9. Written without
/// branches on the angle so that the compiler takes it a vector at a time; larger angles, NaN and Inf go to the library.
inline void cos_sin_of(const float* angles, int64_t count, float* cos, float* sin) {
  constexpr double kQuarter = 1.5707963267948966, kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds
  for (int64_t i = 0; i < count; ++i) {
    const double angle = angles[i];
    const double shifted = angle * (1 / kQuarter) + kRound, quarters = shifted - kRound;
    const double r = angle - quarters * kQuarter, r2 = r * r;
    const double s = r * (1 + r2 * (-1.0 / 6 + r2 * (1.0 / 120 + r2 * (-1.0 / 5040 + r2 * (1.0 / 362880)))));
    const double c = 1 + r2 * (-0.5 + r2 * (1.0 / 24 + r2 * (-1.0 / 720 + r2 * (1.0 / 40320 + r2 * (-1.0 / 3628800)))));
    // quarters mod 4 is 2 * half + odd; which of s and c, and which sign, by arithmetic with zeros and ones.
    const double quarter = quarters - 4 * ((quarters * 0.25 - 0.375 + kRound) - kRound);
    const double half = (quarter * 0.5 - 0.25 + kRound) - kRound, odd = quarter - 2 * half, even = 1 - odd;
    cos[i] = float((1 - 2 * odd) * (1 - 2 * half) * (odd * s + even * c));
    sin[i] = float((1 - 2 * half) * (odd * c + even * s));
  }
  for (int64_t i = 0; i < count; ++i)
    if (!(std::fabs(angles[i]) < 1.6e6f)) cos[i] = std::cos(angles[i]), sin[i] = std::sin(angles[i]);
}

inline void cos_sin_of(const double* angles, int64_t count, double* cos, double* sin) {
  for (int64_t i = 0; i < count; ++i) cos[i] = std::cos(angles[i]), sin[i] = std::sin(angles[i]);
}

template <class Vector>
constexpr GivensKernels<typename Vector::Scalar> make_givens_kernels() {
  using T = typename Vector::Scalar;
  constexpr void (*cos_sin)(const T*, int64_t, T*, T*) = &cos_sin_of;
  return {Vector::kLanes, &rotate<Vector>, &undo<Vector>, cos_sin};
}

}  // namespace
}  // namespace lrk::cpu
