// libFuzzer's target: bytes become layers of any settings, or graphs with something wrong in them, that the delegate gets
// handed. What it takes must give the integers of plain loops; nothing may crash, hang or read what is not there.
//
// Without libFuzzer (KC_ALONE): bytes of a random generator. Arguments: how many, the first seed.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kc_binary.h"
#include "layer.h"
#include "mock_runtime.h"
#include "paths.h"
#include "pool.h"

namespace {

using keras_compress::Kernel;
using keras_compress::Layer;
using keras_compress::Values;
using mock::Op;
using mock::Runtime;
namespace lite = keras_compress::lite;

// Choices out of bytes; zeros where they end.
class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint32_t word() {
    uint32_t found = 0;
    for (int i = 0; i < 4; ++i) found = found << 8 | byte();
    return found;
  }
  uint8_t byte() { return place_ < size_ ? data_[place_++] : 0; }
  int from(int low, int high) { return low + byte() % (high - low + 1); }
  template <typename T>
  T of(const std::vector<T>& values) { return values[byte() % values.size()]; }

 private:
  const uint8_t* data_;
  size_t size_, place_ = 0;
};

// Many values of few choices.
class Filler {
 public:
  explicit Filler(uint32_t seed) : engine_(seed) {}
  int from(int low, int high) { return low + static_cast<int>(engine_() % static_cast<uint32_t>(high - low + 1)); }
  int of(const std::vector<int>& values) { return values[from(0, static_cast<int>(values.size()) - 1)]; }

 private:
  std::mt19937 engine_;
};

const std::vector<std::vector<int>> kWeights = {{-1, 1}, {-1, 0, 1}, {-3, -1, 1, 3}, {-2, -1, 0, 1}, {0}};
// Operators that were taken, and outputs that were compared.
long taken = 0, compared = 0;

const char* const kPaths[] = {"portable", "avx2", "avx512", "neon"};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

std::vector<uint8_t> bytes_of(const std::vector<int32_t>& values) {
  const auto* first = reinterpret_cast<const uint8_t*>(values.data());
  return {first, first + 4 * values.size()};
}

// A layer on its own.
void kernels(Choices& choose) {
  Kernel k;
  k.groups = choose.from(1, 3), k.inputs = choose.from(1, 70), k.outputs = choose.from(1, 40);
  k.height = choose.from(1, 4), k.width = choose.from(1, 4), k.same = choose.from(0, 1) != 0;
  k.stride_height = choose.from(1, 4), k.stride_width = choose.from(1, 4);
  k.dilation_height = choose.from(1, 5), k.dilation_width = choose.from(1, 5);
  const reference::Image image = {choose.from(1, 3), choose.from(1, 7), choose.from(1, 7), k.groups * k.inputs};
  const std::vector<int> multiples = choose.of(kWeights);
  const int magnitude = choose.of(std::vector<int>{1, 2, 41, 127});
  keras_compress::Levels levels = {choose.from(0, 2), choose.from(-128, 124)};
  if (levels.planes == 0) levels.zero_point = 0;
  Filler fill(choose.word());
  std::vector<int8_t> weights;
  for (int i = 0; i < k.groups * k.outputs * k.taps() * k.inputs; ++i)
    weights.push_back(static_cast<int8_t>(magnitude * fill.of(multiples)));
  std::vector<int32_t> bias;
  std::vector<float> scale;
  for (int i = 0; i < k.groups * k.outputs; ++i) {
    bias.push_back(fill.from(-5000, 5000));
    scale.push_back(static_cast<float>(fill.from(1, 4096)) / 65536.0f);
  }
  std::vector<int8_t> given;
  std::vector<int> meaning;
  for (int i = 0; i < image.batch * image.height * image.width * image.channels; ++i) {
    const int value = levels.planes == 0 ? fill.of({-1, 1}) : fill.from(0, (1 << levels.planes) - 1);
    meaning.push_back(value);
    given.push_back(static_cast<int8_t>(levels.planes == 0 ? value : value + levels.zero_point));
  }
  if (Layer::values_of(k, weights.data()) == Values::kOther) return;
  const keras_compress::Range range = {choose.from(-128, 127), -128, 127};
  const auto wanted = reference::convolved(k, image, meaning, weights, bias, scale, range);
  keras_compress::Pool pool;
  for (const char* name : kPaths) {
    const keras_compress::Path* path = keras_compress::find_path(name);
    if (path == nullptr) continue;
    Layer layer(*path, k, weights.data(), bias.data(), scale.data(), range,
                keras_compress::Signs::plain(k.groups, k.inputs), levels);
    if (!layer.resize(image.batch, image.height, image.width, 2)) {
      if (!wanted.empty()) fail("an image was refused");
      continue;
    }
    std::vector<int8_t> got(wanted.size(), 99);
    layer.run(given.data(), got.data(), &pool);
    if (got != wanted) fail("a layer differs");
    layer.run_any(given.data(), got.data());
    if (got != wanted) fail("a layer of any inputs differs");
  }
}

