// The orthogonal kernels against plain float64 loops: on the CPU for every instruction set this machine has, on the
// emulated CUDA device, and on a GPU when there is one. Dtypes, layouts, odd shapes; outputs are checked for stray
// writes, and operands and workspaces end at an inaccessible page, so a stray read ends the test.
#include <sys/wait.h>

#include <functional>

#include "device_matrix.h"
#include "lrk/build_info.h"
#include "lrk/orthogonal.h"

namespace {

using namespace lrk;
using namespace lrk::testing;

using Dense = std::vector<double>;  // row-major

struct Target {
  const OrthogonalBackend* backend;
  Device device;
  bool any_layout;  // else rows are contiguous
};

Dense dense(const Matrix& matrix) {
  Dense values;
  for (int64_t i = 0; i < matrix.view().rows; ++i)
    for (int64_t j = 0; j < matrix.view().cols; ++j) values.push_back(matrix.at(i, j));
  return values;
}

/// c = a b of [rows, inner] and [inner, cols].
Dense product(const Dense& a, const Dense& b, int64_t rows, int64_t inner, int64_t cols) {
  Dense c(size_t(rows * cols), 0.0);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < inner; ++k)
      for (int64_t j = 0; j < cols; ++j) c[size_t(i * cols + j)] += a[size_t(i * inner + k)] * b[size_t(k * cols + j)];
  return c;
}

Dense transposed(const Dense& a, int64_t rows, int64_t cols) {
  Dense result(a.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) result[size_t(j * rows + i)] = a[size_t(i * cols + j)];
  return result;
}

/// Gauss-Jordan with partial pivoting.
Dense inverse(Dense a, int64_t n) {
  Dense result(size_t(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) result[size_t(i * n + i)] = 1;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k; i < n; ++i)
      if (std::fabs(a[size_t(i * n + k)]) > std::fabs(a[size_t(pivot * n + k)])) pivot = i;
    for (Dense* m : {&a, &result})
      for (int64_t j = 0; j < n; ++j) std::swap((*m)[size_t(k * n + j)], (*m)[size_t(pivot * n + j)]);
    const double reciprocal = 1 / a[size_t(k * n + k)];
    for (Dense* m : {&a, &result})
      for (int64_t j = 0; j < n; ++j) (*m)[size_t(k * n + j)] *= reciprocal;
    for (int64_t i = 0; i < n; ++i) {
      const double factor = a[size_t(i * n + k)];
      if (i == k || factor == 0) continue;
      for (Dense* m : {&a, &result})
        for (int64_t j = 0; j < n; ++j) (*m)[size_t(i * n + j)] -= factor * (*m)[size_t(k * n + j)];
    }
  }
  return result;
}

/// Every element within the rounding of the result, of sums whose addends are about `size`, and of their operands.
void expect_near(Matrix& got, const Dense& want, double size, int64_t terms, const std::string& what,
                 double packing = 0) {
  expect(got.download(), what + ": wrote outside its result");
  const DType dtype = got.view().dtype;
  int64_t index = 0;
  for (int64_t i = 0; i < got.view().rows; ++i) {
    for (int64_t j = 0; j < got.view().cols; ++j, ++index) {
      if (close(got.at(i, j), want[size_t(index)], dtype, size, terms, packing)) continue;
      expect(false, what + " (" + std::to_string(i) + ", " + std::to_string(j) + "): " + std::to_string(got.at(i, j)) +
                        ", expected " + std::to_string(want[size_t(index)]));
      return;
    }
  }
  expect(true, what);
}

/// Tasks run from the last to the first, a few at a time.
void set_threads(Context& context) {
  context.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
    for (int64_t end = tasks; end > 0; end -= 3) body(std::max<int64_t>(0, end - 3), end);
  };
}

/// Runs with a trace: the status is ok, and plan and trace agree in name and workspace.
template <class Args>
bool run(const std::string& what, const Target& target, Plan (*plan)(const Args&, const Context&),
         Status (*entry)(const Args&, const Context&), const Args& args, bool empty = false) {
  Workspaces workspaces(target.device);
  set_threads(workspaces.context);
  const Plan planned = plan(args, workspaces.context);
  start_trace();
  const Status status = entry(args, workspaces.context);
  const std::vector<std::string> trace = stop_trace();
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
  if (target.device.gpu) expect(cudaDeviceSynchronize() == cudaSuccess, what + ": device error");
#endif
  expect(status.ok(), what + ": " + status.message);
  if (!status.ok() || empty) return status.ok();
  expect(trace.size() == 1 && trace[0] == planned.kernel, what + ": the plan says " + planned.kernel + ", not what ran");
  expect(workspaces.bytes == planned.workspace_bytes, what + ": workspace differs from the plan");
  Context no_memory = workspaces.context;
  no_memory.allocate = [](size_t) -> void* { return nullptr; };
  if (planned.workspace_bytes > 0)
    expect(entry(args, no_memory).code == StatusCode::kOutOfMemory, what + ": no workspace is reported");
  return true;
}

