#include "device/emulator/fault.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>
#include <unwind.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>

namespace lrk::emulator {

namespace {

struct Frame {
  std::string function, file;
  int line = 0;
};

struct Module {
  std::string path;
  uintptr_t base = 0;
};

Module module_of(const void* address) {
  Dl_info info;
  link_map* map = nullptr;
  if (dladdr1(address, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0 || map == nullptr) return {};
  // The program itself has no name there, and "self" would be addr2line.
  const bool named = map->l_name != nullptr && *map->l_name != '\0';
  return {named ? map->l_name : "/proc/" + std::to_string(getpid()) + "/exe", uintptr_t(map->l_addr)};
}

/// For each code address the frames there, inlined ones first, as addr2line prints them: a function and a file:line
/// each. One call a module, since reading its lines takes the time.
std::vector<std::vector<Frame>> frames_at(const std::vector<const void*>& addresses) {
  std::vector<std::vector<Frame>> frames(addresses.size());
  std::map<std::string, std::vector<size_t>> of_module;
  std::vector<uintptr_t> offsets;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const Module module = module_of(addresses[i]);
    offsets.push_back(reinterpret_cast<uintptr_t>(addresses[i]) - module.base);
    if (!module.path.empty()) of_module[module.path].push_back(i);
  }
  for (const auto& [path, indices] : of_module) {
    std::ostringstream command;
    command << "addr2line -a -C -f -i -e '" << path << "'" << std::hex;
    for (const size_t i : indices) command << " 0x" << offsets[i];
    command << " 2>/dev/null";
    FILE* pipe = popen(command.str().c_str(), "r");
    if (pipe == nullptr) continue;
    std::string text;
    char buffer[4096];
    for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, got);
    pclose(pipe);
    std::istringstream lines(text);
    size_t next = 0;  // one past the address whose frames follow
    for (std::string function, place; std::getline(lines, function);) {
      if (function.compare(0, 2, "0x") == 0) {
        ++next;
        continue;
      }
      if (!std::getline(lines, place) || next == 0 || next > indices.size()) break;
      Frame frame;
      frame.function = function;
      const size_t colon = place.rfind(':');
      if (colon != std::string::npos && place[0] != '?') {
        frame.file = place.substr(0, colon);
        frame.line = atoi(place.c_str() + colon + 1);
      }
      frames[indices[next - 1]].push_back(frame);
    }
  }
  return frames;
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// Frames of which no kernel's author wants to hear: the emulator, the wrappers, and below the kernel its launch.
bool is_machinery(const Frame& frame) {
  return frame.file.empty() || has(frame.file, "/device/emulator/") || has(frame.file, "/device/ptx/") ||
         has(frame.file, "/device/vector.cuh") || has(frame.file, "/device/launch.cuh") ||
         has(frame.file, "/include/c++/");
}

/// "csrc/cuda/..." of a long path.
std::string short_path(const std::string& path) {
  for (const char* root : {"/csrc/", "/tests/"})
    if (const size_t at = path.rfind(root); at != std::string::npos) return path.substr(at + 1);
  return path.substr(path.rfind('/') + 1);
}

/// "FILE:LINE < FILE:LINE", innermost first; empty when nothing is known.
std::string places(const std::vector<const void*>& stack) {
  std::vector<const void*> calls;  // a return address may belong to the line after the call
  for (const void* address : stack) calls.push_back(static_cast<const char*>(address) - 1);
  std::string text, before;
  for (const std::vector<Frame>& frames : frames_at(calls))
    for (const Frame& frame : frames) {
      if (has(frame.file, "/device/launch.cuh")) return text;
      if (is_machinery(frame)) continue;
      const std::string place = short_path(frame.file) + ":" + std::to_string(frame.line);
      if (place == before) continue;
      text += (text.empty() ? "" : " < ") + place;
      before = place;
    }
  return text;
}

std::string index(const Dim3& at) {
  std::ostringstream text;
  text << "(" << at.x << ", " << at.y << ", " << at.z << ")";
  return text.str();
}

}  // namespace

std::vector<const void*> call_stack() {
  std::vector<const void*> stack;
  _Unwind_Backtrace(
      [](_Unwind_Context* context, void* data) {
        auto& found = *static_cast<std::vector<const void*>*>(data);
        constexpr size_t kDeepest = 64;
        const auto address = _Unwind_GetIP(context);
        if (address == 0 || found.size() >= kDeepest) return _URC_END_OF_STACK;
        found.push_back(reinterpret_cast<const void*>(address));
        return _URC_NO_REASON;
      },
      &stack);
  return stack;
}

std::string function_name(const void* address) {
  const std::vector<Frame> frames = frames_at({address}).front();
  if (frames.empty() || frames.back().function.empty() || frames.back().function[0] == '?') {
    char text[32];
    snprintf(text, sizeof(text), "%p", address);
    return text;
  }
  // Cut parameters and the namespaces before the name, neither of which stands inside template arguments.
  const std::string& full = frames.back().function;
  int depth = 0;
  size_t begin = 0, end = full.size();
  for (size_t i = 0; i < full.size(); ++i) {
    if (full.compare(i, 21, "(anonymous namespace)") == 0) {
      i += 20;
      continue;
    }
    if (full[i] == '<') ++depth;
    if (full[i] == '>') --depth;
    if (depth == 0 && full[i] == '(') {
      end = i;
      break;
    }
    if (depth == 0 && (full[i] == ' ' || (i > 0 && full[i] == ':' && full[i - 1] == ':'))) begin = i + 1;
  }
  return full.substr(begin, end - begin);
}

std::string describe(const void* kernel, const Fault& fault) {
  std::string text = "kernel " + function_name(kernel) + ", block " + index(fault.block);
  if (fault.has_thread) text += ", thread " + std::to_string(fault.thread) + " " + index(fault.thread_index);
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
