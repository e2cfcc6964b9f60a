#include "report.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <ctime>

#include "element.h"
#include "lrk/build_info.h"

namespace lrk::bench {
namespace {

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

const char* name_of(Mode mode) { return mode == Mode::kCold ? "cold" : "batch"; }

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') json += '\\';
    json += static_cast<unsigned char>(letter) < 32 ? ' ' : letter;
  }
  return json + "\"";
}

/// A CSV field: quoted when it must be.
std::string field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted_text = "\"";
  for (const char letter : text) quoted_text += letter == '"' ? "\"\"" : std::string(1, letter);
  return quoted_text + "\"";
}

std::string status_of(const ContenderReport& contender) { return contender.verification.ok ? "ok" : "FAILED"; }

/// The half width of the median's interval, in percent.
double spread(const Measurement& time) {
  return time.median_us > 0 ? 50 * (time.high_us - time.low_us) / time.median_us : 0;
}

}  // namespace

std::string title(const Case& c) {
  std::string text = name_of(c);
  for (const Size& size : sizes_of(c)) text += format(" %s %lld", size.name, (long long)(c.*size.member));
  text += std::string(" ") + short_name(c.dtype);
  if (info_of(c).family == Family::kLowRank && c.factor_dtype != c.dtype)
    text += std::string(" factors ") + short_name(c.factor_dtype);
  if (c.dropout > 0) text += format(" dropout %g", c.dropout);
  if (c.bias) text += " bias";
  if (!c.label.empty()) text += " (" + c.label + ")";
  return text;
}

std::string title(const CaseReport& report) { return title(report.c) + ", " + name_of(report.mode); }

MachineReport describe_machine(const Device& device) {
  MachineReport machine;
  const BuildInfo build = build_info();
  machine.version = build.version, machine.compiler = build.compiler;
  machine.device = device.name(), machine.description = device.description();
  const std::time_t now = std::time(nullptr);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  machine.date = date;
  return machine;
}

std::string to_table(const MachineReport& machine, const std::vector<CaseReport>& reports) {
  std::string text = machine.device + ": " + machine.description + "\n";
  if (machine.bandwidth > 0) text += format("roofline: %.1f GB/s copy", machine.bandwidth);
  for (const auto& [dtype, peak] : machine.peaks)
    if (peak.gflops > 0) text += format(", %s %.0f GFLOP/s (%s)", short_name(dtype), peak.gflops, peak.how.c_str());
  if (machine.bandwidth > 0) text += "\n";
  for (const CaseReport& report : reports) {
    text += "\n";
    text += title(report) + "\n";
    text += format("  %-15s %12s %7s %9s %8s %9s %8s  %s\n", "", "us", "+-", "GFLOP/s", "GB/s", "roofline", "x ours",
                   "verified");
    for (const ContenderReport& contender : report.contenders) {
      const Verification& verified = contender.verification;
      text += format("  %-15s ", contender.name.c_str());
      if (!verified.ok) {
        text += "FAILED: " + verified.failure + "\n";
        continue;
      }
      const Measurement& time = contender.time;
      if (time.samples > 0) {
        text += format("%12.1f ", time.median_us);
        text += time.samples >= kMinRounds ? format("%6.1f%% ", spread(time)) : format("%7s ", "-");
        text += format("%9.1f %8.1f ", contender.gflops, contender.gigabytes_per_second);
        text += contender.roofline.percent > 0 ? format("%8.0f%% ", contender.roofline.percent) : format("%9s ", "-");
        text += contender.times_slower > 0 ? format("%8.2f  ", contender.times_slower) : format("%8s  ", "-");
      } else {
        text += format("%12s %7s %9s %8s %9s %8s  ", "-", "-", "-", "-", "-", "-");
      }
      text += format("%lld of %lld", (long long)verified.checked, (long long)verified.total);
      if (time.samples > 0 && !time.settled) text += format("; not settled in %d samples", time.samples);
      text += "\n";
    }
    if (!report.contenders.empty() && !report.contenders[0].kernels.empty())
      text += "  kernels: " + report.contenders[0].kernels + "\n";
    for (const std::string& note : report.notes) text += "  note: " + note + "\n";
  }
  return text;
}

