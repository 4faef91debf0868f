// A convolution (or, of one pixel, a dense layer) whose inputs are signs or integers of two bits, and whose weights have
// few values in each output channel: +-c, or 0 and +-c, or +-c and +-3c. Bits are met with bits, plane by plane.
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

// Inputs from `zero_point` to `zero_point + 2^planes - 1`, which mean 0 to 2^planes - 1; 0 planes: signs instead.
struct Levels {
  int planes = 0;
  int zero_point = 0;
};

// Weights of an output channel, or 0 in all of it.
enum class Values {
  kOther,
  kSigns,    // +-c
  kTernary,  // 0 and +-c
  kTwoBits,  // +-c and +-3c: a plane of +-2c and one of +-c
};

class Layer {
 public:
  // weights: (groups * outputs, height, width, inputs), of values that `values_of` knows.
  // scale: of each output, from sums to the output's integers. Throws std::bad_alloc.
  Layer(const Path& path, const Kernel& kernel, const int8_t* weights, const int32_t* bias, const float* scale,
        const Range& range, const Signs& signs, const Levels& levels = {});

  // The least that holds the weights of all outputs; `kOther` as well where a sum is too long.
  static Values values_of(const Kernel& kernel, const int8_t* weights);

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
  void pack_row(const int8_t* weights, int output);
  void arrange(int group);
  void set_bases(const int32_t* bias);
  void pack_input(const int8_t* in);
  void add_planes(int32_t* counts, int pixels) const;
  int weight(int output, int tap, int input) const;
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
  Levels levels_;
  Values values_;
  int input_planes_;                           // 1 for signs
  int weight_planes_;                          // of signs; masks are none
  int words_;                                  // of a tap
  int padded_;                                 // outputs of a group, in whole blocks
  // Weights as bits, (weight planes, groups * outputs, taps, words): 1 is positive. Masks of weights that are not 0.
  std::vector<uint32_t> rows_, masks_;
  std::vector<std::vector<uint8_t>> weights_;  // of each group, as the path wants them
  std::vector<int32_t> magnitude_;
  std::vector<int32_t> bias_;
  std::vector<int32_t> highest_;  // of each output, the sum where no bit differs, in magnitudes
  std::vector<int32_t> step_;     // what a bit that differs takes of it: of signs twice the magnitude
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
  std::vector<uint32_t> packed_;  // (input planes, batch, packed height, packed width, groups, words)
  size_t plane_words_ = 0;
  int threads_ = 1;
  // Of each worker.
  std::vector<std::vector<int32_t>> counts_;
  std::vector<std::vector<uint8_t>> scratch_;
};

}  // namespace keras_compress
