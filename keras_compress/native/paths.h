// What differs between instruction sets: packing signs into bits, counting bits that differ, rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace keras_compress {

constexpr int kBits = 32;  // of a word; inputs of a tap are padded to whole words, with bits of 0
constexpr int kMostPixels = 8;

// Pixels of packed inputs to be met with all weights of a group.
struct Tile {
  const uint32_t* pixels[kMostPixels];  // the first tap of each pixel; those beyond `count` repeat the first
  int count;                            // pixels; those of several planes of one image are so many pixels
  const int32_t* segments;              // where runs of words that lie together begin, in words behind `pixels`
  int segment_count;
  int segment_words;
  const uint8_t* weights;  // as `Path::arrange` or `Path::arrange_masked` laid them out
  int blocks;              // of `Path::outputs` outputs
  uint8_t* scratch;        // of `Path::scratch_bytes`
};

// A row of pixels to be packed.
struct Strip {
  int pixels;
  int channels;
  int value_stride;  // from pixel to pixel
  int word_stride;
};

// From sums to integers: `clamp(round(sum * scale) + zero_point, lowest, highest)`, with the product in float32 and ties to
// the even integer, as XNNPACK rounds.
struct Range {
  int32_t zero_point;
  int32_t lowest;
  int32_t highest;
};

// How often bits meet bits in a layer.
struct Meeting {
  int planes;   // of inputs times those of weights
  bool masked;  // weights may be 0
  bool dense;   // one pixel: int8 is held up by reading the weights
  bool plain() const { return planes == 1 && !masked; }
};

struct Path {
  const char* name;
  bool (*supported)();
  int outputs;  // weights are laid out in blocks of so many outputs
  int pixels;   // at most so many in a tile
  // Whether this beats XNNPACK's int8 kernels, as measured (docs/native.md).
  bool (*pays)(const Meeting& meeting);

  // Bytes of scratch for tiles of `words` words a pixel.
  size_t (*scratch_bytes)(int words);
  // Weights, one row of `words` words for each of `count` outputs, to this path's layout; outputs are padded with zeros.
  void (*arrange)(const uint32_t* rows, int count, int words, std::vector<uint8_t>& weights);
  // bits[i] = (values[i] >= least[i]) ^ flip[i] of each pixel; the bits above its channels are 0.
  void (*pack)(const int8_t* values, const int8_t* least, const uint32_t* flip, const Strip& strip, uint32_t* bits);
  // Bits 0 and 1 of `values[i] - zero_point`, each in a plane of its own, `plane_stride` words apart.
  void (*pack_levels)(const int8_t* values, int zero_point, const Strip& strip, int planes, size_t plane_stride,
                      uint32_t* bits);
  // counts[pixel * blocks * outputs + output]: bits in which inputs and weights differ.
  void (*count)(const Tile& tile, int32_t* counts);
  // The same for weights that may be 0: rows of signs, and rows of bits where a weight is none; bits count where it is.
  void (*arrange_masked)(const uint32_t* rows, const uint32_t* masks, int count, int words, std::vector<uint8_t>& weights);
  void (*count_masked)(const Tile& tile, int32_t* counts);
  // counts[i] += more[i] << shift
  void (*add_shifted)(int32_t* counts, const int32_t* more, int shift, int count);
  // out[i] of the sum `base[i] - step[i] * counts[i]`.
  void (*finish)(const int32_t* counts, const int32_t* base, const int32_t* step, const float* scale, const Range& range,
                 int count, int8_t* out);
};

extern const Path kPortable;
#if defined(__x86_64__) && defined(__GNUC__)
extern const Path kAvx2;
extern const Path kAvx512;
#endif
#if defined(__aarch64__)
extern const Path kNeon;
#endif

// The best path of this processor, or the one called `name`; nullptr where there is none of that name or it cannot run here.
const Path* find_path(const char* name);

// Names of all paths in this library, with commas.
const char* path_names();

