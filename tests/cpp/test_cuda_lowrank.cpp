// The CUDA low-rank kernels against plain float64 loops: on the emulated device always, on a GPU when there is one.
// Every tile configuration, dtype, layout, odd shape and option; outputs are checked for stray writes, and in the
// emulator every operand ends at an inaccessible page, so a stray read ends the test.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "device_matrix.h"

namespace {

using namespace lrk;
using namespace lrk::testing;

std::string describe(const Device& device, const char* what, DType dtype, int64_t a, int64_t b, int64_t c, int64_t d,
                     const std::string& forced) {
  return std::string(device.backend->name) + " " + what + " " + name_of(dtype) + " " + std::to_string(a) + "x" +
         std::to_string(b) + "x" + std::to_string(c) + " rank " + std::to_string(d) + " force \"" + forced + "\"";
}

/// Runs with a trace: the status is ok, the plan named what ran, and what was forced ran.
template <class Args>
bool run(const char* name, Plan (*plan)(const Args&, const Context&), Status (*entry)(const Args&, const Context&),
         const Args& args, Workspaces& workspaces, const std::string& forced, bool empty) {
  force_kernel(forced);
  const Plan planned = plan(args, workspaces.context);
  start_trace();
  const Status status = entry(args, workspaces.context);
  const std::vector<std::string> trace = stop_trace();
  force_kernel("");
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
  if (workspaces.device.gpu) expect(cudaDeviceSynchronize() == cudaSuccess, std::string(name) + ": device error");
#endif
  expect(status.ok(), std::string(name) + ": " + status.message);
  if (empty) return status.ok();
  const bool named = trace.size() == 1 && (trace[0] == planned.kernel || planned.library_gemm);
  expect(named, std::string(name) + ": the plan says " + planned.kernel + ", the trace differs");
  if (!forced.empty())
    expect(trace.size() == 1 && trace[0].find(forced) != std::string::npos, std::string(name) + ": forcing failed");
  if (!planned.library_gemm)
    expect(workspaces.bytes == planned.workspace_bytes, std::string(name) + ": workspace differs from the plan");
  return status.ok();
}

struct LinearCase {
  DType dtype;
  int64_t rows, out, in, rank;
  bool weight = true, base = false, alias = false, bias = false, float_factors = false, transposed = false,
       padded_y = false;
  int offset = 0, padding = 0;
  double dropout = 0.0, scale = 0.75;
  std::string forced = {};
};

void check_linear(const Device& device, const LinearCase& test) {
  Random random(uint64_t(test.rows * 131 + test.out * 17 + test.in * 7 + test.rank));
  const DType factors = test.float_factors ? DType::kFloat32 : test.dtype;
  const Layout large{test.offset, test.padding, false}, weights{test.offset, test.padding, test.transposed};
  const Matrix x(device, random, test.dtype, test.rows, test.weight ? test.in : 0, large);
  const Matrix weight(device, random, test.dtype, test.out, test.weight ? test.in : 0, weights);
  const Matrix s(device, random, test.dtype, test.rows, test.rank);
  const Matrix up(device, random, factors, test.out, test.rank, {0, 0, test.transposed});
  const Matrix bias(device, random, factors, 1, test.out);
  const Layout output{test.padded_y ? 8 : 0, test.padded_y ? 16 : 0, false};
  const Matrix base(device, random, test.dtype, test.rows, test.out, output);
  Matrix separate(device, random, test.dtype, test.rows, test.out, output, false);
  Matrix shared(device, random, test.dtype, test.rows, test.out, output);
  Matrix& y = test.alias ? shared : separate;
  std::vector<double> base_values;  // before y overwrites them
  for (int64_t i = 0; i < test.rows; ++i)
    for (int64_t j = 0; j < test.out; ++j) base_values.push_back(test.alias ? shared.at(i, j) : base.at(i, j));
  const Seed seed(device);

  LinearArgs args;
  if (test.weight) args.x = x.view(), args.weight = weight.view();
  if (test.base) args.base = test.alias ? shared.view() : base.view();
  args.s = s.view(), args.up = up.view();
  if (test.bias) args.bias = bias.view();
  args.scale = test.scale;
  args.dropout = {test.dropout, test.dropout > 0 ? seed.pointer() : nullptr};
  args.y = y.view();
  const std::string name =
      describe(device, test.weight ? "linear" : "expand", test.dtype, test.rows, test.out, test.in, test.rank,
               test.forced);
  Workspaces workspaces(device);
  if (!run(name.c_str(), device.backend->plan_linear, device.backend->linear, args, workspaces, test.forced,
           test.rows == 0 || test.out == 0))
    return;
  expect(y.download(), name + ": wrote outside y");
  const double packing = test.float_factors && test.dtype != DType::kFloat32 ? unit(test.dtype) * 1.01 : 0.0;
  int wrong = 0;
  for (int64_t i = 0; i < test.rows; ++i)
    for (int64_t j = 0; j < test.out; ++j) {
      double sum = 0, magnitude = 0, branch = 0, branch_magnitude = 0;
      for (int64_t k = 0; test.weight && k < test.in; ++k)
        sum += x.at(i, k) * weight.at(j, k), magnitude += std::fabs(x.at(i, k) * weight.at(j, k));
      for (int64_t k = 0; k < test.rank; ++k)
        branch += s.at(i, k) * up.at(j, k), branch_magnitude += std::fabs(s.at(i, k) * up.at(j, k));
      const double factor = test.scale * seed.factor(test.dropout, i * test.out + j);
      sum += factor * branch, magnitude += std::fabs(factor) * branch_magnitude;
      if (test.base) {
        const double value = base_values[size_t(i * test.out + j)];
        sum += value, magnitude += std::fabs(value);
      }
      if (test.bias) sum += bias.at(0, j), magnitude += std::fabs(bias.at(0, j));
      if (!close(y.at(i, j), sum, test.dtype, magnitude, test.in + test.rank,
                 magnitude > 0 ? packing * std::fabs(factor) * branch_magnitude / magnitude : 0.0) &&
          wrong++ == 0)
        std::printf("%s: y(%ld, %ld) is %.9g, expected %.9g\n", name.c_str(), long(i), long(j), y.at(i, j), sum);
    }
  expect(wrong == 0, name + ": " + std::to_string(wrong) + " wrong elements");
}

struct SplitCase {
  DType dtype;
  int64_t rows, cols, rank;
  bool float_factors = false, transposed_factor = false, per_token_gate = false, vector_gate = false,
       projected = false, transposed_grad = false, float_output = false;
  int offset = 0, padding = 0;
  double dropout = 0.0;
  std::string forced = {};
};

/// drop(x), row-major.
std::vector<double> dropped_values(const Matrix& x, const SplitCase& test, const Seed& seed) {
  std::vector<double> values;
  for (int64_t i = 0; i < test.rows; ++i)
    for (int64_t j = 0; j < test.cols; ++j)
      values.push_back(x.at(i, j) * seed.factor(test.dropout, i * test.cols + j));
  return values;
}

void check_project(const Device& device, const SplitCase& test) {
  Random random(uint64_t(test.rows * 31 + test.cols * 7 + test.rank));
  const DType factors = test.float_factors ? DType::kFloat32 : test.dtype;
  const DType result = test.float_output ? DType::kFloat32 : test.dtype;
  const Matrix x(device, random, test.dtype, test.rows, test.cols, {test.offset, test.padding, false});
  const Matrix down(device, random, factors, test.rank, test.cols, {0, 0, test.transposed_factor});
  const Matrix gate(device, random, factors, test.vector_gate ? 1 : test.rows, test.rank);
  Matrix s(device, random, result, test.rows, test.rank, {}, false);
  Matrix projected(device, random, result, test.rows, test.rank, {}, false);
  const Seed seed(device);
  ProjectArgs args;
  args.x = x.view(), args.down = down.view(), args.s = s.view();
  const bool gated = test.per_token_gate || test.vector_gate;
  if (gated) args.gate = gate.view();
  if (test.vector_gate) args.gate.rows = test.rows, args.gate.row_stride = 0;
  if (test.projected) args.projected = projected.view();
  args.scale = 1.25;
  args.dropout = {test.dropout, test.dropout > 0 ? seed.pointer() : nullptr};
  const std::string name =
      describe(device, "project", test.dtype, test.rows, test.rank, test.cols, test.rank, test.forced);
  Workspaces workspaces(device);
  if (!run(name.c_str(), device.backend->plan_project, device.backend->project, args, workspaces, test.forced,
           test.rows == 0 || test.rank == 0))
    return;
  expect(s.download() && projected.download(), name + ": wrote outside s");
  const double packing = test.float_factors && test.dtype != DType::kFloat32 ? unit(test.dtype) * 1.01 : 0.0;
  const std::vector<double> dropped = dropped_values(x, test, seed);
  int wrong = 0;
  for (int64_t i = 0; i < test.rows; ++i)
    for (int64_t j = 0; j < test.rank; ++j) {
      double p = 0, magnitude = 0;
      for (int64_t k = 0; k < test.cols; ++k) {
        const double term = dropped[size_t(i * test.cols + k)] * down.at(j, k);
        p += term, magnitude += std::fabs(term);
      }
      const double factor = 1.25 * (gated ? gate.at(test.vector_gate ? 0 : i, j) : 1.0);
      bool good = close(s.at(i, j), p * factor, result, magnitude * std::fabs(factor), test.cols, packing);
      if (test.projected) good = good && close(projected.at(i, j), p, result, magnitude, test.cols, packing);
      if (!good && wrong++ == 0)
        std::printf("%s: s(%ld, %ld) is %.9g, expected %.9g\n", name.c_str(), long(i), long(j), s.at(i, j), p * factor);
    }
  expect(wrong == 0, name + ": " + std::to_string(wrong) + " wrong elements");
}

void check_factor_grad(const Device& device, const SplitCase& test) {
  Random random(uint64_t(test.rows * 37 + test.cols * 11 + test.rank));
  const DType factors = test.float_factors ? DType::kFloat32 : test.dtype;
  const DType result = test.float_output ? DType::kFloat32 : test.dtype;
  const Matrix x(device, random, test.dtype, test.rows, test.cols, {test.offset, test.padding, false});
  const Matrix s(device, random, factors, test.rows, test.rank, {0, 0, test.transposed_factor});
  Matrix grad(device, random, result, test.rank, test.cols, {0, 0, test.transposed_grad}, false);
  const Seed seed(device);
  FactorGradArgs args;
  args.s = s.view(), args.x = x.view(), args.grad = grad.view();
  args.scale = -0.5;
  args.dropout = {test.dropout, test.dropout > 0 ? seed.pointer() : nullptr};
  const std::string name =
      describe(device, "factor_grad", test.dtype, test.rank, test.cols, test.rows, test.rank, test.forced);
  std::vector<char> first;
  for (int repeat = 0; repeat < 2; ++repeat) {
    Workspaces workspaces(device);
    if (!run(name.c_str(), device.backend->plan_factor_grad, device.backend->factor_grad, args, workspaces, test.forced,
             test.cols == 0 || test.rank == 0))
      return;
    expect(grad.download(), name + ": wrote outside grad");
    if (repeat == 0) first.assign(grad.bytes(), grad.bytes() + grad.byte_count());
  }
  expect(std::memcmp(first.data(), grad.bytes(), first.size()) == 0, name + ": two runs differ");
  const double packing = test.float_factors && test.dtype != DType::kFloat32 ? unit(test.dtype) * 1.01 : 0.0;
  const std::vector<double> dropped = dropped_values(x, test, seed);
  int wrong = 0;
  for (int64_t i = 0; i < test.rank; ++i)
    for (int64_t j = 0; j < test.cols; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < test.rows; ++k) {
        const double term = s.at(k, i) * dropped[size_t(k * test.cols + j)];
        sum += term, magnitude += std::fabs(term);
      }
      if (!close(grad.at(i, j), -0.5 * sum, result, 0.5 * magnitude, test.rows, packing) && wrong++ == 0)
        std::printf("%s: grad(%ld, %ld) is %.9g, expected %.9g\n", name.c_str(), long(i), long(j), grad.at(i, j),
                    -0.5 * sum);
    }
  expect(wrong == 0, name + ": " + std::to_string(wrong) + " wrong elements");
}

