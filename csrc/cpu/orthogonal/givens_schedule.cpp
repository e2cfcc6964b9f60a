#include "cpu/orthogonal/givens_schedule.h"

#include <algorithm>

namespace lrk::cpu {
namespace {

bool is_power_of_two(int64_t value) { return (value & (value - 1)) == 0; }

/// The pair whose first member is column `first`, of a stride that is a power of two.
int64_t pair_of(int64_t first, int64_t stride) { return (first >> 1 & ~(stride - 1)) | (first & (stride - 1)); }

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

GivensPassKind kind_of(int64_t stride, int64_t features, int lanes) {
  if (!is_power_of_two(stride)) return GivensPassKind::kAnyStride;
  if (stride < lanes) return GivensPassKind::kWithinVector;
  // Compared this way round, because twice a stride may be more than an int64 holds.
  return stride <= features / 2 && features % (2 * stride) == 0 ? GivensPassKind::kAcrossVectors
                                                                : GivensPassKind::kAnyStride;
}

bool joins(const GivensPass& pass, GivensPassKind kind, int64_t stride) {
  if (pass.kind != kind || kind == GivensPassKind::kAnyStride) return false;
  if (kind == GivensPassKind::kWithinVector) return pass.rounds < GivensPass::kMostRounds;
  return pass.rounds < GivensPass::kMostAcross &&
         std::find(pass.strides, pass.strides + pass.rounds, stride) == pass.strides + pass.rounds;
}

/// body(round, pair, which number of the pass in units of one sum) for every pair; of a vector's lanes also the second
/// member, as second = true. Sums and coefficients have the same order, two coefficients to a sum.
template <class Body>
void for_each_angle(const GivensSchedule& schedule, const GivensPass& pass, int lanes, const Body& body) {
  const int64_t features = schedule.features;
  if (pass.kind == GivensPassKind::kAnyStride) {
    for (int64_t pair = 0; pair < givens_pairs(pass.strides[0], features); ++pair) body(0, pair, pair, 0, false);
    return;
  }
  if (pass.kind == GivensPassKind::kWithinVector) {
    for (int64_t i = 0; i < features; ++i) {
      for (int round = 0; round < pass.rounds; ++round) {
        const int64_t stride = pass.strides[round], partner = i ^ stride;
        if (partner >= features) continue;
        body(round, pair_of(std::min(i, partner), stride), i / lanes * pass.rounds + round, int(i % lanes), i > partner);
      }
    }
    return;
  }
  int64_t mask = 0, group = 0;
  for (int round = 0; round < pass.rounds; ++round) mask |= pass.strides[round];
  for (int64_t column = 0; column < features; column = ((column | mask) + lanes) & ~mask, ++group) {
    int64_t block = group * pass.rounds << (pass.rounds - 1);
    for (int round = 0; round < pass.rounds; ++round) {
      for (int member = 0; member < 1 << pass.rounds; ++member) {
        if (member >> round & 1) continue;
        int64_t first = column;
        for (int other = 0; other < pass.rounds; ++other)
          if (member >> other & 1) first += pass.strides[other];
        const int64_t pair = pair_of(first, pass.strides[round]);
        for (int lane = 0; lane < lanes; ++lane) body(round, pair + lane, block, lane, false);
        ++block;
      }
    }
  }
}

/// The row of angles that is round `round` of a pass.
int64_t angle_row(const GivensRounds& rounds, int64_t count, const GivensPass& pass, int round) {
  const int64_t index = pass.first_round + round;
  return rounds.inverse ? count - 1 - index : index;
}

}  // namespace

int64_t givens_pairs(int64_t stride, int64_t features) {
  if (stride >= features) return 0;
  const int64_t whole = stride <= features / 2 ? features / (2 * stride) : 0;
  const int64_t left = features - whole * 2 * stride;
  return whole * stride + std::max<int64_t>(left - stride, 0);
}

GivensSchedule schedule_givens(const GivensRounds& rounds, int64_t features, int lanes, int64_t local_columns) {
  GivensSchedule schedule;
  schedule.features = features, schedule.padded = round_up(features, lanes);
  const int64_t count = rounds.angles.rows;
  for (int64_t index = 0; index < count; ++index) {
    const int64_t stride = rounds.strides[rounds.inverse ? count - 1 - index : index];
    if (givens_pairs(stride, features) == 0) continue;
    const GivensPassKind kind = kind_of(stride, features, lanes);
    const bool follows = !schedule.passes.empty() &&
                         schedule.passes.back().first_round + schedule.passes.back().rounds == index;
    if (!follows || !joins(schedule.passes.back(), kind, stride)) {
      schedule.passes.push_back({});
      schedule.passes.back().kind = kind, schedule.passes.back().first_round = index;
    }
    GivensPass& pass = schedule.passes.back();
    pass.strides[pass.rounds++] = stride;
    pass.span = std::max(pass.span, kind == GivensPassKind::kWithinVector ? int64_t(lanes)
                                    : stride <= features / 2            ? 2 * stride
                                                                        : features);
  }
  for (GivensPass& pass : schedule.passes) {
    pass.coefficients = schedule.coefficients, pass.sums = schedule.sums;
    const int64_t sums = pass.kind == GivensPassKind::kAnyStride
                             ? round_up(givens_pairs(pass.strides[0], features), lanes)
                         : pass.kind == GivensPassKind::kWithinVector ? schedule.padded * pass.rounds
                                                                      : features / 2 * pass.rounds;
    schedule.sums += sums, schedule.coefficients += 2 * sums;
  }
  const auto is_local = [&](const GivensPass& pass) {
    return pass.span <= local_columns && local_columns % pass.span == 0;
  };
  for (int index = 0; index < int(schedule.passes.size()); ++index) {
    const GivensPass& pass = schedule.passes[index];
    const bool local = is_local(pass);
    if (local && !schedule.stages.empty() && schedule.stages.back().columns == local_columns)
      ++schedule.stages.back().passes;
    else
      schedule.stages.push_back({index, 1, local ? local_columns : schedule.padded});
  }
  return schedule;
}

template <class T>
void pack_givens(const GivensSchedule& schedule, const GivensRounds& rounds, int lanes, const T* cos, const T* sin,
                 int64_t pairs, T* coefficients) {
  for (const GivensPass& pass : schedule.passes) {
    T* const own = coefficients + pass.coefficients;
    const int64_t of_round = givens_pairs(pass.strides[0], schedule.features);
    if (pass.kind == GivensPassKind::kWithinVector) {
      // A lane without a partner keeps its value: cos 1, sin 0.
      for (int64_t block = 0; block < schedule.padded / lanes * pass.rounds; ++block) {
        std::fill_n(own + block * 2 * lanes, lanes, T(1));
        std::fill_n(own + block * 2 * lanes + lanes, lanes, T(0));
      }
    }
    for_each_angle(schedule, pass, lanes, [&](int round, int64_t pair, int64_t block, int lane, bool second) {
      const int64_t from = angle_row(rounds, rounds.angles.rows, pass, round) * pairs + pair;
      const T signed_sin = rounds.inverse ? -sin[from] : sin[from];
      if (pass.kind == GivensPassKind::kAnyStride) {
        own[pair] = cos[from], own[of_round + pair] = signed_sin;
      } else {
        T* const to = own + block * 2 * lanes + lane;
        to[0] = cos[from];
        to[lanes] = pass.kind == GivensPassKind::kWithinVector && !second ? -signed_sin : signed_sin;
      }
    });
  }
}

template <class T>
void unpack_givens_sums(const GivensSchedule& schedule, const GivensRounds& rounds, int lanes, const T* sums,
                        const MutableMatrixView& dangles) {
  T* const out = static_cast<T*>(dangles.data);
  for (int64_t round = 0; round < dangles.rows; ++round)
    for (int64_t pair = 0; pair < dangles.cols; ++pair)
      out[round * dangles.row_stride + pair * dangles.col_stride] = 0;
  for (const GivensPass& pass : schedule.passes) {
    const T* const own = sums + pass.sums;
    for_each_angle(schedule, pass, lanes, [&](int round, int64_t pair, int64_t block, int lane, bool second) {
      const T sum = pass.kind == GivensPassKind::kAnyStride ? own[pair] : own[block * lanes + lane];
      // Lanes hold g_j y_i at i and g_i y_j at j.
      out[angle_row(rounds, dangles.rows, pass, round) * dangles.row_stride + pair * dangles.col_stride] +=
          second != rounds.inverse ? -sum : sum;
    });
  }
}

template void pack_givens(const GivensSchedule&, const GivensRounds&, int, const float*, const float*, int64_t, float*);
template void pack_givens(const GivensSchedule&, const GivensRounds&, int, const double*, const double*, int64_t,
                          double*);
template void unpack_givens_sums(const GivensSchedule&, const GivensRounds&, int, const float*,
                                 const MutableMatrixView&);
template void unpack_givens_sums(const GivensSchedule&, const GivensRounds&, int, const double*,
                                 const MutableMatrixView&);

}  // namespace lrk::cpu
