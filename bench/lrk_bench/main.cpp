// lrk_bench: see `lrk_bench help`. Exit codes: 0, 1 when a result is wrong or a device is missing, 2 for the arguments.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>

#include "arguments.h"
#include "lrk/build_info.h"
#include "presets.h"
#include "report.h"
#include "thread_pool.h"

namespace lrk::bench {
namespace {

int list(int threads) {
  const BuildInfo build = build_info();
  std::printf("lrk_bench %s (%s; CUDA: %s)\n\noperations\n", build.version.c_str(), build.compiler.c_str(),
              build.cuda_reason.c_str());
  for (const OperationInfo& info : operations()) std::printf("  %-24s %s\n", info.name, info.equation);
  std::printf("\ndevices\n");
  std::string library = "needs the device cuda";
  for (const DeviceState& state : list_devices(threads)) {
    std::printf("  %-14s %s%s\n", state.name.c_str(), state.available ? "" : "not available: ",
                state.description.c_str());
    if (state.name != "cuda" || !state.available) continue;
    std::string reason;
    const std::unique_ptr<Device> device = make_device("cuda", threads, &reason);
    const std::unique_ptr<CublasLt> opened = device ? open_cublaslt(*device, &library) : nullptr;
    if (opened) library = "version " + opened->version();
  }
  std::printf("\nbaselines\n  %-14s the same backend, each product (each round) a call of its own\n  %-14s %s\n", "unfused", "cuBLASLt",
              library.c_str());
  std::printf("\npresets\n");
  for (const std::string& name : preset_names()) {
    std::printf("  %-14s", name.c_str());
    for (const LayerShape& shape : preset_shapes(name))
      std::printf(" %s %lldx%lld;", shape.layers.c_str(), (long long)shape.n, (long long)shape.k);
    std::printf("\n");
  }
  return 0;
}

/// Writes to --out, or prints; with --out the table is printed too.
int deliver(const Arguments& arguments, const MachineReport& machine, const std::vector<CaseReport>& reports) {
  const std::string text = render(arguments.format, machine, reports);
  if (arguments.out.empty()) {
    std::fputs(text.c_str(), stdout);
    return 0;
  }
  std::ofstream file(arguments.out, std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    std::fprintf(stderr, "lrk_bench: --out is '%s', which could not be written\n", arguments.out.c_str());
    return 1;
  }
  std::fputs(to_table(machine, reports).c_str(), stdout);
  std::printf("\nwrote %s\n", arguments.out.c_str());
  return 0;
}

/// `roofline` may be null.
std::vector<CaseReport> run_cases(const Arguments& arguments, Device& device, Roofline* roofline,
                                  const std::vector<Case>& cases) {
  std::string reason;
  const std::unique_ptr<CublasLt> library = device.name() == "cuda" ? open_cublaslt(device, &reason) : nullptr;
  if (!reason.empty()) std::fprintf(stderr, "no cuBLASLt baselines: %s\n", reason.c_str());
  const std::vector<std::string> kernels = device.kernel_names();
  const auto is_meant = [&](const std::string& name) { return name.find(arguments.kernel) != std::string::npos; };
  if (std::none_of(kernels.begin(), kernels.end(), is_meant))
    throw UsageError("--kernel is '" + arguments.kernel + "', which no kernel's name contains on " + device.name());
  std::vector<CaseReport> reports;
  for (const Case& c : cases) {
    std::fprintf(stderr, "[%zu/%zu] %s %s\n", reports.size() + 1, cases.size(), device.name().c_str(),
                 title(c).c_str());
    if (roofline != nullptr && device.has_meaningful_time()) roofline->measure(c.dtype);
    reports.push_back(run_case(c, device, library.get(), arguments.timing, arguments.kernel));
  }
  if (roofline != nullptr) add_roofline(*roofline, &reports);
  return reports;
}

bool any_failed(const std::vector<CaseReport>& reports) {
  for (const CaseReport& report : reports)
    if (report.failed()) return true;
  return false;
}

MachineReport machine_with_roofline(const Device& device, const Roofline& roofline) {
  MachineReport machine = describe_machine(device);
  machine.bandwidth = roofline.bandwidth();
  machine.peaks.assign(roofline.peaks().begin(), roofline.peaks().end());
  return machine;
}

std::unique_ptr<Device> device_or_explain(const Arguments& arguments, int threads) {
  std::string reason;
  std::unique_ptr<Device> device = make_device(arguments.device, threads, &reason);
  if (!device)
    std::fprintf(stderr, "lrk_bench: --device is '%s', which is not available: %s\n", arguments.device.c_str(),
                 reason.c_str());
  return device;
}

int run(const Arguments& arguments, int threads) {
  const std::unique_ptr<Device> device = device_or_explain(arguments, threads);
  if (!device) return 1;
  Roofline roofline(*device);
  const std::vector<CaseReport> reports = run_cases(arguments, *device, &roofline, arguments.cases);
  const int delivered = deliver(arguments, machine_with_roofline(*device, roofline), reports);
  return any_failed(reports) ? 1 : delivered;
}

/// Every operation and dtype once, small and odd shapes, on every device there is.
int smoke(Arguments arguments, int threads) {
  arguments.timing.seconds = 0.02;
  bool failed = false;
  for (const DeviceState& state : list_devices(threads)) {
    if (!state.available) continue;
    std::string reason;
    const std::unique_ptr<Device> device = make_device(state.name, threads, &reason);
    const bool small = state.name == "cuda_emulated";
    std::vector<Case> cases;
    for (const OperationInfo& info : operations()) {
      for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
        if (dtype == DType::kFloat64 && state.name != "cpu") continue;
        const double dropout = dtype == DType::kFloat32 ? 0.1 : 0.0;
        Case c;
        c.operation = info.operation, c.dtype = c.factor_dtype = dtype, c.dropout = dropout, c.bias = true;
        c.m = small ? 24 : 65, c.n = small ? 40 : 96, c.k = small ? 32 : 136, c.rank = 9, c.rounds = 9, c.block = 8;
        if (dtype == DType::kFloat16) c.factor_dtype = DType::kFloat32;
        cases.push_back(c);
      }
    }
    for (const CaseReport& report : run_cases(arguments, *device, nullptr, cases)) {
      int64_t checked = 0;
      for (const ContenderReport& contender : report.contenders) checked += contender.verification.checked;
      std::printf("%-6s %s %s: %zu ways, %lld numbers\n", report.failed() ? "FAILED" : "ok", state.name.c_str(),
                  title(report).c_str(), report.contenders.size(), (long long)checked);
      if (report.failed()) std::fputs(to_table(describe_machine(*device), {report}).c_str(), stdout);
      failed = failed || report.failed();
    }
  }
  std::printf("\n%s\n", failed ? "smoke: FAILED" : "smoke: every result verified");
  return failed ? 1 : 0;
}

int roofline(const Arguments& arguments, int threads) {
  const std::unique_ptr<Device> device = device_or_explain(arguments, threads);
  if (!device) return 1;
  if (!device->has_meaningful_time()) {
    std::fprintf(stderr, "lrk_bench: --device is '%s', whose time is not that of a GPU\n", arguments.device.c_str());
    return 1;
  }
  Roofline roofline(*device);
  for (DType dtype : arguments.dtypes) roofline.measure(dtype);
  return deliver(arguments, machine_with_roofline(*device, roofline), {});
}

int dispatch(const Arguments& arguments) {
  const int threads = arguments.threads > 0 ? arguments.threads : available_cpus();
  switch (arguments.command) {
    case Command::kHelp: std::fputs(usage().c_str(), stdout); return 0;
    case Command::kList: return list(threads);
    case Command::kRun: return run(arguments, threads);
    case Command::kSmoke: return smoke(arguments, threads);
    case Command::kRoofline: return roofline(arguments, threads);
  }
  return 2;
}

}  // namespace
}  // namespace lrk::bench

int main(int count, char** words) {
  try {
    return lrk::bench::dispatch(lrk::bench::parse_arguments({words + 1, words + count}));
  } catch (const lrk::bench::UsageError& error) {
    std::fprintf(stderr, "lrk_bench: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "lrk_bench: the device has not enough memory for this case\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lrk_bench: %s\n", error.what());
    return 1;
  }
}