// --- Givens rounds ---

void rotate(Dense& rows, int64_t count, int64_t features, const Matrix& angles, const std::vector<int64_t>& strides,
            bool inverse) {
  const int64_t rounds = int64_t(strides.size());
  for (int64_t step = 0; step < rounds; ++step) {
    const int64_t round = inverse ? rounds - 1 - step : step, stride = strides[size_t(round)];
    for (int64_t i = 0, pair = 0; i + stride < features; ++i) {
      if (i / stride % 2 != 0) continue;
      const double c = std::cos(angles.at(round, pair)), s = std::sin(angles.at(round, pair)) * (inverse ? -1 : 1);
      ++pair;
      for (int64_t row = 0; row < count; ++row) {
        double &a = rows[size_t(row * features + i)], &b = rows[size_t(row * features + i + stride)];
        const double first = c * a - s * b;
        b = s * a + c * b, a = first;
      }
    }
  }
}

void check_givens(const Target& target, DType dtype, int64_t rows, int64_t features, std::vector<int64_t> strides,
                  bool inverse, Layout layout) {
  const std::string what = std::string(target.backend->name) + " givens " + name_of(dtype) + " " + std::to_string(rows) +
                           "x" + std::to_string(features) + (inverse ? " inverse" : "");
  Random random(uint64_t(rows * 31 + features));
  const int64_t rounds = int64_t(strides.size());
  const Matrix x(target.device, random, dtype, rows, features, layout),
      grad(target.device, random, dtype, rows, features, layout),
      angles(target.device, random, DType::kFloat32, rounds, features / 2);
  Matrix y(target.device, random, dtype, rows, features, {}, false), dx(target.device, random, dtype, rows, features, {}, false),
      dangles(target.device, random, DType::kFloat32, rounds, features / 2, {}, false);
  GivensArgs args;
  args.x = x.view(), args.y = y.view();
  args.rounds.angles = angles.view(), args.rounds.strides = strides.data(), args.rounds.inverse = inverse;
  if (!run(what, target, target.backend->plan_givens, target.backend->givens, args)) return;
  Dense want = dense(x);
  rotate(want, rows, features, angles, strides, inverse);
  expect_near(y, want, 2, 2 * rounds, what);

  GivensBackwardArgs back;
  back.y = x.view(), back.grad = grad.view(), back.rounds = args.rounds;
  back.dx = dx.view(), back.dangles = dangles.view();
  if (!run(what + " backward", target, target.backend->plan_givens_backward, target.backend->givens_backward, back))
    return;
  want = dense(grad);
  rotate(want, rows, features, angles, strides, !inverse);
  expect_near(dx, want, 2, 2 * rounds, what + " dx");
  // Walk both back round by round: the sums do not change from one side of a rotation to the other.
  Dense y_now = dense(x), g_now = dense(grad), sums(size_t(rounds * (features / 2)), 0.0);
  for (int64_t step = rounds - 1; step >= 0; --step) {
    const int64_t round = inverse ? rounds - 1 - step : step, stride = strides[size_t(round)];
    for (int64_t i = 0, pair = 0; i + stride < features; ++i) {
      if (i / stride % 2 != 0) continue;
      const int64_t j = i + stride;
      const double c = std::cos(angles.at(round, pair)), s = std::sin(angles.at(round, pair)) * (inverse ? -1 : 1);
      double& sum = sums[size_t(round * (features / 2) + pair++)];
      for (int64_t row = 0; row < rows; ++row) {
        double *const yr = &y_now[size_t(row * features)], *const gr = &g_now[size_t(row * features)];
        sum += (inverse ? -1 : 1) * (gr[j] * yr[i] - gr[i] * yr[j]);
        for (double* const v : {yr, gr}) {
          const double first = c * v[i] + s * v[j];
          v[j] = c * v[j] - s * v[i], v[i] = first;
        }
      }
    }
  }
  expect_near(dangles, sums, 8, rows + 2 * rounds, what + " dangles");
}

// --- Cayley maps ---

