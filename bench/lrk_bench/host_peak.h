#pragma once

#include "device.h"
#include "thread_pool.h"

namespace lrk::bench {

/// Multiply-adds of independent registers on every thread: what no kernel for this dtype can exceed.
Peak measure_host_peak(DType dtype, ThreadPool& pool);

}  // namespace lrk::bench
