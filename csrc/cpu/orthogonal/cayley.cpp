// R = 2 (I - Q)^-1 - I, its Neumann series, and both gradients, a block at a time.
//
// The inverse is computed in double for every dtype. In float its rounding error grows with cond(I - Q), which is about
// |Q|: R would be off by 1e-3 at |Q| = 1000, and a Newton-Schulz step towards orthogonality, which repairs R^T R but not
// R, costs two products. In double the inverse takes 1.2 times as long as in float at block 32 (1.5 times at 256), less
// than that step, and R is right to its last bits at every |Q| of interest.
//
// Every product is X^T Y of two matrices stored by rows, which the packed microkernel takes as they are.
#include <algorithm>
#include <vector>

#include "cpu/gemm/block.h"
#include "cpu/orthogonal/cayley.h"
#include "cpu/orthogonal/small_inverse.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kMostTasks = 16;  // each has matrices of its own

int64_t tasks_of(int64_t count) { return std::min(count, kMostTasks); }

/// The matrices of one task: `stride` columns wide, of which what lies behind the block's stays zero.
template <class T>
struct SquareMatrices {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t size, stride;

  explicit SquareMatrices(int64_t block)
      : size(block), stride(ceil_div(block, kernels.tile_cols) * kernels.tile_cols) {}

  int64_t elements() const { return size * stride; }

  void load(T* out, const MatrixView& from, int64_t first_row, bool transposed) const {
    Source source = source_at(from, first_row, 0);
    if (transposed) std::swap(source.row_stride, source.col_stride);
    kernels.stage(out, stride, source, size, size, stride);
  }

  void transpose(T* out, const T* in) const {
    kernels.stage(out, stride, {in, sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32, 1, stride}, size, size, stride);
  }

  /// c = x^T y, or c += when `accumulate`.
  void multiply(const T* x, const T* y, T* c, bool accumulate = false) const {
    const int64_t height = balanced_part(size, kernels.tile_rows);
    for (int64_t j = 0; j < size; j += kernels.tile_cols)
      for (int64_t i = 0; i < size; i += height)
        kernels.multiply(std::min(height, size - i), size, x + i, stride, y + j, stride, c + i * stride + j, stride,
                         accumulate, x, 0);
  }

  void add_to_diagonal(T* matrix, T value) const {
    for (int64_t i = 0; i < size; ++i) matrix[i * stride + i] += value;
  }

  void zero(T* matrix) const { std::fill_n(matrix, elements(), T(0)); }

  /// out += scale in.
  void add_scaled(T* out, const T* in, T scale) const {
    for (int64_t i = 0; i < elements(); ++i) out[i] += scale * in[i];
  }

  /// The skew-symmetric matrix of an upper triangle, or its transpose.
  void fill_skew(T* matrix, const T* triangle, bool transposed) const {
    zero(matrix);
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i + 1; j < size; ++j) {
        const T value = transposed ? -*triangle++ : *triangle++;
        matrix[i * stride + j] = value, matrix[j * stride + i] = -value;
      }
    }
  }

  /// scale (matrix[i, j] - matrix[j, i]) for i < j.
  void skew_part(const T* matrix, T scale, T* triangle) const {
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = i + 1; j < size; ++j) *triangle++ = scale * (matrix[i * stride + j] - matrix[j * stride + i]);
  }
};

int64_t triangle_of(int64_t block) { return block * (block - 1) / 2; }

/// Runs body(task's scratch, block) for every block; a task has `bytes` of scratch.
template <class Body>
Status for_each_block(const char* what, int64_t count, int64_t block, size_t bytes, const Context& context,
                      const Body& body) {
  const int64_t tasks = tasks_of(count);
  Workspace workspace(size_t(tasks) * bytes);
  if (!workspace.allocate(context)) return out_of_memory(what, size_t(tasks) * bytes);
  std::vector<char*> scratch(static_cast<size_t>(tasks));
  for (char*& own : scratch) own = workspace.take<char>(int64_t(bytes));
  run_tasks(context, tasks, count * block * block * block, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      for (int64_t index = count * task / tasks; index < count * (task + 1) / tasks; ++index)
        body(scratch[size_t(task)], index);
  });
  return {};
}

