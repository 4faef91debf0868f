// Layers whose weights are bits, for microcontrollers: plain C++11, without an allocation, an exception or the C++ library.
// Sums are those of the int8 operator that the layer stands for, and are rounded as TFLite-Micro rounds: twice.
#ifndef KERAS_COMPRESS_KC_BITS_KERNEL_H_
#define KERAS_COMPRESS_KC_BITS_KERNEL_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kc_bits.h"

namespace keras_compress {
namespace bits {

// A factor between sums and outputs: `multiplier * 2^(shift - 31)`.
struct Factor {
  int32_t multiplier;
  int32_t shift;
};

inline Factor factor_of(double scale) {
  int shift = 0;
  const double fraction = frexp(scale, &shift);
  int64_t multiplier = static_cast<int64_t>(round(fraction * 2147483648.0));
  if (multiplier == int64_t{1} << 31) multiplier /= 2, ++shift;
  if (shift < -31) shift = 0, multiplier = 0;
  if (shift > 30) shift = 30, multiplier = INT32_MAX;
  return Factor{static_cast<int32_t>(multiplier), shift};
}

// To 32 bits, ties upwards, then to the output, ties away from zero.
inline int32_t rescaled(int32_t sum, const Factor& factor) {
  const int left = factor.shift > 0 ? factor.shift : 0, right = factor.shift > 0 ? 0 : -factor.shift;
  const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(sum) << left);
  const int64_t product = int64_t{shifted} * factor.multiplier;
  const int32_t high = static_cast<int32_t>((product + (product >= 0 ? int64_t{1} << 30 : 1 - (int64_t{1} << 30))) /
                                            (int64_t{1} << 31));
  const int32_t mask = static_cast<int32_t>((int64_t{1} << right) - 1), rest = high & mask;
  return (high >> right) + (rest > (mask >> 1) + (high < 0 ? 1 : 0) ? 1 : 0);
}

struct Layer {
  Options options;
  int batch, height, width, channels;  // of the input; of a dense layer height and width are 1
  int out_height, out_width, outputs;  // of all groups
  int32_t input_zero_point, zero_point, lowest, highest;
  const uint8_t* rows;
  const int32_t* bias;  // NULL: none
  const Factor* factors;

  int groups() const { return channels / static_cast<int>(options.inputs); }
  size_t words() const { return static_cast<size_t>((options.row() + 31) / 32); }
  int planes() const { return options.input_bits > 1 ? 2 : 1; }
  // What lies under one output pixel: planes of bits, and where there is an image at all.
  size_t scratch_words() const { return words() * static_cast<size_t>(planes() + 1); }
};

inline int out_size(bool same, int size, int taps, int stride, int dilation) {
  const int64_t reach = same ? 1 : int64_t{taps - 1} * dilation + 1;
  return size < reach ? 0 : static_cast<int>((size - reach + stride) / stride);
}

inline int zeros_before(bool same, int out, int size, int taps, int stride, int dilation) {
  const int64_t missing = int64_t{out - 1} * stride + int64_t{taps - 1} * dilation + 1 - size;
  return same && missing > 0 ? static_cast<int>(missing / 2) : 0;
}

// Word `number` of a plane of a row, zeros behind its end.
inline uint32_t word_of(const uint8_t* plane, int64_t bytes, size_t number) {
  const uint8_t* from = plane + 4 * number;
  const int64_t left = bytes - static_cast<int64_t>(4 * number);
  uint32_t word = from[0];
  if (left > 1) word |= static_cast<uint32_t>(from[1]) << 8;
  if (left > 2) word |= static_cast<uint32_t>(from[2]) << 16;
  if (left > 3) word |= static_cast<uint32_t>(from[3]) << 24;
  return word;
}

// What lies under one output pixel of a group.
class Patch {
 public:
  Patch(const Layer& layer, const int8_t* in, uint32_t* scratch) : layer_(layer), in_(in), scratch_(scratch) {}

  void read(int image, int row, int column, int group) {
    const Options& o = layer_.options;
    for (size_t i = 0; i < layer_.scratch_words(); ++i) scratch_[i] = 0;
    there_ = 0, as_said_ = true;
    top_ = row * o.stride_height -
           zeros_before(o.same, layer_.out_height, layer_.height, o.height, o.stride_height, o.dilation_height);
    left_ = column * o.stride_width -
            zeros_before(o.same, layer_.out_width, layer_.width, o.width, o.stride_width, o.dilation_width);
    image_ = image, first_ = group * static_cast<int>(o.inputs);
    int64_t place = 0;
    for (int tap = 0; tap < o.height * o.width; ++tap, place += o.inputs) {
      const int8_t* values = tap_of(tap);
      if (values == NULL) continue;
      for (uint32_t i = 0; i < o.inputs; ++i) pack(values[i], place + i);
    }
  }

  // The sum of an output of the group.
  int32_t sum(const uint8_t* row) const {
    if (!as_said_) return any_sum(row);
    const Options& o = layer_.options;
    if (o.input_bits == 0) return signs(row);
    int32_t sum = 0;
    for (int plane = 0; plane < layer_.planes(); ++plane) sum += levels(row, scratch_ + plane * layer_.words()) * (1 << plane);
    return sum;
  }

