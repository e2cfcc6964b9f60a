#include "device/emulator/fault.h"

#include <unwind.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "device/emulator/symbols.h"

namespace lrk::emulator {

namespace {

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

bool is_launch(const Frame& frame) { return has(frame.file, "/device/launch.cuh"); }

/// Frames of which no kernel's author wants to hear: the emulator, the wrappers, and the language's library.
bool is_machinery(const Frame& frame) {
  return has(frame.file, "/device/emulator/") || has(frame.file, "/device/ptx/") ||
         has(frame.file, "/device/vector.cuh") || has(frame.file, "/include/c++/");
}

/// "csrc/cuda/..." of a long path.
std::string short_path(const std::string& path) {
  for (const char* root : {"/csrc/", "/tests/"})
    if (const size_t at = path.rfind(root); at != std::string::npos) return path.substr(at + 1);
  return path.substr(path.rfind('/') + 1);
}

std::string line_of(const Frame& frame) { return short_path(frame.file) + ":" + std::to_string(frame.line); }

/// "FILE:LINE < FILE:LINE", innermost first, down to the launch: the kernel's own lines, or the wrapper's when nothing
/// else is known (without inlining a wrapper's access lies in a function of its own). Empty when no line is.
std::string places(const std::vector<const void*>& stack) {
  std::vector<const void*> calls;  // a return address may belong to the line after the call
  for (const void* address : stack) calls.push_back(static_cast<const char*>(address) - 1);
  std::string text, before, machinery;
  for (const std::vector<Frame>& frames : frames_at(calls))
    for (const Frame& frame : frames) {
      if (is_launch(frame)) return text.empty() ? machinery : text;
      if (frame.file.empty()) continue;
      const std::string place = line_of(frame);
      if (is_machinery(frame)) {
        if (machinery.empty() && !has(frame.file, "/device/emulator/")) machinery = place;
        continue;
      }
      if (place == before) continue;
      text += (text.empty() ? "" : " < ") + place;
      before = place;
    }
  return text.empty() ? machinery : text;
}

}  // namespace

std::string triple(const Dim3& of) {
  std::ostringstream text;
  text << "(" << of.x << ", " << of.y << ", " << of.z << ")";
  return text.str();
}

std::vector<const void*> call_stack() {
  std::vector<const void*> stack;
  _Unwind_Backtrace(
      [](_Unwind_Context* context, void* data) {
        auto& found = *static_cast<std::vector<const void*>*>(data);
        constexpr size_t kDeepest = 64;
        int interrupted = 0;  // by a signal: the address is the instruction's own, not the next one's
        const auto address = _Unwind_GetIPInfo(context, &interrupted);
        if (address == 0 || found.size() >= kDeepest) return _URC_END_OF_STACK;
        found.push_back(reinterpret_cast<const void*>(address + (interrupted != 0 ? 1 : 0)));
        return _URC_NO_REASON;
      },
      &stack);
  return stack;
}

bool same_place(const void* pc, const void* other_pc) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, const void*>, bool> known;  // reading lines takes a good part of a second
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [found, is_new] = known.try_emplace({pc, other_pc}, true);
  if (is_new) {
    const auto frames = frames_at({static_cast<const char*>(pc) - 1, static_cast<const char*>(other_pc) - 1});
    // One of the two may be inlined into more callers than the other.
    for (size_t i = 0; i < std::min(frames[0].size(), frames[1].size()); ++i)
      if (frames[0][i].line != frames[1][i].line || frames[0][i].file != frames[1][i].file)
        found->second = frames[0][i].file.empty() || frames[1][i].file.empty();
  }
  return found->second;
}

std::string describe(const void* kernel, const Fault& fault) {
  std::string text = "kernel " + function_name(kernel) + ", block " + triple(fault.block);
  if (fault.has_thread) text += ", thread " + std::to_string(fault.thread) + " " + triple(fault.thread_index);
  if (const std::string place = places(fault.stack); !place.empty()) text += ", at " + place;
  text += ": " + fault.what;
  for (const Fault::Place& related : fault.related) {
    text += "; " + related.text;
    if (related.pc == nullptr) continue;
    if (const std::string place = places({related.pc}); !place.empty()) text += " at " + place;
  }
  return text;
}

}  // namespace lrk::emulator
