// Plain C++: runs anywhere, and is what the other paths are tested against.
#include "kc_bits.h"
#include "paths.h"

#include <cstdlib>
#include <cstring>

namespace keras_compress {
namespace {

constexpr int kOutputs = 16;
constexpr int kPixels = 4;

bool supported() { return true; }

// Stock kernels use more of a processor than this does.
bool pays(const Meeting& meeting) { return meeting.plain(); }

size_t scratch_bytes(int) { return 0; }

void arrange(const uint32_t* rows, int count, int words, std::vector<uint8_t>& weights) {
  arrange_words(rows, count, words, kOutputs, weights);
}

void pack(const int8_t* values, const int8_t* least, const uint32_t* flip, const Strip& strip, uint32_t* bits) {
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride)
    pack_rest(values, least, flip, 0, strip.channels, bits);
}

void pack_levels(const int8_t* values, int zero_point, const Strip& strip, int planes, size_t plane_stride,
                 uint32_t* bits) {
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride)
    pack_levels_rest(values, zero_point, 0, strip.channels, planes, plane_stride, bits);
}

// Parts: 1, signs alone; 2, masks behind them.
template <int Parts>
void count_parts(const Tile& tile, int32_t* counts) {
  const int outputs = tile.blocks * kOutputs, words = tile.segment_count * tile.segment_words;
  const uint32_t* all = reinterpret_cast<const uint32_t*>(tile.weights);
  for (int block = 0; block < tile.blocks; ++block) {
    for (int pixel = 0; pixel < tile.count; ++pixel) {
      const uint32_t* weights = all + static_cast<size_t>(block) * words * kOutputs * Parts;
      uint32_t sums[kOutputs] = {};
      for (int segment = 0; segment < tile.segment_count; ++segment) {
        const uint32_t* values = tile.pixels[pixel] + tile.segments[segment];
        for (int word = 0; word < tile.segment_words; ++word, weights += kOutputs * Parts)
          for (int i = 0; i < kOutputs; ++i)
            sums[i] += bits::ones((values[word] ^ weights[i]) & (Parts == 2 ? weights[i + kOutputs * (Parts - 1)] : ~0u));
      }
      std::memcpy(counts + static_cast<size_t>(pixel) * outputs + block * kOutputs, sums, sizeof(sums));
    }
  }
}

void count(const Tile& tile, int32_t* counts) { count_parts<1>(tile, counts); }

void arrange_masked(const uint32_t* rows, const uint32_t* masks, int count, int words, std::vector<uint8_t>& weights) {
  arrange_masked_words(rows, masks, count, words, kOutputs, weights);
}

void count_masked(const Tile& tile, int32_t* counts) { count_parts<2>(tile, counts); }

void add_shifted(int32_t* counts, const int32_t* more, int shift, int count) {
  add_shifted_lines(counts, more, shift, count);
}

void finish(const int32_t* counts, const int32_t* base, const int32_t* step, const float* scale, const Range& range,
            int count, int8_t* out) {
  finish_lines(counts, base, step, scale, range, count, out);
}

// The fastest first.
const Path* const kPaths[] = {
#if defined(__x86_64__) && defined(__GNUC__)
    &kAvx512,
    &kAvx2,
#endif
#if defined(__aarch64__)
    &kNeon,
#endif
    &kPortable,
};

}  // namespace

const Path kPortable = {"portable",     supported, kOutputs,       kPixels,      pays, scratch_bytes, arrange, pack,
                        pack_levels,    count,     arrange_masked, count_masked, add_shifted,   finish};

const Path* find_path(const char* name) {
  for (const Path* path : kPaths) {
    const bool asked = name == nullptr || *name == 0 || std::strcmp(name, path->name) == 0;
    if (asked && path->supported()) return path;
  }
  return nullptr;
}

const char* path_names() {
#if defined(__x86_64__) && defined(__GNUC__)
  return "avx512, avx2, portable";
#elif defined(__aarch64__)
  return "neon, portable";
#else
  return "portable";
#endif
}

}  // namespace keras_compress
