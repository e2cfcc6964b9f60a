// The cp.async queue of one CUDA thread. A copy lands when a wait forces it to and no sooner, the latest moment the
// PTX manual allows: a kernel that forgets a wait, or waits for one group too few, reads poison here.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

namespace lrk::emulator {

class AsyncCopies {
 public:
  void clear() { copies_.clear(), group_ends_.clear(), next_copy_ = next_group_ = 0; }

  /// Copies `source_bytes` and fills the rest of `bytes` with zeros.
  void enqueue(char* destination, const void* source, int bytes, int source_bytes) {
    copies_.push_back({destination, source, bytes, source_bytes, {}});
    if (source_bytes > 0) memcpy(copies_.back().at_issue, source, size_t(source_bytes));
  }

  void commit() { group_ends_.push_back(copies_.size()); }

  /// Completes the oldest groups until at most `pending` committed groups are left; calls landed(destination, bytes,
  /// source_changed) for each copy: nothing orders the copy's read before the wait, so a source that was written since
  /// the copy was issued is a race.
  template <class Landed>
  void wait(size_t pending, const Landed& landed) {
    while (group_ends_.size() - next_group_ > pending) {
      for (; next_copy_ < group_ends_[next_group_]; ++next_copy_) perform(copies_[next_copy_], landed);
      ++next_group_;
    }
    if (next_group_ == group_ends_.size() && next_copy_ == copies_.size()) clear();
  }

  /// cp.async.wait_all: everything issued so far, committed or not.
  template <class Landed>
  void wait_all(const Landed& landed) {
    for (; next_copy_ < copies_.size(); ++next_copy_) perform(copies_[next_copy_], landed);
    clear();
  }

 private:
  struct Copy {
    char* destination;
    const void* source;
    int bytes, source_bytes;
    char at_issue[16];
  };
  template <class Landed>
  static void perform(const Copy& copy, const Landed& landed) {
    const bool changed = copy.source_bytes > 0 && memcmp(copy.at_issue, copy.source, size_t(copy.source_bytes)) != 0;
    if (copy.source_bytes > 0) memcpy(copy.destination, copy.source, size_t(copy.source_bytes));
    memset(copy.destination + copy.source_bytes, 0, size_t(copy.bytes - copy.source_bytes));
    landed(copy.destination, size_t(copy.bytes), changed);
  }

  std::vector<Copy> copies_;
  std::vector<size_t> group_ends_;  // copies_ index one past each committed group
  size_t next_copy_ = 0, next_group_ = 0;
};

}  // namespace lrk::emulator