// What an operator makes: signs, levels, or any integers. Its quantization, and the activation that makes it so.
struct Style {
  int kind, activation;
  float scale;
  int zero_point;
};

Style style_of(Choices& choose) {
  switch (choose.from(0, 4)) {
    case 0:
    case 1: return {0, lite::kReluN1To1, 1.0f, 0};
    case 2: return {1, lite::kRelu, 1.5f, choose.of(std::vector<int>{124, 126, 120})};
    case 3: return {1, lite::kRelu6, choose.of(std::vector<float>{2.0f, 6.0f, 1.0f}), choose.from(-128, 120)};
    default: return {2, choose.from(0, 3), 0.07f, choose.from(-128, 127)};
  }
}

// The last operator as one whose weights are bits, put together anew from the format's description.
void as_bits(Runtime& made, Choices& choose, const std::vector<int>& multiples, int magnitude) {
  Op& op = made.ops.back();
  const mock::Value kernel = made.values[op.inputs[1]];
  const std::vector<int> shape = kernel.dims.values();
  const bool dense = op.kind == lite::kFullyConnected, ternary = multiples.size() == 3, two_bits = multiples.size() == 4;
  const int outputs = shape[0], row = static_cast<int>(kernel.bytes.size()) / outputs, plane = (row + 7) / 8;
  const int row_bytes = plane * (ternary || two_bits ? 2 : 1);
  std::vector<uint8_t> rows(static_cast<size_t>(outputs) * row_bytes, 0);
  for (int output = 0; output < outputs; ++output)
    for (int i = 0; i < row; ++i) {
      const int weight = static_cast<int8_t>(kernel.bytes[output * row + i]) / magnitude;
      const auto set = [&](int number) { rows[output * row_bytes + number * plane + i / 8] |= 1 << (i % 8); };
      if (two_bits ? weight == 3 || weight == -1 : weight > 0) set(0);
      if (two_bits ? weight > 0 : ternary && weight != 0) set(1);
    }
  const int tensor = made.add_constant(lite::kUInt8, {outputs, row_bytes}, rows, kernel.scale);
  const auto& o = op.options;
  const int inputs = shape.back();
  std::vector<int> halves = {dense ? 1 : shape[1], dense ? 1 : shape[2], dense ? 1 : o[2], dense ? 1 : o[1],
                             dense ? 1 : o[5], dense ? 1 : o[4], inputs, 0};
  std::string bytes = {'K', 'C', 'B', 1, static_cast<char>(two_bits ? 3 : ternary ? 2 : 1),
                       static_cast<char>(choose.from(0, 2)), static_cast<char>(dense ? 1 : o[0] - 1),
                       static_cast<char>(dense ? o[0] : o[3])};
  for (const int half : halves) bytes += {static_cast<char>(half), static_cast<char>(half >> 8)};
  bytes += std::string{0, 3, 0, 0} + std::string(choose.from(0, 1) != 0 ? 1 : outputs, static_cast<char>(magnitude));
  op.custom_name = dense ? "KC_BINARY_DENSE" : "KC_BINARY_CONV_2D", op.custom_options = bytes;
  op.stands_for = op.kind, op.kind = lite::kCustom, op.weights = op.inputs[1], op.inputs[1] = tensor;
  op.sealed = made.seal(op);
}

