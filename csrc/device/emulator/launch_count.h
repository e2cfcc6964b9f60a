// How many launches an operation takes: for tests of what files say of it.
#pragma once

#include <cstdint>

namespace lrk::emulator {

/// Launches that this operating-system thread has made so far, refused ones included.
int64_t launch_count();

}  // namespace lrk::emulator
