// The linear layers of known models, each shape once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lrk::bench {

struct LayerShape {
  std::string layers;  // "q, o"
  int64_t n = 0, k = 0;
};

std::vector<std::string> preset_names();
/// Throws UsageError for an unknown name.
std::vector<LayerShape> preset_shapes(const std::string& name);

}  // namespace lrk::bench