/// Takes arrays out of a task's scratch, in the order in which its size was added up.
class Scratch {
 public:
  explicit Scratch(char* memory) : next_(memory) {}
  template <class U>
  U* take(int64_t count) {
    U* const result = reinterpret_cast<U*>(next_);
    next_ += Workspace::padded(size_t(count) * sizeof(U));
    return result;
  }

 private:
  char* next_;
};

template <class T>
size_t bytes_of(int64_t count) { return Workspace::padded(size_t(count) * sizeof(T)); }

template <class T>
size_t forward_bytes(int64_t block, int64_t terms) {
  const SquareMatrices<T> matrices(block);
  const size_t triangle = bytes_of<T>(triangle_of(block));
  return terms == 0 ? triangle + bytes_of<double>(block * padded_for_inverse(block)) + bytes_of<T>(matrices.elements())
                    : triangle + 3 * bytes_of<T>(matrices.elements());
}

/// How many of the series' inner sums the gradient keeps.
int64_t inner_sums(int64_t terms) { return std::max<int64_t>(neumann_terms(terms) - 2, 0); }

template <class T>
size_t backward_bytes(int64_t block, int64_t terms) {
  const SquareMatrices<T> matrices(block);
  const size_t triangle = bytes_of<T>(triangle_of(block)), matrix = bytes_of<T>(matrices.elements());
  return triangle + (terms == 0 ? 5 : 5 + size_t(inner_sums(terms))) * matrix;
}

/// rotation = 2 (I - Q)^-1 - I.
template <class T>
void exact(const SquareMatrices<T>& matrices, const T* triangle, double* inverse, T* rotation) {
  const int64_t size = matrices.size, stride = padded_for_inverse(size);
  std::fill_n(inverse, size * stride, 0.0);
  for (int64_t i = 0; i < size; ++i) {
    inverse[i * stride + i] = 1;
    for (int64_t j = i + 1; j < size; ++j) {
      const double value = *triangle++;
      inverse[i * stride + j] = -value, inverse[j * stride + i] = value;
    }
  }
  small_inverse(inverse, size, stride);
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j < size; ++j)
      rotation[i * matrices.stride + j] = T(2 * inverse[i * stride + j] - double(i == j));
}

/// The series by Horner's rule, S <- c_k I + Q S with S = c_last I to begin with, and Q = q_transposed^T.
template <class T>
T* neumann(const SquareMatrices<T>& matrices, const T* q_transposed, int64_t terms, T* sum, T* next) {
  const int64_t count = neumann_terms(terms);
  matrices.zero(sum);
  matrices.add_to_diagonal(sum, T(neumann_coefficient(count - 1, count)));
  for (int64_t power = count - 2; power >= 0; --power) {
    matrices.multiply(q_transposed, sum, next);
    matrices.add_to_diagonal(next, T(neumann_coefficient(power, count)));
    std::swap(sum, next);
  }
  return sum;
}

/// dQ of the series R = U_0^T with U_k = c_k I + Q^T U_(k+1): sum over k of G_k U_(k+1), G_(k+1) = Q^T G_k, G_0 = G.
template <class T>
void neumann_gradient(const SquareMatrices<T>& matrices, const T* q, int64_t terms, T* sums, T* grad, T* next,
                      T* grad_transposed, T* dq) {
  const int64_t count = neumann_terms(terms), elements = matrices.elements();
  const T last = T(neumann_coefficient(count - 1, count));
  matrices.zero(dq);
  if (count < 2) return;
  const auto sum_of = [&](int64_t power) { return sums + (power - 1) * elements; };  // powers 1 .. count - 2
  for (int64_t power = count - 2; power >= 1; --power) {
    if (power == count - 2) {
      matrices.transpose(sum_of(power), q);
      for (int64_t i = 0; i < elements; ++i) sum_of(power)[i] *= last;
    } else {
      matrices.multiply(q, sum_of(power + 1), sum_of(power));
    }
    matrices.add_to_diagonal(sum_of(power), T(neumann_coefficient(power, count)));
  }
  for (int64_t power = 0; power + 2 < count; ++power) {
    matrices.transpose(grad_transposed, grad);
    matrices.multiply(grad_transposed, sum_of(power + 1), dq, true);
    matrices.multiply(q, grad, next);
    std::swap(grad, next);
  }
  matrices.add_scaled(dq, grad, last);
}

}  // namespace

