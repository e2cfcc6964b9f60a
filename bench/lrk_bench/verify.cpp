#include "verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "element.h"

namespace lrk::bench {
namespace {

/// Multiply-adds spent on one result: a fraction of a second.
constexpr double kBudget = 3e7;

/// `count` of [0, extent): both ends, and the rest at steps that visit every residue of a tile.
std::vector<int64_t> sample(int64_t extent, int64_t count) {
  std::vector<int64_t> chosen;
  if (count >= extent) count = extent;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t even = count == 1 ? 0 : i * (extent - 1) / (count - 1);
    const int64_t gap = extent / std::max<int64_t>(count, 1);
    const bool inside = i > 0 && i + 1 < count;
    chosen.push_back(inside ? std::min(extent - 1, even + (gap > 1 ? i * 7 % gap : 0)) : even);
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

std::string first_unwritten(const Result& result) {
  const MatrixView host = result.matrix->host();
  for (int64_t row = 0; row < host.rows; ++row)
    for (int64_t col = 0; col < host.cols; ++col)
      if (std::isnan(element(host, row, col)))
        return result.name + "[" + std::to_string(row) + ", " + std::to_string(col) + "] is NaN or was not written";
  return {};
}

void compare(const Result& result, Verification& verification) {
  const MatrixView host = result.matrix->host();
  const double everything = double(host.rows) * (result.row_cost + double(host.cols) * result.element_cost);
  int64_t rows = host.rows, cols = host.cols;
  if (everything > kBudget) {
    rows = std::clamp(int64_t(kBudget / 2 / result.row_cost), int64_t(2), int64_t(48));
    rows = std::min(rows, host.rows);
    cols = std::clamp(int64_t(kBudget / 2 / (double(rows) * result.element_cost)), int64_t(8), host.cols);
  }
  const std::vector<int64_t> sampled_cols = sample(host.cols, cols);
  for (int64_t row : sample(host.rows, rows)) {
    const RowReference reference = result.reference(row);
    for (int64_t col : sampled_cols) {
      const Expected expected = reference(col);
      const double got = element(host, row, col), error = std::fabs(got - expected.value);
      ++verification.checked;
      verification.worst = std::max(verification.worst, error / expected.tolerance);
      if (error <= expected.tolerance || !verification.failure.empty()) continue;
      char text[200];
      std::snprintf(text, sizeof text, "%s[%lld, %lld] is %.9g, expected %.9g within %.3g", result.name.c_str(),
                    (long long)row, (long long)col, got, expected.value, expected.tolerance);
      verification.failure = text;
    }
  }
}

}  // namespace

Verification verify(Device& device, const std::function<Status()>& call, const std::vector<Result>& results) {
  Verification verification;
  for (const Result& result : results) result.matrix->poison();
  // Timed for the sake of the device's own synchronisation.
  const Status status = device.time(call, 1).second;
  if (!status.ok()) {
    verification.failure = status.message;
    return verification;
  }
  for (const Result& result : results) {
    result.matrix->download();
    verification.total += result.matrix->rows() * result.matrix->cols();
    if (verification.failure.empty()) verification.failure = first_unwritten(result);
    if (verification.failure.empty()) compare(result, verification);
  }
  verification.ok = verification.failure.empty();
  return verification;
}

}  // namespace lrk::bench
