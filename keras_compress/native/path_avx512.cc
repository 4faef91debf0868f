// AVX-512 with VPOPCNTDQ: 16 outputs side by side, 512 products an instruction triple (xor, popcount, add).
#include "paths.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define KC_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx2,fma")))
#define KC_INLINE \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx2,fma"), always_inline)) inline
#define KC_UNROLL _Pragma("GCC unroll 16")

namespace keras_compress {
namespace {

constexpr int kOutputs = 16;
constexpr int kPixels = 7;

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vpopcntdq") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2");
}

bool pays(const Meeting& meeting) { return meeting.planes <= 2 || meeting.dense; }

size_t scratch_bytes(int) { return 0; }

void arrange(const uint32_t* rows, int count, int words, std::vector<uint8_t>& weights) {
  arrange_words(rows, count, words, kOutputs, weights);
}

KC_INLINE void pack_pixel(const int8_t* values, const int8_t* least, const uint32_t* flip, int channels, uint32_t* bits) {
  int first = 0;
  for (; first + 64 <= channels; first += 64) {
    const uint64_t found = _mm512_cmpge_epi8_mask(_mm512_loadu_si512(values + first), _mm512_loadu_si512(least + first));
    bits[first / kBits] = static_cast<uint32_t>(found) ^ flip[first / kBits];
    bits[first / kBits + 1] = static_cast<uint32_t>(found >> 32) ^ flip[first / kBits + 1];
  }
  if (first == channels) return;
  const __mmask64 there = (uint64_t{1} << (channels - first)) - 1;
  const __m512i rest = _mm512_maskz_loadu_epi8(there, values + first);
  const uint64_t found = _mm512_mask_cmpge_epi8_mask(there, rest, _mm512_maskz_loadu_epi8(there, least + first));
  bits[first / kBits] = (static_cast<uint32_t>(found) ^ flip[first / kBits]) & static_cast<uint32_t>(there);
  if (channels - first > kBits)
    bits[first / kBits + 1] =
        (static_cast<uint32_t>(found >> 32) ^ flip[first / kBits + 1]) & static_cast<uint32_t>(there >> 32);
}

KC_TARGET void pack(const int8_t* values, const int8_t* least, const uint32_t* flip, const Strip& strip, uint32_t* bits) {
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride)
    pack_pixel(values, least, flip, strip.channels, bits);
}

KC_TARGET void pack_levels(const int8_t* values, int zero_point, const Strip& strip, int planes, size_t plane_stride,
                           uint32_t* bits) {
  const __m512i lowest = _mm512_set1_epi8(static_cast<char>(zero_point));
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride) {
    for (int first = 0; first < strip.channels; first += 64) {
      const int count = strip.channels - first;
      const __mmask64 there = count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
      const __m512i level = _mm512_sub_epi8(_mm512_maskz_loadu_epi8(there, values + first), lowest);
      for (int plane = 0; plane < planes; ++plane) {
        const uint64_t found = _mm512_mask_test_epi8_mask(there, level, _mm512_set1_epi8(static_cast<char>(1 << plane)));
        uint32_t* to = bits + plane * plane_stride + first / kBits;
        to[0] = static_cast<uint32_t>(found);
        if (count > kBits) to[1] = static_cast<uint32_t>(found >> 32);
      }
    }
  }
}

