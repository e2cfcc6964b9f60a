// A packed panel times a few rows of x (kernels.h), over what panel_<isa>.cpp says of its vectors.
#pragma once

#include <cstdint>

#include "cpu/gemm/element.h"
#include "cpu/sparse24/kernels.h"

namespace lrk::cpu {
namespace {

/// The two values of a group in 16 rows, `part` of them.
template <class Lanes, class Element>
inline void load_values(const char* pairs, int part, typename Lanes::Register& first,
                        typename Lanes::Register& second) {
  if constexpr (sizeof(Element) == 4) {
    const float* const values = reinterpret_cast<const float*>(pairs) + part * Lanes::kLanes;
    first = Lanes::load(values), second = Lanes::load(values + kPanelRows);
  } else {
    Lanes::split(reinterpret_cast<const uint32_t*>(pairs) + part * Lanes::kLanes, Element{}, first, second);
  }
}

template <class Lanes, class Element, int rows>
void multiply_rows(const char* panel, int64_t blocks, const float* x, int64_t x_stride, float* c, int64_t c_stride) {
  using Register = typename Lanes::Register;
  constexpr int kParts = int(kPanelRows) / Lanes::kLanes;
  constexpr int64_t kGroupBytes = kPanelRows * 4 * (sizeof(Element) == 4 ? 2 : 1);
  for (int part = 0; part < kParts; ++part) {
    Register sums[rows][2];
    for (int row = 0; row < rows; ++row) sums[row][0] = sums[row][1] = Lanes::zero();
    const char* block = panel;
    const float* from = x;
    for (int64_t b = 0; b < blocks; ++b, from += kPanelBlockCols) {
      typename Lanes::Indices columns =
          Lanes::load_indices(reinterpret_cast<const uint32_t*>(block) + part * Lanes::kLanes);
      const char* pairs = block + kPanelRows * 4;
#pragma GCC unroll 8
      for (int group = 0; group < int(kPanelBlockGroups); ++group, pairs += kGroupBytes) {
        Register first, second;
        load_values<Lanes, Element>(pairs, part, first, second);
        const typename Lanes::Indices next = Lanes::template shift<2>(columns);
#pragma GCC unroll 4
        for (int row = 0; row < rows; ++row) {
          const Register four = Lanes::broadcast4(from + row * x_stride + 4 * group);
          sums[row][0] = Lanes::fma(first, Lanes::permute(four, columns), sums[row][0]);
          sums[row][1] = Lanes::fma(second, Lanes::permute(four, next), sums[row][1]);
        }
        columns = Lanes::template shift<2>(next);
      }
      block += kPanelRows * 4 + kPanelBlockGroups * kGroupBytes;
    }
    for (int row = 0; row < rows; ++row) {
      float* const out = c + row * c_stride + part * Lanes::kLanes;
      Lanes::store(out, Lanes::add(Lanes::load(out), Lanes::add(sums[row][0], sums[row][1])));
    }
  }
}

template <class Lanes, class Element>
void multiply_panel_of(const char* panel, int64_t blocks, const float* x, int64_t x_stride, int64_t rows, float* c,
                       int64_t c_stride) {
  switch (rows) {
    case 1: return multiply_rows<Lanes, Element, 1>(panel, blocks, x, x_stride, c, c_stride);
    case 2: return multiply_rows<Lanes, Element, 2>(panel, blocks, x, x_stride, c, c_stride);
    case 3: return multiply_rows<Lanes, Element, 3>(panel, blocks, x, x_stride, c, c_stride);
    default: return multiply_rows<Lanes, Element, 4>(panel, blocks, x, x_stride, c, c_stride);
  }
}

template <class Lanes>
void multiply_panel(const char* panel, DType dtype, int64_t blocks, const float* x, int64_t x_stride, int64_t rows,
                    float* c, int64_t c_stride) {
  switch (dtype) {
    case DType::kBFloat16: return multiply_panel_of<Lanes, BFloat16>(panel, blocks, x, x_stride, rows, c, c_stride);
    case DType::kFloat16: return multiply_panel_of<Lanes, Float16>(panel, blocks, x, x_stride, rows, c, c_stride);
    default: return multiply_panel_of<Lanes, float>(panel, blocks, x, x_stride, rows, c, c_stride);
  }
}

}  // namespace
}  // namespace lrk::cpu
