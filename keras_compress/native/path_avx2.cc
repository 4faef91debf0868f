// AVX2 has no popcount of vectors. Four inputs of a pixel choose a table of 16 bytes, four weights of an output choose a byte
// of it: the bits that differ. One table serves two pixels, one in each half of its bytes, so a shuffle makes 2 * 32 * 4
// products. Halves are added as bytes, that is modulo 256, and taken apart where the sums are still below 256.
#include "paths.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#define KC_TARGET __attribute__((target("avx2")))
#define KC_INLINE __attribute__((target("avx2"), always_inline)) inline

namespace keras_compress {
namespace {

constexpr int kOutputs = 32;
constexpr int kPixels = 4;
constexpr int kPairs = kPixels / 2;
constexpr int kNibbles = 8;      // of a word
constexpr int kWordsOfByte = 7;  // 7 words have 56 nibbles, of 4 bits at most each: 224
constexpr int kWordsOfSum = kWordsOfByte * (65535 / (kBits * kWordsOfByte));

struct Tables {
  alignas(64) uint8_t bytes[256][16];
  Tables() {
    for (int pair = 0; pair < 256; ++pair)
      for (int weight = 0; weight < 16; ++weight)
        bytes[pair][weight] = static_cast<uint8_t>(__builtin_popcount((pair & 15) ^ weight) +
                                                   16 * __builtin_popcount((pair >> 4) ^ weight));
  }
};
const Tables kTables;

bool supported() { return __builtin_cpu_supports("avx2"); }

// Instructions that multiply bytes make int8 some four times faster.
bool multiplies_bytes() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 11 & 1) != 0) return true;  // AVX512-VNNI
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1) != 0;            // AVX-VNNI
}

bool pays(const Meeting& meeting) {
  static const bool fast_int8 = multiplies_bytes();
  return meeting.plain() || meeting.dense || !fast_int8;
}

// For each pair of pixels and each nibble, where the table begins.
size_t scratch_bytes(int words) { return static_cast<size_t>(words) * kNibbles * kPairs * sizeof(uint16_t); }

void arrange(const uint32_t* rows, int count, int words, std::vector<uint8_t>& weights) {
  const int blocks = (count + kOutputs - 1) / kOutputs;
  weights.assign(static_cast<size_t>(blocks) * kOutputs * words * sizeof(uint32_t), 0);
  for (int output = 0; output < count; ++output) {
    for (int word = 0; word < words; ++word) {
      const uint32_t bits = rows[static_cast<size_t>(output) * words + word];
      uint8_t* to = weights.data() + (static_cast<size_t>(output / kOutputs) * words + word) * 4 * kOutputs;
      for (int byte = 0; byte < 4; ++byte) to[byte * kOutputs + output % kOutputs] = static_cast<uint8_t>(bits >> 8 * byte);
    }
  }
}

KC_INLINE void pack_pixel(const int8_t* values, const int8_t* least, const uint32_t* flip, int channels, uint32_t* bits) {
  int first = 0;
  for (; first + kBits <= channels; first += kBits) {
    const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + first));
    const __m256i bound = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(least + first));
    const int found = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epi8(value, bound), value));
    bits[first / kBits] = static_cast<uint32_t>(found) ^ flip[first / kBits];
  }
  pack_rest(values, least, flip, first, channels, bits);
}

KC_TARGET void pack(const int8_t* values, const int8_t* least, const uint32_t* flip, const Strip& strip, uint32_t* bits) {
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride)
    pack_pixel(values, least, flip, strip.channels, bits);
}

KC_INLINE void pack_levels_pixel(const int8_t* values, int zero_point, int channels, int planes, size_t plane_stride,
                                 uint32_t* bits) {
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(zero_point));
  int first = 0;
  for (; first + kBits <= channels; first += kBits) {
    const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + first));
    // The bit of the plane goes to the top of its byte.
    const __m256i level = _mm256_sub_epi8(value, lowest);
    bits[first / kBits] = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_slli_epi16(level, 7)));
    if (planes == 2)
      bits[plane_stride + first / kBits] = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_slli_epi16(level, 6)));
  }
  pack_levels_rest(values, zero_point, first, channels, planes, plane_stride, bits);
}

KC_TARGET void pack_levels(const int8_t* values, int zero_point, const Strip& strip, int planes, size_t plane_stride,
                           uint32_t* bits) {
  for (int pixel = 0; pixel < strip.pixels; ++pixel, values += strip.value_stride, bits += strip.word_stride)
    pack_levels_pixel(values, zero_point, strip.channels, planes, plane_stride, bits);
}