constexpr int64_t kRanks[] = {0, 1, 3, 8, 17, 64, 130};

void check_all(const Device& device) {
  Random random(2024);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    const bool half = dtype != DType::kFloat32;
    // Every tile of linear and expand in both layouts, with the edges of a tile crossed in every direction.
    const std::vector<std::string> linear_tiles =
        half ? std::vector<std::string>{"sm80_128x128x32", "sm80_64x64x32", "sm80_16x64x64", "sm80_narrow_64x64x32"}
             : std::vector<std::string>{"simt_128x128x16", "simt_64x64x16"};
    for (const std::string& tile : linear_tiles)
      for (const bool transposed : {false, true}) {
        LinearCase test{dtype, 137, 152, 200, 24};
        test.forced = tile, test.transposed = transposed, test.bias = true, test.padded_y = transposed;
        check_linear(device, test);
        test.dropout = 0.3, test.bias = false;
        check_linear(device, test);
        test.weight = false, test.base = test.alias = true;
        check_linear(device, test);
      }
    // Ranks, odd shapes and random options, left to the heuristics.
    for (const int64_t rank : kRanks)
      for (const auto& [rows, out, in] : {std::array<int64_t, 3>{1, 40, 64}, {5, 33, 47}, {70, 65, 96}, {33, 72, 1}}) {
        LinearCase test{dtype, rows, out, in, rank};
        test.weight = random.chance(70), test.base = !test.weight && random.chance(70);
        test.alias = test.base && random.chance(50), test.bias = random.chance(50);
        test.float_factors = random.chance(40), test.transposed = random.chance(50);
        test.offset = random.chance(30) ? int(random.bits() % 9) : 0;
        test.padding = random.chance(30) ? int(random.bits() % 9) : 0;
        test.padded_y = random.chance(30), test.dropout = random.chance(40) ? 0.25 : 0.0;
        check_linear(device, test);
      }
    LinearCase edge{dtype, 0, 16, 16, 4};
    check_linear(device, edge);
    edge.rows = 9, edge.in = 0;
    check_linear(device, edge);
    edge.in = 32, edge.dropout = 1.0;
    check_linear(device, edge);

    const std::vector<std::string> split_tiles =
        half ? std::vector<std::string>{"sm80_64x128x64", "sm80_64x64x64", "sm80_64x16x64", "sm80_narrow_64x64x64"}
             : std::vector<std::string>{"simt_128x16x16", "simt_64x64x16"};
    for (const std::string& tile : split_tiles)
      for (const double dropout : {0.0, 0.4}) {
        SplitCase test{dtype, 77, 328, 40};
        test.forced = tile, test.dropout = dropout, test.projected = test.per_token_gate = dropout > 0;
        check_project(device, test);
        test.transposed_factor = true;
        check_project(device, test);
        test.transposed_factor = false, test.rows = 600, test.cols = 88, test.transposed_grad = dropout > 0;
        check_factor_grad(device, test);
      }
    for (const int64_t rank : kRanks)
      for (const auto& [rows, cols] : {std::array<int64_t, 2>{1, 600}, {67, 45}, {300, 64}, {5, 1}}) {
        SplitCase test{dtype, rows, cols, rank};
        test.float_factors = random.chance(40), test.transposed_factor = random.chance(40);
        test.per_token_gate = random.chance(30), test.vector_gate = !test.per_token_gate && random.chance(40);
        test.projected = random.chance(50), test.transposed_grad = random.chance(50);
        test.float_output = random.chance(40), test.dropout = random.chance(50) ? 0.6 : 0.0;
        test.offset = random.chance(30) ? int(random.bits() % 9) : 0;
        test.padding = random.chance(30) ? int(random.bits() % 9) : 0;
        check_project(device, test);
        check_factor_grad(device, test);
      }
    LinearCase large_rank{dtype, 3, 24, 16, 1024};
    check_linear(device, large_rank);
    SplitCase large_split{dtype, 3, 72, 1024};
    check_project(device, large_split);
    check_factor_grad(device, large_split);

    SplitCase edge_split{dtype, 0, 24, 5};
    check_project(device, edge_split);
    check_factor_grad(device, edge_split);  // an empty sum is zero
    edge_split.rows = 12, edge_split.dropout = 1.0;
    check_project(device, edge_split);
    check_factor_grad(device, edge_split);
  }
}

