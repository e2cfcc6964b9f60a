// vector_loops.h, written once over the vector types of vector_<isa>.h.
#pragma once

#include "cpu/sketch/vector_loops.h"

namespace lrk::cpu {
namespace {

template <class Vector>
double dot(const double* a, const double* b, int64_t count) {
  constexpr int L = Vector::kLanes;
  typename Vector::Register sums[4] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    for (int part = 0; part < 4; ++part)
      sums[part] = Vector::fma(Vector::load(a + i + part * L), Vector::load(b + i + part * L), sums[part]);
  for (; i + L <= count; i += L) sums[0] = Vector::fma(Vector::load(a + i), Vector::load(b + i), sums[0]);
  if (i < count)
    sums[1] = Vector::fma(Vector::load(a + i, int(count - i)), Vector::load(b + i, int(count - i)), sums[1]);
  double parts[4];
  Vector::sum4(sums, parts);
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

/// Calls body(first, load, store) for the vectors of a row; the last ones leave what is past its end alone.
template <class Vector, class Body>
void along(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + Vector::kLanes <= count; i += Vector::kLanes)
    body(
        i, [](const double* from) { return Vector::load(from); },
        [](double* to, typename Vector::Register value) { Vector::store(to, value); });
  if (i < count) {
    const int rest = int(count - i);
    body(
        i, [rest](const double* from) { return Vector::load(from, rest); },
        [rest](double* to, typename Vector::Register value) { Vector::store(to, value, rest); });
  }
}

template <class Vector>
void add_scaled(double* y, double factor, const double* x, int64_t count) {
  const typename Vector::Register scale = Vector::broadcast(factor);
  along<Vector>(count, [&](int64_t i, auto load, auto store) {
    store(y + i, Vector::fma(scale, load(x + i), load(y + i)));
  });
}

template <class Vector>
void subtract_four(double* y, const double* factors, const double* x, int64_t stride, int64_t count) {
  typename Vector::Register scales[4];
  for (int t = 0; t < 4; ++t) scales[t] = Vector::broadcast(factors[t]);
  along<Vector>(count, [&](int64_t i, auto load, auto store) {
    typename Vector::Register value = load(y + i);
    for (int t = 0; t < 4; ++t) value = Vector::negated_fma(scales[t], load(x + t * stride + i), value);
    store(y + i, value);
  });
}

template <class Vector>
void subtract_two(double* y, double first, const double* a, double second, const double* b, int64_t count) {
  const typename Vector::Register of_a = Vector::broadcast(first), of_b = Vector::broadcast(second);
  along<Vector>(count, [&](int64_t i, auto load, auto store) {
    store(y + i, Vector::negated_fma(of_b, load(b + i), Vector::negated_fma(of_a, load(a + i), load(y + i))));
  });
}

template <class Vector>
void rotate(double* a, double* b, double cosine, double sine, int64_t count) {
  const typename Vector::Register c = Vector::broadcast(cosine), s = Vector::broadcast(sine);
  along<Vector>(count, [&](int64_t i, auto load, auto store) {
    const typename Vector::Register x = load(a + i), y = load(b + i);
    store(a + i, Vector::negated_fma(s, y, Vector::multiply(c, x)));
    store(b + i, Vector::fma(s, x, Vector::multiply(c, y)));
  });
}

template <class Vector>
void add_signed(typename Vector::Scalar* sums, const typename Vector::Scalar* values, int64_t count,
                const int32_t* codes, int64_t entries, const typename Vector::Scalar* fetch, int64_t fetch_stride) {
  using T = typename Vector::Scalar;
  constexpr int L = Vector::kLanes, parts = int(kSignedRows) / L;
  constexpr int64_t kLine = 64 / int64_t(sizeof(T)), kLinesAStep = kSignedRows / kLine;
  // Both signs of a line are in the first level cache before the sums want one: no branch on random signs.
  alignas(64) T signs[2][kSignedRows];
  for (int64_t k = 0; k < count; ++k, values += kSignedRows, codes += entries) {
    for (int64_t line = k * kLinesAStep; line < (k + 1) * kLinesAStep; ++line)
      __builtin_prefetch(fetch + line % kSignedRows * fetch_stride + line / kSignedRows * kLine, 0, 2);
    for (int part = 0; part < parts; ++part) {
      const typename Vector::Register value = Vector::load(values + part * L);
      Vector::store(signs[0] + part * L, value);
      Vector::store(signs[1] + part * L, Vector::subtract(Vector::zero(), value));
    }
    for (int64_t t = 0; t < entries; ++t) {
      T* const sum = sums + (codes[t] >> 1) * kSignedRows;
      const T* const value = signs[codes[t] & 1];
      for (int part = 0; part < parts; ++part)
        Vector::store(sum + part * L, Vector::add(Vector::load(sum + part * L), Vector::load(value + part * L)));
    }
  }
}

constexpr VectorLoops kVectorLoops{&dot<DoubleVector>, &add_scaled<DoubleVector>, &subtract_four<DoubleVector>,
                                   &subtract_two<DoubleVector>, &rotate<DoubleVector>};
template <class Vector>
constexpr SignedLoops<typename Vector::Scalar> kSignedLoops{&add_signed<Vector>};

}  // namespace
}  // namespace lrk::cpu
