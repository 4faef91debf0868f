// A runtime of a few operators, for fuzzing: it hands a delegate graphs that no file reader has looked at, and computes by
// plain loops what the delegate is compared with.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lite_abi.h"
#include "reference.h"

namespace mock {

namespace lite = keras_compress::lite;
using keras_compress::Kernel;
using keras_compress::Range;

// As many integers as the runtime's list has: a count, and the values.
struct List {
  std::vector<int> memory{0};
  void set(const std::vector<int>& values) {
    memory.assign(1, static_cast<int>(values.size()));
    memory.insert(memory.end(), values.begin(), values.end());
  }
  std::vector<int> values() const { return {memory.begin() + 1, memory.end()}; }
  lite::IntArray* get() { return reinterpret_cast<lite::IntArray*>(memory.data()); }
};

struct Value {
  lite::Type type = lite::kInt8;
  List dims;
  std::vector<uint8_t> bytes;
  bool constant = false, variable = false, sparse = false, quantized = true, fed = false;
  std::vector<float> scale{1.0f};
  List zero_point;
  int dimension = 0;
  bool known = true;  // whether what is in it follows from rules that are known here
  std::vector<float> scale_memory;
  lite::AffineQuantization affine{};
};

struct Op {
  int kind = 0, version = 1;
  std::vector<int> inputs, outputs;
  std::vector<int> options;  // as the runtime's structs have them, in order; empty: there are none
  // Of a custom operator that stands for another one: its name and options, the kind and the weights of the other one, and
  // what the bits were when they still were those.
  std::string custom_name, custom_options;
  int stands_for = -1, weights = -1;
  size_t sealed = 0;
  List input_list, output_list;
  lite::Node node{};
  lite::Registration registration{};
};

constexpr int64_t kMostElements = 1 << 18;

inline void say_nothing(lite::Context*, const char*, ...) {}

class Runtime {
 public:
  std::vector<Value> values;
  std::vector<Op> ops;
  std::vector<int> outputs;  // of the graph

  int add(const std::vector<int>& shape, float scale, int zero_point) {
    Value made;
    made.dims.set(shape);
    made.scale = {scale};
    made.zero_point.set({zero_point});
    values.push_back(std::move(made));
    return static_cast<int>(values.size()) - 1;
  }

  int add_constant(lite::Type type, const std::vector<int>& shape, std::vector<uint8_t> bytes, std::vector<float> scale,
                   int dimension = 0) {
    const int made = add(shape, 1.0f, 0);
    Value& value = values[made];
    value.type = type, value.bytes = std::move(bytes), value.scale = std::move(scale), value.dimension = dimension;
    value.zero_point.set(std::vector<int>(value.scale.size(), 0));
    value.constant = true;
    return made;
  }

  // Hands the graph to a delegate; false where it, or the runtime, found an error.
  bool delegate_to(lite::Delegate* delegate) {
    bind();
    delegate_ = delegate;
    return delegate->Prepare(&context_, delegate) == lite::kOk;
  }

  bool prepare() {
    bind();
    for (size_t step = 0; step < steps_.size(); ++step)
      if (steps_[step].partition >= 0) {
        Partition& partition = *partitions_[steps_[step].partition];
        if (partition.registration.prepare(&context_, &partition.node) != lite::kOk) return false;
      } else if (!reserve(ops[steps_[step].op])) {
        return false;
      }
    return true;
  }

  bool invoke() {
    for (const Step& step : steps_) {
      if (step.partition < 0) {
        evaluate(ops[step.op]);
        continue;
      }
      Partition& partition = *partitions_[step.partition];
      if (partition.registration.invoke(&context_, &partition.node) != lite::kOk) return false;
    }
    return true;
  }

  // Steps without a delegate.
  void plan() {
    steps_.clear();
    for (int i = 0; i < static_cast<int>(ops.size()); ++i) steps_.push_back({i, -1});
  }

  ~Runtime() {
    for (const auto& partition : partitions_)
      partition->registration.free(&context_, partition->node.user_data);
  }