/// What the kernels do not take is refused by name before anything is written.
void check_refusals(const Device& device) {
  Random random(7);
  const Matrix x(device, random, DType::kBFloat16, 8, 8, {0, 0, true}), down(device, random, DType::kBFloat16, 4, 8);
  Matrix s(device, random, DType::kBFloat16, 8, 4, {}, false);
  ProjectArgs args;
  args.x = x.view(), args.down = down.view(), args.s = s.view();
  Workspaces workspaces(device);
  Status status = device.backend->project(args, workspaces.context);
  expect(status.code == StatusCode::kUnsupported && status.message.find("contiguous") != std::string::npos,
         "a column-major x is refused");
  args.x.dtype = args.down.dtype = args.s.dtype = DType::kFloat64;
  status = device.backend->project(args, workspaces.context);
  expect(status.code == StatusCode::kUnsupported && status.message.find("float64") != std::string::npos,
         "float64 is refused");
  const Matrix row_x(device, random, DType::kBFloat16, 40, 512), odd_down(device, random, DType::kFloat32, 4, 512);
  Matrix row_s(device, random, DType::kBFloat16, 40, 4, {}, false);
  args = ProjectArgs{};
  args.x = row_x.view(), args.down = odd_down.view(), args.s = row_s.view();
  Context no_memory;
  no_memory.allocate = [](size_t) -> void* { return nullptr; };
  expect(device.backend->project(args, no_memory).code == StatusCode::kOutOfMemory, "no workspace is reported");
  expect(s.download() && row_s.download() && std::isnan(row_s.at(0, 0)), "a refused call writes nothing");
}

}  // namespace

int main() {
  if (const LowRankBackend* emulated = lowrank_cuda_emulated()) {
    check_all({emulated, false});
    check_refusals({emulated, false});
  } else {
    std::puts("emulated backend skipped: this build has no emulator");
  }
  if (lowrank_cuda() == nullptr) {
    std::puts("GPU skipped: this build has no CUDA kernels");
  } else {
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) {
      check_all({lowrank_cuda(), true});
      check_refusals({lowrank_cuda(), true});
    } else {
      std::printf("GPU skipped: %s\n", error == cudaSuccess ? "no device" : cudaGetErrorString(error));
    }
#else
    std::puts("GPU skipped: the test was compiled without the CUDA runtime's headers");
#endif
  }
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
