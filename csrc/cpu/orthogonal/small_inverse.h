// The inverse of a small matrix in place, without pivoting.
#pragma once

#include <cstdint>

namespace lrk::cpu {

/// The width that rows are padded to, a whole number of every instruction set's vectors.
constexpr int64_t padded_for_inverse(int64_t size) { return (size + 15) / 16 * 16; }

/// Replaces the [size, size] matrix whose rows are `stride` >= padded_for_inverse(size) apart by its inverse. What lies
/// between a row's end and its padded end is overwritten by numbers of no meaning.
///
/// For matrices whose symmetric part is positive definite: I - Q of a Cayley map, I + U - Ut + Vt V of a rectangular
/// one. Every Schur complement then has such a symmetric part too, so no pivot is zero and none is looked for. The
/// rounding error grows with the condition number; NaN and Inf pass through.
template <class T>
void small_inverse(T* matrix, int64_t size, int64_t stride);

template <class T>
using SmallInverse = void (*)(T* matrix, int64_t size, int64_t stride);

template <class T>
SmallInverse<T> small_inverse_portable();
template <class T>
SmallInverse<T> small_inverse_avx2();
template <class T>
SmallInverse<T> small_inverse_avx512();

}  // namespace lrk::cpu
