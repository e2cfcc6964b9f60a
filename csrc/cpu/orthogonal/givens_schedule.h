// A list of rounds as passes over a row, and their angles' cosines and sines in the order in which the passes read them.
#pragma once

#include <vector>

#include "cpu/orthogonal/givens_kernels.h"
#include "lrk/orthogonal.h"

namespace lrk::cpu {

/// Passes that are run one after the other on a few columns at a time, which stay in the first level cache meanwhile.
struct GivensStage {
  int first_pass, passes;
  int64_t columns;
};

struct GivensSchedule {
  int64_t features = 0, padded = 0;  // a row, and a row in whole vectors
  std::vector<GivensPass> passes;    // in the order of application: of the inverse, the last round is the first
  std::vector<GivensStage> stages;
  int64_t coefficients = 0, sums = 0;  // how many of either all passes have
};

/// `lanes` is the width of the kernels' vectors, `local_columns` how much of a row a stage may hold.
GivensSchedule schedule_givens(const GivensRounds& rounds, int64_t features, int lanes, int64_t local_columns);

/// The passes' coefficients from tables cos and sin of [rounds, pairs], where the inverse rotates by -angle.
template <class T>
void pack_givens(const GivensSchedule& schedule, const GivensRounds& rounds, int lanes, const T* cos, const T* sin,
                 int64_t pairs, T* coefficients);

/// dangles(t, p) from the sums of the passes.
template <class T>
void unpack_givens_sums(const GivensSchedule& schedule, const GivensRounds& rounds, int lanes, const T* sums,
                        const MutableMatrixView& dangles);

/// How many pairs a round rotates.
int64_t givens_pairs(int64_t stride, int64_t features);

}  // namespace lrk::cpu
