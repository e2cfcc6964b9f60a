// Many small problems on the CPU at once, each on one thread: where a problem is too small for several threads, a stack
// of them is not.
#pragma once

#include <functional>

#include "lrk/context.h"
#include "lrk/types.h"

namespace lrk {

/// Whether a stack of `count` problems of `multiply_adds` each is solved so: by shape alone.
bool goes_side_by_side(int64_t count, int64_t multiply_adds);

/// Calls body(index, a context of one thread) for index < count, in any order. Work memory that one problem was given is
/// the next one's on that thread. Returns the failure of the lowest index, or ok.
Status run_side_by_side(int64_t count, const Context& context,
                        const std::function<Status(int64_t index, const Context& own)>& body);

}  // namespace lrk