  // Changes where bits, or what tells how to read them, change.
  size_t seal(const Op& op) const {
    const Value& rows = values[op.inputs[1]];
    std::string all = op.custom_options + std::string(rows.bytes.begin(), rows.bytes.end()) + op.custom_name;
    for (const int number : rows.dims.values()) all += std::to_string(number) + ",";
    for (const float scale : rows.scale) all += std::to_string(scale) + ",";
    all += std::to_string(rows.type) + std::to_string(rows.dimension) + std::to_string(op.kind) + std::to_string(rows.quantized);
    for (const int number : rows.zero_point.values()) all += std::to_string(number) + ",";
    for (const int number : op.options) all += std::to_string(number) + ",";
    return std::hash<std::string>()(all + (rows.constant ? "c" : "") + (rows.sparse ? "s" : ""));
  }

  int64_t elements(const Value& value) const {
    int64_t count = 1;
    for (const int size : value.dims.values()) {
      if (size < 0 || size > kMostElements) return -1;
      if ((count *= size) > kMostElements) return -1;
    }
    return count;
  }

 private:
  struct Partition {
    lite::Registration registration{};
    lite::Node node{};
    List nodes, inputs, outputs;
  };
  struct Step {
    int op, partition;
  };

  static Runtime& of(lite::Context* context) { return *static_cast<Runtime*>(context->impl); }

  void bind() {
    tensors_.assign(values.size(), {});
    for (size_t i = 0; i < values.size(); ++i) bind_tensor(static_cast<int>(i));
    for (Op& op : ops) {
      op.input_list.set(op.inputs), op.output_list.set(op.outputs);
      op.node.inputs = op.input_list.get(), op.node.outputs = op.output_list.get();
      op.node.builtin_data = op.options.empty() || op.stands_for >= 0 ? nullptr : op.options.data();
      op.registration.custom_name = op.custom_name.empty() ? nullptr : op.custom_name.c_str();
      op.node.custom_initial_data = op.custom_options.data();
      op.node.custom_initial_data_size = static_cast<int>(op.custom_options.size());
      op.registration.builtin_code = op.kind, op.registration.version = op.version;
    }
    context_.tensors = tensors_.data(), context_.tensors_size = tensors_.size();
    context_.impl = this;
    context_.recommended_num_threads = 2;
    context_.GetExecutionPlan = [](lite::Context* context, lite::IntArray** found) {
      Runtime& self = of(context);
      std::vector<int> all;
      for (int i = 0; i < static_cast<int>(self.ops.size()); ++i) all.push_back(i);
      self.plan_list_.set(all);
      *found = self.plan_list_.get();
      return lite::kOk;
    };
    context_.GetNodeAndRegistration = [](lite::Context* context, int index, lite::Node** node, lite::Registration** found) {
      Runtime& self = of(context);
      if (index < 0 || index >= static_cast<int>(self.ops.size())) return lite::kError;
      *node = &self.ops[index].node, *found = &self.ops[index].registration;
      return lite::kOk;
    };
    context_.ResizeTensor = [](lite::Context* context, lite::Tensor* tensor, lite::IntArray* size) {
      Runtime& self = of(context);
      const int index = static_cast<int>(tensor - self.tensors_.data());
      self.values[index].dims.set({size->begin(), size->end()});
      std::free(size);
      if (!self.allocate(index)) return lite::kError;
      self.bind_tensor(index);
      return lite::kOk;
    };
    context_.ReportError = say_nothing;
    context_.ReplaceNodeSubsetsWithDelegateKernels = [](lite::Context* context, lite::Registration registration,
                                                        const lite::IntArray* nodes, lite::Delegate* delegate) {
      of(context).replace(registration, {nodes->begin(), nodes->end()}, delegate);
      return lite::kOk;
    };
  }

