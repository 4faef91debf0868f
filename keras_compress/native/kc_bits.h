// Weights of few values as bits, as keras_compress/tflite/bit_format.py writes them: how options and rows are read. Plain
// C++11 without an allocation, for microcontrollers too.
#ifndef KERAS_COMPRESS_BITS_H_
#define KERAS_COMPRESS_BITS_H_

#include <stddef.h>
#include <stdint.h>

namespace keras_compress {
namespace bits {

constexpr int kVersion = 1;
constexpr const char* kConv = "KC_BINARY_CONV_2D";
constexpr const char* kDense = "KC_BINARY_DENSE";
constexpr size_t kHeadBytes = 28;
enum Values { kSigns = 1, kTernary = 2, kTwoBits = 3 };

struct Options {
  int values;
  int input_bits;  // 0: signs
  bool same;       // zeros around an image
  int activation;  // as the schema numbers them
  int height, width, stride_height, stride_width, dilation_height, dilation_width;
  uint32_t inputs;  // of a group
  bool keeps_dimensions;
  const int8_t* magnitudes;
  size_t magnitude_count;  // 1, or one for each output

  int64_t row() const { return int64_t{height} * width * inputs; }
  int64_t plane_bytes() const { return (row() + 7) / 8; }
  int64_t row_bytes() const { return plane_bytes() * (values == kSigns ? 1 : 2); }
  int magnitude(size_t output) const { return magnitudes[magnitude_count == 1 ? 0 : output]; }
};

inline int two_bytes(const uint8_t* from) { return from[0] | from[1] << 8; }

// The version in these options; -1 where they are none.
inline int version_of(const uint8_t* options, size_t size) {
  if (options == nullptr || size <= kHeadBytes || options[0] != 'K' || options[1] != 'C' || options[2] != 'B') return -1;
  return options[3];
}

// False for options that are damaged, or of another version.
inline bool read(const uint8_t* options, size_t size, Options& found) {
  if (version_of(options, size) != kVersion) return false;
  found.values = options[4], found.input_bits = options[5], found.same = options[6] == 0, found.activation = options[7];
  found.height = two_bytes(options + 8), found.width = two_bytes(options + 10);
  found.stride_height = two_bytes(options + 12), found.stride_width = two_bytes(options + 14);
  found.dilation_height = two_bytes(options + 16), found.dilation_width = two_bytes(options + 18);
  found.inputs = static_cast<uint32_t>(two_bytes(options + 20)) | static_cast<uint32_t>(two_bytes(options + 22)) << 16;
  found.keeps_dimensions = options[24] != 0;
  found.magnitudes = reinterpret_cast<const int8_t*>(options + kHeadBytes), found.magnitude_count = size - kHeadBytes;
  for (size_t i = 0; i < found.magnitude_count; ++i)
    if (found.magnitudes[i] < 0) return false;
  const bool positive = found.height > 0 && found.width > 0 && found.stride_height > 0 && found.stride_width > 0 &&
                        found.dilation_height > 0 && found.dilation_width > 0 && found.inputs > 0;
  return positive && found.values >= kSigns && found.values <= kTwoBits && found.input_bits <= 2 && options[6] <= 1 &&
         found.activation <= 3 && found.inputs < 1u << 31;
}

inline int bit(const uint8_t* plane, int64_t place) { return plane[place >> 3] >> (place & 7) & 1; }

// A weight of a row, in magnitudes.
inline int weight(const Options& options, const uint8_t* row, int64_t place) {
  const int sign = 2 * bit(row, place) - 1;
  if (options.values == kSigns) return sign;
  const int second = bit(row + options.plane_bytes(), place);
  return options.values == kTernary ? sign * second : sign + 2 * (2 * second - 1);
}

// Ones in a word.
inline uint32_t ones(uint32_t word) {
  word -= (word >> 1) & 0x55555555u;
  word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
  word = (word + (word >> 4)) & 0x0f0f0f0fu;
  return (word * 0x01010101u) >> 24;
}

}  // namespace bits
}  // namespace keras_compress

#endif  // KERAS_COMPRESS_BITS_H_