Dense skew_of(const Matrix& skew, int64_t row, int64_t block) {
  Dense q(size_t(block * block), 0.0);
  int64_t index = 0;
  for (int64_t i = 0; i < block; ++i)
    for (int64_t j = i + 1; j < block; ++j, ++index)
      q[size_t(i * block + j)] = skew.at(row, index), q[size_t(j * block + i)] = -skew.at(row, index);
  return q;
}

Dense plus_identity(Dense a, int64_t block, double scale, double identity) {
  for (double& value : a) value *= scale;
  for (int64_t i = 0; i < block; ++i) a[size_t(i * block + i)] += identity;
  return a;
}

/// terms == 0: the exact map; else the series by its powers.
Dense map_of(const Dense& q, int64_t block, int64_t terms) {
  if (terms == 0)
    return product(inverse(plus_identity(q, block, -1, 1), block), plus_identity(q, block, 1, 1), block, block, block);
  const int64_t count = terms == 3 ? 4 : terms;
  Dense power = plus_identity(Dense(q.size(), 0.0), block, 0, 1), sum(q.size(), 0.0);
  for (int64_t k = 0; k < count; ++k) {
    const double factor = k == 0 || (k == count - 1 && count > 2) ? 1 : 2;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += factor * power[i];
    power = product(power, q, block, block, block);
  }
  return sum;
}

/// The derivative of <G, R> along every pair of skew, by central differences of the float64 map.
Dense differences(const Dense& q, const Dense& grad, int64_t block, int64_t terms) {
  constexpr double kStep = 1e-5;
  Dense result;
  for (int64_t i = 0; i < block; ++i) {
    for (int64_t j = i + 1; j < block; ++j) {
      double change = 0;
      for (const double sign : {1.0, -1.0}) {
        Dense moved = q;
        moved[size_t(i * block + j)] += sign * kStep, moved[size_t(j * block + i)] -= sign * kStep;
        const Dense r = map_of(moved, block, terms);
        for (size_t k = 0; k < r.size(); ++k) change += sign * grad[k] * r[k];
      }
      result.push_back(change / (2 * kStep));
    }
  }
  return result;
}

void check_cayley(const Target& target, DType dtype, int64_t count, int64_t block, int64_t terms, Layout layout,
                  bool gradient) {
  const std::string what = std::string(target.backend->name) + " cayley " + name_of(dtype) + " " +
                           std::to_string(count) + "x" + std::to_string(block) + " terms " + std::to_string(terms);
  Random random(uint64_t(count * 131 + block));
  const Matrix skew(target.device, random, dtype, count, block * (block - 1) / 2, layout);
  Matrix rotation(target.device, random, dtype, count * block, block, {}, false);
  CayleyArgs args;
  args.skew = skew.view(), args.rotation = rotation.view();
  args.count = count, args.block = block, args.terms = terms;
  if (!run(what, target, target.backend->plan_cayley, target.backend->cayley, args)) return;
  Dense want;
  double size = 1;
  for (int64_t n = 0; n < count; ++n) {
    const Dense r = map_of(skew_of(skew, n, block), block, terms);
    for (const double value : r) size = std::max(size, std::fabs(value));
    want.insert(want.end(), r.begin(), r.end());
  }
  expect_near(rotation, want, terms == 0 ? 1 : 2 * size, terms == 0 ? 0 : block * terms, what);
  if (!gradient || dtype != DType::kFloat32) return;

  const Matrix grad(target.device, random, dtype, count * block, block);
  Matrix dskew(target.device, random, dtype, count, block * (block - 1) / 2, {}, false);
  CayleyBackwardArgs back;
  back.grad = grad.view(), back.dskew = dskew.view();
  (terms == 0 ? back.rotation : back.skew) = terms == 0 ? MatrixView(rotation.view()) : MatrixView(skew.view());
  back.count = count, back.block = block, back.terms = terms;
  if (!run(what + " backward", target, target.backend->plan_cayley_backward, target.backend->cayley_backward, back,
           block < 2))
    return;
  const Dense gradients = dense(grad);
  want.clear();
  for (int64_t n = 0; n < count; ++n) {
    const Dense g(gradients.begin() + n * block * block, gradients.begin() + (n + 1) * block * block);
    const Dense d = differences(skew_of(skew, n, block), g, block, terms);
    want.insert(want.end(), d.begin(), d.end());
  }
  double largest = 1;
  for (const double value : want) largest = std::max(largest, std::fabs(value));
  // Differences are good to about 1e-9 of the largest.
  expect_near(dskew, want, 4 * largest, block * (terms + 2) + 64, what + " dskew");
}

// --- Block-diagonal products ---

