#include "graph.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace keras_compress {
namespace {

using lite::Tensor;

// Newest version of each operator whose meaning is known here.
constexpr int kNewestConv2d = 8, kNewestDepthwise = 7, kNewestFullyConnected = 12;
constexpr int kNewestMaxPool2d = 3, kNewestReshape = 1, kNewestTranspose = 7, kNewestSqueeze = 2, kNewestExpandDims = 1;
constexpr int kNewestAdd = 5, kNewestRelu = 3;
// Factors between sums and outputs that XNNPACK takes; others go to kernels that round otherwise.
constexpr float kSmallestScale = 1.0f / 4294967296.0f, kLargestScale = 256.0f;
// Weights are looked at value by value.
constexpr int64_t kMostWeights = int64_t{1} << 30;
// Bytes of sums that depend on where the padding is, beyond which a layer is left alone.
constexpr int64_t kMostBaseBytes = int64_t{64} << 20;
constexpr int kMostRank = 6;
// Words that all taps of an output reach over, holes of dilation included, and with them zeros around an image.
constexpr int64_t kMostReach = int64_t{1} << 22;
// Of kernels, strides and dilations: places that are reckoned with them stay below 2^31.
constexpr int kLargestStep = 4096;

bool constant(const Tensor& tensor) { return tensor.allocation_type == lite::kMemoryMapped && tensor.data != nullptr; }

int64_t elements(const Tensor& tensor) {
  int64_t count = 1;
  for (const int size : *tensor.dims) {
    if (size < 0 || (size > 0 && count > kMostWeights * 4 / size)) return -1;
    count *= size;
  }
  return count;
}

const lite::AffineQuantization* affine(const Tensor& tensor) {
  if (tensor.quantization.type != 1 || tensor.quantization.params == nullptr) return nullptr;
  const auto* found = static_cast<const lite::AffineQuantization*>(tensor.quantization.params);
  if (found->scale == nullptr || found->scale->size < 1) return nullptr;
  if (found->zero_point != nullptr)
    if (found->zero_point->size != found->scale->size && found->zero_point->size != 1) return nullptr;
  return found;
}

// The integers of a constant of 8 or 4 bits.
bool read_integers(const Tensor& tensor, std::vector<int8_t>& values) {
  const int64_t count = elements(tensor);
  if (count < 1 || count > kMostWeights || !constant(tensor)) return false;
  const int8_t* bytes = static_cast<const int8_t*>(tensor.data);
  if (tensor.type == lite::kInt8 && static_cast<int64_t>(tensor.bytes) == count) {
    values.assign(bytes, bytes + count);
    return true;
  }
  // Rows of an odd length go to kernels that round otherwise.
  const bool even_rows = tensor.dims->size > 0 && (*tensor.dims)[tensor.dims->size - 1] % 2 == 0;
  if (tensor.type != lite::kInt4 || !even_rows || static_cast<int64_t>(tensor.bytes) < count / 2) return false;
  values.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    const int half = (static_cast<uint8_t>(bytes[i / 2]) >> (i % 2 * 4)) & 15;
    values[i] = static_cast<int8_t>(half < 8 ? half : half - 16);
  }
  return true;
}

// Integers that the fused activation leaves.
bool clamp_of(int activation, float scale, int32_t zero_point, Range& range) {
  // As XNNPACK does it: in float32, the zero point before rounding, and ties to the even integer.
  const auto integer = [&](float value) {
    const float found = value / scale + static_cast<float>(zero_point);
    return static_cast<int32_t>(std::nearbyint(std::max(-128.0f, std::min(127.0f, found))));
  };
  range = {zero_point, -128, 127};
  if (activation == lite::kNone) return true;
  if (activation == lite::kRelu) {
    range.lowest = std::max(-128, std::min(127, zero_point));
  } else if (activation == lite::kRelu6) {
    range.lowest = integer(0.0f), range.highest = integer(6.0f);
  } else if (activation == lite::kReluN1To1) {
    range.lowest = integer(-1.0f), range.highest = integer(1.0f);
  } else {
    return false;
  }
  return range.lowest < range.highest;
}

}  // namespace