  void bind_tensor(int index) {
    static int something = 0;
    Value& value = values[index];
    lite::Tensor& tensor = tensors_[index];
    tensor.type = value.type, tensor.dims = value.dims.get();
    tensor.data = value.bytes.empty() ? nullptr : value.bytes.data();
    tensor.bytes = value.bytes.size();
    tensor.allocation_type = value.constant ? lite::kMemoryMapped : static_cast<lite::Allocation>(2);
    tensor.is_variable = value.variable;
    tensor.sparsity = value.sparse ? &something : nullptr;
    const std::vector<int> zero_points = value.zero_point.values();
    if (value.quantized && !value.scale.empty())
      tensor.params = {value.scale[0], zero_points.empty() ? 0 : zero_points[0]};
    value.scale_memory.assign(1 + value.scale.size(), 0.0f);
    const int count = static_cast<int>(value.scale.size());
    std::memcpy(value.scale_memory.data(), &count, sizeof(count));
    std::copy(value.scale.begin(), value.scale.end(), value.scale_memory.begin() + 1);
    value.affine = {reinterpret_cast<lite::FloatArray*>(value.scale_memory.data()), value.zero_point.get(), value.dimension};
    tensor.quantization = {value.quantized ? 1 : 0, value.quantized ? &value.affine : nullptr};
  }

  bool allocate(int index) {
    Value& value = values[index];
    const int64_t count = elements(value);
    if (count < 0) return false;
    if (!value.constant) value.bytes.assign(static_cast<size_t>(count) * (value.type == lite::kInt32 ? 4 : 1), 0);
    return true;
  }

  // Runs of operators that follow each other.
  void replace(const lite::Registration& registration, const std::vector<int>& nodes, lite::Delegate* delegate) {
    const std::set<int> taken(nodes.begin(), nodes.end());
    steps_.clear();
    for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
      if (taken.count(i) == 0) {
        steps_.push_back({i, -1});
        continue;
      }
      std::vector<int> run;
      for (; i < static_cast<int>(ops.size()) && taken.count(i) != 0; ++i) run.push_back(i);
      --i;
      partitions_.push_back(std::make_unique<Partition>());
      Partition& made = *partitions_.back();
      made.registration = registration;
      made.nodes.set(run);
      std::vector<int> given, wanted;
      const std::set<int> inside(run.begin(), run.end());
      for (const int op : run)
        for (const int output : ops[op].outputs)
          if (output >= 0 && read_outside(output, inside)) wanted.push_back(output);
      made.inputs.set(given), made.outputs.set(wanted);
      lite::DelegateParams params{delegate, made.nodes.get(), made.inputs.get(), made.outputs.get()};
      made.node.user_data = registration.init(&context_, reinterpret_cast<const char*>(&params), 0);
      steps_.push_back({-1, static_cast<int>(partitions_.size()) - 1});
    }
  }

  bool read_outside(int tensor, const std::set<int>& inside) const {
    if (std::find(outputs.begin(), outputs.end(), tensor) != outputs.end()) return true;
    for (int i = 0; i < static_cast<int>(ops.size()); ++i)
      if (inside.count(i) == 0 && std::find(ops[i].inputs.begin(), ops[i].inputs.end(), tensor) != ops[i].inputs.end())
        return true;
    return false;
  }

  // What a stock operator makes: its shape is known before it runs.
  bool reserve(Op& op) {
    if (op.outputs.empty() || op.outputs[0] < 0) return false;
    Value& made = values[op.outputs[0]];
    std::vector<int> shape;
    if (shape_of(op, shape)) made.dims.set(shape);
    if (made.constant || !allocate(op.outputs[0])) return false;
    bind_tensor(op.outputs[0]);
    return true;
  }

  const Value* input(const Op& op, size_t number) const {
    if (number >= op.inputs.size() || op.inputs[number] < 0) return nullptr;
    return &values[op.inputs[number]];
  }

