#include "layer.h"

#include <algorithm>
#include <cstdlib>
#include <map>

namespace keras_compress {
namespace {

constexpr int64_t kMostValues = INT32_MAX;
constexpr int kLongestSide = 1 << 30;
// What is less takes no longer alone than it takes to wake a thread.
constexpr int64_t kLeastProducts = int64_t{1} << 24;
// Sums of so many inputs stay below 2^31 with weights of 127.
constexpr int64_t kMostInputs = int64_t{1} << 24;

int words_of(int inputs) { return (inputs + kBits - 1) / kBits; }

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

// Where the output's position lies, which taps are inside: a number for each kind, in order of appearance.
struct Classes {
  std::vector<int> of;                      // of each output position
  std::vector<std::vector<bool>> inside;    // (classes, taps)
};

Classes classes_of(int out_size, int size, int before, int taps, int stride, int dilation) {
  Classes found;
  std::map<std::vector<bool>, int> known;
  for (int position = 0; position < out_size; ++position) {
    std::vector<bool> inside(taps);
    for (int tap = 0; tap < taps; ++tap) {
      const int64_t place = int64_t{position} * stride - before + int64_t{tap} * dilation;
      inside[tap] = place >= 0 && place < size;
    }
    const auto [entry, is_new] = known.emplace(inside, static_cast<int>(found.inside.size()));
    if (is_new) found.inside.push_back(inside);
    found.of.push_back(entry->second);
  }
  return found;
}

// Output size and zeros in front.
void extent(bool same, int size, int taps, int stride, int dilation, int& out_size, int& before) {
  const int64_t reach = int64_t{taps - 1} * dilation + 1;
  const int64_t out = same ? (int64_t{size} + stride - 1) / stride : (size - reach + stride) / stride;
  out_size = static_cast<int>(std::max<int64_t>(out, 0));
  const int64_t missing = (out - 1) * stride + reach - size;
  before = same && missing > 0 ? static_cast<int>(missing / 2) : 0;
}

}  // namespace

Signs Signs::plain(int groups, int inputs) {
  Signs signs;
  signs.least.assign(static_cast<size_t>(groups) * inputs, 0);
  signs.flip.assign(static_cast<size_t>(groups) * words_of(inputs), 0);
  return signs;
}

bool Layer::fits(const Kernel& kernel, const int8_t* weights) {
  const int64_t row = int64_t{kernel.taps()} * kernel.inputs;
  if (row <= 0 || row >= kMostInputs) return false;
  for (int64_t output = 0; output < int64_t{kernel.groups} * kernel.outputs; ++output, weights += row) {
    const int magnitude = std::abs(int{weights[0]});
    if (magnitude > 127) return false;
    for (int64_t i = 1; i < row; ++i)
      if (std::abs(int{weights[i]}) != magnitude) return false;
  }
  return true;
}

Layer::Layer(const Path& path, const Kernel& kernel, const int8_t* weights, const int32_t* bias, const float* scale,
             const Range& range, const Signs& signs)
    : path_(path), kernel_(kernel), range_(range), signs_(signs), words_(words_of(kernel.inputs)),
      padded_(round_up(kernel.outputs, path.outputs)) {
  const size_t outputs = static_cast<size_t>(kernel.groups) * kernel.outputs;
  bias_.assign(outputs, 0);
  if (bias != nullptr) bias_.assign(bias, bias + outputs);
  scale_.assign(scale, scale + outputs);
  pack_weights(weights);
}

void Layer::pack_weights(const int8_t* weights) {
  const int taps = kernel_.taps(), outputs = kernel_.groups * kernel_.outputs;
  rows_.assign(static_cast<size_t>(outputs) * taps * words_, 0);
  tap_sums_.assign(static_cast<size_t>(taps) * outputs, 0);
  const int8_t* weight = weights;
  for (int output = 0; output < outputs; ++output) {
    const int magnitude = std::abs(int{*weight});
    magnitude_.push_back(magnitude);
    step_.push_back(2 * magnitude);
    for (int tap = 0; tap < taps; ++tap) {
      uint32_t* row = rows_.data() + (static_cast<size_t>(output) * taps + tap) * words_;
      int32_t sum = 0;
      for (int input = 0; input < kernel_.inputs; ++input, ++weight) {
        row[input / kBits] |= static_cast<uint32_t>(*weight > 0) << (input % kBits);
        sum += *weight;
      }
      tap_sums_[static_cast<size_t>(tap) * outputs + output] = sum;
    }
  }
  weights_.resize(kernel_.groups);
  for (int group = 0; group < kernel_.groups; ++group)
    path_.arrange(rows_.data() + static_cast<size_t>(group) * kernel_.outputs * taps * words_, kernel_.outputs,
                  taps * words_, weights_[group]);
}

bool Layer::resize(int batch, int height, int width, int threads) {
  batch_ = batch, height_ = height, width_ = width, threads_ = std::max(1, threads);
  if (batch < 1 || height < 1 || width < 1 || height > kLongestSide || width > kLongestSide) return false;
  extent(kernel_.same, height, kernel_.height, kernel_.stride_height, kernel_.dilation_height, out_height_, top_);
  extent(kernel_.same, width, kernel_.width, kernel_.stride_width, kernel_.dilation_width, out_width_, left_);
  if (out_height_ < 1 || out_width_ < 1) return false;
  // What all taps of all outputs reach: the input, with zeros around it.
  packed_height_ = std::max((out_height_ - 1) * kernel_.stride_height + (kernel_.height - 1) * kernel_.dilation_height + 1,
                            top_ + height);
  packed_width_ = std::max((out_width_ - 1) * kernel_.stride_width + (kernel_.width - 1) * kernel_.dilation_width + 1,
                           left_ + width);
  const int64_t pixel_words = int64_t{kernel_.groups} * words_;
  const int64_t packed = int64_t{packed_height_} * packed_width_ * pixel_words;
  const int64_t out = int64_t{out_height_} * out_width_ * kernel_.groups * kernel_.outputs;
  if (packed > kMostValues / batch || out > kMostValues / batch) return false;
  packed_.assign(static_cast<size_t>(packed) * batch, 0);

  // Taps of a row lie side by side where nothing is left out between them.
  const bool side_by_side = kernel_.dilation_width == 1 && kernel_.groups == 1;
  segment_words_ = side_by_side ? kernel_.width * words_ : words_;
  segments_.clear();
  for (int row = 0; row < kernel_.height; ++row)
    for (int column = 0; column < (side_by_side ? 1 : kernel_.width); ++column)
      segments_.push_back(static_cast<int32_t>(
          (int64_t{row} * kernel_.dilation_height * packed_width_ + column * kernel_.dilation_width) * pixel_words));
  counts_.assign(threads_, std::vector<int32_t>(static_cast<size_t>(kMostPixels) * padded_, 0));
  scratch_.assign(threads_, std::vector<uint8_t>(path_.scratch_bytes(kernel_.taps() * words_), 0));
  set_bases(bias_.data());
  return true;
}

// Padded taps have bits of 0, as if they were -1: that is taken back, output by output.
void Layer::set_bases(const int32_t* bias) {
  const Classes rows = classes_of(out_height_, height_, top_, kernel_.height, kernel_.stride_height, kernel_.dilation_height);
  const Classes columns = classes_of(out_width_, width_, left_, kernel_.width, kernel_.stride_width, kernel_.dilation_width);
  row_class_ = rows.of, column_class_ = columns.of;
  column_classes_ = static_cast<int>(columns.inside.size());
  const int outputs = kernel_.groups * kernel_.outputs;
  bases_.clear();
  for (const auto& row : rows.inside) {
    for (const auto& column : columns.inside) {
      for (int output = 0; output < outputs; ++output) {
        uint32_t sum = static_cast<uint32_t>(bias[output]) +
                       static_cast<uint32_t>(magnitude_[output]) * static_cast<uint32_t>(kernel_.taps() * kernel_.inputs);
        for (int tap = 0; tap < kernel_.taps(); ++tap)
          if (!row[tap / kernel_.width] || !column[tap % kernel_.width])
            sum += static_cast<uint32_t>(tap_sums_[static_cast<size_t>(tap) * outputs + output]);
        bases_.push_back(static_cast<int32_t>(sum));
      }
    }
  }
}

void Layer::pack_input(const int8_t* in) {
  const int pixel_words = kernel_.groups * words_;
  for (int image = 0; image < batch_; ++image) {
    for (int row = 0; row < height_; ++row) {
      uint32_t* bits = packed_.data() +
                       ((static_cast<size_t>(image) * packed_height_ + top_ + row) * packed_width_ + left_) * pixel_words;
      for (int group = 0; group < kernel_.groups; ++group) {
        const Strip strip = {width_, kernel_.inputs, kernel_.groups * kernel_.inputs, pixel_words};
        path_.pack(in + static_cast<size_t>(group) * kernel_.inputs,
                   signs_.least.data() + static_cast<size_t>(group) * kernel_.inputs,
                   signs_.flip.data() + static_cast<size_t>(group) * words_, strip,
                   bits + static_cast<size_t>(group) * words_);
      }
      in += static_cast<size_t>(width_) * kernel_.groups * kernel_.inputs;
    }
  }
}

Layer::Pixel Layer::Pixel::next(int height, int width) const {
  if (column + 1 < width) return {image, row, column + 1};
  return row + 1 < height ? Pixel{image, row + 1, 0} : Pixel{image + 1, 0, 0};
}

const uint32_t* Layer::packed_pixel(const Pixel& pixel, int group) const {
  const int64_t row = int64_t{pixel.image} * packed_height_ + int64_t{pixel.row} * kernel_.stride_height;
  const int64_t place = row * packed_width_ + int64_t{pixel.column} * kernel_.stride_width;
  return packed_.data() + (place * kernel_.groups + group) * words_;
}

void Layer::run(const int8_t* in, int8_t* out, Pool* pool) {
  pack_input(in);
  for (int group = 0; group < kernel_.groups; ++group) run_group(group, out, pool);
}

void Layer::run_group(int group, int8_t* out, Pool* pool) {
  const int64_t pixels = int64_t{batch_} * out_height_ * out_width_;
  const int64_t tiles = (pixels + path_.pixels - 1) / path_.pixels;
  const int64_t products = pixels * kernel_.outputs * kernel_.taps() * kernel_.inputs;
  if (pool == nullptr || threads_ < 2 || products < kLeastProducts) return run_pixels(group, 0, pixels, 0, out);
  const int64_t parts = std::min<int64_t>(tiles, int64_t{threads_} * 4);
  pool->run(threads_, static_cast<int>(parts), [&](int part, int worker) {
    const int64_t begin = tiles * part / parts * path_.pixels, end = tiles * (part + 1) / parts * path_.pixels;
    run_pixels(group, begin, std::min(end, pixels), worker, out);
  });
}

void Layer::run_pixels(int group, int64_t begin, int64_t end, int worker, int8_t* out) {
  const int outputs = kernel_.groups * kernel_.outputs, first = group * kernel_.outputs;
  int32_t* counts = counts_[worker].data();
  Tile tile{};
  tile.segments = segments_.data();
  tile.segment_count = static_cast<int>(segments_.size());
  tile.segment_words = segment_words_;
  tile.weights = weights_[group].data();
  tile.blocks = padded_ / path_.outputs;
  tile.scratch = scratch_[worker].data();
  const int64_t row = begin / out_width_;
  Pixel pixel{static_cast<int>(row / out_height_), static_cast<int>(row % out_height_),
              static_cast<int>(begin % out_width_)};
  out += begin * outputs + first;
  for (; begin < end; begin += path_.pixels) {
    tile.count = static_cast<int>(std::min<int64_t>(path_.pixels, end - begin));
    const int32_t* bases[kMostPixels];
    for (int i = 0; i < tile.count; ++i, pixel = pixel.next(out_height_, out_width_)) {
      const int kind = row_class_[pixel.row] * column_classes_ + column_class_[pixel.column];
      bases[i] = bases_.data() + static_cast<size_t>(kind) * outputs + first;
      tile.pixels[i] = packed_pixel(pixel, group);
    }
    for (int i = tile.count; i < kMostPixels; ++i) tile.pixels[i] = tile.pixels[0];
    path_.count(tile, counts);
    for (int i = 0; i < tile.count; ++i, out += outputs)
      path_.finish(counts + static_cast<size_t>(i) * padded_, bases[i], step_.data() + first, scale_.data() + first,
                   range_, kernel_.outputs, out);
  }
}

int32_t Layer::sum_of(const int8_t* in, int64_t pixel, int output) const {
  const int64_t column = pixel % out_width_, row = pixel / out_width_ % out_height_;
  const int64_t image = pixel / (int64_t{out_width_} * out_height_);
  const int first = output / kernel_.outputs * kernel_.inputs, channels = kernel_.groups * kernel_.inputs;
  int32_t sum = 0;
  for (int tap = 0; tap < kernel_.taps(); ++tap) {
    const int64_t y = row * kernel_.stride_height - top_ + int64_t{tap / kernel_.width} * kernel_.dilation_height;
    const int64_t x = column * kernel_.stride_width - left_ + int64_t{tap % kernel_.width} * kernel_.dilation_width;
    if (y < 0 || y >= height_ || x < 0 || x >= width_) continue;
    const int8_t* values = in + ((image * height_ + y) * width_ + x) * channels + first;
    const uint32_t* row_bits = rows_.data() + (static_cast<size_t>(output) * kernel_.taps() + tap) * words_;
    for (int i = 0; i < kernel_.inputs; ++i)
      sum += (row_bits[i / kBits] >> (i % kBits) & 1) ? values[i] : -values[i];
  }
  const uint32_t product = static_cast<uint32_t>(sum) * static_cast<uint32_t>(magnitude_[output]);
  return static_cast<int32_t>(product + static_cast<uint32_t>(bias_[output]));
}

void Layer::run_any(const int8_t* in, int8_t* out) {
  const int outputs = kernel_.groups * kernel_.outputs;
  const int64_t pixels = int64_t{batch_} * out_height_ * out_width_;
  std::vector<int32_t> sums(outputs);
  const std::vector<int32_t> nothing(outputs, 0);
  for (int64_t pixel = 0; pixel < pixels; ++pixel, out += outputs) {
    for (int output = 0; output < outputs; ++output) sums[output] = sum_of(in, pixel, output);
    kPortable.finish(nothing.data(), sums.data(), nothing.data(), scale_.data(), range_, outputs, out);
  }
}

}  // namespace keras_compress