Dense columns_of(const Dense& a, int64_t rows, int64_t cols, int64_t first, int64_t count) {
  Dense result;
  for (int64_t i = 0; i < rows; ++i)
    result.insert(result.end(), a.begin() + i * cols + first, a.begin() + i * cols + first + count);
  return result;
}

/// Every block of columns of a [rows, count block] times its matrix.
Dense block_products(const Dense& a, const Dense& blocks, int64_t rows, int64_t count, int64_t block, bool transpose) {
  Dense result(a.size());
  for (int64_t n = 0; n < count; ++n) {
    const bool shared = int64_t(blocks.size()) == block * block;
    const auto first = blocks.begin() + (shared ? 0 : n) * block * block;
    Dense matrix(first, first + block * block);
    if (transpose) matrix = transposed(matrix, block, block);
    const Dense y = product(columns_of(a, rows, count * block, n * block, block), matrix, rows, block, block);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < block; ++j) result[size_t((i * count + n) * block + j)] = y[size_t(i * block + j)];
  }
  return result;
}

struct BlockCase {
  DType dtype, blocks_dtype;
  int64_t rows, count, block;
  bool shared = false, transpose = false;
  Layout layout = {}, blocks_layout = {};
};

void check_blocks(const Target& target, const BlockCase& test) {
  const int64_t rows = test.rows, count = test.count, block = test.block, matrices = test.shared ? 1 : count;
  const std::string what = std::string(target.backend->name) + " block_diagonal " + name_of(test.dtype) + " " +
                           name_of(test.blocks_dtype) + " " + std::to_string(rows) + "x" + std::to_string(count) + "x" +
                           std::to_string(block) + (test.shared ? " shared" : "") + (test.transpose ? " transposed" : "");
  Random random(uint64_t(rows * 131 + count * 17 + block));
  const Matrix x(target.device, random, test.dtype, rows, count * block, test.layout),
      grad(target.device, random, test.dtype, rows, count * block, test.layout),
      blocks(target.device, random, test.blocks_dtype, matrices * block, block, test.blocks_layout);
  Matrix y(target.device, random, test.dtype, rows, count * block, {}, false),
      dx(target.device, random, test.dtype, rows, count * block, {}, false),
      dblocks(target.device, random, test.blocks_dtype, matrices * block, block, {}, false),
      dblocks_alone(target.device, random, test.blocks_dtype, matrices * block, block, {}, false);
  // CUDA's tensor cores take float32 matrices as two halves, which for bf16 have 16 bits together; errors of that size
  // in addends of either sign add up to a few of them.
  const double packing = !target.any_layout && test.dtype != test.blocks_dtype ? 0x1p-17 * 4 : 0;
  BlockDiagonalArgs args;
  args.x = x.view(), args.blocks = blocks.view(), args.y = y.view();
  args.block = block, args.transpose = test.transpose;
  if (!run(what, target, target.backend->plan_block_diagonal, target.backend->block_diagonal, args)) return;
  expect_near(y, block_products(dense(x), dense(blocks), rows, count, block, test.transpose), 2, block, what, packing);

  BlockDiagonalBackwardArgs back;
  back.grad = grad.view(), back.x = x.view(), back.blocks = blocks.view();
  back.block = block, back.transpose = test.transpose;
  back.dx = dx.view(), back.dblocks = dblocks.view();
  const auto& backend = *target.backend;
  if (!run(what + " backward", target, backend.plan_block_diagonal_backward, backend.block_diagonal_backward, back))
    return;
  expect_near(dx, block_products(dense(grad), dense(blocks), rows, count, block, !test.transpose), 2, block,
              what + " dx", packing);
  Dense want(size_t(matrices * block * block), 0.0);
  for (int64_t n = 0; n < count; ++n) {
    const Dense left = columns_of(dense(test.transpose ? grad : x), rows, count * block, n * block, block);
    const Dense right = columns_of(dense(test.transpose ? x : grad), rows, count * block, n * block, block);
    const Dense sum = product(transposed(left, rows, block), right, block, rows, block);
    for (int64_t e = 0; e < block * block; ++e) want[size_t((test.shared ? 0 : n) * block * block + e)] += sum[size_t(e)];
  }
  expect_near(dblocks, want, 2, rows * (test.shared ? count : 1), what + " dblocks");
  back.dx = {}, back.dblocks = dblocks_alone.view();
  if (!run(what + " dblocks", target, backend.plan_block_diagonal_backward, backend.block_diagonal_backward, back)) return;
  dblocks_alone.download();
  expect(dense(dblocks_alone) == dense(dblocks), what + ": dblocks depend on whether dx is wanted");
}