Graph::Graph(lite::Context* context) : context_(context) {
  lite::IntArray* plan = nullptr;
  if (context->GetExecutionPlan(context, &plan) != lite::kOk || plan == nullptr) return;
  // Later calls may reuse the plan's memory.
  const std::vector<int> order(plan->begin(), plan->end());
  for (const int index : order) {
    lite::Node* node = nullptr;
    lite::Registration* registration = nullptr;
    if (context->GetNodeAndRegistration(context, index, &node, &registration) != lite::kOk) return;
    if (node == nullptr || registration == nullptr || !read(node, registration, index)) return;
  }
  valid_ = true;
}

bool Graph::read(const lite::Node* node, const lite::Registration* registration, int index) {
  if (node->inputs == nullptr || node->outputs == nullptr || registration->version < 0) return false;
  for (const lite::IntArray* list : {node->inputs, node->outputs})
    for (const int each : *list)
      if (each < -1 || each >= static_cast<int64_t>(context_->tensors_size)) return false;
  for (const int each : *node->inputs)
    if (each >= 0 && !plausible(context_->tensors[each])) return false;
  const char* name = registration->builtin_code == lite::kCustom ? registration->custom_name : nullptr;
  const bool of_bits = name != nullptr && (std::strcmp(name, bits::kConv) == 0 || std::strcmp(name, bits::kDense) == 0);
  const bool dense = of_bits && std::strcmp(name, bits::kDense) == 0;
  operators_.push_back({index, registration->builtin_code, registration->version, node, of_bits, dense});
  const int place = static_cast<int>(operators_.size()) - 1;
  read_.insert(node->inputs->begin(), node->inputs->end());
  // Made once, before anyone reads it: else proofs would follow from what is not so yet, or go round in a circle.
  return std::all_of(node->outputs->begin(), node->outputs->end(), [&](int each) {
    return each < 0 || (read_.count(each) == 0 && producers_.emplace(each, place).second);
  });
}

// A sign that tensors are laid out as this library thinks: constants of bytes are as long as their shape says.
bool Graph::plausible(const Tensor& tensor) const {
  if (tensor.dims == nullptr || tensor.dims->size < 0 || tensor.dims->size > 32) return false;
  if (tensor.type != lite::kInt8 || !constant(tensor)) return true;
  const int64_t count = elements(tensor);
  return count < 0 || static_cast<int64_t>(tensor.bytes) == count || tensor.sparsity != nullptr;
}

const Tensor* Graph::tensor(int index) const {
  return index < 0 || index >= static_cast<int64_t>(context_->tensors_size) ? nullptr : &context_->tensors[index];
}

const Operator* Graph::producer(int tensor) const {
  const auto found = producers_.find(tensor);
  return found == producers_.end() ? nullptr : &operators_[found->second];
}

std::vector<const Operator*> Graph::consumers(int tensor) const {
  std::vector<const Operator*> found;
  for (const Operator& op : operators_)
    if (std::find(op.node->inputs->begin(), op.node->inputs->end(), tensor) != op.node->inputs->end())
      found.push_back(&op);
  return found;
}

// One scale for the whole tensor, which no constant, variable or sparse tensor is.
bool Graph::int8_activation(int index) const {
  const Tensor* found = tensor(index);
  if (found == nullptr || found->dims == nullptr || found->type != lite::kInt8 || constant(*found)) return false;
  if (found->is_variable || found->sparsity != nullptr || found->dims->size > kMostRank) return false;
  const auto* quantization = affine(*found);
  return quantization != nullptr && quantization->scale->size == 1 && found->params.scale > 0 &&
         std::isfinite(found->params.scale);
}

