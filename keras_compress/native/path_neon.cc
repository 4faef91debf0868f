// AArch64: bits are counted byte by byte, and the bytes added as long as they hold the sums.
#include "paths.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>

namespace keras_compress {
namespace {

constexpr int kOutputs = 16;
constexpr int kPixels = 4;
constexpr int kQuads = kOutputs / 4;
constexpr int kWordsOfByte = 31;  // 8 bits at most each: 248

bool supported() { return true; }

// More planes have not been timed.
bool pays(const Meeting& meeting) { return meeting.plain(); }

size_t scratch_bytes(int) { return 0; }

void arrange(const uint32_t* rows, int count, int words, std::vector<uint8_t>& weights) {
  arrange_words(rows, count, words, kOutputs, weights);
}

// The highest bits of 32 bytes that are 0 or 255 each.
inline uint32_t top_bits(uint8x16_t lower, uint8x16_t upper) {
  static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bit = vld1q_u8(kBit);
  uint8x16_t sums = vpaddq_u8(vandq_u8(lower, bit), vandq_u8(upper, bit));
  sums = vpaddq_u8(sums, sums);
  sums = vpaddq_u8(sums, sums);
  return vgetq_lane_u32(vreinterpretq_u32_u8(sums), 0);
}

inline void pack_pixel(const int8_t* values, const int8_t* least, const uint32_t* flip, int channels, uint32_t* bits) {
  int first = 0;
  for (; first + kBits <= channels; first += kBits) {
    const uint8x16_t lower = vcgeq_s8(vld1q_s8(values + first), vld1q_s8(least + first));
    const uint8x16_t upper = vcgeq_s8(vld1q_s8(values + first + 16), vld1q_s8(least + first + 16));
    bits[first / kBits] = top_bits(lower, upper) ^ flip[first / kBits];
  }
  pack_rest(values, least, flip, first, channels, bits);
}

void pack(const int8_t* values, const int8_t* least, const uint32_t* flip, const Strip& strip, uint32_t* bits) {
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride)
    pack_pixel(values, least, flip, strip.channels, bits);
}

void pack_levels(const int8_t* values, int zero_point, const Strip& strip, int planes, size_t plane_stride,
                 uint32_t* bits) {
  const int8x16_t lowest = vdupq_n_s8(static_cast<int8_t>(zero_point));
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride) {
    int first = 0;
    for (; first + kBits <= strip.channels; first += kBits) {
      const int8x16_t lower = vsubq_s8(vld1q_s8(values + first), lowest);
      const int8x16_t upper = vsubq_s8(vld1q_s8(values + first + 16), lowest);
      for (int plane = 0; plane < planes; ++plane) {
        const int8x16_t asked = vdupq_n_s8(static_cast<int8_t>(1 << plane));
        bits[plane * plane_stride + first / kBits] = top_bits(vtstq_s8(lower, asked), vtstq_s8(upper, asked));
      }
    }
    pack_levels_rest(values, zero_point, first, strip.channels, planes, plane_stride, bits);
  }
}

inline void add_bytes(uint32x4_t& sums, uint8x16_t bytes) { sums = vpadalq_u16(sums, vpaddlq_u8(bytes)); }

// Parts: 1, signs alone; 2, masks behind them.
template <int P, int Parts>
void count_block(const Tile& tile, const uint32_t* weights, int32_t* counts, int stride) {
  uint32x4_t sums[P][kQuads];
  uint8x16_t bytes[P][kQuads];
  for (int p = 0; p < P; ++p)
    for (int q = 0; q < kQuads; ++q) sums[p][q] = vdupq_n_u32(0);
  for (int segment = 0; segment < tile.segment_count; ++segment) {
    for (int word = 0; word < tile.segment_words;) {
      for (int p = 0; p < P; ++p)
        for (int q = 0; q < kQuads; ++q) bytes[p][q] = vdupq_n_u8(0);
      const int stop = std::min(tile.segment_words, word + kWordsOfByte);
      for (; word < stop; ++word, weights += kOutputs * Parts) {
        uint32x4_t met[kQuads], mask[kQuads];
        for (int q = 0; q < kQuads; ++q) met[q] = vld1q_u32(weights + 4 * q);
        for (int q = 0; q < kQuads; ++q)
          mask[q] = Parts == 2 ? vld1q_u32(weights + kOutputs * (Parts - 1) + 4 * q) : vdupq_n_u32(~0u);
        for (int p = 0; p < P; ++p) {
          const uint32x4_t value = vdupq_n_u32(tile.pixels[p][tile.segments[segment] + word]);
          for (int q = 0; q < kQuads; ++q) {
            const uint32x4_t other = vandq_u32(veorq_u32(value, met[q]), mask[q]);
            bytes[p][q] = vaddq_u8(bytes[p][q], vcntq_u8(vreinterpretq_u8_u32(other)));
          }
        }
      }
      for (int p = 0; p < P; ++p)
        for (int q = 0; q < kQuads; ++q) add_bytes(sums[p][q], bytes[p][q]);
    }
  }
  for (int p = 0; p < P; ++p)
    for (int q = 0; q < kQuads; ++q)
      vst1q_s32(counts + static_cast<size_t>(p) * stride + 4 * q, vreinterpretq_s32_u32(sums[p][q]));
}

template <int Parts>
void count_parts(const Tile& tile, int32_t* counts) {
  static constexpr void (*kCounts[])(const Tile&, const uint32_t*, int32_t*, int) = {
      count_block<1, Parts>, count_block<2, Parts>, count_block<3, Parts>, count_block<4, Parts>};
  const int stride = tile.blocks * kOutputs;
  const size_t words = static_cast<size_t>(tile.segment_count) * tile.segment_words;
  const uint32_t* weights = reinterpret_cast<const uint32_t*>(tile.weights);
  for (int block = 0; block < tile.blocks; ++block)
    kCounts[tile.count - 1](tile, weights + block * words * kOutputs * Parts, counts + block * kOutputs, stride);
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

}  // namespace

const Path kNeon = {"neon",         supported, kOutputs,       kPixels,      pays, scratch_bytes, arrange, pack,
                    pack_levels,    count,     arrange_masked, count_masked, add_shifted,   finish};

}  // namespace keras_compress
#endif