/// What a CUDA kernel cannot count is refused by plan and run alike, before any operand is read.
void check_refusals(const Target& target) {
  Context context;
  BlockDiagonalArgs args;
  args.block = 46337;
  args.x = {&args, DType::kBFloat16, 1, args.block, args.block, 1};
  args.blocks = {&args, DType::kBFloat16, args.block, args.block, args.block, 1};
  args.y = {&args, DType::kBFloat16, 1, args.block, args.block, 1};
  const Plan plan = target.backend->plan_block_diagonal(args, context);
  const Status status = target.backend->block_diagonal(args, context);
  const std::string expected = "block_diagonal_apply: blocks of 46337 are too large";
  expect(plan.kernel == "none" && plan.reason.find(expected) == 0, "the plan of a block too large: " + plan.reason);
  expect(status.code == StatusCode::kUnsupported && status.message.find(expected) == 0,
         "a block too large: " + status.message);
}

// --- All of them ---

void check_all(const Target& target) {
  constexpr DType kDtypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
  const Layout padded{1, 3, false}, columns{0, 1, true};
  for (const DType dtype : kDtypes) {
    for (const bool inverse : {false, true}) {
      check_givens(target, dtype, 5, 32, {1, 2, 4, 8, 16}, inverse, {});
      check_givens(target, dtype, 9, 53, {3, 1, 24, 6}, inverse, padded);
      if (target.any_layout) check_givens(target, dtype, 17, 40, {1, 16, 2, 32}, inverse, columns);
    }
    for (const int64_t terms : {0, 1, 2, 3, 5, 6}) {
      for (const int64_t block : {1, 2, 5, 16, 17}) check_cayley(target, dtype, 3, block, terms, padded, block < 17);
      check_cayley(target, dtype, 2, 40, terms, columns, false);
    }
    for (const bool transpose : {false, true}) {
      for (const bool shared : {false, true}) {
        check_blocks(target, {dtype, dtype, 7, 5, 3, shared, transpose, padded});
        check_blocks(target, {dtype, DType::kFloat32, 61, 3, 32, shared, transpose});
        check_blocks(target, {dtype, DType::kFloat32, 130, 2, 33, shared, transpose, padded, padded});
        if (target.any_layout) check_blocks(target, {dtype, dtype, 60, 4, 20, shared, transpose, columns, columns});
      }
    }
  }
  check_cayley(target, DType::kFloat32, 1, 130, 0, {}, false);
  check_blocks(target, {DType::kFloat32, DType::kFloat32, 600, 2, 8});
  check_blocks(target, {DType::kBFloat16, DType::kFloat32, 600, 1, 100});
  check_blocks(target, {DType::kFloat32, DType::kFloat32, 9, 150, 3, true});  // a sum over more blocks than elements
  check_blocks(target, {DType::kBFloat16, DType::kBFloat16, 9, 3, 70});       // matrices of one half
}

int finish() {
  std::printf("%d checks, %d failed\n", checks, failures);
  std::fflush(stdout);
  return failures == 0 ? 0 : 1;
}

/// In a child process, where the instruction set is chosen afresh: 0 passed, 1 failed, 2 not on this machine.
int check_cpu(const char* isa) {
  setenv("LRK_CPU_ISA", isa, 1);
  if (cpu_isa() != isa) return 2;
  std::printf("%s: ", isa);
  check_all({&orthogonal_cpu(), {}, true});
  return finish();
}

}  // namespace

int main() {
  bool passed = true;
  int tested = 0;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) _exit(check_cpu(isa));
    int status = 0;
    const bool exited = child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status);
    const int code = exited ? WEXITSTATUS(status) : 1;
    if (code == 2) std::printf("%s: not on this machine\n", isa);
    passed = passed && (code == 0 || code == 2);
    tested += code == 0;
  }
  if (const OrthogonalBackend* emulated = orthogonal_cuda_emulated())
    check_all({emulated, {}, false}), check_refusals({emulated, {}, false});
  else
    std::puts("emulated backend skipped: this build has no emulator");
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
  int count = 0;
  if (orthogonal_cuda() != nullptr && cudaGetDeviceCount(&count) == cudaSuccess && count > 0)
    check_all({orthogonal_cuda(), {nullptr, true}, false});
  else
    std::puts("GPU skipped: no device, or no CUDA kernels in this build");
#else
  std::puts("GPU skipped: the test was compiled without the CUDA runtime's headers");
#endif
  // The portable kernels run anywhere, so something must have been tested.
  return finish() == 0 && passed && tested > 0 ? 0 : 1;
}
