// Between a dense matrix, the portable format and the packing of the CPU's kernels: bytes moved once, a table lookup a
// group of four.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "cpu/gemm/block.h"
#include "cpu/sparse24/kernels.h"
#include "cpu/sparse24/nibbles.h"
#include "cpu/sparse24/sparse24.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTaskRows = 16;

/// The smallest index that any task reports.
class FirstMalformed {
 public:
  void report(int64_t group) {
    int64_t seen = first_.load(std::memory_order_relaxed);
    while ((seen < 0 || group < seen) && !first_.compare_exchange_weak(seen, group, std::memory_order_relaxed)) {
    }
  }
  int64_t get() const { return first_.load(); }

 private:
  std::atomic<int64_t> first_{-1};
};

template <class Body>
void for_rows(const Context& context, int64_t rows, int64_t cols, const Body& body) {
  run_tasks(context, ceil_div(rows, kTaskRows), rows * cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kTaskRows; row < std::min(rows, end * kTaskRows); ++row) body(row);
  });
}

/// Calls body with a value of the unsigned type as wide as `dtype`, so that every bit of a value survives.
template <class Body>
void with_bits(DType dtype, const Body& body) {
  switch (size_of(dtype)) {
    case 8: return body(uint64_t{});
    case 4: return body(uint32_t{});
    default: return body(uint16_t{});
  }
}

int64_t malformed_in_mask(const uint8_t* mask, int64_t rows, int64_t cols, const Context& context) {
  FirstMalformed first;
  for_rows(context, rows, cols, [&](int64_t row) {
    for (int64_t group = 0; group < cols / 4; ++group) {
      if (keeps_two(nibble_of_bytes(mask + row * cols + 4 * group))) continue;
      return first.report(row * (cols / 4) + group);
    }
  });
  return first.get();
}

/// Spare bits that are set are reported as the row's last group.
int64_t malformed_in_bitmask(const Sparse24Matrix& weight, const Context& context) {
  FirstMalformed first;
  const int64_t groups = weight.in() / 4, stride = weight.mask_stride();
  for_rows(context, weight.out(), weight.in() / 8, [&](int64_t row) {
    const uint8_t* const bits = weight.bitmask + row * stride;
    for (int64_t group = 0; group < groups; ++group)
      if (!keeps_two(nibble_of(bits, group))) return first.report(row * groups + group);
    if (groups % 2 != 0 && bits[stride - 1] >> 4 != 0) first.report(row * groups + groups - 1);
  });
  return first.get();
}

template <class Bits>
void expand_row(const Bits* values, const uint8_t* bits, int64_t groups, Bits* dense) {
  for (int64_t group = 0; group < groups; ++group) {
    const KeptPair kept = kKeptPairs[nibble_of(bits, group)];
    if constexpr (sizeof(Bits) == 2 && std::endian::native == std::endian::little) {
      // A word of four: two narrow stores before a wide load would wait for each other.
      const uint64_t four = uint64_t(values[2 * group]) << (16 * kept.first) |
                            uint64_t(values[2 * group + 1]) << (16 * kept.second);
      std::memcpy(dense + 4 * group, &four, sizeof four);
    } else {
      Bits* const four = dense + 4 * group;
      four[0] = four[1] = four[2] = four[3] = 0;
      four[kept.first] = values[2 * group], four[kept.second] = values[2 * group + 1];
    }
  }
}

}  // namespace

Status sparse24_compress(const Sparse24CompressArgs& args, const Context& context) {
  const int64_t rows = args.weight.rows, cols = args.weight.cols, mask_stride = (cols + 7) / 8;
  *args.malformed = malformed_in_mask(args.mask, rows, cols, context);
  if (*args.malformed >= 0) return {};
  with_bits(args.weight.dtype, [&]<class Bits>(Bits) {
    for_rows(context, rows, cols, [&](int64_t row) {
      const Bits* const from = static_cast<const Bits*>(args.weight.data) + row * args.weight.row_stride;
      Bits* const values = static_cast<Bits*>(args.values.data) + row * (cols / 2);
      uint8_t* const bits = args.bitmask + row * mask_stride;
      for (int64_t group = 0; group < cols / 4; ++group) {
        const unsigned nibble = nibble_of_bytes(args.mask + row * cols + 4 * group);
        const KeptPair kept = kKeptPairs[nibble];
        values[2 * group] = from[(4 * group + kept.first) * args.weight.col_stride];
        values[2 * group + 1] = from[(4 * group + kept.second) * args.weight.col_stride];
        bits[group / 2] = uint8_t(group % 2 == 0 ? nibble : bits[group / 2] | nibble << 4);
      }
    });
  });
  return {};
}

