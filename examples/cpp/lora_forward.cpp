// A linear layer with a LoRA adapter, from C++, on the CPU: y = x Wt + b + scale (x At) Bt. Compares every element with
// plain loops, then prints what it took.
//
//   lora_forward [rows in out rank]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "lrk/build_info.h"
#include "lrk/lowrank.h"

namespace {

using Clock = std::chrono::steady_clock;

/// A row-major float matrix.
struct Matrix {
  int64_t rows, cols;
  std::vector<float> values = std::vector<float>(size_t(rows * cols));

  lrk::MatrixView view() const { return {values.data(), lrk::DType::kFloat32, rows, cols, cols, 1}; }
  lrk::MutableMatrixView view() { return {values.data(), lrk::DType::kFloat32, rows, cols, cols, 1}; }
  double at(int64_t row, int64_t col) const { return values[size_t(row * cols + col)]; }
};

Matrix random_matrix(int64_t rows, int64_t cols, float deviation) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  Matrix matrix{rows, cols};
  for (float& value : matrix.values) value = normal(generator);
  return matrix;
}

/// What the kernels may use: threads, and scratch memory that lives until release_scratch().
class Machine {
 public:
  Machine() {
    context_.parallel_for = [this](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
      const int64_t team = std::min<int64_t>(tasks, threads_);
      std::vector<std::thread> others;
      for (int64_t i = 1; i < team; ++i) others.emplace_back(body, tasks * i / team, tasks * (i + 1) / team);
      if (team > 0) body(0, tasks / team);
      for (std::thread& other : others) other.join();
    };
    context_.allocate = [this](size_t bytes) -> void* {
      scratch_.emplace_back(::operator new(bytes, kAlignment, std::nothrow));
      return scratch_.back().get();
    };
  }
  const lrk::Context& context() const { return context_; }
  void release_scratch() { scratch_.clear(); }
  int threads() const { return threads_; }

 private:
  static constexpr std::align_val_t kAlignment{256};
  struct Free {
    void operator()(void* data) const { ::operator delete(data, kAlignment); }
  };
  int threads_ = std::max(1, int(std::thread::hardware_concurrency()));
  std::vector<std::unique_ptr<void, Free>> scratch_;
  lrk::Context context_;
};

struct LoRALinear {
  Matrix weight, bias, down, up;
  double scale;

  /// Two of the library's three primitives; the third makes gradients of factors.
  lrk::Status forward(const Matrix& x, Matrix& y, Machine& machine) const {
    Matrix s{x.rows, down.rows};
    lrk::ProjectArgs project;
    project.x = x.view(), project.down = down.view(), project.s = s.view();
    lrk::Status status = lrk::lowrank_cpu().project(project, machine.context());
    if (status.ok()) status = lrk::lowrank_cpu().linear(linear_args(x, s, y), machine.context());
    machine.release_scratch();
    return status;
  }

  lrk::LinearArgs linear_args(const Matrix& x, const Matrix& s, Matrix& y) const {
    lrk::LinearArgs linear;
    linear.x = x.view(), linear.weight = weight.view(), linear.bias = bias.view();
    linear.s = s.view(), linear.up = up.view(), linear.scale = scale;
    linear.y = y.view();
    return linear;
  }
};

/// The largest |y - exact| over its bound: a float sum of n terms is off by at most n 2^-24 of the terms' sizes.
double worst_error(const LoRALinear& layer, const Matrix& x, const Matrix& y) {
  const int64_t in = x.cols, rank = layer.down.rows;
  double worst = 0;
  std::vector<double> s(static_cast<size_t>(rank)), s_size(static_cast<size_t>(rank));
  for (int64_t row = 0; row < x.rows; ++row) {
    for (int64_t j = 0; j < rank; ++j) {
      s[size_t(j)] = s_size[size_t(j)] = 0;
      for (int64_t k = 0; k < in; ++k) {
        const double term = x.at(row, k) * layer.down.at(j, k);
        s[size_t(j)] += term, s_size[size_t(j)] += std::fabs(term);
      }
    }
    for (int64_t col = 0; col < y.cols; ++col) {
      double exact = layer.bias.at(0, col), size = std::fabs(exact);
      for (int64_t k = 0; k < in; ++k) {
        const double term = x.at(row, k) * layer.weight.at(col, k);
        exact += term, size += std::fabs(term);
      }
      for (int64_t j = 0; j < rank; ++j) {
        exact += layer.scale * s[size_t(j)] * layer.up.at(col, j);
        size += layer.scale * s_size[size_t(j)] * std::fabs(layer.up.at(col, j));
      }
      const double bound = double(in + rank + 4) * std::ldexp(size, -24);
      worst = std::max(worst, std::fabs(y.at(row, col) - exact) / bound);
    }
  }
  return worst;
}

double median_seconds(const LoRALinear& layer, const Matrix& x, Matrix& y, Machine& machine) {
  std::vector<double> seconds;
  for (double total = 0; total < 0.3 || seconds.size() < 5; total += seconds.back()) {
    const auto begin = Clock::now();
    if (!layer.forward(x, y, machine).ok()) std::abort();  // it was fine before
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + long(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  int64_t sizes[4] = {256, 1024, 1024, 16};
  for (int i = 1; i < argc; ++i) {
    char* end = nullptr;
    if (i <= 4) sizes[i - 1] = std::strtoll(argv[i], &end, 10);
    if (argc != 5 || *end != '\0' || sizes[i - 1] < 1) {
      std::fprintf(stderr, "usage: lora_forward [rows in out rank], each at least 1\n");
      return 2;
    }
  }
  const auto [rows, in, out, rank] = sizes;
  const LoRALinear layer{random_matrix(out, in, 1 / std::sqrt(float(in))), random_matrix(1, out, 1),
                         random_matrix(rank, in, 1 / std::sqrt(float(in))), random_matrix(out, rank, 1), 2.0};
  const Matrix x = random_matrix(rows, in, 1);
  Matrix y{rows, out};
  Machine machine;

  // A plan says what a program that has a BLAS should do; `linear` runs the library's own kernel in any case.
  const lrk::Plan plan = lrk::lowrank_cpu().plan_linear(layer.linear_args(x, {rows, rank}, y), machine.context());
  std::printf("%s, plan: %s (%s)\n", lrk::cpu_isa().c_str(), plan.kernel.c_str(), plan.reason.c_str());
  lrk::start_trace();
  const lrk::Status status = layer.forward(x, y, machine);
  for (const std::string& kernel : lrk::stop_trace()) std::printf("ran %s\n", kernel.c_str());
  if (!status.ok()) {
    std::fprintf(stderr, "lora_forward: %s\n", status.message.c_str());
    return 1;
  }
  const double error = worst_error(layer, x, y);
  if (!(error <= 1)) {
    std::fprintf(stderr, "lora_forward: wrong result, error %g times its bound\n", error);
    return 1;
  }
  const double operations = 2.0 * double(rows) * (double(in) * double(out) + double(rank) * double(in + out));
  const double seconds = median_seconds(layer, x, y, machine);
  std::printf("%.3f ms, %.1f GFLOP/s on %d threads; largest error %.3f of its bound\n", seconds * 1e3,
              operations / seconds * 1e-9, machine.threads(), error);
}
