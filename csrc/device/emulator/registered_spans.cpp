#include <algorithm>

#include "device/emulator/launch.h"

namespace lrk::emulator {

std::vector<const RegisteredSpans*>& RegisteredSpans::alive() {
  static thread_local std::vector<const RegisteredSpans*> objects;
  return objects;
}

RegisteredSpans::RegisteredSpans() { alive().push_back(this); }

RegisteredSpans::~RegisteredSpans() {
  auto& objects = alive();
  objects.erase(std::find(objects.begin(), objects.end(), this));
}

std::vector<MemorySpan> RegisteredSpans::of_this_thread() {
  std::vector<MemorySpan> spans;
  for (const RegisteredSpans* object : alive())
    spans.insert(spans.end(), object->spans_.begin(), object->spans_.end());
  return spans;
}

}  // namespace lrk::emulator
