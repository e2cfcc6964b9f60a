#include "lrk/build_info.h"

#include <sstream>

namespace lrk {

BuildInfo build_info() {
  BuildInfo info;
  info.version = LRK_VERSION;
#if defined(__clang__)
  info.compiler = "clang " __clang_version__;
#else
  info.compiler = "g++ " __VERSION__;
#endif
  info.cuda = LRK_HAVE_CUDA;
  info.emulator = LRK_HAVE_EMULATOR;
  info.emulator_checked = LRK_EMULATOR_IS_CHECKED;
  info.cuda_toolkit = LRK_CUDA_TOOLKIT;
  info.cuda_reason = LRK_CUDA_REASON;
  std::istringstream archs(LRK_CUDA_ARCHS);
  for (std::string arch; std::getline(archs, arch, ',');) info.cuda_archs.push_back(arch);
  return info;
}

}  // namespace lrk
