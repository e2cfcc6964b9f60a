// The same results as a table for people, CSV for spreadsheets and JSON for scripts.
#pragma once

#include <string>
#include <vector>

#include "arguments.h"
#include "run.h"

namespace lrk::bench {

struct MachineReport {
  std::string version, compiler, device, description, date;
  double bandwidth = 0;  // GB/s; 0 when nothing was timed
  std::vector<std::pair<DType, Peak>> peaks;
};

MachineReport describe_machine(const Device& device);

/// "lowrank_linear m 512 n 1024 k 1024 rank 16 bf16"
std::string title(const Case& c);
/// The same with ", cold" or ", batch".
std::string title(const CaseReport& report);

std::string to_table(const MachineReport& machine, const std::vector<CaseReport>& reports);
std::string to_csv(const MachineReport& machine, const std::vector<CaseReport>& reports);
std::string to_json(const MachineReport& machine, const std::vector<CaseReport>& reports);
std::string render(Format format, const MachineReport& machine, const std::vector<CaseReport>& reports);

}  // namespace lrk::bench