// Blocks `block` to `block + Q - 1` of P pixels. Parts: 1, signs alone; 2, masks behind them.
template <int P, int Q, int Parts>
KC_TARGET void count_blocks(const Tile& tile, int block, int32_t* counts) {
  const size_t words = static_cast<size_t>(tile.segment_count) * tile.segment_words * Parts;
  const uint32_t* weights = reinterpret_cast<const uint32_t*>(tile.weights) + block * words * kOutputs;
  __m512i sums[P][Q];
  KC_UNROLL for (int p = 0; p < P; ++p) {
    KC_UNROLL for (int q = 0; q < Q; ++q) sums[p][q] = _mm512_setzero_si512();
  }
  for (int segment = 0; segment < tile.segment_count; ++segment) {
    const uint32_t* values[P];
    KC_UNROLL for (int p = 0; p < P; ++p) values[p] = tile.pixels[p] + tile.segments[segment];
    for (int word = 0; word < tile.segment_words; ++word, weights += kOutputs * Parts) {
      __m512i met[Q], mask[Q];
      KC_UNROLL for (int q = 0; q < Q; ++q) {
        met[q] = _mm512_loadu_si512(weights + q * words * kOutputs);
        if (Parts == 2) mask[q] = _mm512_loadu_si512(weights + q * words * kOutputs + kOutputs * (Parts - 1));
      }
      KC_UNROLL for (int p = 0; p < P; ++p) {
        const __m512i value = _mm512_set1_epi32(static_cast<int>(values[p][word]));
        KC_UNROLL for (int q = 0; q < Q; ++q) {
          // 0x28: (value ^ met) & mask
          const __m512i other = Parts == 2 ? _mm512_ternarylogic_epi32(value, met[q], mask[q], 0x28)
                                           : _mm512_xor_si512(value, met[q]);
          sums[p][q] = _mm512_add_epi32(sums[p][q], _mm512_popcnt_epi32(other));
        }
      }
    }
  }
  const int stride = tile.blocks * kOutputs;
  KC_UNROLL for (int p = 0; p < P; ++p) {
    KC_UNROLL for (int q = 0; q < Q; ++q)
      _mm512_storeu_si512(counts + static_cast<size_t>(p) * stride + (block + q) * kOutputs, sums[p][q]);
  }
}

template <int P, int Parts>
void count_pixels(const Tile& tile, int32_t* counts) {
  constexpr int kTogether = P < 4 ? 4 : 2;
  int block = 0;
  for (; block + kTogether <= tile.blocks; block += kTogether) count_blocks<P, kTogether, Parts>(tile, block, counts);
  for (; block + 2 <= tile.blocks; block += 2) count_blocks<P, 2, Parts>(tile, block, counts);
  if (block < tile.blocks) count_blocks<P, 1, Parts>(tile, block, counts);
}

template <int Parts>
void count_parts(const Tile& tile, int32_t* counts) {
  static constexpr void (*kCounts[])(const Tile&, int32_t*) = {
      count_pixels<1, Parts>, count_pixels<2, Parts>, count_pixels<3, Parts>, count_pixels<4, Parts>,
      count_pixels<5, Parts>, count_pixels<6, Parts>, count_pixels<7, Parts>};
  kCounts[tile.count - 1](tile, counts);
}

void count(const Tile& tile, int32_t* counts) { count_parts<1>(tile, counts); }

void arrange_masked(const uint32_t* rows, const uint32_t* masks, int count, int words, std::vector<uint8_t>& weights) {
  arrange_masked_words(rows, masks, count, words, kOutputs, weights);
}

void count_masked(const Tile& tile, int32_t* counts) { count_parts<2>(tile, counts); }

KC_TARGET void add_shifted(int32_t* counts, const int32_t* more, int shift, int count) {
  add_shifted_lines(counts, more, shift, count);
}

// What `finish_lines` does; the processor rounds to even by itself. (GCC 12 warns of forms without a mask.)
KC_TARGET void finish(const int32_t* counts, const int32_t* base, const int32_t* step, const float* scale,
                      const Range& range, int count, int8_t* out) {
  const __m512 lowest = _mm512_set1_ps(static_cast<float>(range.lowest - range.zero_point));
  const __m512 highest = _mm512_set1_ps(static_cast<float>(range.highest - range.zero_point));
  const __m512i zero_point = _mm512_set1_epi32(range.zero_point);
  for (int i = 0; i < count; i += kOutputs) {
    const __mmask16 there = count - i < kOutputs ? static_cast<__mmask16>((1u << (count - i)) - 1) : 0xffff;
    const __m512i product =
        _mm512_mullo_epi32(_mm512_maskz_loadu_epi32(there, step + i), _mm512_maskz_loadu_epi32(there, counts + i));
    const __m512i sum = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(there, base + i), product);
    __m512 value = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(there, sum), _mm512_maskz_loadu_ps(there, scale + i));
    value = _mm512_maskz_min_ps(there, _mm512_maskz_max_ps(there, value, lowest), highest);
    const __m512i found = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(there, value), zero_point);
    _mm512_mask_cvtepi32_storeu_epi8(out + i, there, found);
  }
}

}  // namespace

const Path kAvx512 = {"avx512",       supported, kOutputs,       kPixels,      pays, scratch_bytes, arrange, pack,
                      pack_levels,    count,     arrange_masked, count_masked, add_shifted,   finish};

}  // namespace keras_compress
#endif
