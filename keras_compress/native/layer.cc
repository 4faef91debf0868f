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

// Least and largest magnitude of weights that are not 0; 128 and 0 where all are.
struct Magnitudes {
  int least = 128, largest = 0;
  bool zeros = false;
};

Magnitudes magnitudes_of(const int8_t* weights, int64_t count) {
  Magnitudes found;
  for (int64_t i = 0; i < count; ++i) {
    const int magnitude = std::abs(int{weights[i]});
    found.zeros |= magnitude == 0;
    if (magnitude == 0) continue;
    found.least = std::min(found.least, magnitude);
    found.largest = std::max(found.largest, magnitude);
  }
  return found;
}

Values values_of_row(const int8_t* weights, int64_t count) {
  const Magnitudes found = magnitudes_of(weights, count);
  if (found.largest == 0) return Values::kSigns;
  if (found.largest > 127) return Values::kOther;
  if (found.largest == found.least) return found.zeros ? Values::kTernary : Values::kSigns;
  if (found.zeros || found.largest != 3 * found.least) return Values::kOther;
  const auto between = [&](int8_t weight) {
    return std::abs(int{weight}) != found.least && std::abs(int{weight}) != found.largest;
  };
  return std::none_of(weights, weights + count, between) ? Values::kTwoBits : Values::kOther;
}

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

Values Layer::values_of(const Kernel& kernel, const int8_t* weights) {
  const int64_t row = int64_t{kernel.taps()} * kernel.inputs;
  if (row <= 0 || row >= kMostInputs) return Values::kOther;
  Values found = Values::kSigns;
  for (int64_t output = 0; output < int64_t{kernel.groups} * kernel.outputs; ++output, weights += row) {
    const Values values = values_of_row(weights, row);
    if (values == Values::kOther) return values;
    if (values == Values::kSigns) continue;
    if (found != Values::kSigns && found != values) return Values::kOther;
    found = values;
  }
  return found;
}

Layer::Layer(const Path& path, const Kernel& kernel, const int8_t* weights, const int32_t* bias, const float* scale,
             const Range& range, const Signs& signs, const Levels& levels)
    : path_(path), kernel_(kernel), range_(range), signs_(signs), levels_(levels),
      values_(values_of(kernel, weights)), input_planes_(std::max(1, levels.planes)),
      weight_planes_(values_ == Values::kTwoBits ? 2 : 1), words_(words_of(kernel.inputs)),
      padded_(round_up(kernel.outputs, path.outputs)) {
  const size_t outputs = static_cast<size_t>(kernel.groups) * kernel.outputs;
  bias_.assign(outputs, 0);
  if (bias != nullptr) bias_.assign(bias, bias + outputs);
  scale_.assign(scale, scale + outputs);
  pack_weights(weights);
}

void Layer::pack_weights(const int8_t* weights) {
  const int taps = kernel_.taps(), outputs = kernel_.groups * kernel_.outputs;
  rows_.assign(static_cast<size_t>(weight_planes_) * outputs * taps * words_, 0);
  if (values_ == Values::kTernary) masks_.assign(rows_.size(), 0);
  tap_sums_.assign(static_cast<size_t>(taps) * outputs, 0);
  for (int output = 0; output < outputs; ++output)
    pack_row(weights + static_cast<size_t>(output) * taps * kernel_.inputs, output);
  weights_.resize(kernel_.groups);
  for (int group = 0; group < kernel_.groups; ++group) arrange(group);
}

