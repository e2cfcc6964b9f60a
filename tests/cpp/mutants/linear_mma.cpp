// Runs one small bf16 problem through linear_mma.cuh, or through a copy of it that the build broke on purpose, and
// compares with plain loops. The argument says what must come of it: "right", "wrong" for wrong numbers, "no report"
// when they may be either, or a regular expression (ECMAScript) that the emulator's report must contain.
#include "cuda/lowrank/linear_mma.cuh"

#include <cstdint>
#include <cstdio>
#include <regex>
#include <string>
#include <vector>

#include "../emulator_test.h"

namespace lrk {
namespace {

constexpr int kRows = 150, kOut = 200, kIn = 160, kRank = 24;

/// Values -1, 0 and 1, so that every sum is exact in bf16.
struct Matrix {
  int cols;
  std::vector<uint16_t> bits;

  Matrix(int rows, int cols_, unsigned state) : cols(cols_), bits(size_t(rows) * size_t(cols_)) {
    constexpr uint16_t kValues[3] = {0xbf80, 0, 0x3f80};
    for (uint16_t& value : bits) value = kValues[((state = state * 1664525u + 1013904223u) >> 16) % 3];
  }
  int at(int row, int col) const {
    const uint16_t value = bits[size_t(row) * size_t(cols) + size_t(col)];
    return value == 0 ? 0 : value == 0x3f80 ? 1 : -1;
  }
  Lines lines() const {
    Lines result;
    result.data = bits.data(), result.stride = cols;
    result.lines = int(bits.size()) / cols, result.length = cols;
    return result;
  }
  size_t bytes() const { return bits.size() * 2; }
};

int run(const std::string& expected) {
  const Matrix x(kRows, kIn, 1), weight(kOut, kIn, 2), s(kRows, kRank, 3), up(kOut, kRank, 4);
  std::vector<uint16_t> y(size_t(kRows) * kOut, 0xffff);
  lowrank::LinearMmaParameters parameters;
  parameters.x = x.lines(), parameters.weight = weight.lines(), parameters.in = kIn;
  parameters.s = s.lines(), parameters.up = up.lines(), parameters.rank = kRank;
  parameters.output.y = MutableElementView(MutableMatrixView{y.data(), DType::kBFloat16, kRows, kOut, kOut, 1});
  parameters.output.rows = kRows, parameters.output.out = kOut, parameters.output.wide = true;

  using Product = TileProduct<BFloat16, 64, 64, 32, 2, 2, 4, Major::kAlongSum, Major::kAlongSum>;
  constexpr unsigned kBlocks = (kRows + 63) / 64 * ((kOut + 63) / 64);
  GlobalMemory memory;
  memory.reads(x.bits.data(), x.bytes(), "x").reads(weight.bits.data(), weight.bytes(), "weight");
  memory.reads(s.bits.data(), s.bytes(), "s").reads(up.bits.data(), up.bytes(), "up");
  memory.writes(y.data(), y.size() * 2, "y");
  const Status status = testing::start(lowrank::linear_mma_kernel<Product>, dim3(kBlocks), dim3(Product::kThreads),
                                       Product::kSharedBytes, parameters);
  int wrong = 0;
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kOut; ++j) {
      int sum = 0;
      for (int k = 0; k < kIn; ++k) sum += x.at(i, k) * weight.at(j, k);
      for (int k = 0; k < kRank; ++k) sum += s.at(i, k) * up.at(j, k);
      wrong += to_float(BFloat16{y[size_t(i) * kOut + size_t(j)]}) != float(sum);
    }
  std::printf("%s, %d wrong numbers\n", status.ok() ? "no report" : status.message.c_str(), wrong);
  if (expected == "no report") return status.ok() ? 0 : 1;
  if (expected == "right") return status.ok() && wrong == 0 ? 0 : 1;
  if (expected == "wrong") return status.ok() && wrong > 0 ? 0 : 1;
  return !status.ok() && std::regex_search(status.message, std::regex(expected)) ? 0 : 1;
}

}  // namespace
}  // namespace lrk

int main(int count, char** arguments) {
  if (count == 2) return lrk::run(arguments[1]);
  std::fprintf(stderr, "usage: %s EXPECTED\nEXPECTED is right, wrong, 'no report', or a regular expression that the "
               "emulator's report must contain\n", arguments[0]);
  return 2;
}