int weighted(Runtime& made, Choices& choose, Filler& fill, int input, lite::Operator kind) {
  const std::vector<int> shape = made.values[input].dims.values();
  const int channels = shape.back(), groups = kind == lite::kConv2d && channels % 2 == 0 ? choose.from(1, 2) : 1;
  const int outputs = kind == lite::kDepthwiseConv2d ? channels : groups * choose.from(1, 20);
  const bool image = kind != lite::kFullyConnected;
  const int height = image ? choose.from(1, 3) : 1, width = image ? choose.from(1, 3) : 1;
  const Style style = style_of(choose);
  std::vector<int> weights_shape = {outputs, height, width, channels / groups};
  if (kind == lite::kDepthwiseConv2d) weights_shape = {1, height, width, channels};
  if (!image) weights_shape = {outputs, channels};
  const std::vector<int> multiples = choose.of(kWeights);
  const int magnitude = choose.of(std::vector<int>{2, 1, 40, 64, 127});
  std::vector<uint8_t> weights;
  int count = 1;
  for (const int size : weights_shape) count *= size;
  for (int i = 0; i < count; ++i) {
    // What leaves 8 bits wraps around.
    weights.push_back(static_cast<uint8_t>(magnitude * fill.of(multiples)));
  }
  std::vector<int32_t> bias;
  for (int i = 0; i < outputs; ++i) bias.push_back(2 * fill.from(-40, 40) + (style.kind == 0 ? 1 : 0));
  std::vector<float> scale(choose.from(0, 1) != 0 ? outputs : 1, style.kind == 0 ? 4.0f : 0.02f);
  const int kernel = made.add_constant(lite::kInt8, weights_shape, weights, scale, kind == lite::kDepthwiseConv2d ? 3 : 0);
  const int offset = made.add_constant(lite::kInt32, {outputs}, bytes_of(bias), scale);
  const int output = made.add({1}, style.scale, style.zero_point);
  Op op;
  op.kind = kind, op.version = 3, op.inputs = {input, kernel, offset}, op.outputs = {output};
  if (choose.from(0, 9) == 0) op.inputs.pop_back();
  const int padding = choose.of(std::vector<int>{lite::kSame, lite::kSame, lite::kValid});
  if (kind == lite::kFullyConnected) {
    op.options = {style.activation, 0, 0, 0};
  } else if (kind == lite::kConv2d) {
    op.options = {padding, choose.from(1, 2), choose.from(1, 2), style.activation, choose.from(1, 2), choose.from(1, 2)};
  } else {
    op.options = {padding, 1, 1, 1, style.activation, 1, 1};
  }
  made.ops.push_back(op);
  const bool fits = multiples.size() <= 3 || (multiples[0] == -3 && magnitude <= 40);
  if (kind != lite::kDepthwiseConv2d && multiples.size() > 1 && fits && choose.from(0, 2) == 0)
    as_bits(made, choose, multiples, magnitude);
  return output;
}

int moved(Runtime& made, Choices& choose, int input) {
  const mock::Value& from = made.values[input];
  const float scale = from.scale[0];
  const int zero_point = from.zero_point.values()[0];
  const int output = made.add({1}, scale, zero_point);
  Op op;
  op.kind = choose.of(std::vector<int>{lite::kReshape, lite::kReluOperator, lite::kMaxPool2d, lite::kTranspose});
  op.inputs = {input}, op.outputs = {output};
  op.options = {lite::kSame, 1, 1, 1, 1, choose.from(0, 3)};
  made.ops.push_back(op);
  return output;
}

int weights_of(const Op& op) { return op.stands_for >= 0 ? op.weights : op.inputs[1]; }

// Shapes as far as they are known, so that the next operator fits.
void give_shape(Runtime& made, int output, bool flat) {
  const Op& op = made.ops.back();
  const std::vector<int> in = made.values[op.inputs[0]].dims.values();
  std::vector<int> shape = in;
  if (op.inputs.size() > 1) {
    const std::vector<int> weights = made.values[weights_of(op)].dims.values();
    shape.back() = op.kind == lite::kDepthwiseConv2d ? weights.back() : weights[0];
  }
  if (op.kind == lite::kConv2d || op.stands_for == lite::kConv2d) {
    for (int i = 1; i < 3; ++i) {
      const int taps = made.values[weights_of(op)].dims.values()[i];
      shape[i] = reference::out_size(op.options[0] == lite::kSame, in[i], taps, op.options[3 - i], op.options[6 - i]);
    }
  }
  if (op.kind == lite::kDepthwiseConv2d)
    for (int i = 1; i < 3; ++i)
      shape[i] = reference::out_size(op.options[0] == lite::kSame, in[i], made.values[op.inputs[1]].dims.values()[i], 1, 1);
  if (flat) {
    int count = 1;
    for (size_t i = 1; i < in.size(); ++i) count *= in[i];
    shape = {in[0], count};
  }
  made.values[output].dims.set(shape);
}