  // The operator's settings, where all of them make sense: `false` where a runtime may do otherwise than this one.
  bool kernel_of(const Op& op, Kernel& k, int& activation) const {
    const Value *in = input(op, 0), *weights = input(op, 1);
    if (in == nullptr || weights == nullptr || !weights->constant || in->constant) return false;
    const std::vector<int> given = in->dims.values(), shape = weights->dims.values();
    if (weights->type != lite::kInt8 || elements(*weights) != static_cast<int64_t>(weights->bytes.size())) return false;
    if (op.kind == lite::kFullyConnected) {
      if (op.options.size() < 3 || shape.size() != 2 || op.options[1] != 0 || op.version > 12) return false;
      k.outputs = shape[0], k.inputs = shape[1], activation = op.options[0];
      return !given.empty() && k.inputs > 0 && k.outputs > 0 && elements(*in) % k.inputs == 0;
    }
    const bool depthwise = op.kind == lite::kDepthwiseConv2d;
    if (op.options.size() < (depthwise ? 7u : 6u) || shape.size() != 4 || given.size() != 4) return false;
    k.height = shape[1], k.width = shape[2];
    const auto& o = op.options;
    const int shift = depthwise ? 1 : 0;
    if ((o[0] != lite::kSame && o[0] != lite::kValid) || op.version > (depthwise ? 7 : 8)) return false;
    k.same = o[0] == lite::kSame, k.stride_width = o[1], k.stride_height = o[2], activation = o[3 + shift];
    k.dilation_width = o[4 + shift], k.dilation_height = o[5 + shift];
    for (const int size : {k.height, k.width, k.stride_height, k.stride_width, k.dilation_height, k.dilation_width})
      if (size < 1 || size > 64) return false;
    if (depthwise) {
      k.groups = shape[3], k.inputs = k.outputs = 1;
      return shape[0] == 1 && shape[3] == given[3] && o[3] == 1 && shape[3] > 0;
    }
    if (shape[3] < 1 || given[3] < 1 || given[3] % shape[3] != 0) return false;
    k.inputs = shape[3], k.groups = given[3] / shape[3];
    k.outputs = shape[0] / k.groups;
    return shape[0] > 0 && shape[0] % k.groups == 0;
  }

  static bool is_weighted(int kind) {
    return kind == lite::kConv2d || kind == lite::kDepthwiseConv2d || kind == lite::kFullyConnected;
  }

  // The operator that a custom one stands for, as long as nothing of it was changed.
  Op stock(const Op& op) const {
    if (op.stands_for < 0 || op.kind != lite::kCustom || op.inputs.size() < 2 || op.inputs[1] < 0) return op;
    if (seal(op) != op.sealed) return op;
    Op found = op;
    found.kind = op.stands_for, found.inputs[1] = op.weights;
    return found;
  }

  bool shape_of(const Op& given, std::vector<int>& shape) const {
    const Op op = stock(given);
    const Value* in = input(op, 0);
    if (in == nullptr) return false;
    shape = in->dims.values();
    if (op.kind == lite::kReluOperator || op.kind == lite::kAdd) return true;
    if (op.kind == lite::kReshape) {
      shape = {shape.empty() ? 1 : shape[0], -1};
      if (shape[0] < 1 || elements(*in) < 0) return false;
      shape[1] = static_cast<int>(elements(*in) / shape[0]);
      return true;
    }
    Kernel k;
    int activation = 0;
    if (!is_weighted(op.kind) || !kernel_of(op, k, activation)) return false;
    if (op.kind == lite::kFullyConnected) {
      shape = {static_cast<int>(elements(*in) / k.inputs), k.outputs};
      return true;
    }
    shape = {shape[0], reference::out_size(k.same, shape[1], k.height, k.stride_height, k.dilation_height),
             reference::out_size(k.same, shape[2], k.width, k.stride_width, k.dilation_width), k.groups * k.outputs};
    return true;
  }

  bool range_of(int activation, const Value& made, Range& range) const {
    const int zero_point = made.zero_point.values()[0];
    const float scale = made.scale[0];
    const auto integer = [&](float value) {
      return static_cast<int>(std::nearbyint(std::min(127.0f, std::max(-128.0f, value / scale + static_cast<float>(zero_point)))));
    };
    range = {zero_point, -128, 127};
    if (activation == lite::kRelu) range.lowest = zero_point;
    if (activation == lite::kRelu6) range.lowest = zero_point, range.highest = integer(6.0f);
    if (activation == lite::kReluN1To1) range.lowest = integer(-1.0f), range.highest = integer(1.0f);
    return activation >= 0 && activation <= 3 && range.lowest < range.highest;
  }

