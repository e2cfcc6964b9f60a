#include "arguments.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "element.h"
#include "presets.h"

namespace lrk::bench {
namespace {

std::string quoted(const std::string& text) { return "'" + text + "'"; }

[[noreturn]] void fail(const std::string& argument, const std::string& got, const std::string& expected) {
  throw UsageError(argument + " is " + quoted(got) + ", expected " + expected);
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char letter : text) {
    if (letter == ',') parts.emplace_back();
    else parts.back() += letter;
  }
  return parts;
}

int64_t parse_integer(const std::string& argument, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    fail(argument, text, "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  return value;
}

double parse_number(const std::string& argument, const std::string& text, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != 0 || !(value >= least && value <= most)) {
    char expected[80];
    std::snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
    fail(argument, text, expected);
  }
  return value;
}

template <class Value>
struct Choice {
  const char* name;
  Value value;
};

template <class Value, size_t kCount>
Value parse_choice(const std::string& argument, const std::string& text, const Choice<Value> (&choices)[kCount]) {
  std::string names;
  for (const Choice<Value>& choice : choices) {
    if (text == choice.name) return choice.value;
    names += (names.empty() ? "" : ", ") + std::string(choice.name);
  }
  fail(argument, text, "one of " + names);
}

constexpr Choice<DType> kDTypes[] = {{"fp32", DType::kFloat32}, {"fp64", DType::kFloat64},
                                     {"bf16", DType::kBFloat16}, {"fp16", DType::kFloat16}};
constexpr Choice<Mode> kModes[] = {{"cold", Mode::kCold}, {"batch", Mode::kBatch}};
constexpr Choice<Format> kFormats[] = {{"table", Format::kTable}, {"csv", Format::kCsv}, {"json", Format::kJson}};
constexpr Choice<const char*> kDevices[] = {{"cpu", "cpu"}, {"cuda", "cuda"}, {"cuda_emulated", "cuda_emulated"}};
constexpr Choice<Command> kCommands[] = {{"list", Command::kList},   {"run", Command::kRun},
                                         {"smoke", Command::kSmoke}, {"roofline", Command::kRoofline},
                                         {"help", Command::kHelp}};
constexpr int64_t kMostRows = int64_t(1) << 24, kMostColumns = int64_t(1) << 20, kMostRank = 1 << 14;

Operation parse_operation(const std::string& text) {
  std::string names;
  for (const OperationInfo& info : operations()) {
    if (text == info.name) return info.operation;
    names += (names.empty() ? "" : ", ") + std::string(info.name);
  }
  fail("run: the operation", text, "one of " + names);
}

/// The lists a `run` multiplies out.
struct Lists {
  std::vector<int64_t> m = {512}, rank = {16}, rounds = {12}, block = {32};
  std::vector<DType> dtype = {DType::kFloat32};
  std::optional<DType> factor_dtype;
  int64_t n = 1024, k = 1024;
  double dropout = 0;
  bool bias = false;
  std::string preset, sizes_given;
  std::vector<std::string> given;
};

/// Refuses an argument that the operation does not have.
void check_given(const Case& c, const std::vector<std::string>& given) {
  for (const std::string& argument : given) {
    bool has = true;
    for (const char* name : {"--m", "--n", "--k", "--rank", "--rounds", "--block"}) {
      if (argument != name) continue;
      has = false;
      for (const Size& size : sizes_of(c)) has = has || argument == std::string("--") + size.name;
    }
    for (const char* name : {"--factors", "--dropout", "--preset", "--bias"})
      has = has && (argument != name || info_of(c).family == Family::kLowRank);
    if (!has) throw UsageError(argument + " is not an argument of " + name_of(c));
  }
}

std::vector<Case> expand(Operation operation, const Lists& lists) {
  Case c;
  c.operation = operation;
  check_given(c, lists.given);
  if (info_of(c).family != Family::kLowRank) {
    const bool rotations = info_of(c).family == Family::kGivens;
    std::vector<Case> cases;
    for (const DType dtype : lists.dtype)
      for (const int64_t size : rotations ? lists.rounds : lists.block)
        for (const int64_t m : operation == Operation::kCayley ? std::vector<int64_t>{1} : lists.m) {
          (rotations ? c.rounds : c.block) = size;
          if (!rotations && lists.k % size != 0)
            fail("--block", std::to_string(size), "a divisor of --k, which is " + std::to_string(lists.k));
          c.dtype = dtype, c.m = m, c.k = lists.k, cases.push_back(c);
        }
    return cases;
  }
  std::vector<LayerShape> shapes = {{"", lists.n, lists.k}};
  if (!lists.preset.empty()) {
    if (!lists.sizes_given.empty())
      throw UsageError(lists.sizes_given + " cannot be given with --preset, which sets the sizes of the layers");
    shapes = preset_shapes(lists.preset);
  }
  std::vector<Case> cases;
  for (const LayerShape& shape : shapes)
    for (DType dtype : lists.dtype)
      for (int64_t rank : lists.rank)
        for (int64_t m : lists.m) {
          const DType factor = lists.factor_dtype.value_or(dtype);
          if (factor != dtype && factor != DType::kFloat32)
            fail("--factors", short_name(factor), std::string("fp32 or the --dtype, which is ") + short_name(dtype));
          c.label = shape.layers, c.m = m, c.n = shape.n, c.k = shape.k, c.rank = rank;
          c.dtype = dtype, c.factor_dtype = factor, c.dropout = lists.dropout, c.bias = lists.bias;
          cases.push_back(c);
        }
  return cases;
}

}  // namespace