std::unique_ptr<Weighted> Graph::weighted(const Operator& op) const {
  if (op.node->inputs->size < 2 || op.node->inputs->size > 3 || op.node->outputs->size != 1) return nullptr;
  if (op.node->builtin_data == nullptr && !op.of_bits) return nullptr;
  auto found = std::make_unique<Weighted>();
  found->input = (*op.node->inputs)[0], found->output = (*op.node->outputs)[0];
  if (!int8_activation(found->input) || !int8_activation(found->output)) return nullptr;
  found->input_zero_point = context_->tensors[found->input].params.zero_point;
  if (op.of_bits) return read_bits(op, *found) && read_bias(op, *found) ? std::move(found) : nullptr;
  if (!read_constants(op, *found) || !read_bias(op, *found) || !read_kernel(op, *found)) return nullptr;
  return found;
}

bits::Options Graph::options_of(const Operator& op, bool& good) const {
  bits::Options options{};
  const auto* custom = static_cast<const uint8_t*>(op.node->custom_initial_data);
  good = op.of_bits && op.node->custom_initial_data_size > 0 &&
         bits::read(custom, static_cast<size_t>(op.node->custom_initial_data_size), options);
  return options;
}

// Bits become integers of bytes, which `Layer` packs anew.
bool Graph::read_bits(const Operator& op, Weighted& found) const {
  bool good = false;
  const bits::Options options = options_of(op, good);
  const Tensor* weights = tensor((*op.node->inputs)[1]);
  if (!good || weights == nullptr || weights->type != lite::kUInt8 || !constant(*weights) || weights->sparsity != nullptr)
    return false;
  const lite::IntArray &shape = *weights->dims, &given = *context_->tensors[found.input].dims;
  const int64_t row = options.row();
  if (shape.size != 2 || shape[0] < 1 || shape[1] != options.row_bytes() || row > kMostWeights / shape[0]) return false;
  if (static_cast<int64_t>(weights->bytes) != int64_t{shape[0]} * shape[1]) return false;
  if (options.magnitude_count != 1 && options.magnitude_count != static_cast<size_t>(shape[0])) return false;
  Kernel& kernel = found.kernel;
  kernel.inputs = static_cast<int>(options.inputs), kernel.outputs = shape[0];
  if (op.dense) {
    if (given.size < 1 || row != options.inputs) return false;
    found.dense = true, found.keeps_dimensions = options.keeps_dimensions;
  } else {
    kernel.height = options.height, kernel.width = options.width, kernel.same = options.same;
    kernel.stride_height = options.stride_height, kernel.stride_width = options.stride_width;
    kernel.dilation_height = options.dilation_height, kernel.dilation_width = options.dilation_width;
    const auto sizes = {kernel.height,       kernel.width,           kernel.stride_height,
                        kernel.stride_width, kernel.dilation_height, kernel.dilation_width};
    if (std::max(sizes) > kLargestStep || given.size != 4 || given[3] < 1 || given[3] % kernel.inputs != 0) return false;
    kernel.groups = given[3] / kernel.inputs;
    if (shape[0] % kernel.groups != 0) return false;
    kernel.outputs = shape[0] / kernel.groups;
  }
  found.weights.reserve(static_cast<size_t>(shape[0]) * row);
  const auto* bytes = static_cast<const uint8_t*>(weights->data);
  for (int output = 0; output < shape[0]; ++output, bytes += shape[1])
    for (int64_t i = 0; i < row; ++i)
      found.weights.push_back(static_cast<int8_t>(options.magnitude(output) * bits::weight(options, bytes, i)));
  return read_scales(op, options.activation, found);
}

bool Graph::read_constants(const Operator& op, Weighted& found) const {
  const Tensor* weights = tensor((*op.node->inputs)[1]);
  return weights != nullptr && weights->sparsity == nullptr && read_integers(*weights, found.weights);
}

bool Graph::read_bias(const Operator& op, Weighted& found) const {
  const Tensor* bias = op.node->inputs->size == 3 ? tensor((*op.node->inputs)[2]) : nullptr;
  if (bias == nullptr) return true;
  const int64_t count = elements(*bias);
  if (bias->type != lite::kInt32 || !constant(*bias) || count < 1 || static_cast<int64_t>(bias->bytes) != count * 4)
    return false;
  const int32_t* values = static_cast<const int32_t*>(bias->data);
  found.bias.assign(values, values + count);
  return true;
}

