// The inverse of small matrices without pivots on the CPU, the emulated CUDA device, and a GPU when there is one: A X - I,
// in double, against what rounding X once leaves.
#include "device_matrix.h"
#include "lrk/square.h"

namespace {

using namespace lrk;
using namespace lrk::testing;

enum class Kind { kSkew, kTriangular };

/// I - norm Q of a random skew Q, or an upper triangle of ones with 1/2 on its diagonal, a little changed.
double entry(Kind kind, double norm, Random& random, int64_t i, int64_t j, const float* matrix, int64_t stride) {
  if (kind == Kind::kTriangular) return i > j ? 0 : (i == j ? 0.5 : 1) + 1e-3 * random.value();
  if (i == j) return 1;
  return j > i ? norm * random.value() : -matrix[j * stride + i];
}

/// Whether the addends of every sum of A X - I, and so its error, are within `roundings` of X's.
bool is_inverse(const float* a, const float* x, int64_t size, int64_t stride, double roundings) {
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      double sum = i == j ? -1 : 0, addends = 0;
      for (int64_t k = 0; k < size; ++k) {
        const double addend = double(a[i * stride + k]) * double(x[k * stride + j]);
        sum += addend, addends += std::fabs(addend);
      }
      if (!(std::fabs(sum) <= roundings * 0x1p-24 * addends)) return false;
    }
  }
  return true;
}

void check_invert(const SquareBackend& backend, const Device& device, Kind kind, int64_t size, double norm, bool in_place,
                  double roundings) {
  const std::string what = std::string(backend.name) + " invert " + std::to_string(size) +
                           (kind == Kind::kSkew ? " skew " + std::to_string(norm) : std::string(" triangular"));
  constexpr int64_t kCount = 5;  // more than a device of four multiprocessors takes at once
  const int64_t stride = size + 3, floats = kCount * size * stride;
  Buffer from(device, size_t(floats) * sizeof(float)), to(device, size_t(floats) * sizeof(float));
  float* const a = reinterpret_cast<float*>(from.host());
  Random random{uint64_t(size)};
  for (int64_t n = 0; n < kCount; ++n)
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j)
        a[(n * size + i) * stride + j] = float(entry(kind, norm, random, i, j, a + n * size * stride, stride));
  const std::vector<float> before(a, a + floats);  // between the rows both are as they were made
  from.upload(), to.upload();
  Buffer& result = in_place ? from : to;
  InvertArgs args;
  args.matrices = {from.device(), DType::kFloat32, kCount * size, size, stride, 1};
  args.inverses = {result.device(), DType::kFloat32, kCount * size, size, stride, 1};
  Workspaces workspaces(device);
  workspaces.context.parallel_for = [](int64_t tasks, const auto& body) { body(0, tasks); };
  const Plan plan = backend.plan_invert(args, workspaces.context);
  const Status status = backend.invert(args, workspaces.context);
  expect(status.ok(), what + ": " + status.message);
  expect(workspaces.bytes == plan.workspace_bytes, what + ": workspace differs from the plan");
  result.download();
  const float* const x = reinterpret_cast<const float*>(result.host());
  for (int64_t n = 0; n < kCount; ++n) {
    const int64_t at = n * size * stride;
    expect(is_inverse(before.data() + at, x + at, size, stride, roundings), what + ": not the inverse");
    for (int64_t i = 0; i < size; ++i)
      for (int64_t e = at + i * stride + size; e < at + (i + 1) * stride; ++e)
        expect(std::memcmp(&x[e], &before[size_t(e)], sizeof(float)) == 0, what + ": wrote outside its result");
  }
}

/// A device inverts in double, so that its X is the inverse rounded; the CPU in float32, whose error grows with the norm.
void check_all(const SquareBackend& backend, const Device& device, bool in_double) {
  for (const int64_t size : {1, 2, 15, 16, 17, 33, 64, 100, 128}) {
    for (const bool in_place : {false, true}) {
      check_invert(backend, device, Kind::kSkew, size, 1, in_place, in_double ? 1.01 : 64.0 * double(size));
      check_invert(backend, device, Kind::kTriangular, size, 1, in_place, in_double ? 1.01 : 64.0 * double(size));
      if (in_double) check_invert(backend, device, Kind::kSkew, size, 1000, in_place, 1.01);
    }
  }
}

}  // namespace

int main() {
  check_all(square_cpu(), {}, false);
  if (const SquareBackend* emulated = square_cuda_emulated())
    check_all(*emulated, {}, true);
  else
    std::puts("emulated backend skipped: this build has no emulator");
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
  int count = 0;
  if (square_cuda() != nullptr && cudaGetDeviceCount(&count) == cudaSuccess && count > 0)
    check_all(*square_cuda(), {nullptr, true}, true);
  else
    std::puts("GPU skipped: no device, or no CUDA kernels in this build");
#else
  std::puts("GPU skipped: the test was compiled without the CUDA runtime's headers");
#endif
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