Arguments parse_arguments(const std::vector<std::string>& words) {
  Arguments arguments;
  if (words.empty()) throw UsageError("no command was given, expected one of list, run, smoke, roofline, help");
  for (const std::string& word : words) {
    if (word != "-h" && word != "--help") continue;
    arguments.command = Command::kHelp;
    return arguments;
  }
  arguments.command = parse_choice("the command", words[0], kCommands);
  size_t next = 1;
  Operation operation = Operation::kLinear;
  if (arguments.command == Command::kRun) {
    if (words.size() < 2) throw UsageError("run: no operation was given; `lrk_bench list` prints them");
    operation = parse_operation(words[next++]);
  }
  Lists lists;
  bool dtype_given = false, rows_given = false;
  const auto integers = [](const std::string& argument, const std::string& text, int64_t least, int64_t most) {
    std::vector<int64_t> values;
    for (const std::string& part : split(text)) values.push_back(parse_integer(argument, part, least, most));
    return values;
  };
  while (next < words.size()) {
    const std::string argument = words[next++];
    if (argument == "--bias") {
      lists.bias = true, lists.given.push_back(argument);
      continue;
    }
    static const char* const kKnown[] = {"--m",      "--tokens", "--n",    "--k",      "--rank",   "--rounds",  "--block",    "--dtype",
                                         "--device", "--mode",   "--out",  "--format", "--kernel", "--threads",
                                         "--preset", "--factors", "--dropout", "--seconds", "--tolerance"};
    bool known = false;
    for (const char* name : kKnown) known = known || argument == name;
    if (!known) throw UsageError(quoted(argument) + " is not an argument; `lrk_bench help` lists them");
    if (next >= words.size()) throw UsageError(argument + " needs a value");
    const std::string value = words[next++];
    if (argument == "--m" || argument == "--tokens") {
      if (rows_given) throw UsageError(argument + " was given twice (--tokens is --m)");
      lists.m = integers(argument, value, 1, kMostRows), rows_given = true;
    }
    if (argument == "--n") lists.n = parse_integer(argument, value, 1, kMostColumns), lists.sizes_given = argument;
    if (argument == "--k") lists.k = parse_integer(argument, value, 1, kMostColumns), lists.sizes_given = argument;
    lists.given.push_back(argument == "--tokens" ? "--m" : argument);
    if (argument == "--rounds") lists.rounds = integers(argument, value, 0, kMostRank);
    if (argument == "--block") lists.block = integers(argument, value, 1, kMostRank);
    if (argument == "--rank") lists.rank = integers(argument, value, 1, kMostRank);
    if (argument == "--dtype") {
      lists.dtype.clear(), dtype_given = true;
      for (const std::string& part : split(value)) lists.dtype.push_back(parse_choice(argument, part, kDTypes));
    }
    if (argument == "--factors") lists.factor_dtype = parse_choice(argument, value, kDTypes);
    if (argument == "--dropout") lists.dropout = parse_number(argument, value, 0, 0.99);
    if (argument == "--preset") lists.preset = value;
    if (argument == "--device") arguments.device = parse_choice(argument, value, kDevices);
    if (argument == "--threads") arguments.threads = int(parse_integer(argument, value, 1, 1024));
    if (argument == "--mode") arguments.timing.mode = parse_choice(argument, value, kModes);
    if (argument == "--seconds") arguments.timing.seconds = parse_number(argument, value, 0.001, 3600);
    if (argument == "--tolerance") arguments.timing.tolerance = parse_number(argument, value, 0.0001, 1);
    if (argument == "--kernel") arguments.kernel = value;
    if (argument == "--format") arguments.format = parse_choice(argument, value, kFormats);
    if (argument == "--out") arguments.out = value;
  }
  if (arguments.command == Command::kRun) arguments.cases = expand(operation, lists);
  arguments.dtypes = lists.dtype;
  if (!dtype_given) arguments.dtypes = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};
  return arguments;
}

std::string usage() {
  return R"(lrk_bench: how fast the kernels are, and whether they are right

  lrk_bench list                 operations, devices, presets, and what is missing here and why
  lrk_bench run OPERATION ...    measures; exits 1 when a result is wrong
  lrk_bench smoke ...            a few small cases of everything, in seconds
  lrk_bench roofline ...         what this machine can do at most

x is [m, k], weight [n, k], down [rank, k], up [n, rank]; Givens rotations have rounds of k / 2 angles, block
products k / block matrices. Lists are written 1,16,512 and multiply out.

  --m, --tokens LIST   rows (512)                      --device cpu|cuda|cuda_emulated
  --n, --k NUMBER      outputs, inputs (1024)          --threads NUMBER    (every CPU)
  --rank LIST          (16)                            --kernel NAME       pins kernels whose name contains it
  --dtype LIST         fp32|fp64|bf16|fp16             --mode cold|batch   caches emptied before each call (cold),
  --factors DTYPE      of down, up, bias                                   or calls back to back
  --dropout NUMBER     probability (0)                 --seconds NUMBER    at most, a case (3)
  --bias               adds one                        --tolerance NUMBER  of the median's interval (0.02)
  --rounds LIST        of Givens rotations (12)        --block LIST        (32)
  --preset NAME        a model's layers, with --tokens --format table|csv|json   --out FILE
)";
}

}  // namespace lrk::bench