std::string to_csv(const MachineReport& machine, const std::vector<CaseReport>& reports) {
  std::string text =
      "operation,layers,device,m,n,k,rank,rounds,block,dtype,factors,dropout,bias,mode,contender,status,us,us_low,us_high,samples,"
      "settled,gflops,gbytes_per_s,roofline_percent,bound,times_ours,checked,total,worst_error,kernels,notes\n";
  for (const CaseReport& report : reports) {
    const Case& c = report.c;
    std::string notes;
    for (const std::string& note : report.notes) notes += (notes.empty() ? "" : " | ") + note;
    for (const ContenderReport& contender : report.contenders) {
      const Measurement& time = contender.time;
      text += name_of(c) + "," + field(c.label) + "," + machine.device;
      text += format(",%lld,%lld,%lld,%lld,%lld,%lld,", (long long)c.m, (long long)c.n, (long long)c.k,
                     (long long)c.rank, (long long)c.rounds, (long long)c.block);
      text += std::string(short_name(c.dtype)) + "," + short_name(c.factor_dtype);
      text += format(",%g,%d,%s,", c.dropout, int(c.bias), name_of(report.mode));
      text += contender.name + "," + status_of(contender) + ",";
      if (time.samples > 0) {
        text += format("%.3f,%.3f,%.3f,%d,%d,%.2f,%.2f,", time.median_us, time.low_us, time.high_us, time.samples,
                       int(time.settled), contender.gflops, contender.gigabytes_per_second);
        text += contender.roofline.percent > 0 ? format("%.1f,%s,", contender.roofline.percent,
                                                        contender.roofline.compute_bound ? "compute" : "memory")
                                               : ",,";
        text += contender.times_slower > 0 ? format("%.4f,", contender.times_slower) : ",";
      } else {
        text += ",,,,,,,,,,";
      }
      text += format("%lld,%lld,%.4f,", (long long)contender.verification.checked,
                     (long long)contender.verification.total, contender.verification.worst);
      text += field(contender.kernels) + "," +
              field(contender.verification.ok ? notes : contender.verification.failure) + "\n";
    }
  }
  return text;
}

std::string to_json(const MachineReport& machine, const std::vector<CaseReport>& reports) {
  std::string json = "{\n  \"machine\": {\"version\": " + quoted(machine.version) + ", \"compiler\": " +
                     quoted(machine.compiler) + ", \"device\": " + quoted(machine.device) + ", \"description\": " +
                     quoted(machine.description) + ", \"date\": " + quoted(machine.date) + "},\n  \"roofline\": {" +
                     format("\"gbytes_per_s\": %.2f, \"peaks\": {", machine.bandwidth);
  for (size_t i = 0; i < machine.peaks.size(); ++i) {
    json += (i ? ", " : "") + quoted(short_name(machine.peaks[i].first)) +
            format(": {\"gflops\": %.1f, \"how\": ", machine.peaks[i].second.gflops) +
            quoted(machine.peaks[i].second.how) + "}";
  }
  json += "}},\n  \"cases\": [";
  for (size_t i = 0; i < reports.size(); ++i) {
    const Case& c = reports[i].c;
    json += (i ? ",\n    {" : "\n    {") + std::string("\"operation\": ") + quoted(name_of(c)) + ", \"layers\": " +
            quoted(c.label);
    for (const Size& size : sizes_of(c))
      json += format(", \"%s\": %lld", size.name, (long long)(c.*size.member));
    json += format(", \"dtype\": \"%s\", \"factors\": \"%s\", \"dropout\": %g, \"bias\": %s, \"mode\": \"%s\", "
                   "\"flops\": %.0f, \"bytes\": %.0f, \"contenders\": [",
                   short_name(c.dtype), short_name(c.factor_dtype), c.dropout, c.bias ? "true" : "false",
                   name_of(reports[i].mode), flops(c), compulsory_bytes(c));
    for (size_t j = 0; j < reports[i].contenders.size(); ++j) {
      const ContenderReport& contender = reports[i].contenders[j];
      const Verification& verified = contender.verification;
      const Measurement& time = contender.time;
      json += (j ? ",\n      {" : "\n      {") + std::string("\"name\": ") + quoted(contender.name) + ", \"status\": " +
              quoted(status_of(contender)) + ", \"kernels\": " + quoted(contender.kernels) +
              format(", \"checked\": %lld, \"total\": %lld, \"worst_error\": %.4f", (long long)verified.checked,
                     (long long)verified.total, std::isfinite(verified.worst) ? verified.worst : -1.0);
      if (!verified.ok) json += ", \"failure\": " + quoted(verified.failure);
      if (time.samples > 0) {
        json += format(", \"us\": %.3f, \"us_low\": %.3f, \"us_high\": %.3f, \"samples\": %d, \"calls_per_sample\": %d, "
                       "\"settled\": %s, \"gflops\": %.2f, \"gbytes_per_s\": %.2f",
                       time.median_us, time.low_us, time.high_us, time.samples, time.calls_per_sample,
                       time.settled ? "true" : "false", contender.gflops, contender.gigabytes_per_second);
        if (contender.roofline.percent > 0)
          json += format(", \"roofline_percent\": %.1f, \"bound\": \"%s\"", contender.roofline.percent,
                         contender.roofline.compute_bound ? "compute" : "memory");
        if (contender.times_slower > 0) json += format(", \"times_ours\": %.4f", contender.times_slower);
      }
      json += "}";
    }
    json += "], \"notes\": [";
    for (size_t j = 0; j < reports[i].notes.size(); ++j) json += (j ? ", " : "") + quoted(reports[i].notes[j]);
    json += "]}";
  }
  return json + "\n  ]\n}\n";
}

std::string render(Format format, const MachineReport& machine, const std::vector<CaseReport>& reports) {
  switch (format) {
    case Format::kTable: return to_table(machine, reports);
    case Format::kCsv: return to_csv(machine, reports);
    case Format::kJson: return to_json(machine, reports);
  }
  return {};
}

}  // namespace lrk::bench