// The lines of `Path::finish`, to be compiled for each instruction set.
inline __attribute__((always_inline)) void finish_lines(const int32_t* __restrict counts, const int32_t* __restrict base,
                                                        const int32_t* __restrict step, const float* __restrict scale,
                                                        const Range& range, int count, int8_t* __restrict out) {
  // Adding 1.5 * 2^23 leaves no bit behind the point: the processor rounds, ties to even. Clamping first gives the same.
  constexpr float kShift = 12582912.0f;
  const float lowest = static_cast<float>(range.lowest - range.zero_point);
  const float highest = static_cast<float>(range.highest - range.zero_point);
  const float zero_point = static_cast<float>(range.zero_point);
  for (int i = 0; i < count; ++i) {
    const uint32_t product = static_cast<uint32_t>(step[i]) * static_cast<uint32_t>(counts[i]);
    const int32_t sum = static_cast<int32_t>(static_cast<uint32_t>(base[i]) - product);
    float value = static_cast<float>(sum) * scale[i];
    value = value > lowest ? value : lowest;
    value = value < highest ? value : highest;
    value = (value + kShift) - kShift;
    out[i] = static_cast<int8_t>(static_cast<int32_t>(value + zero_point));
  }
}

// The last words of `Path::pack`, value by value.
inline __attribute__((always_inline)) void pack_rest(const int8_t* values, const int8_t* least, const uint32_t* flip,
                                                     int begin, int channels, uint32_t* bits) {
  for (int first = begin; first < channels; first += kBits) {
    const int count = channels - first < kBits ? channels - first : kBits;
    uint32_t word = 0;
    for (int i = 0; i < count; ++i) word |= static_cast<uint32_t>(values[first + i] >= least[first + i]) << i;
    const uint32_t mask = count == kBits ? ~0u : (1u << count) - 1;
    bits[first / kBits] = (word ^ flip[first / kBits]) & mask;
  }
}

// The lines of `Path::add_shifted`.
inline __attribute__((always_inline)) void add_shifted_lines(int32_t* __restrict counts, const int32_t* __restrict more,
                                                             int shift, int count) {
  for (int i = 0; i < count; ++i) counts[i] += static_cast<int32_t>(static_cast<uint32_t>(more[i]) << shift);
}

// The last words of `Path::pack_levels`, value by value.
inline __attribute__((always_inline)) void pack_levels_rest(const int8_t* values, int zero_point, int begin, int channels,
                                                            int planes, size_t plane_stride, uint32_t* bits) {
  for (int first = begin; first < channels; first += kBits) {
    const int count = channels - first < kBits ? channels - first : kBits;
    for (int plane = 0; plane < planes; ++plane) {
      uint32_t word = 0;
      for (int i = 0; i < count; ++i)
        word |= (static_cast<uint32_t>(values[first + i] - zero_point) >> plane & 1u) << i;
      bits[plane * plane_stride + first / kBits] = word;
    }
  }
}

// Weights in blocks: word k of all outputs of a block side by side.
inline void arrange_words(const uint32_t* rows, int count, int words, int outputs, std::vector<uint8_t>& weights) {
  const int blocks = (count + outputs - 1) / outputs;
  weights.assign(static_cast<size_t>(blocks) * outputs * words * sizeof(uint32_t), 0);
  uint32_t* to = reinterpret_cast<uint32_t*>(weights.data());
  for (int output = 0; output < count; ++output)
    for (int word = 0; word < words; ++word)
      to[(static_cast<size_t>(output / outputs) * words + word) * outputs + output % outputs] =
          rows[static_cast<size_t>(output) * words + word];
}

// The same with masks: of each word of a block the signs, then the masks.
inline void arrange_masked_words(const uint32_t* rows, const uint32_t* masks, int count, int words, int outputs,
                                 std::vector<uint8_t>& weights) {
  const int blocks = (count + outputs - 1) / outputs;
  weights.assign(static_cast<size_t>(blocks) * outputs * words * 2 * sizeof(uint32_t), 0);
  uint32_t* to = reinterpret_cast<uint32_t*>(weights.data());
  for (int output = 0; output < count; ++output) {
    for (int word = 0; word < words; ++word) {
      const size_t place = (static_cast<size_t>(output / outputs) * words + word) * 2 * outputs + output % outputs;
      to[place] = rows[static_cast<size_t>(output) * words + word];
      to[place + outputs] = masks[static_cast<size_t>(output) * words + word];
    }
  }
}

}  // namespace keras_compress
