#include "presets.h"

#include "arguments.h"

namespace lrk::bench {
namespace {

/// A decoder layer with grouped-query attention and a gated feed-forward block.
struct Model {
  const char* name;
  int64_t hidden, key_value, feed_forward;
};
constexpr Model kModels[] = {{"llama3-8b", 4096, 1024, 14336}, {"llama3-70b", 8192, 1024, 28672}};

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Model& model : kModels) names.push_back(model.name);
  return names;
}

std::vector<LayerShape> preset_shapes(const std::string& name) {
  std::string known;
  for (const Model& model : kModels) {
    if (name == model.name) {
      return {{"q, o", model.hidden, model.hidden},
              {"k, v", model.key_value, model.hidden},
              {"gate, up", model.feed_forward, model.hidden},
              {"down", model.hidden, model.feed_forward}};
    }
    known += (known.empty() ? "" : ", ") + std::string(model.name);
  }
  throw UsageError("--preset is '" + name + "', expected one of " + known);
}

}  // namespace lrk::bench