  static bool one_scale(const Value& value) {
    return value.type == lite::kInt8 && value.quantized && value.scale.size() == 1 && value.zero_point.values().size() == 1 &&
           value.scale[0] > 1e-6f && value.scale[0] < 1e6f && value.zero_point.values()[0] >= -128 &&
           value.zero_point.values()[0] < 128 && !value.variable && !value.sparse && !value.constant;
  }

  void evaluate(Op& op) {
    if (op.outputs.empty() || op.outputs[0] < 0) return;
    Value& made = values[op.outputs[0]];
    const Value* in = input(op, 0);
    made.known = in != nullptr && in->known && one_scale(*in) && one_scale(made) && op.outputs.size() == 1 &&
                 op.version >= 1 && evaluated(op, *in, made);
    // What is not known here keeps the promise of its activation.
    if (!made.known)
      for (size_t i = 0; i < made.bytes.size(); ++i) made.bytes[i] = static_cast<uint8_t>(i * 7);
  }

  bool evaluated(const Op& given, const Value& in, Value& made) {
    const Op op = stock(given);
    const auto* from = reinterpret_cast<const int8_t*>(in.bytes.data());
    const bool same = in.scale == made.scale && in.zero_point.values() == made.zero_point.values();
    if (op.kind == lite::kReshape || op.kind == lite::kReluOperator) {
      if (!same || in.bytes.size() != made.bytes.size()) return false;
      const int least = op.kind == lite::kReshape ? -128 : in.zero_point.values()[0];
      for (size_t i = 0; i < in.bytes.size(); ++i)
        made.bytes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::max<int>(from[i], least)));
      return true;
    }
    return is_weighted(op.kind) && convolved(op, in, made);
  }

  bool convolved(const Op& op, const Value& in, Value& made) {
    Kernel k;
    int activation = 0;
    Range range{};
    if (!kernel_of(op, k, activation) || !range_of(activation, made, range)) return false;
    const Value &weights = values[op.inputs[1]], *given = input(op, 2);
    const int outputs = k.groups * k.outputs, dimension = op.kind == lite::kDepthwiseConv2d ? 3 : 0;
    const size_t scales = weights.scale.size();
    if (op.inputs.size() > 3 || weights.sparse || !weights.quantized || (scales != 1 && static_cast<int>(scales) != outputs))
      return false;
    if (scales != 1 && weights.dimension != dimension) return false;
    for (const int zero_point : weights.zero_point.values())
      if (zero_point != 0) return false;
    std::vector<int32_t> bias;
    if (given != nullptr) {
      if (given->type != lite::kInt32 || !given->constant || given->bytes.size() != 4u * outputs) return false;
      if (elements(*given) != outputs) return false;
      bias.resize(outputs);
      std::memcpy(bias.data(), given->bytes.data(), given->bytes.size());
    }
    std::vector<float> scale;
    for (int i = 0; i < outputs; ++i) {
      scale.push_back(in.scale[0] * weights.scale[scales == 1 ? 0 : i] / made.scale[0]);
      if (!(scale.back() > 1e-9f && scale.back() < 256.0f)) return false;
    }
    std::vector<int> shape = in.dims.values();
    if (op.kind == lite::kFullyConnected) shape = {static_cast<int>(elements(in) / k.inputs), 1, 1, k.inputs};
    std::vector<int> meaning;
    for (const uint8_t byte : in.bytes) meaning.push_back(static_cast<int8_t>(byte) - in.zero_point.values()[0]);
    const auto* first = reinterpret_cast<const int8_t*>(weights.bytes.data());
    const auto found = reference::convolved(k, {shape[0], shape[1], shape[2], shape[3]}, meaning,
                                            {first, first + weights.bytes.size()}, bias, scale, range);
    if (found.size() != made.bytes.size()) return false;
    std::copy(found.begin(), found.end(), made.bytes.begin());
    return true;
  }

  std::vector<lite::Tensor> tensors_;
  lite::Context context_{};
  lite::Delegate* delegate_ = nullptr;
  List plan_list_;
  std::vector<std::unique_ptr<Partition>> partitions_;
  std::vector<Step> steps_;
};

}  // namespace mock