template <class T>
size_t cayley_workspace(const CayleyArgs& args) {
  return size_t(tasks_of(args.count)) * forward_bytes<T>(args.block, args.terms);
}

template <class T>
Status cayley(const CayleyArgs& args, const Context& context) {
  const SquareMatrices<T> matrices(args.block);
  const int64_t triangle_size = triangle_of(args.block), size = args.block;
  return for_each_block("cayley", args.count, size, forward_bytes<T>(size, args.terms), context,
                        [&](char* memory, int64_t index) {
    Scratch scratch(memory);
    T* const triangle = scratch.take<T>(triangle_size);
    if (triangle_size > 0)
      matrices.kernels.stage(triangle, triangle_size, source_at(args.skew, index, 0), 1, triangle_size, triangle_size);
    T* rotation = nullptr;
    if (args.terms == 0) {
      double* const inverse = scratch.take<double>(size * padded_for_inverse(size));
      rotation = scratch.take<T>(matrices.elements());
      exact(matrices, triangle, inverse, rotation);
    } else {
      T *const q_transposed = scratch.take<T>(matrices.elements()), *const sum = scratch.take<T>(matrices.elements()),
        *const next = scratch.take<T>(matrices.elements());
      matrices.fill_skew(q_transposed, triangle, true);
      rotation = neumann(matrices, q_transposed, args.terms, sum, next);
    }
    matrices.kernels.finish(rotation, matrices.stride, size, size, nullptr, nullptr,
                            destination_at(args.rotation, index * size, 0));
  });
}

template <class T>
size_t cayley_backward_workspace(const CayleyBackwardArgs& args) {
  return size_t(tasks_of(args.count)) * backward_bytes<T>(args.block, args.terms);
}

template <class T>
Status cayley_backward(const CayleyBackwardArgs& args, const Context& context) {
  const SquareMatrices<T> matrices(args.block);
  const int64_t triangle_size = triangle_of(args.block), size = args.block, elements = matrices.elements();
  if (triangle_size == 0) return {};
  return for_each_block("cayley_backward", args.count, size, backward_bytes<T>(size, args.terms), context,
                        [&](char* memory, int64_t index) {
    Scratch scratch(memory);
    T *const triangle = scratch.take<T>(triangle_size), *const grad = scratch.take<T>(elements),
      *const dq = scratch.take<T>(elements);
    matrices.load(grad, args.grad, index * size, false);
    if (args.terms == 0) {
      T *const plus = scratch.take<T>(elements), *const plus_transposed = scratch.take<T>(elements),
        *const product = scratch.take<T>(elements);  // (R + I)^T G, transposed
      matrices.load(plus, args.rotation, index * size, false);
      matrices.load(plus_transposed, args.rotation, index * size, true);
      matrices.add_to_diagonal(plus, 1), matrices.add_to_diagonal(plus_transposed, 1);
      matrices.multiply(grad, plus, product);
      matrices.multiply(product, plus_transposed, dq);
    } else {
      T *const q = scratch.take<T>(elements), *const next = scratch.take<T>(elements),
        *const grad_transposed = scratch.take<T>(elements), *const sums = scratch.take<T>(inner_sums(args.terms) * elements);
      matrices.kernels.stage(triangle, triangle_size, source_at(args.skew, index, 0), 1, triangle_size, triangle_size);
      matrices.fill_skew(q, triangle, false);
      neumann_gradient(matrices, q, args.terms, sums, grad, next, grad_transposed, dq);
    }
    matrices.skew_part(dq, args.terms == 0 ? T(0.5) : T(1), triangle);
    matrices.kernels.finish(triangle, triangle_size, 1, triangle_size, nullptr, nullptr,
                            destination_at(args.dskew, index, 0));
  });
}

template size_t cayley_workspace<float>(const CayleyArgs&);
template size_t cayley_workspace<double>(const CayleyArgs&);
template Status cayley<float>(const CayleyArgs&, const Context&);
template Status cayley<double>(const CayleyArgs&, const Context&);
template size_t cayley_backward_workspace<float>(const CayleyBackwardArgs&);
template size_t cayley_backward_workspace<double>(const CayleyBackwardArgs&);
template Status cayley_backward<float>(const CayleyBackwardArgs&, const Context&);
template Status cayley_backward<double>(const CayleyBackwardArgs&, const Context&);

}  // namespace lrk::cpu