// 3 is 2 + 1 and 1 is 2 - 1; -1 and -3 are these the other way round.
void Layer::pack_row(const int8_t* weights, int output) {
  const int taps = kernel_.taps(), outputs = kernel_.groups * kernel_.outputs;
  const size_t plane = static_cast<size_t>(outputs) * taps * words_;
  const Magnitudes found = magnitudes_of(weights, int64_t{taps} * kernel_.inputs);
  const int magnitude = found.largest == 0 ? 0 : found.least;
  int32_t positive = 0, all = 0;
  for (int tap = 0; tap < taps; ++tap) {
    const size_t row = (static_cast<size_t>(output) * taps + tap) * words_;
    int32_t sum = 0;
    for (int input = 0; input < kernel_.inputs; ++input, ++weights) {
      const int weight = *weights;
      const bool lower = weight_planes_ == 2 ? weight > magnitude || weight == -magnitude : weight > 0;
      const bool upper = weight_planes_ == 2 && weight > 0;
      const bool there = weight != 0 || masks_.empty();
      const size_t place = row + input / kBits;
      rows_[place] |= static_cast<uint32_t>(lower) << (input % kBits);
      if (weight_planes_ == 2) rows_[place + plane] |= static_cast<uint32_t>(upper) << (input % kBits);
      if (!masks_.empty()) masks_[place] |= static_cast<uint32_t>(there) << (input % kBits);
      positive += lower + 2 * upper;
      all += there;
      sum += weight;
    }
    tap_sums_[static_cast<size_t>(tap) * outputs + output] = sum;
  }
  const int shares = (1 << weight_planes_) - 1, levels = (1 << levels_.planes) - 1;
  magnitude_.push_back(magnitude);
  highest_.push_back(levels_.planes == 0 ? shares * all : levels * positive);
  step_.push_back(levels_.planes == 0 ? 2 * magnitude : magnitude);
}

void Layer::arrange(int group) {
  const int words = kernel_.taps() * words_;
  const size_t plane = static_cast<size_t>(kernel_.groups) * kernel_.outputs * words;
  const size_t first = static_cast<size_t>(group) * kernel_.outputs * words;
  if (!masks_.empty())
    return path_.arrange_masked(rows_.data() + first, masks_.data() + first, kernel_.outputs, words, weights_[group]);
  std::vector<uint8_t> one;
  for (int i = 0; i < weight_planes_; ++i) {
    path_.arrange(rows_.data() + i * plane + first, kernel_.outputs, words, one);
    weights_[group].insert(weights_[group].end(), one.begin(), one.end());
  }
}

int Layer::weight(int output, int tap, int input) const {
  const size_t plane = static_cast<size_t>(kernel_.groups) * kernel_.outputs * kernel_.taps() * words_;
  const size_t place = (static_cast<size_t>(output) * kernel_.taps() + tap) * words_ + input / kBits;
  const auto bit = [&](const std::vector<uint32_t>& words, size_t at) { return words[at] >> (input % kBits) & 1u; };
  if (!masks_.empty() && bit(masks_, place) == 0) return 0;
  const int lower = bit(rows_, place) != 0 ? 1 : -1;
  return weight_planes_ == 1 ? lower : lower + (bit(rows_, place + plane) != 0 ? 2 : -2);
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
  if (packed > kMostValues / batch / input_planes_ || out > kMostValues / batch) return false;
  plane_words_ = static_cast<size_t>(packed) * batch;
  packed_.assign(plane_words_ * input_planes_, 0);

  // Taps of a row lie side by side where nothing is left out between them.
  const bool side_by_side = kernel_.dilation_width == 1 && kernel_.groups == 1;
  segment_words_ = side_by_side ? kernel_.width * words_ : words_;
  segments_.clear();
  for (int row = 0; row < kernel_.height; ++row)
    for (int column = 0; column < (side_by_side ? 1 : kernel_.width); ++column)
      segments_.push_back(static_cast<int32_t>(
          (int64_t{row} * kernel_.dilation_height * packed_width_ + column * kernel_.dilation_width) * pixel_words));
  counts_.assign(threads_, std::vector<int32_t>(static_cast<size_t>(kMostPixels) * padded_ * weight_planes_, 0));
  scratch_.assign(threads_, std::vector<uint8_t>(path_.scratch_bytes(kernel_.taps() * words_), 0));
  set_bases(bias_.data());
  return true;
}