void sparse24_expand(const Sparse24Matrix& weight, int64_t row, int64_t rows, int64_t col, int64_t cols, void* dense,
                     const Context& context) {
  with_bits(weight.values.dtype, [&]<class Bits>(Bits) {
    for_rows(context, rows, cols, [&](int64_t i) {
      expand_row(static_cast<const Bits*>(weight.values.data) + (row + i) * weight.values.row_stride + col / 2,
                 weight.bitmask + (row + i) * weight.mask_stride() + col / 8, cols / 4,
                 static_cast<Bits*>(dense) + i * cols);
    });
  });
}

Status sparse24_decompress(const Sparse24DecompressArgs& args, const Context& context) {
  *args.malformed = malformed_in_bitmask(args.weight, context);
  if (*args.malformed >= 0 || !args.dense.present()) return {};
  sparse24_expand(args.weight, 0, args.weight.out(), 0, args.weight.in(), args.dense.data, context);
  return {};
}

size_t sparse24_packed_bytes(int64_t out, int64_t in, DType dtype, bool) {
  if (dtype == DType::kFloat64) return 0;
  return sizeof(PackingHeader) +
         size_t(ceil_div(out, kPanelRows) * ceil_div(in, kPanelBlockCols) * sparse24_block_bytes(dtype));
}

Status sparse24_pack(const Sparse24PackArgs& args, const Context& context) {
  const Sparse24Matrix& weight = args.weight;
  const int64_t out = weight.out(), groups = weight.in() / 4, blocks = ceil_div(weight.in(), kPanelBlockCols);
  const int64_t block_bytes = sparse24_block_bytes(weight.values.dtype);
  const bool wide = weight.values.dtype == DType::kFloat32;
  const PackingHeader header = packing_header(weight, args.transposable);
  std::memcpy(args.packed, &header, sizeof header);
  char* const panels = static_cast<char*>(args.packed) + sizeof header;
  run_tasks(context, ceil_div(out, kPanelRows), out * weight.in(), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      char* const to = panels + panel * blocks * block_bytes;
      std::memset(to, 0, size_t(blocks * block_bytes));
      for (int64_t i = 0; i < std::min(kPanelRows, out - panel * kPanelRows); ++i) {
        const int64_t row = panel * kPanelRows + i;
        const uint8_t* const bits = weight.bitmask + row * weight.mask_stride();
        for (int64_t group = 0; group < groups; ++group) {
          uint32_t* const block = reinterpret_cast<uint32_t*>(to + group / kPanelBlockGroups * block_bytes);
          const int64_t g = group % kPanelBlockGroups, value = row * weight.values.row_stride + 2 * group;
          const KeptPair kept = kKeptPairs[nibble_of(bits, group)];
          block[i] |= uint32_t(kept.first | kept.second << 2) << (4 * g);
          uint32_t* const pairs = block + kPanelRows;
          if (wide) {
            const uint32_t* const from = static_cast<const uint32_t*>(weight.values.data) + value;
            pairs[2 * g * kPanelRows + i] = from[0], pairs[(2 * g + 1) * kPanelRows + i] = from[1];
          } else {
            const uint16_t* const from = static_cast<const uint16_t*>(weight.values.data) + value;
            pairs[g * kPanelRows + i] = uint32_t(from[0]) | uint32_t(from[1]) << 16;
          }
        }
      }
    }
  });
  return {};
}

}  // namespace lrk::cpu