 private:
  // The first value of a tap's group; NULL where there is no image.
  const int8_t* tap_of(int tap) const {
    const Options& o = layer_.options;
    const int y = top_ + tap / o.width * o.dilation_height, x = left_ + tap % o.width * o.dilation_width;
    if (y < 0 || y >= layer_.height || x < 0 || x >= layer_.width) return NULL;
    return in_ + ((static_cast<size_t>(image_) * layer_.height + y) * layer_.width + x) * layer_.channels + first_;
  }

  void pack(int value, int64_t place) {
    const int level = value - layer_.input_zero_point, bits = layer_.options.input_bits;
    const uint32_t bit = 1u << (place & 31);
    uint32_t* word = scratch_ + (place >> 5);
    if (bits == 0) {
      as_said_ &= level == 1 || level == -1;
      if (level > 0) *word |= bit;
    } else {
      as_said_ &= level >= 0 && level < 1 << bits;
      if (level & 1) *word |= bit;
      if (bits == 2 && (level & 2) != 0) word[layer_.words()] |= bit;
    }
    word[layer_.words() * layer_.planes()] |= bit;
    ++there_;
  }

  int32_t signs(const uint8_t* row) const {
    const Options& o = layer_.options;
    const int64_t bytes = o.plane_bytes();
    const uint32_t* there = scratch_ + layer_.words() * layer_.planes();
    int32_t count = 0, differ = 0;
    for (size_t i = 0; i < layer_.words(); ++i) {
      const uint32_t first = word_of(row, bytes, i) ^ scratch_[i];
      if (o.values == kSigns) {
        differ += static_cast<int32_t>(ones(first & there[i]));
        continue;
      }
      const uint32_t second = word_of(row + bytes, bytes, i);
      if (o.values == kTernary) {
        count += static_cast<int32_t>(ones(second & there[i]));
        differ += static_cast<int32_t>(ones(first & second & there[i]));
      } else {
        differ += static_cast<int32_t>(ones(first & there[i]) + 2 * ones((second ^ scratch_[i]) & there[i]));
      }
    }
    if (o.values != kTernary) count = o.values == kSigns ? there_ : 3 * there_;
    return count - 2 * differ;
  }

  int32_t levels(const uint8_t* row, const uint32_t* plane) const {
    const Options& o = layer_.options;
    const int64_t bytes = o.plane_bytes();
    int32_t count = 0, positive = 0;
    for (size_t i = 0; i < layer_.words(); ++i) {
      const uint32_t first = word_of(row, bytes, i);
      const uint32_t second = o.values == kSigns ? 0 : word_of(row + bytes, bytes, i);
      const uint32_t met = o.values == kTernary ? plane[i] & second : plane[i];
      count += static_cast<int32_t>(ones(met)) * (o.values == kTwoBits ? 3 : 1);
      positive += static_cast<int32_t>(ones(met & first));
      if (o.values == kTwoBits) positive += 2 * static_cast<int32_t>(ones(met & second));
    }
    return 2 * positive - count;
  }

  // Of inputs that are not what the file says.
  int32_t any_sum(const uint8_t* row) const {
    const Options& o = layer_.options;
    int64_t place = 0;
    int32_t sum = 0;
    for (int tap = 0; tap < o.height * o.width; ++tap, place += o.inputs) {
      const int8_t* values = tap_of(tap);
      for (uint32_t i = 0; values != NULL && i < o.inputs; ++i)
        sum += weight(o, row, place + i) * (values[i] - layer_.input_zero_point);
    }
    return sum;
  }

  const Layer& layer_;
  const int8_t* in_;
  uint32_t* scratch_;
  int image_ = 0, top_ = 0, left_ = 0, first_ = 0;
  int32_t there_ = 0;
  bool as_said_ = true;
};

// From (batch, height, width, channels) to (batch, out_height, out_width, outputs). `scratch`: `scratch_words()` words.
inline void run(const Layer& layer, const int8_t* in, uint32_t* scratch, int8_t* out) {
  const int groups = layer.groups(), each = layer.outputs / groups;
  const int64_t row_bytes = layer.options.row_bytes();
  Patch patch(layer, in, scratch);
  for (int image = 0; image < layer.batch; ++image)
    for (int row = 0; row < layer.out_height; ++row)
      for (int column = 0; column < layer.out_width; ++column)
        for (int group = 0; group < groups; ++group) {
          patch.read(image, row, column, group);
          for (int output = group * each; output < (group + 1) * each; ++output, ++out) {
            int32_t sum = patch.sum(layer.rows + output * row_bytes) * layer.options.magnitude(output);
            if (layer.bias != NULL) sum += layer.bias[output];
            int32_t value = rescaled(sum, layer.factors[output]) + layer.zero_point;
            value = value < layer.lowest ? layer.lowest : value;
            *out = static_cast<int8_t>(value > layer.highest ? layer.highest : value);
          }
        }
}

}  // namespace bits
}  // namespace keras_compress

#endif  // KERAS_COMPRESS_KC_BITS_KERNEL_H_
