// A convolution (or, of one pixel, a dense layer) of signs with weights that are +-c in each output channel.
#pragma once

#include <cstdint>
#include <vector>

#include "paths.h"
#include "pool.h"

namespace keras_compress {

// Sizes that a layer has whatever its inputs; channels are those of a group.
struct Kernel {
  int groups = 1;
  int inputs = 0;
  int outputs = 0;
  int height = 1, width = 1;
  int stride_height = 1, stride_width = 1;
  int dilation_height = 1, dilation_width = 1;
  bool same = false;  // zeros around, as TensorFlow's "SAME" has them

  int taps() const { return height * width; }
};

// How values become signs: +1 where `value >= least[channel]`, the other way round where `flip` has the channel's bit.
struct Signs {
  std::vector<int8_t> least;    // one for each channel of all groups
  std::vector<uint32_t> flip;   // whole words for each group

  // +1 where the value is 0 or more.
  static Signs plain(int groups, int inputs);
};

class Layer {
 public:
  // weights: (groups * outputs, height, width, inputs), each +-c of its output, or 0 in the whole output.
  // scale: of each output, from sums to the output's integers. Throws std::bad_alloc.
  Layer(const Path& path, const Kernel& kernel, const int8_t* weights, const int32_t* bias, const float* scale,
        const Range& range, const Signs& signs);

  // Whether each output has weights of one magnitude, and all sums fit 32 bits.
  static bool fits(const Kernel& kernel, const int8_t* weights);

  // Sets the sizes of the input, and how many threads `run` may use; false where no output is left, or sizes are beyond
  // 2^31 - 1.
  bool resize(int batch, int height, int width, int threads = 1);
  int out_height() const { return out_height_; }
  int out_width() const { return out_width_; }

  // From (batch, height, width, groups * inputs) to (batch, out_height, out_width, groups * outputs).
  void run(const int8_t* in, int8_t* out, Pool* pool = nullptr);

  // The same for inputs that need be no signs: slow, but what the operator means.
  void run_any(const int8_t* in, int8_t* out);

 private:
  void pack_weights(const int8_t* weights);
  void set_bases(const int32_t* bias);
  void pack_input(const int8_t* in);
  void run_group(int group, int8_t* out, Pool* pool);
  void run_pixels(int group, int64_t begin, int64_t end, int worker, int8_t* out);
  int32_t sum_of(const int8_t* in, int64_t pixel, int output) const;
  struct Pixel {
    int image, row, column;
    Pixel next(int height, int width) const;
  };
  const uint32_t* packed_pixel(const Pixel& pixel, int group) const;

  const Path& path_;
  Kernel kernel_;
  Range range_;
  Signs signs_;
  int words_;                                  // of a tap
  int padded_;                                 // outputs of a group, in whole blocks
  std::vector<uint32_t> rows_;                 // weights as bits, (groups * outputs, taps, words)
  std::vector<std::vector<uint8_t>> weights_;  // of each group, as the path wants them
  std::vector<int32_t> magnitude_;
  std::vector<int32_t> bias_;
  std::vector<int32_t> step_;  // twice the magnitude
  std::vector<float> scale_;
  std::vector<int32_t> tap_sums_;  // (taps, groups * outputs): sums of the weights of a tap

  int batch_ = 0, height_ = 0, width_ = 0;
  int out_height_ = 0, out_width_ = 0;
  int top_ = 0, left_ = 0;
  int packed_height_ = 0, packed_width_ = 0;
  std::vector<int32_t> segments_;
  int segment_words_ = 0;
  // Output rows and columns by which taps lie in the padding there: each such class has sums of its own.
  std::vector<int> row_class_, column_class_;
  int column_classes_ = 0;
  std::vector<int32_t> bases_;  // (row classes, column classes, groups * outputs): the sum where no bit differs
  std::vector<uint32_t> packed_;
  int threads_ = 1;
  // Of each worker.
  std::vector<std::vector<int32_t>> counts_;
  std::vector<std::vector<uint8_t>> scratch_;
};

}  // namespace keras_compress