// Tables of two pixels, nibble by nibble: the lower nibbles of the four bytes of a word, then the upper ones.
KC_TARGET void index_pair(const Tile& tile, int pair, uint16_t* places) {
  const uint32_t* first = tile.pixels[2 * pair];
  const uint32_t* second = tile.pixels[2 * pair + 1];
  for (int segment = 0; segment < tile.segment_count; ++segment) {
    const uint32_t* one = first + tile.segments[segment];
    const uint32_t* other = second + tile.segments[segment];
    for (int word = 0; word < tile.segment_words; ++word, places += kNibbles) {
      const uint32_t lower = (one[word] & 0x0f0f0f0fu) | ((other[word] & 0x0f0f0f0fu) << 4);
      const uint32_t upper = ((one[word] >> 4) & 0x0f0f0f0fu) | (other[word] & 0xf0f0f0f0u);
      const __m128i bytes = _mm_set_epi32(0, 0, static_cast<int>(upper), static_cast<int>(lower));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(places), _mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 4));
    }
  }
}

KC_INLINE __m256i looked_up(uint16_t place, __m256i nibbles) {
  const __m128i* table = reinterpret_cast<const __m128i*>(&kTables.bytes[0][0] + place);
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table)), nibbles);
}

// Sums of both pixels as bytes: `both` of the table's bytes, `shifted` of them without the lowest half.
struct Sums {
  __m256i both, shifted;
};

KC_INLINE void add(Sums& sums, __m256i found) {
  sums.both = _mm256_add_epi8(sums.both, found);
  sums.shifted = _mm256_add_epi8(sums.shifted, _mm256_srli_epi16(found, 4));
}

// One word of 32 outputs and of a pair of pixels. Three bytes of a table hold 12 at most in each half, which still fits.
KC_INLINE void add_word(Sums& sums, const uint16_t* places, const __m256i lower[4], const __m256i upper[4]) {
  __m256i found = _mm256_add_epi8(looked_up(places[0], lower[0]), looked_up(places[4], upper[0]));
  add(sums, _mm256_add_epi8(found, looked_up(places[1], lower[1])));
  found = _mm256_add_epi8(looked_up(places[5], upper[1]), looked_up(places[2], lower[2]));
  add(sums, _mm256_add_epi8(found, looked_up(places[6], upper[2])));
  add(sums, _mm256_add_epi8(looked_up(places[3], lower[3]), looked_up(places[7], upper[3])));
}

// Of each 16 bits, as long as no sum has reached 256: first pixel of even and odd outputs, second pixel of both.
struct Parts {
  __m256i even, odd, other_even, other_odd;
};

KC_INLINE void take_apart(const Sums& sums, Parts& parts) {
  const __m256i byte = _mm256_set1_epi16(255);
  const __m256i other_odd = _mm256_srli_epi16(sums.shifted, 8);
  const __m256i odd =
      _mm256_and_si256(_mm256_sub_epi16(_mm256_srli_epi16(sums.both, 8), _mm256_slli_epi16(other_odd, 4)), byte);
  const __m256i other_even = _mm256_and_si256(_mm256_sub_epi16(sums.shifted, _mm256_slli_epi16(odd, 4)), byte);
  const __m256i even = _mm256_and_si256(_mm256_sub_epi16(sums.both, _mm256_slli_epi16(other_even, 4)), byte);
  parts.even = _mm256_add_epi16(parts.even, even);
  parts.odd = _mm256_add_epi16(parts.odd, odd);
  parts.other_even = _mm256_add_epi16(parts.other_even, other_even);
  parts.other_odd = _mm256_add_epi16(parts.other_odd, other_odd);
}

KC_INLINE void add_eight(__m128i eight, int32_t* counts) {
  __m256i* to = reinterpret_cast<__m256i*>(counts);
  _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_cvtepu16_epi32(eight)));
}

KC_INLINE void add_counts(__m256i even, __m256i odd, int32_t* counts) {
  const __m256i lower = _mm256_unpacklo_epi16(even, odd), upper = _mm256_unpackhi_epi16(even, odd);
  add_eight(_mm256_castsi256_si128(lower), counts);
  add_eight(_mm256_castsi256_si128(upper), counts + 8);
  add_eight(_mm256_extracti128_si256(lower, 1), counts + 16);
  add_eight(_mm256_extracti128_si256(upper, 1), counts + 24);
}

template <int Pairs>
KC_TARGET void count_block(const uint8_t* weights, const uint16_t* places, int words, int32_t* counts, int stride) {
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  const int pair_places = words * kNibbles;
  for (int begin = 0; begin < words; begin += kWordsOfSum) {
    const int end = std::min(words, begin + kWordsOfSum);
    Parts parts[Pairs];
    for (int pair = 0; pair < Pairs; ++pair) parts[pair] = {zero, zero, zero, zero};
    for (int word = begin; word < end;) {
      Sums sums[Pairs];
      for (int pair = 0; pair < Pairs; ++pair) sums[pair] = {zero, zero};
      for (const int stop = std::min(end, word + kWordsOfByte); word < stop; ++word, weights += 4 * kOutputs) {
        __m256i lower[4], upper[4];
        for (int byte = 0; byte < 4; ++byte) {
          const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + byte * kOutputs));
          lower[byte] = _mm256_and_si256(both, nibble);
          upper[byte] = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        }
        for (int pair = 0; pair < Pairs; ++pair)
          add_word(sums[pair], places + pair * pair_places + word * kNibbles, lower, upper);
      }
      for (int pair = 0; pair < Pairs; ++pair) take_apart(sums[pair], parts[pair]);
    }
    for (int pair = 0; pair < Pairs; ++pair) {
      add_counts(parts[pair].even, parts[pair].odd, counts + static_cast<size_t>(2 * pair) * stride);
      add_counts(parts[pair].other_even, parts[pair].other_odd, counts + static_cast<size_t>(2 * pair + 1) * stride);
    }
  }
}