// Padded taps have bits of 0. Of levels that is what they are; among signs it is -1: that is taken back, output by output.
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
                       static_cast<uint32_t>(magnitude_[output]) * static_cast<uint32_t>(highest_[output]);
        for (int tap = 0; tap < kernel_.taps() && levels_.planes == 0; ++tap)
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
        const int8_t* values = in + static_cast<size_t>(group) * kernel_.inputs;
        uint32_t* to = bits + static_cast<size_t>(group) * words_;
        if (levels_.planes > 0) {
          path_.pack_levels(values, levels_.zero_point, strip, levels_.planes, plane_words_, to);
        } else {
          path_.pack(values, signs_.least.data() + static_cast<size_t>(group) * kernel_.inputs,
                     signs_.flip.data() + static_cast<size_t>(group) * words_, strip, to);
        }
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
  const int together = path_.pixels / input_planes_;
  const int64_t tiles = (pixels + together - 1) / together;
  const int64_t products = pixels * kernel_.outputs * kernel_.taps() * kernel_.inputs * input_planes_ * weight_planes_;
  if (pool == nullptr || threads_ < 2 || products < kLeastProducts) return run_pixels(group, 0, pixels, 0, out);
  const int64_t parts = std::min<int64_t>(tiles, int64_t{threads_} * 4);
  pool->run(threads_, static_cast<int>(parts), [&](int part, int worker) {
    const int64_t begin = tiles * part / parts * together, end = tiles * (part + 1) / parts * together;
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
  tile.blocks = padded_ / path_.outputs * weight_planes_;
  tile.scratch = scratch_[worker].data();
  const int64_t row = begin / out_width_;
  Pixel pixel{static_cast<int>(row / out_height_), static_cast<int>(row % out_height_),
              static_cast<int>(begin % out_width_)};
  out += begin * outputs + first;
  const int together = path_.pixels / input_planes_;
  const size_t stride = static_cast<size_t>(padded_) * weight_planes_ * input_planes_;
  for (; begin < end; begin += together) {
    const int pixels = static_cast<int>(std::min<int64_t>(together, end - begin));
    const int32_t* bases[kMostPixels];
    tile.count = pixels * input_planes_;
    for (int i = 0; i < pixels; ++i, pixel = pixel.next(out_height_, out_width_)) {
      const int kind = row_class_[pixel.row] * column_classes_ + column_class_[pixel.column];
      bases[i] = bases_.data() + static_cast<size_t>(kind) * outputs + first;
      // Planes of a pixel are pixels to the kernels: they meet the same weights.
      for (int plane = 0; plane < input_planes_; ++plane)
        tile.pixels[i * input_planes_ + plane] = packed_pixel(pixel, group) + plane * plane_words_;
    }
    for (int i = tile.count; i < kMostPixels; ++i) tile.pixels[i] = tile.pixels[0];
    (masks_.empty() ? path_.count : path_.count_masked)(tile, counts);
    add_planes(counts, pixels);
    for (int i = 0; i < pixels; ++i, out += outputs)
      path_.finish(counts + i * stride, bases[i], step_.data() + first, scale_.data() + first, range_, kernel_.outputs,
                   out);
  }
}

// A plane counts as often as its bit does; the sum is where the counts of the first planes were.
void Layer::add_planes(int32_t* counts, int pixels) const {
  const size_t row = static_cast<size_t>(padded_) * weight_planes_;
  for (int pixel = 0; pixel < pixels; ++pixel, counts += row * input_planes_)
    for (int i = 0; i < input_planes_; ++i)
      for (int k = 0; k < weight_planes_; ++k)
        if (i + k > 0) path_.add_shifted(counts, counts + i * row + static_cast<size_t>(k) * padded_, i + k, padded_);
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
    for (int i = 0; i < kernel_.inputs; ++i) sum += weight(output, tap, i) * (values[i] - levels_.zero_point);
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