// Something that no converter would write.
void damage(Runtime& made, Choices& choose) {
  mock::Value& value = made.values[choose.byte() % made.values.size()];
  Op& op = made.ops[choose.byte() % made.ops.size()];
  const int number = choose.of(std::vector<int>{0, 1, 2, 3, -1, 7, 127, 128, 255, 1 << 20, INT32_MAX, INT32_MIN});
  const float real = choose.of(std::vector<float>{0.0f, -1.0f, 1e-30f, 1e30f, 0.5f, 2.0f / 3.0f, INFINITY, NAN, 3.0f});
  const auto at = [&](auto& list) -> auto& { return list[choose.byte() % list.size()]; };
  switch (choose.from(0, 19)) {
    case 0: value.type = static_cast<lite::Type>(choose.from(0, 20)); break;
    case 1: value.dims.set({number}); break;
    case 2: {
      std::vector<int> dims = value.dims.values();
      if (!dims.empty()) at(dims) = number;
      value.dims.set(dims);
      break;
    }
    case 3: value.bytes.resize(value.constant ? choose.byte() : value.bytes.size()); break;
    case 4: if (!value.bytes.empty()) at(value.bytes) = choose.byte(); break;
    case 5: if (!value.scale.empty()) at(value.scale) = real; break;
    case 6: value.scale.assign(choose.from(0, 5), 1.0f); break;
    case 7: value.zero_point.set(std::vector<int>(choose.from(0, 3), number)); break;
    case 8: value.dimension = number; break;
    case 9: value.quantized = false; break;
    case 10: value.variable = true; break;
    case 11: value.sparse = true; break;
    case 12: value.constant = !value.constant; break;
    case 13: if (!op.options.empty()) at(op.options) = number; break;
    case 14: op.version = number; break;
    case 15:
      op.kind = choose.of(std::vector<int>{0, 3, 4, 9, 17, 19, 22, 39, 43, 70, 32});
      if (!op.options.empty()) op.options.resize(8);  // a runtime's are as long as the operator wants them
      break;
    case 16: if (!op.inputs.empty()) at(op.inputs) = choose.from(-1, static_cast<int>(made.values.size()) + 1); break;
    case 17: if (!op.custom_options.empty()) at(op.custom_options) = static_cast<char>(choose.byte()); break;
    case 18: if (!op.custom_options.empty()) op.custom_options.resize(choose.from(0, 40)); break;
    default: if (choose.from(0, 1) != 0) op.options.clear(); else if (!op.inputs.empty()) op.inputs.pop_back(); break;
  }
}

void build(Runtime& made, const uint8_t* data, size_t size) {
  Choices choose(data, size);
  choose.byte();
  Filler fill(choose.word());
  const Style style = style_of(choose);
  std::vector<int> shape = {choose.from(1, 2), choose.from(1, 6), choose.from(1, 6), choose.from(1, 40)};
  if (choose.from(0, 3) == 0) shape = {shape[0], shape[3]};
  int last = made.add(shape, style.scale, style.zero_point);
  made.values[last].fed = true;
  const int count = choose.from(1, 4);
  for (int i = 0; i < count; ++i) {
    const bool image = made.values[last].dims.values().size() == 4;
    const int kind = choose.from(0, 5);
    int output = -1;
    if (kind == 0) {
      output = moved(made, choose, last);
    } else if (kind == 1 || !image) {
      output = weighted(made, choose, fill, last, lite::kFullyConnected);
    } else {
      output = weighted(made, choose, fill, last, kind == 2 ? lite::kDepthwiseConv2d : lite::kConv2d);
    }
    const Op& op = made.ops.back();
    give_shape(made, output, op.kind == lite::kReshape);
    if ((op.kind == lite::kFullyConnected || op.stands_for == lite::kFullyConnected) && image) {
      const std::vector<int> in = made.values[last].dims.values();
      made.values[output].dims.set({in[0] * in[1] * in[2], made.values[weights_of(op)].dims.values()[0]});
    }
    if (choose.from(0, 3) == 0) made.outputs.push_back(output);
    last = output;
  }
  made.outputs.push_back(last);
  for (int damages = choose.from(0, 3); damages > 1; --damages) damage(made, choose);
}

