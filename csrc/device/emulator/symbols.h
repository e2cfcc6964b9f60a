// From code addresses to functions and source lines, by addr2line.
#pragma once

#include <string>
#include <vector>

namespace lrk::emulator {

struct Frame {
  std::string function, file;
  int line = 0;
};

/// For each code address the frames there, inlined ones first; fewer or none where nothing is known.
std::vector<std::vector<Frame>> frames_at(const std::vector<const void*>& addresses);

/// The function at `address`, without its namespaces and parameters; a hexadecimal number when it has no symbol.
std::string function_name(const void* address);

}  // namespace lrk::emulator