int tables_of(const Tile& tile) {
  const int words = tile.segment_count * tile.segment_words, pairs = (tile.count + 1) / 2;
  uint16_t* places = reinterpret_cast<uint16_t*>(tile.scratch);
  for (int pair = 0; pair < pairs; ++pair) index_pair(tile, pair, places + static_cast<size_t>(pair) * words * kNibbles);
  return pairs;
}

// Adds what differs in each block, by the tables of so many pairs.
void count_plane(const Tile& tile, int pairs, const uint8_t* weights, int32_t* counts) {
  const int words = tile.segment_count * tile.segment_words, stride = tile.blocks * kOutputs;
  const uint16_t* places = reinterpret_cast<const uint16_t*>(tile.scratch);
  for (int block = 0; block < tile.blocks; ++block, weights += static_cast<size_t>(words) * 4 * kOutputs) {
    if (pairs == 1) {
      count_block<1>(weights, places, words, counts + block * kOutputs, stride);
    } else {
      count_block<2>(weights, places, words, counts + block * kOutputs, stride);
    }
  }
}

void count(const Tile& tile, int32_t* counts) {
  const int pairs = tables_of(tile);
  std::memset(counts, 0, static_cast<size_t>(2 * pairs) * tile.blocks * kOutputs * sizeof(int32_t));
  count_plane(tile, pairs, tile.weights, counts);
}

// Of all outputs how many weights are none, the plane of weights 1, the plane of weights -1. (A table has no room for masks.)
void arrange_masked(const uint32_t* rows, const uint32_t* masks, int count, int words, std::vector<uint8_t>& weights) {
  const int padded = (count + kOutputs - 1) / kOutputs * kOutputs;
  const size_t values = static_cast<size_t>(count) * words;
  std::vector<uint32_t> positive(values), negative(values);
  std::vector<int32_t> nonzero(padded, 0);
  for (size_t i = 0; i < values; ++i) {
    positive[i] = rows[i] & masks[i], negative[i] = ~rows[i] & masks[i];
    nonzero[i / words] += __builtin_popcount(masks[i]);
  }
  std::vector<uint8_t> plane;
  const uint8_t* first = reinterpret_cast<const uint8_t*>(nonzero.data());
  weights.assign(first, first + nonzero.size() * sizeof(int32_t));
  for (const auto* each : {&positive, &negative}) {
    arrange(each->data(), count, words, plane);
    weights.insert(weights.end(), plane.begin(), plane.end());
  }
}

// With x the input's bits, p and n those of weights 1 and -1: bits of p that x has not, and of n that it has, are
// (p's number + n's number + |x ^ p| - |x ^ n|) / 2.
KC_TARGET void count_masked(const Tile& tile, int32_t* counts) {
  const int pairs = tables_of(tile), stride = tile.blocks * kOutputs, rows = 2 * pairs;
  const size_t plane_bytes = static_cast<size_t>(tile.segment_count) * tile.segment_words * 4 * stride;
  const int32_t* nonzero = reinterpret_cast<const int32_t*>(tile.weights);
  const uint8_t* positive = tile.weights + stride * sizeof(int32_t);
  std::memset(counts, 0, static_cast<size_t>(rows) * stride * sizeof(int32_t));
  count_plane(tile, pairs, positive + plane_bytes, counts);
  for (int row = 0; row < rows; ++row)
    for (int i = 0; i < stride; ++i) counts[row * stride + i] = nonzero[i] - counts[row * stride + i];
  count_plane(tile, pairs, positive, counts);
  for (int i = 0; i < rows * stride; ++i) counts[i] >>= 1;
}

KC_TARGET void add_shifted(int32_t* counts, const int32_t* more, int shift, int count) {
  add_shifted_lines(counts, more, shift, count);
}

KC_TARGET void finish(const int32_t* counts, const int32_t* base, const int32_t* step, const float* scale,
                      const Range& range, int count, int8_t* out) {
  finish_lines(counts, base, step, scale, range, count, out);
}

}  // namespace

const Path kAvx2 = {"avx2",         supported, kOutputs,       kPixels,      pays, scratch_bytes, arrange, pack,
                    pack_levels,    count,     arrange_masked, count_masked, add_shifted,   finish};

}  // namespace keras_compress
#endif
