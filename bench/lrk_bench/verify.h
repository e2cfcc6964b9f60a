// Results against sums in double precision, in full when that is quick and on sampled rows and columns otherwise.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "matrix.h"

namespace lrk::bench {

struct Expected {
  double value = 0, tolerance = 0;
};

/// The elements of one row, prepared once.
using RowReference = std::function<Expected(int64_t col)>;

struct Result {
  std::string name;
  Matrix* matrix = nullptr;
  std::function<RowReference(int64_t row)> reference;
  double row_cost = 1, element_cost = 1;  // multiply-adds to prepare a row, and to compute an element of it
};

struct Verification {
  bool ok = false;
  int64_t checked = 0, total = 0;  // elements
  double worst = 0;                // the largest error, in tolerances
  std::string failure;             // empty when ok
};

/// Poisons the results, runs the call, downloads and checks. Every element must have been written; of those that are
/// compared, first and last rows and columns are always among them.
Verification verify(Device& device, const std::function<Status()>& call, const std::vector<Result>& results);

}  // namespace lrk::bench
