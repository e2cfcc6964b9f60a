#include "cpu/sketch/householder_qr.h"

#include <cmath>

#include "cpu/sketch/vector_loops.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kPanel = 32;

/// Reflections H_j = I - 2 v_j v_jT of unit vectors v_j, or v_j = 0, that turn A into a triangle; v_j is zero before
/// entry j.
class HouseholderQr {
 public:
  HouseholderQr(Workbench& bench, double* columns, int64_t rows, int64_t cols)
      : bench_(bench), columns_(columns), rows_(rows), cols_(cols) {}

  Status run(double* r) {
    const Scratch::Frame frame(bench_.scratch);
    double** const memory[] = {&diagonal_, &factors_, &vectors_, &shared_, &turned_};
    const auto elements = householder_scratch(rows_, cols_);
    for (size_t i = 0; i < elements.size(); ++i) *memory[i] = bench_.scratch.take<double>(elements[i]);
    if (bench_.scratch.failed()) return bench_.scratch.failure("orthonormalize");
    for (int64_t first = 0; first < cols_; first += kPanel) {
      reflect_panel(first);
      copy_vectors(first);
      fill_factor(first);
      LRK_RETURN_IF_FAILED(apply(first, false));
    }
    if (r != nullptr) copy_triangle(r);
    // Q = H_0 ... H_{cols-1} [I; 0], the last panel first: only columns behind it are not yet unit vectors.
    for (int64_t first = (cols_ - 1) / kPanel * kPanel; first >= 0; first -= kPanel) {
      copy_vectors(first);
      for (int64_t k = end_of(first); k < cols_; ++k) std::fill_n(column(k) + first, end_of(first) - first, 0.0);
      LRK_RETURN_IF_FAILED(apply(first, true));
      expand_panel(first);
    }
    for (int64_t j = 0; j < cols_; ++j)
      if (diagonal_[j] < 0) vector_loops().add_scaled(column(j), -2, column(j), rows_);
    return {};
  }

 private:
  double* column(int64_t j) const { return columns_ + j * rows_; }
  int64_t end_of(int64_t first) const { return std::min(cols_, first + kPanel); }

  /// H_j of the panel's columns, applied to those behind in the panel: column j from its diagonal entry on becomes v_j,
  /// that entry of the triangle goes to diagonal_, and what is above stays.
  void reflect_panel(int64_t first) const {
    const VectorLoops& loops = vector_loops();
    for (int64_t j = first; j < end_of(first); ++j) {
      double* const x = column(j) + j;
      const int64_t count = rows_ - j;
      const double norm = length(x, count);
      diagonal_[j] = x[0];
      if (norm == 0) continue;
      const double sign = x[0] < 0 ? -1 : 1;
      diagonal_[j] = -sign * norm;  // x - diagonal_[j] e_1, without cancellation
      for (int64_t i = 0; i < count; ++i) x[i] /= norm;
      x[0] += sign;
      const double scale = 1 / std::sqrt(loops.dot(x, x, count));
      for (int64_t i = 0; i < count; ++i) x[i] *= scale;
      for (int64_t k = j + 1; k < end_of(first); ++k)
        loops.add_scaled(column(k) + j, -2 * loops.dot(x, column(k) + j, count), x, count);
    }
  }

  /// vectors_ [panel, rows - first]: the panel's v_j from entry `first` on.
  void copy_vectors(int64_t first) const {
    const int64_t count = rows_ - first;
    for (int64_t j = first; j < end_of(first); ++j) {
      double* const v = vectors_ + (j - first) * count;
      std::fill_n(v, j - first, 0.0);
      std::copy_n(column(j) + j, rows_ - j, v + j - first);
    }
  }

  /// T of H_first ... H_last = I - V T VT: T_jj = 2, and above it -2 T VT v_j.
  void fill_factor(int64_t first) const {
    const int64_t size = end_of(first) - first, count = rows_ - first;
    double* const t = factors_ + first * kPanel;  // [size, size]
    std::fill_n(t, size * size, 0.0);
    for (int64_t j = 0; j < size; ++j) {
      double products[kPanel];
      for (int64_t k = 0; k < j; ++k)
        products[k] = vector_loops().dot(vectors_ + k * count, vectors_ + j * count, count);
      for (int64_t i = 0; i < j; ++i) {
        double sum = 0;
        for (int64_t k = i; k < j; ++k) sum += t[i * size + k] * products[k];
        t[i * size + j] = -2 * sum;
      }
      t[j * size + j] = 2;
    }
  }

  /// The columns C behind the panel become (I - V TT VT) C, which is H_last ... H_first C, or, `forward`,
  /// (I - V T VT) C. As rows they are CT - (CT V) T VT, or with TT in T's place.
  Status apply(int64_t first, bool forward) const {
    const int64_t end = end_of(first), size = end - first, behind = cols_ - end, count = rows_ - first;
    if (behind == 0) return {};
    const MutableMatrixView c{column(end) + first, DType::kFloat64, behind, count, rows_, 1};
    const MatrixView v = view_of<double>(static_cast<const double*>(vectors_), size, count);
    const MatrixView t = view_of<double>(static_cast<const double*>(factors_ + first * kPanel), size, size);
    LRK_RETURN_IF_FAILED(bench_.product(c, v.transposed(), view_of(shared_, behind, size)));
    LRK_RETURN_IF_FAILED(bench_.product(view_of<double>(static_cast<const double*>(shared_), behind, size),
                                        forward ? t.transposed() : t, view_of(turned_, behind, size)));
    LinearArgs update;
    update.s = view_of<double>(static_cast<const double*>(turned_), behind, size), update.up = v.transposed();
    update.base = c, update.y = c, update.scale = -1;
    return lowrank_cpu().linear(update, bench_.context);
  }

  /// The panel's columns of Q, of which H_j's are already applied to those behind.
  void expand_panel(int64_t first) const {
    const VectorLoops& loops = vector_loops();
    for (int64_t j = end_of(first) - 1; j >= first; --j) {
      double* const v = column(j) + j;
      const int64_t count = rows_ - j;
      for (int64_t k = j + 1; k < end_of(first); ++k) {
        double* const other = column(k) + j;
        other[0] = 0;
        loops.add_scaled(other, -2 * loops.dot(v, other, count), v, count);
      }
      const double head = v[0];  // H_j e_j = e_j - 2 v_0 v
      for (int64_t i = 0; i < count; ++i) v[i] *= -2 * head;
      v[0] += 1;
      std::fill_n(column(j), j, 0.0);
    }
  }

  void copy_triangle(double* r) const {
    for (int64_t i = 0; i < cols_; ++i) {
      const double sign = diagonal_[i] < 0 ? -1 : 1;
      std::fill_n(r + i * cols_, i, 0.0);
      r[i * cols_ + i] = sign * diagonal_[i];
      for (int64_t j = i + 1; j < cols_; ++j) r[i * cols_ + j] = sign * column(j)[i];
    }
  }

  Workbench& bench_;
  double* const columns_;
  const int64_t rows_, cols_;
  double *diagonal_ = nullptr, *factors_ = nullptr, *vectors_ = nullptr, *shared_ = nullptr, *turned_ = nullptr;
};

}  // namespace

std::array<int64_t, 5> householder_scratch(int64_t rows, int64_t cols) {
  return {cols, cols * kPanel, rows * kPanel, cols * kPanel, cols * kPanel};
}

Status householder_qr(Workbench& bench, double* columns, int64_t rows, int64_t cols, double* r) {
  if (cols == 0) return {};
  return HouseholderQr(bench, columns, rows, cols).run(r);
}

}  // namespace lrk::cpu