bool Graph::read_kernel(const Operator& op, Weighted& found) const {
  const lite::IntArray& shape = *context_->tensors[(*op.node->inputs)[1]].dims;
  const lite::IntArray& given = *context_->tensors[found.input].dims;
  Kernel& kernel = found.kernel;
  if (op.kind == lite::kFullyConnected) {
    const auto* params = static_cast<const lite::FullyConnectedParams*>(op.node->builtin_data);
    if (op.version > kNewestFullyConnected || shape.size != 2 || params->weights_format != 0) return false;
    kernel.outputs = shape[0], kernel.inputs = shape[1];
    found.dense = true;
    found.keeps_dimensions = params->keep_num_dims != 0;
    return given.size > 0 && read_scales(op, params->activation, found);
  }
  if (shape.size != 4 || given.size != 4) return false;
  kernel.height = shape[1], kernel.width = shape[2];
  const auto geometry = [&](const auto* params) {
    kernel.same = params->padding == lite::kSame;
    kernel.stride_height = params->stride_height, kernel.stride_width = params->stride_width;
    kernel.dilation_height = params->dilation_height_factor, kernel.dilation_width = params->dilation_width_factor;
    const auto sizes = {kernel.height,       kernel.width,           kernel.stride_height,
                        kernel.stride_width, kernel.dilation_height, kernel.dilation_width};
    const bool known = params->padding == lite::kSame || params->padding == lite::kValid;
    return known && std::min(sizes) > 0 && std::max(sizes) <= kLargestStep;
  };
  if (op.kind == lite::kConv2d) {
    const auto* params = static_cast<const lite::ConvParams*>(op.node->builtin_data);
    kernel.inputs = shape[3];
    if (op.version > kNewestConv2d || kernel.inputs < 1 || given[3] % kernel.inputs != 0 || given[3] < 1) return false;
    kernel.groups = given[3] / kernel.inputs;
    if (shape[0] % kernel.groups != 0) return false;
    kernel.outputs = shape[0] / kernel.groups;
    return geometry(params) && read_scales(op, params->activation, found);
  }
  if (op.kind != lite::kDepthwiseConv2d) return false;
  const auto* params = static_cast<const lite::DepthwiseConvParams*>(op.node->builtin_data);
  if (op.version > kNewestDepthwise || shape[0] != 1 || shape[3] != given[3] || params->depth_multiplier != 1)
    return false;
  found.depthwise = true;
  kernel.groups = shape[3], kernel.inputs = 1, kernel.outputs = 1;
  return geometry(params) && read_scales(op, params->activation, found);
}

bool Graph::read_scales(const Operator& op, int activation, Weighted& found) const {
  const Tensor& weights = context_->tensors[(*op.node->inputs)[1]];
  const lite::AffineQuantization* quantization = affine(weights);
  const int outputs = found.kernel.groups * found.kernel.outputs;
  if (quantization == nullptr || outputs < 1) return false;
  const int scales = quantization->scale->size;
  if (scales != 1 && (scales != outputs || quantization->quantized_dimension != (found.depthwise ? 3 : 0))) return false;
  if (quantization->zero_point != nullptr)
    for (const int zero_point : *quantization->zero_point)
      if (zero_point != 0) return false;
  if (!found.bias.empty() && static_cast<int>(found.bias.size()) != outputs) return false;
  const float input = context_->tensors[found.input].params.scale;
  const float output = context_->tensors[found.output].params.scale;
  for (int i = 0; i < outputs; ++i) {
    // In float32 and in this order, as XNNPACK computes it.
    const float scale = input * quantization->scale->begin()[scales == 1 ? 0 : i] / output;
    if (!(scale >= kSmallestScale && scale < kLargestScale)) return false;
    found.scale.push_back(scale);
  }
  return clamp_of(activation, output, context_->tensors[found.output].params.zero_point, found.range);
}

