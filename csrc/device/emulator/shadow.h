// What is remembered of every byte of memory that several threads can reach: the last write and the reads since. One
// cell a word of four bytes, and one a byte where threads touch parts of a word.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace lrk::emulator {

/// Reads by some lanes of a warp, at tick `tick` or before; the first by those of `pc_lanes` was at `pc`, and where the
/// others read is not known.
struct ReadRecord {
  uint32_t tick, lanes, pc_lanes, block;
  uint16_t warp;
  bool strong, constant;  // all of them strong; one of them by ld.global.nc
  const void* pc;
};

struct Cell {
  enum Flag : uint8_t { kSplit = 1, kInFlight = 2, kStrong = 4, kReadAsConstant = 8, kMoreReads = 16 };

  uint32_t write_tick, write_block;  // 0: never written
  uint32_t reads;                    // bit i: read record i holds reads since the last write
  uint32_t read_tick;                // of the latest of them
  uint16_t writer;                   // thread
  uint8_t flags;
  uint8_t lock;
  const void* write_pc;
};

/// Zeroed memory of which only what is touched exists.
class SparsePages {
 public:
  SparsePages() = default;
  explicit SparsePages(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
  }
  ~SparsePages() {
    if (memory_ != nullptr) munmap(memory_, bytes_);
  }
  SparsePages(const SparsePages&) = delete;
  SparsePages& operator=(const SparsePages&) = delete;
  char* data() const { return memory_; }

 private:
  char* memory_ = nullptr;
  size_t bytes_ = 0;
};

class Shadow {
 public:
  /// Of `bytes` of memory, with `reads` read records a cell, 1 to 32 (what finds none takes a slower way).
  /// `concurrent`: several operating-system threads visit it.
  Shadow(size_t bytes, size_t reads, bool concurrent)
      : concurrent_(concurrent), words_((bytes + 3) / 4, reads), bytes_((bytes + 3) / 4 * 4, reads) {}

  /// Calls visitor(record) for what is remembered of the reads of `cell`, until one answers false.
  template <class Visitor>
  bool visit_reads(Cell& cell, const Visitor& visitor) {
    for (uint32_t left = cell.reads; left != 0; left &= left - 1)
      if (!visitor(record(cell, size_t(__builtin_ctz(left))))) return false;
    if ((cell.flags & Cell::kMoreReads) == 0) return true;
    for (ReadRecord& more : more_reads(cell))
      if (!visitor(more)) return false;
    return true;
  }
  /// Record `index` of the cell, empty when nothing was remembered in it.
  ReadRecord& read(Cell& cell, size_t index) {
    ReadRecord& chosen = record(cell, index);
    if ((cell.reads >> index & 1) == 0) chosen = ReadRecord{};
    cell.reads |= 1u << index;
    return chosen;
  }
  /// An empty record: an unused one, one for which reusable(record) holds, or one more.
  template <class Reusable>
  ReadRecord& unused_read(Cell& cell, const Reusable& reusable) {
    for (size_t i = 0; i < words_.reads; ++i) {
      if ((cell.reads >> i & 1) != 0 && !reusable(record(cell, i))) continue;
      cell.reads &= ~(1u << i);
      return read(cell, i);
    }
    std::vector<ReadRecord>& more = more_reads(cell);
    if ((cell.flags & Cell::kMoreReads) == 0) more.clear();  // of an earlier use
    cell.flags |= Cell::kMoreReads;
    return more.emplace_back();
  }
  void forget_reads(Cell& cell) { cell.reads = 0, cell.flags &= uint8_t(~Cell::kMoreReads); }

  /// Calls visitor(cell, first byte, bytes) for the cells of [offset, offset + bytes), until one answers false.
  /// `replaces`: the visitor leaves the same record in every cell, so that a whole word becomes one cell again.
  template <class Visitor>
  bool visit(size_t offset, size_t bytes, bool replaces, const Visitor& visitor) {
    for (const size_t end = offset + bytes; offset < end;) {
      const size_t within = offset % 4, count = std::min(4 - within, end - offset);
      if (!visit_word(offset / 4, within, count, replaces, visitor)) return false;
      offset += count;
    }
    return true;
  }

 private:
  /// Cells one after another, and behind them the first read record of each, then the second of each, ...: what
  /// neighbours touch together lies together.
  struct Cells {
    Cells(size_t count_, size_t reads_)
        : count(count_), reads(reads_), pages(count * (sizeof(Cell) + reads * sizeof(ReadRecord))) {}
    bool contains(const Cell& cell) const {
      return size_t(reinterpret_cast<const char*>(&cell) - pages.data()) < count * sizeof(Cell);
    }
    Cell& cell(size_t index) const { return reinterpret_cast<Cell*>(pages.data())[index]; }
    ReadRecord& record(size_t index, size_t number) const {
      return reinterpret_cast<ReadRecord*>(pages.data() + count * sizeof(Cell))[number * count + index];
    }
    size_t count, reads;
    SparsePages pages;
  };

  ReadRecord& record(const Cell& cell, size_t number) const {
    const Cells& cells = words_.contains(cell) ? words_ : bytes_;
    return cells.record(size_t(&cell - &cells.cell(0)), number);
  }

  template <class Visitor>
  bool visit_word(size_t index, size_t within, size_t count, bool replaces, const Visitor& visitor) {
    Cell& word = words_.cell(index);
    const Lock lock(word, concurrent_);
    if (count == 4 && (word.flags & Cell::kSplit) == 0) return visitor(word, 4 * index, size_t(4));
    if ((word.flags & Cell::kSplit) == 0) {
      for (size_t i = 0; i < 4; ++i) copy(bytes_.cell(4 * index + i), word);
      word.flags |= Cell::kSplit;
    }
    for (size_t i = within; i < within + count; ++i)
      if (!visitor(bytes_.cell(4 * index + i), 4 * index + i, size_t(1))) return false;
    if (count == 4 && replaces) copy(word, bytes_.cell(4 * index));
    return true;
  }

  void copy(Cell& to, const Cell& from) {
    const uint8_t lock = to.lock;
    to = from;
    to.lock = lock;
    for (uint32_t left = from.reads; left != 0; left &= left - 1) {
      const size_t number = size_t(__builtin_ctz(left));
      record(to, number) = record(from, number);
    }
    if ((from.flags & Cell::kMoreReads) != 0) more_reads(to) = more_reads(from);
  }

  /// The reads of a cell that find no record. The table is everybody's, an entry whoever's who has the cell.
  std::vector<ReadRecord>& more_reads(const Cell& cell) {
    const std::lock_guard<std::mutex> lock(more_reads_mutex_);
    return more_reads_[&cell];
  }

  class Lock {
   public:
    Lock(Cell& cell, bool needed) : lock_(needed ? &cell.lock : nullptr) {
      while (lock_ != nullptr && __atomic_exchange_n(lock_, uint8_t(1), __ATOMIC_ACQUIRE) != 0) {
      }
    }
    ~Lock() {
      if (lock_ != nullptr) __atomic_store_n(lock_, uint8_t(0), __ATOMIC_RELEASE);
    }

   private:
    uint8_t* lock_;
  };

  bool concurrent_;
  Cells words_, bytes_;
  std::mutex more_reads_mutex_;
  std::unordered_map<const Cell*, std::vector<ReadRecord>> more_reads_;
};

}  // namespace lrk::emulator
