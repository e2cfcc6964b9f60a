// The checked mode on launches that may overlap earlier ones of their stream: what they touch before
// griddepcontrol.wait, and after it of launches that the one before has not waited for.
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;

void writes(float* data) { data[threadIdx.x] = 1.0f; }  // [previous launch]

template <bool kBug>
void depends(const float* data, float* out) {
  if constexpr (!kBug) emulator::grid_dependency_wait();
  out[threadIdx.x] = data[threadIdx.x];  // [dependent]
  if constexpr (kBug) emulator::grid_dependency_wait();
}

/// A launch that overlaps the one before it and touches none of its data. It may let the next launch start at once,
/// before it waits.
enum class Passes { kWithoutWaiting, kWaiting, kWaitingLate, kWaitingEarly };
template <Passes kPasses>
void passes_by(float* own) {
  if constexpr (kPasses == Passes::kWaitingLate) emulator::grid_dependency_trigger();
  if constexpr (kPasses != Passes::kWithoutWaiting)
    if (blockIdx.x == 1) emulator::grid_dependency_wait();
  if constexpr (kPasses == Passes::kWaitingEarly) emulator::grid_dependency_trigger();
  own[blockIdx.x * 32 + threadIdx.x] = 2.0f;
}

template <bool kWaits>
void depends_on_the_last_but_one(const float* data, float* out) {
  if constexpr (kWaits) emulator::grid_dependency_wait();
  out[threadIdx.x] = data[threadIdx.x];  // [last but one]
}

void overwrites(float* data) { data[threadIdx.x] = 3.0f; }  // [overwritten]
void reads(const float* data, float* out) { out[threadIdx.x] = data[threadIdx.x]; }  // [previous read]

float* storage() {
  alignas(16) static float values[512];
  return values;
}

void test_dependent_launches() {
  float* const data = storage();
  float* const out = storage() + 256;
  GlobalMemory memory;
  memory.writes(data, 1024, "data").writes(out, 1024, "out");
  LaunchConfig config(dim3(1), dim3(32), 0, Context{});
  LaunchConfig dependent = config;
  dependent.programmatic = true;
  expect_silence(launch(writes, config, data), "the first of two launches");
  expect_report(__FILE__, launch(depends<true>, dependent, data, out),
                {"depends<true>", 0, 0, "reads bytes [0, 4) of data before griddepcontrol.wait", "dependent",
                 "previous launch"});
  expect_silence(launch(writes, config, data), "the first of two launches");
  expect_silence(launch(depends<false>, dependent, data, out), "a launch that waits");
  expect_silence(launch(writes, config, data), "the first of two launches");
  expect_silence(launch(depends<true>, config, data, out), "a launch that need not wait");
}

/// Three launches, of which each may overlap the one before; the last reads what the first has written.
void test_chains_of_launches() {
  float* const data = storage();
  float* const own = storage() + 128;
  float* const out = storage() + 256;
  GlobalMemory memory;
  memory.writes(data, 128, "data").writes(own, 512, "own").writes(out, 1024, "out");
  LaunchConfig config(dim3(1), dim3(32), 0, Context{});
  LaunchConfig dependent = config, between(dim3(3), dim3(32), 0, Context{});
  dependent.programmatic = between.programmatic = true;
  const auto chain = [&](void (*second)(float*), void (*third)(const float*, float*)) {
    expect_silence(launch(writes, config, data), "the first of three launches");
    expect_silence(launch(second, between, own), "the second of three launches");
    return launch(third, dependent, data, out);
  };
  void (*const waits)(const float*, float*) = depends_on_the_last_but_one<true>;
  void (*const does_not)(const float*, float*) = depends_on_the_last_but_one<false>;
  const Expected early{"depends_on_the_last_but_one<false>", 0, 0,
                       "reads bytes [0, 4) of data before griddepcontrol.wait: kernel writes, launched earlier, may "
                       "still be running; its thread 0 writes them", "last but one", "previous launch"};
  expect_report(__FILE__, chain(passes_by<Passes::kWithoutWaiting>, waits),
                {"depends_on_the_last_but_one<true>", 0, 0,
                 "reads bytes [0, 4) of data after griddepcontrol.wait, which waits for the launch before this one, "
                 "but kernel writes was launched earlier and may still be running", "last but one", "previous launch"});
  expect_silence(chain(passes_by<Passes::kWaiting>, waits), "a chain in which all wait");
  expect_silence(chain(passes_by<Passes::kWaitingLate>, waits), "a chain that waits late");
  expect_report(__FILE__, chain(passes_by<Passes::kWithoutWaiting>, does_not), early);
  expect_report(__FILE__, chain(passes_by<Passes::kWaitingLate>, does_not), early);
  expect_silence(chain(passes_by<Passes::kWaiting>, does_not), "blocks that wait start the next launch when they exit");
  expect_silence(chain(passes_by<Passes::kWaitingEarly>, does_not), "a wait before the next launch is let go");

  // A launch in the ordinary way starts after all before it, and streams are chains of their own.
  expect_silence(launch(writes, config, data), "the first of three launches");
  expect_silence(launch(passes_by<Passes::kWithoutWaiting>, between, own), "the second of three launches");
  expect_silence(launch(does_not, config, data, out), "a launch in the ordinary way");
  expect_silence(launch(writes, config, data), "a launch");
  int another_stream = 0;
  LaunchConfig elsewhere = dependent;
  elsewhere.stream = &another_stream;
  expect_silence(launch(passes_by<Passes::kWithoutWaiting>, elsewhere, own), "a launch on another stream");
  expect_report(__FILE__, launch(depends<true>, dependent, data, out),
                {"depends<true>", 0, 0, "before griddepcontrol.wait: kernel writes, the launch before this one, may",
                 "dependent", "previous launch"});

  // The other way round: a launch that overwrites what an earlier one reads.
  expect_silence(launch(reads, config, data, out), "a launch that reads");
  expect_silence(launch(passes_by<Passes::kWithoutWaiting>, between, own), "a launch in between");
  expect_report(__FILE__, launch(overwrites, dependent, data),
                {"overwrites", 0, 0, "writes bytes [0, 4) of data before griddepcontrol.wait: kernel reads, launched "
                 "earlier, may still be running; its thread 0 reads them", "overwritten", "previous read"});
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_dependent_launches();
  lrk::test_chains_of_launches();
  return lrk::testing::report();
}
