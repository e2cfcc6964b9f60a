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

constexpr int kMostLanes = 16;

/// Which pair each lane of a vector belongs to, counted from the vector's first, and with which of its members.
struct LaneMap {
  int pair[kMostLanes];
  bool second[kMostLanes];

  LaneMap(const GivensPass& pass, int round, int lanes) {
    const int stride = pass.kind == GivensPassKind::kWithinVector ? int(pass.strides[round]) : 0;
    for (int lane = 0; lane < lanes; ++lane) {
      const int partner = lane ^ stride;
      pair[lane] = stride == 0 ? lane : int(pair_of(std::min(lane, partner), stride)), second[lane] = lane > partner;
    }
  }
};

/// body(block, pair, column) for the vectors of a round of a pass: block counts vectors of sums (and pairs of vectors of
/// coefficients) in reading order, pair is that of the vector's first lane, column where it begins.
template <class Body>
void for_each_vector(const GivensSchedule& schedule, const GivensPass& pass, int round, int lanes, const Body& body) {
  const int64_t features = schedule.features, rounds = pass.rounds;
  if (pass.kind == GivensPassKind::kWithinVector) {
    for (int64_t column = 0; column < features; column += lanes) body(column / lanes * rounds + round, column / 2, column);
    return;
  }
  int64_t mask = 0, group = 0;
  for (int other = 0; other < rounds; ++other) mask |= pass.strides[other];
  for (int64_t column = 0; column < features; column = ((column | mask) + lanes) & ~mask, ++group) {
    int64_t block = (group * rounds + round) << (rounds - 1);
    for (int member = 0; member < 1 << rounds; ++member) {
      if (member >> round & 1) continue;
      int64_t first = column;
      for (int other = 0; other < rounds; ++other)
        if (member >> other & 1) first += pass.strides[other];
      body(block++, pair_of(first, pass.strides[round]), first);
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
  const int64_t features = schedule.features;
  const T direction = rounds.inverse ? T(-1) : T(1);
  for (const GivensPass& pass : schedule.passes) {
    T* const own = coefficients + pass.coefficients;
    for (int round = 0; round < pass.rounds; ++round) {
      const int64_t from = angle_row(rounds, rounds.angles.rows, pass, round) * pairs;
      if (pass.kind == GivensPassKind::kAnyStride) {
        const int64_t count = givens_pairs(pass.strides[0], features);
        std::copy_n(cos + from, count, own);
        for (int64_t pair = 0; pair < count; ++pair) own[count + pair] = direction * sin[from + pair];
        continue;
      }
      const LaneMap map(pass, round, lanes);
      const bool within = pass.kind == GivensPassKind::kWithinVector;
      T signs[kMostLanes];
      for (int lane = 0; lane < lanes; ++lane) signs[lane] = within && !map.second[lane] ? -direction : direction;
      for_each_vector(schedule, pass, round, lanes, [&](int64_t block, int64_t pair, int64_t column) {
        T* const to = own + block * 2 * lanes;
        const T *const cosines = cos + from + pair, *const sines = sin + from + pair;
        const bool whole = column + lanes <= features;
        for (int lane = 0; lane < lanes; ++lane) {
          // A lane without a partner keeps its value: cos 1, sin 0.
          const bool rotates = whole || column + std::max(lane, int(lane ^ pass.strides[round])) < features;
          to[lane] = rotates ? cosines[map.pair[lane]] : T(1);
          to[lanes + lane] = rotates ? signs[lane] * sines[map.pair[lane]] : T(0);
        }
      });
    }
  }
}

template <class T>
void unpack_givens_sums(const GivensSchedule& schedule, const GivensRounds& rounds, int lanes, const T* sums,
                        const MutableMatrixView& dangles) {
  T* const out = static_cast<T*>(dangles.data);
  const int64_t features = schedule.features, step = dangles.col_stride;
  for (int64_t round = 0; round < dangles.rows; ++round)
    for (int64_t pair = 0; pair < dangles.cols; ++pair) out[round * dangles.row_stride + pair * step] = 0;
  const T direction = rounds.inverse ? T(-1) : T(1);
  for (const GivensPass& pass : schedule.passes) {
    const T* const own = sums + pass.sums;
    for (int round = 0; round < pass.rounds; ++round) {
      T* const row = out + angle_row(rounds, dangles.rows, pass, round) * dangles.row_stride;
      if (pass.kind == GivensPassKind::kAnyStride) {
        for (int64_t pair = 0; pair < givens_pairs(pass.strides[0], features); ++pair)
          row[pair * step] = direction * own[pair];
        continue;
      }
      const LaneMap map(pass, round, lanes);
      for_each_vector(schedule, pass, round, lanes, [&](int64_t block, int64_t pair, int64_t column) {
        const T* const from = own + block * lanes;
        const bool whole = column + lanes <= features;
        for (int lane = 0; lane < lanes; ++lane) {
          if (!whole && column + std::max(lane, int(lane ^ pass.strides[round])) >= features) continue;
          // Lanes hold g_j y_i at i and g_i y_j at j.
          row[(pair + map.pair[lane]) * step] += map.second[lane] ? -direction * from[lane] : direction * from[lane];
        }
      });
    }
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