// What is fed; false where the runtime would have refused the shape.
bool feed(Runtime& made, uint32_t seed, bool signs) {
  Filler fill(seed);
  mock::Value& value = made.values[0];
  const int64_t count = made.elements(value);
  if (count < 0 || value.constant) return false;
  value.bytes.clear();
  for (int64_t i = 0; i < count; ++i)
    value.bytes.push_back(static_cast<uint8_t>(signs ? fill.of({-1, 1}) : fill.from(-128, 127)));
  return true;
}

void compare(const Runtime& stock, const Runtime& own) {
  for (const int output : stock.outputs) {
    const mock::Value &wanted = stock.values[output], &got = own.values[output];
    if (!wanted.known) continue;
    if (wanted.dims.values() != got.dims.values()) fail("a shape differs");
    if (wanted.bytes != got.bytes) fail("an output differs");
    ++compared;
  }
}

bool sound(const Runtime& made) {
  for (const Op& op : made.ops) {
    for (const int input : op.inputs)
      if (input >= static_cast<int>(made.values.size())) return false;
  }
  return true;
}

// Two operators that read what the other one makes: a proof that follows them would not end.
void circle(void* delegate) {
  Runtime made;
  made.add({1, 2}, 1.0f, 0), made.add({1, 2}, 1.0f, 0);
  const int kernel = made.add_constant(lite::kInt8, {1, 2}, {1, 1}, {1.0f});
  for (int i = 0; i < 2; ++i) {
    Op op;
    op.kind = lite::kReshape, op.inputs = {1 - i}, op.outputs = {i}, op.options = std::vector<int>(8, 0);
    made.ops.push_back(op);
  }
  Op op;
  op.kind = lite::kFullyConnected, op.inputs = {0, kernel, -1}, op.outputs = {made.add({1, 1}, 1.0f, 0)};
  op.options = std::vector<int>(8, 0);
  made.ops.push_back(op);
  if (!made.delegate_to(static_cast<lite::Delegate*>(delegate))) fail("a circle is an error");
  if (kc_binary_taken(delegate) != 0) fail("a circle was taken");
}

// Graphs, some of them damaged, with the delegate and without.
void graphs(const uint8_t* data, size_t size) {
  Choices choose(data, size);
  const char* path = kPaths[choose.byte() / 2 % 4];
  if (keras_compress::find_path(path) == nullptr) path = "portable";
  char path_key[] = "path", take_key[] = "take", all[] = "all";
  char* keys[] = {path_key, take_key};
  char* values[] = {const_cast<char*>(path), all};
  void* delegate = tflite_plugin_create_delegate(keys, values, 2, nullptr);
  if (delegate == nullptr) fail("no delegate");
  {
    Runtime stock, own;
    build(stock, data, size), build(own, data, size);
    const bool readable = sound(stock);
    if (readable) stock.plan();
    own.plan();
    bool good = own.delegate_to(static_cast<lite::Delegate*>(delegate));
    taken += kc_binary_taken(delegate);
    // A runtime does not read what leads nowhere; the delegate had to look at it.
    for (int turn = 0; readable && good && turn < 3; ++turn) {
      if (turn == 2) {
        for (Runtime* each : {&stock, &own}) {
          std::vector<int> shape = each->values[0].dims.values();
          if (!shape.empty()) shape[0] = 3;
          each->values[0].dims.set(shape);
        }
      }
      good = feed(stock, choose.word(), turn != 1) && feed(own, 0, true);
      own.values[0].bytes = stock.values[0].bytes;
      good = good && stock.prepare() && own.prepare() && own.invoke() && stock.invoke();
      if (good) compare(stock, own);
    }
  }
  tflite_plugin_destroy_delegate(delegate);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Choices choose(data, size);
  if (choose.byte() % 2 == 0) {
    kernels(choose);
  } else {
    graphs(data, size);
  }
  return 0;
}

#if defined(KC_ALONE)
int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 100, first = count > 2 ? std::atoi(arguments[2]) : 0;
  void* delegate = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
  circle(delegate);
  tflite_plugin_destroy_delegate(delegate);
  for (int seed = first; seed < first + cases; ++seed) {
    std::mt19937 engine(static_cast<uint32_t>(seed));
    std::vector<uint8_t> data(96);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(engine());
    if (std::getenv("KC_TELL") != nullptr) std::fprintf(stderr, "%d\n", seed);
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  std::printf("%d cases, %ld operators taken, %ld outputs compared\n", cases, taken, compared);
  return 0;
}
#endif
