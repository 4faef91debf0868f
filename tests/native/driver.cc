// Runs layers of random settings on every path of this processor, beside plain loops over integers.
// Arguments: how many, the first seed. Prints one line for each: what its outputs add up to, the same on all processors.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "layer.h"
#include "paths.h"
#include "pool.h"
#include "reference.h"

namespace {

using keras_compress::Kernel;
using keras_compress::Layer;
using keras_compress::Levels;
using keras_compress::Path;
using keras_compress::Pool;
using keras_compress::Range;
using keras_compress::Signs;
using keras_compress::Values;

// The standard's distributions differ from library to library.
struct Draw {
  std::mt19937 engine;
  int from(int low, int high) { return low + static_cast<int>(engine() % static_cast<uint32_t>(high - low + 1)); }
  template <typename T>
  T of(const std::vector<T>& values) { return values[from(0, static_cast<int>(values.size()) - 1)]; }
};

struct Case {
  int batch, height, width;
  Kernel kernel;
  std::vector<int8_t> weights;
  std::vector<int32_t> bias;
  std::vector<float> scale;
  Range range;
  Signs signs;
  Levels levels;
  std::vector<int8_t> input;
};

int words_of(int inputs) { return (inputs + 31) / 32; }

Case drawn(uint32_t seed) {
  Draw draw{std::mt19937(seed)};
  Case made{};
  Kernel& kernel = made.kernel;
  made.batch = draw.from(1, 3), made.height = draw.from(1, 9), made.width = draw.from(1, 9);
  kernel.groups = draw.of(std::vector<int>{1, 1, 1, 2, 3});
  kernel.inputs = draw.of(std::vector<int>{1, 3, 8, 31, 32, 33, 63, 64, 65, 70, 96, 130, 300});
  kernel.outputs = draw.of(std::vector<int>{1, 2, 7, 15, 16, 17, 31, 32, 33, 50, 64, 80});
  kernel.height = draw.from(1, 4), kernel.width = draw.from(1, 4);
  kernel.stride_height = draw.from(1, 3), kernel.stride_width = draw.from(1, 3);
  kernel.dilation_height = draw.of(std::vector<int>{1, 1, 2, 3}), kernel.dilation_width = draw.of(std::vector<int>{1, 1, 2, 3});
  kernel.same = draw.from(0, 2) > 0;
  // Some that threads share.
  if (seed % 20 == 3) kernel.inputs = 130, kernel.outputs = 80, made.height = 25, made.width = 25;
  // A few long rows, beyond what sums of bytes and of 16 bits hold.
  if (seed % 50 == 7) kernel = Kernel(), kernel.inputs = 70000, kernel.outputs = 17, made.height = 1, made.width = 5;
  const int outputs = kernel.groups * kernel.outputs, row = kernel.taps() * kernel.inputs;
  const std::vector<int> multiples = draw.of(std::vector<std::vector<int>>{{-1, 1}, {-1, 0, 1}, {-3, -1, 1, 3}});
  for (int output = 0; output < outputs; ++output) {
    const int largest = multiples.size() == 4 ? 42 : 127;
    const int magnitude = draw.of(std::vector<int>{1, 2, 42, largest, largest, 0});
    for (int i = 0; i < row; ++i) made.weights.push_back(static_cast<int8_t>(magnitude * draw.of(multiples)));
    made.bias.push_back(draw.from(-3000, 3000));
    made.scale.push_back(static_cast<float>(draw.from(1, 4096)) / 65536.0f);
  }
  made.range = {draw.from(-128, 127), -128, 127};
  if (draw.from(0, 1)) made.range.lowest = made.range.zero_point;
  if (draw.from(0, 3) == 0) made.range = {0, -1, 1};
  const int channels = kernel.groups * kernel.inputs;
  made.signs = Signs::plain(kernel.groups, kernel.inputs);
  const bool plain = draw.from(0, 1) == 0;
  for (int channel = 0; channel < channels && !plain; ++channel) {
    made.signs.least[channel] = static_cast<int8_t>(draw.from(-128, 127));
    const int place = channel % kernel.inputs;
    if (draw.from(0, 1))
      made.signs.flip[channel / kernel.inputs * words_of(kernel.inputs) + place / 32] |= 1u << (place % 32);
  }
  const size_t values = static_cast<size_t>(made.batch) * made.height * made.width * channels;
  made.levels.planes = draw.of(std::vector<int>{0, 0, 1, 2});
  const int highest = (1 << made.levels.planes) - 1;
  made.levels.zero_point = made.levels.planes == 0 ? 0 : draw.from(-128, 127 - highest);
  for (size_t i = 0; i < values; ++i) {
    const int sign = plain ? 2 * draw.from(0, 1) - 1 : draw.from(-128, 127);
    made.input.push_back(static_cast<int8_t>(
        made.levels.planes == 0 ? sign : made.levels.zero_point + draw.from(0, highest)));
  }
  return made;
}

// What the layer takes its inputs for: signs, or levels.
std::vector<int> meant_by(const Case& given) {
  std::vector<int> found;
  const int inputs = given.kernel.inputs, channels = given.kernel.groups * inputs;
  for (size_t i = 0; i < given.input.size(); ++i) {
    const int channel = static_cast<int>(i % channels), place = channel % inputs;
    const bool flip = given.signs.flip[channel / inputs * words_of(inputs) + place / 32] >> (place % 32) & 1;
    const int sign = (given.input[i] >= given.signs.least[channel]) != flip ? 1 : -1;
    found.push_back(given.levels.planes > 0 ? given.input[i] - given.levels.zero_point : sign);
  }
  return found;
}

std::vector<int8_t> expected(const Case& given) {
  const reference::Image image = {given.batch, given.height, given.width, given.kernel.groups * given.kernel.inputs};
  return reference::convolved(given.kernel, image, meant_by(given), given.weights, given.bias, given.scale, given.range);
}

bool try_path(const Path& path, const Case& given, uint32_t seed, Pool& pool, uint32_t& sum) {
  if (Layer::values_of(given.kernel, given.weights.data()) == Values::kOther) return std::printf("%u: refused\n", seed), false;
  Layer layer(path, given.kernel, given.weights.data(), given.bias.data(), given.scale.data(), given.range, given.signs,
              given.levels);
  // Sizes of before must leave nothing behind.
  layer.resize(2, given.height + 3, given.width + 1);
  if (!layer.resize(given.batch, given.height, given.width, 3)) return true;
  const std::vector<int8_t> wanted = expected(given);
  std::vector<int8_t> got(wanted.size(), 99), any(wanted.size(), 99);
  layer.run(given.input.data(), got.data());
  if (got != wanted) return std::printf("%u: %s differs\n", seed, path.name), false;
  std::fill(got.begin(), got.end(), 99);
  layer.run(given.input.data(), got.data(), &pool);
  const std::vector<int> meaning = meant_by(given);
  const std::vector<int8_t> signs(meaning.begin(), meaning.end());
  layer.run_any(given.levels.planes > 0 ? given.input.data() : signs.data(), any.data());
  for (const int8_t value : got) sum = (sum ^ static_cast<uint8_t>(value)) * 16777619u;
  if (got == wanted && any == wanted) return true;
  std::printf("%u: %s differs\n", seed, path.name);
  return false;
}

// A process that is forked while another thread is at work can use the pool, by itself.
bool forks_at_work(Pool& pool) {
  std::atomic<bool> begun{false}, finish{false};
  std::thread other([&] {
    pool.run(3, 3, [&](int, int) {
      begun = true;
      while (!finish) std::this_thread::yield();
    });
  });
  while (!begun) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    int parts = 0;  // no other thread counts
    pool.reserve(4);
    pool.run(3, 100, [&](int, int worker) { parts += worker == 0; });
    _exit(parts == 100 ? 0 : 1);
  }
  finish = true;
  other.join();
  int status = -1;
  if (child > 0 && waitpid(child, &status, 0) == child && status == 0) return true;
  return std::printf("a forked process: status %d\n", status), false;
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 100, first = count > 2 ? std::atoi(arguments[2]) : 0;
  const char* const names[] = {"portable", "avx2", "avx512", "neon"};
  Pool pool;
  pool.reserve(3);
  bool good = forks_at_work(pool);
  std::string paths;
  for (const char* name : names)
    if (keras_compress::find_path(name) != nullptr) paths += std::string(" ") + name;
  std::fprintf(stderr, "paths:%s\n", paths.c_str());
  for (int i = first; i < first + cases; ++i) {
    const Case given = drawn(static_cast<uint32_t>(i));
    uint32_t sums[4];
    int paths_tried = 0;
    for (const char* name : names) {
      const Path* path = keras_compress::find_path(name);
      if (path == nullptr) continue;
      sums[paths_tried] = 2166136261u;
      good &= try_path(*path, given, static_cast<uint32_t>(i), pool, sums[paths_tried]);
      good &= sums[paths_tried] == sums[0];
      ++paths_tried;
    }
    std::printf("%d %08x\n", i, sums[0]);
  }
  return good ? 0 : 1;
}