std::unique_ptr<Weighted> Graph::binary(const Operator& op) const {
  if (op.kind != lite::kConv2d && op.kind != lite::kFullyConnected && !op.of_bits) return nullptr;
  if (op.node->inputs->size < 1) return nullptr;
  const int input = (*op.node->inputs)[0];
  const SignProof proof = this->proof(input);
  Levels levels = proof != SignProof::kNone ? Levels() : this->levels(input);
  bool unproven = proof == SignProof::kGiven;
  if (proof == SignProof::kNone && levels.planes == 0) {
    bool good = false;
    const bits::Options options = options_of(op, good);
    if (!good || !int8_activation(input)) return nullptr;
    // No one else computes it: what the file says of its inputs is looked at. Signs have no zero point.
    const int zero_point = context_->tensors[input].params.zero_point;
    unproven = true;
    if (options.input_bits > 0 || zero_point != 0) levels = {std::max(1, options.input_bits), zero_point};
  }
  auto found = weighted(op);
  if (found == nullptr || (levels.planes == 0 && found->input_zero_point != 0)) return nullptr;
  const Kernel& kernel = found->kernel;
  found->levels = levels, found->unproven = unproven;
  if (int64_t{kernel.taps()} * kernel.groups * kernel.outputs * 16 > kMostBaseBytes) return nullptr;
  const int64_t reach = (int64_t{kernel.height - 1} * kernel.dilation_height + 1) *
                        (int64_t{kernel.width - 1} * kernel.dilation_width + 1);
  if (reach > kMostReach / kernel.groups / (kernel.inputs / kBits + 1)) return nullptr;
  found->values = Layer::values_of(kernel, found->weights.data());
  return found->values != Values::kOther ? std::move(found) : nullptr;
}

std::unique_ptr<Weighted> Graph::sign(const Operator& op) const {
  if (op.kind != lite::kDepthwiseConv2d || !is_sign_operator(op)) return nullptr;
  auto found = weighted(op);
  const bool one_tap = found != nullptr && found->kernel.taps() == 1;
  return one_tap && found->kernel.stride_height == 1 && found->kernel.stride_width == 1 ? std::move(found) : nullptr;
}

// Sums of even products and an odd bias are never 0; what is at least half a step from 0 rounds to -1 or 1 or beyond.
bool Graph::is_sign_operator(const Operator& op) const {
  if (op.kind != lite::kConv2d && op.kind != lite::kDepthwiseConv2d && op.kind != lite::kFullyConnected && !op.of_bits)
    return false;
  const auto found = weighted(op);
  if (found == nullptr || found->range.zero_point != 0 || found->range.lowest != -1 || found->range.highest != 1)
    return false;
  if (found->bias.empty()) return false;
  const auto odd = [](int value) { return value % 2 != 0; };
  return std::none_of(found->weights.begin(), found->weights.end(), odd) &&
         std::all_of(found->bias.begin(), found->bias.end(), odd) &&
         std::all_of(found->scale.begin(), found->scale.end(), [](float scale) { return scale > 0.51f; });
}

// Operators that move values, or choose among them; none changes one.
bool Graph::passes_signs(const Operator& op) const {
  switch (op.kind) {
    case lite::kReshape: return op.version <= kNewestReshape;
    case lite::kTranspose: return op.version <= kNewestTranspose;
    case lite::kSqueeze: return op.version <= kNewestSqueeze;
    case lite::kExpandDims: return op.version <= kNewestExpandDims;
    case lite::kMaxPool2d: break;
    default: return false;
  }
  const auto* params = static_cast<const lite::PoolParams*>(op.node->builtin_data);
  if (params == nullptr || op.version > kNewestMaxPool2d || op.node->outputs->size != 1) return false;
  // Who clips at 0 makes zeros of -1.
  if (params->activation != lite::kReluN1To1) return params->activation == lite::kNone;
  const Tensor* made = tensor((*op.node->outputs)[0]);
  return made != nullptr && made->params.scale == 1.0f && made->params.zero_point == 0;
}

std::string Graph::refusal(const Operator& op) const {
  const auto* custom = static_cast<const uint8_t*>(op.node->custom_initial_data);
  const int version = bits::version_of(custom, static_cast<size_t>(std::max(0, op.node->custom_initial_data_size)));
  if (version > bits::kVersion)
    return "weights as bits in version " + std::to_string(version) + "; this library is older and reads version " +
           std::to_string(bits::kVersion);
  return version < 0 ? "damaged options" : "weights or settings that it cannot compute, or that are damaged";
}

