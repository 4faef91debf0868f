// Loops over integers: what the kernels are compared with. Nothing of them is the library's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "layer.h"

namespace reference {

struct Image {
  int batch, height, width, channels;
};

// Zeros in front of an image, as TensorFlow's "SAME" has them.
inline int before(bool same, int out, int size, int taps, int stride, int dilation) {
  return same ? static_cast<int>(std::max<int64_t>(0, int64_t{out - 1} * stride + int64_t{taps - 1} * dilation + 1 - size) / 2)
              : 0;
}

inline int out_size(bool same, int size, int taps, int stride, int dilation) {
  const int64_t reach = same ? 1 : int64_t{taps - 1} * dilation + 1;
  return static_cast<int>(std::max<int64_t>(0, (size - reach + stride) / stride));
}

inline int8_t rounded(int32_t sum, float scale, const keras_compress::Range& range) {
  const double value = std::nearbyint(static_cast<float>(sum) * scale) + range.zero_point;
  return static_cast<int8_t>(std::min<double>(std::max<double>(value, range.lowest), range.highest));
}

// A convolution of integers; `meaning` is of inputs without their zero point. Sums wrap around as those of 32 bits do.
inline std::vector<int8_t> convolved(const keras_compress::Kernel& k, const Image& in, const std::vector<int>& meaning,
                                     const std::vector<int8_t>& weights, const std::vector<int32_t>& bias,
                                     const std::vector<float>& scale, const keras_compress::Range& range) {
  const int out_height = out_size(k.same, in.height, k.height, k.stride_height, k.dilation_height);
  const int out_width = out_size(k.same, in.width, k.width, k.stride_width, k.dilation_width);
  const int top = before(k.same, out_height, in.height, k.height, k.stride_height, k.dilation_height);
  const int left = before(k.same, out_width, in.width, k.width, k.stride_width, k.dilation_width);
  std::vector<int8_t> found;
  for (int n = 0; n < in.batch; ++n)
    for (int row = 0; row < out_height; ++row)
      for (int column = 0; column < out_width; ++column)
        for (int output = 0; output < k.groups * k.outputs; ++output) {
          int64_t sum = bias.empty() ? 0 : bias[output];
          for (int tap = 0; tap < k.taps(); ++tap) {
            const int64_t y = int64_t{row} * k.stride_height - top + int64_t{tap / k.width} * k.dilation_height;
            const int64_t x = int64_t{column} * k.stride_width - left + int64_t{tap % k.width} * k.dilation_width;
            if (y < 0 || y >= in.height || x < 0 || x >= in.width) continue;
            for (int i = 0; i < k.inputs; ++i)
              sum += int64_t{weights[(static_cast<size_t>(output) * k.taps() + tap) * k.inputs + i]} *
                     meaning[((n * in.height + y) * in.width + x) * in.channels + output / k.outputs * k.inputs + i];
          }
          found.push_back(rounded(static_cast<int32_t>(sum), scale[output], range));
        }
  return found;
}

}  // namespace reference
