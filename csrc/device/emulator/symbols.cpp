#include "device/emulator/symbols.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>

extern char** environ;

namespace lrk::emulator {

namespace {

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

std::string hexadecimal(uintptr_t value) {
  char text[32];
  snprintf(text, sizeof(text), "0x%jx", uintmax_t(value));
  return text;
}

/// What `command` writes to its standard output; empty when it cannot be started. No shell stands between, so any path
/// is right.
std::string output_of(std::vector<std::string> command) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  std::vector<char*> arguments;
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = -1;
  const bool started = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ) == 0;
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got; started && ((got = read(ends[0], buffer, sizeof(buffer))) > 0 || (got < 0 && errno == EINTR));)
    if (got > 0) text.append(buffer, size_t(got));
  close(ends[0]);
  if (started)
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  return text;
}

}  // namespace

std::vector<std::vector<Frame>> frames_at(const std::vector<const void*>& addresses) {
  std::vector<std::vector<Frame>> frames(addresses.size());
  std::map<std::string, std::vector<size_t>> of_module;  // one call a module, since reading its lines takes the time
  std::vector<uintptr_t> offsets;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const Module module = module_of(addresses[i]);
    offsets.push_back(reinterpret_cast<uintptr_t>(addresses[i]) - module.base);
    if (!module.path.empty()) of_module[module.path].push_back(i);
  }
  for (const auto& [path, indices] : of_module) {
    std::vector<std::string> command = {"addr2line", "-a", "-C", "-f", "-i", "-e", path};
    for (const size_t i : indices) command.push_back(hexadecimal(offsets[i]));
    // Of each address: the address itself, then a function and a file:line for each frame.
    std::istringstream lines(output_of(std::move(command)));
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

std::string function_name(const void* address) {
  const std::vector<Frame> frames = frames_at({address}).front();
  if (frames.empty() || frames.back().function.empty() || frames.back().function[0] == '?')
    return hexadecimal(reinterpret_cast<uintptr_t>(address));
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

}  // namespace lrk::emulator