SignProof Graph::proof(int index) const {
  for (;;) {
    if (!int8_activation(index)) return SignProof::kNone;
    const Operator* made = producer(index);
    if (made == nullptr) {
      const lite::QuantizationParams& params = context_->tensors[index].params;
      return params.scale == 1.0f && params.zero_point == 0 ? SignProof::kGiven : SignProof::kNone;
    }
    if (!passes_signs(*made)) return is_sign_operator(*made) ? SignProof::kProven : SignProof::kNone;
    if (made->node->inputs->size < 1) return SignProof::kNone;
    index = (*made->node->inputs)[0];  // never round in a circle: see `read`
  }
}

// Integers that the operator's activation leaves.
bool Graph::range_of(const Operator& op, Range& range) const {
  const void* given = op.node->builtin_data;
  const Tensor* made = op.node->outputs->size == 1 ? tensor((*op.node->outputs)[0]) : nullptr;
  if (made == nullptr || (given == nullptr && op.kind != lite::kReluOperator && !op.of_bits)) return false;
  int activation = lite::kNone;
  if (op.kind == lite::kConv2d && op.version <= kNewestConv2d) {
    activation = static_cast<const lite::ConvParams*>(given)->activation;
  } else if (op.kind == lite::kDepthwiseConv2d && op.version <= kNewestDepthwise) {
    activation = static_cast<const lite::DepthwiseConvParams*>(given)->activation;
  } else if (op.kind == lite::kFullyConnected && op.version <= kNewestFullyConnected) {
    activation = static_cast<const lite::FullyConnectedParams*>(given)->activation;
  } else if (op.kind == lite::kAdd && op.version <= kNewestAdd) {
    activation = static_cast<const lite::AddParams*>(given)->activation;
  } else if (op.kind == lite::kReluOperator && op.version <= kNewestRelu) {
    activation = lite::kRelu;
  } else if (op.of_bits) {
    bool good = false;
    activation = options_of(op, good).activation;
    if (!good) return false;
  }
  return activation != lite::kNone && clamp_of(activation, made->params.scale, made->params.zero_point, range);
}

Levels Graph::levels(int index) const {
  if (!int8_activation(index)) return {};
  const lite::QuantizationParams& wanted = context_->tensors[index].params;
  for (;;) {
    if (!int8_activation(index)) return {};
    const lite::QuantizationParams& params = context_->tensors[index].params;
    const Operator* made = producer(index);
    if (made == nullptr || params.scale != wanted.scale || params.zero_point != wanted.zero_point) return {};
    if (passes_signs(*made)) {
      if (made->node->inputs->size < 1) return {};
      index = (*made->node->inputs)[0];
      continue;
    }
    Range range{};
    if (!range_of(*made, range) || range.lowest != params.zero_point || range.highest > params.zero_point + 3) return {};
    return {range.highest > params.zero_point + 1 ? 2 : 1, params.zero_point};
  }
}

Signs thresholds(const Weighted& sign, int groups, int inputs) {
  Signs signs = Signs::plain(groups, inputs);
  const int words = static_cast<int>(signs.flip.size()) / groups;
  for (int channel = 0; channel < groups * inputs; ++channel) {
    const int64_t weight = sign.weights[channel], bias = sign.bias[channel];
    const auto positive = [&](int value) { return weight * (value - sign.input_zero_point) + bias > 0; };
    const bool falling = weight < 0;
    int least = -128;
    while (least <= 127 && positive(least) == falling) ++least;
    bool flip = falling;
    // From `least` on the sign is the other one; where it never is, -128 with the opposite meaning says the same.
    if (least > 127) least = -128, flip = !flip;
    signs.least[channel] = static_cast<int8_t>(least);
    if (flip) signs.flip[channel / inputs * words + channel % inputs / kBits] |= 1u << (channel % inputs % kBits);
  }
  return signs;
}

}  // namespace keras_compress
