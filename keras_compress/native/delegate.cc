// The external delegate: takes operators that are binary layers, and leaves all others to the runtime.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "graph.h"
#include "kc_binary.h"
#include "layer.h"
#include "lite_abi.h"
#include "paths.h"
#include "pool.h"

#if defined(_WIN32)
#define KC_EXPORT extern "C" __declspec(dllexport)
#else
#define KC_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace keras_compress {
namespace {

// More share less and less, and are asked for by mistake.
constexpr int kMostThreads = 16;

// What the runtime's pointer to a delegate leads to; it outlives the interpreters that use it.
struct Plugin {
  lite::Delegate delegate{};
  const Path* path = nullptr;
  bool takes_all = false;  // layers that XNNPACK computes faster, too
  std::atomic<int> taken{0};
  std::unique_ptr<Pool> pool = std::make_unique<Pool>();
};

// The graph of the delegate call at hand. The runtime makes partitions inside that call, where its plan is no longer whole.
thread_local const Graph* current_graph = nullptr;

// An operator that was taken: a layer, or, without one, a sign that someone else wants as integers.
struct Step {
  std::unique_ptr<Weighted> op;
  std::unique_ptr<Layer> layer;
  int source = -1;     // the tensor that is read: the layer's input, or what its signs are taken of
  bool given = false;  // what the inputs are is what their scale or the file says, and no operator
  Signs signs;         // of a sign operator
};

// The operators of one partition, in order.
class Partition {
 public:
  Partition(const Graph& graph, const lite::DelegateParams& params, const Path& path, Pool& pool);
  lite::Status prepare(lite::Context* context);
  lite::Status invoke(lite::Context* context);

 private:
  void add(const Graph& graph, const Operator& op, const Path& path, const std::unordered_set<int>& nodes);
  std::vector<int> shape_of(const lite::Context* context, int tensor) const;
  bool resize(Step& step, std::vector<int>& shape, int threads) const;
  lite::Status put_shape(lite::Context* context, int tensor, const std::vector<int>& shape) const;
  void run_sign(const Step& step, const int8_t* in, int8_t* out) const;

  Pool& pool_;
  std::vector<Step> steps_;
  std::unordered_set<int> outputs_;
  std::unordered_set<int> read_;                         // what layers read as integers
  std::unordered_map<int, std::vector<int>> shapes_;     // of tensors that are made here
  std::unordered_map<int, std::vector<int8_t>> inside_;  // those that no one else reads
};

int64_t product(const std::vector<int>& shape) {
  int64_t count = 1;
  for (const int size : shape) count *= size;
  return count;
}

// Whether the inputs are what the layer takes them for.
bool as_said(const Levels& levels, const int8_t* values, int64_t count) {
  uint8_t other = 0;
  const int highest = (1 << levels.planes) - 1;
  for (int64_t i = 0; i < count && levels.planes > 0; ++i)
    other |= static_cast<uint8_t>(static_cast<unsigned>(values[i] - levels.zero_point) > static_cast<unsigned>(highest));
  if (levels.planes > 0) return other == 0;
  for (int64_t i = 0; i < count; ++i) other |= static_cast<uint8_t>(values[i] != 1) & static_cast<uint8_t>(values[i] != -1);
  return other == 0;
}

Partition::Partition(const Graph& graph, const lite::DelegateParams& params, const Path& path, Pool& pool)
    : pool_(pool), outputs_(params.output_tensors->begin(), params.output_tensors->end()) {
  const std::unordered_set<int> nodes(params.nodes_to_replace->begin(), params.nodes_to_replace->end());
  for (const Operator& op : graph.operators())
    if (nodes.count(op.index) != 0) add(graph, op, path, nodes);
}

void Partition::add(const Graph& graph, const Operator& op, const Path& path, const std::unordered_set<int>& nodes) {
  Step step;
  if ((step.op = graph.binary(op)) != nullptr) {
    const Weighted& found = *step.op;
    step.source = found.input;
    step.given = found.unproven;
    Signs signs = Signs::plain(found.kernel.groups, found.kernel.inputs);
    const Operator* made = graph.producer(found.input);
    const bool own = found.levels.planes == 0 && made != nullptr && nodes.count(made->index) != 0;
    const auto sign = own ? graph.sign(*made) : nullptr;
    // A dense layer may read a whole image, whose channels come again and again.
    if (sign != nullptr && sign->kernel.groups == found.kernel.groups * found.kernel.inputs) {
      step.source = sign->input;
      signs = thresholds(*sign, found.kernel.groups, found.kernel.inputs);
    }
    const int32_t* bias = found.bias.empty() ? nullptr : found.bias.data();
    step.layer = std::make_unique<Layer>(path, found.kernel, found.weights.data(), bias, found.scale.data(), found.range,
                                         signs, found.levels);
    step.op->weights = {};
  } else if ((step.op = graph.sign(op)) != nullptr) {
    step.source = step.op->input;
    step.signs = thresholds(*step.op, 1, step.op->kernel.groups);
  } else {
    return;
  }
  if (step.layer != nullptr) read_.insert(step.source);
  steps_.push_back(std::move(step));
}

std::vector<int> Partition::shape_of(const lite::Context* context, int tensor) const {
  const auto found = shapes_.find(tensor);
  if (found != shapes_.end()) return found->second;
  const lite::IntArray& dims = *context->tensors[tensor].dims;
  return {dims.begin(), dims.end()};
}

// Turns the shape of what the step reads into that of what it makes.
bool Partition::resize(Step& step, std::vector<int>& shape, int threads) const {
  const Kernel& kernel = step.op->kernel;
  const int channels = kernel.groups * kernel.inputs, outputs = kernel.groups * kernel.outputs;
  const bool dense = step.layer != nullptr && step.op->dense;
  if (dense) {
    const int64_t count = product(shape), rows = count / channels;
    if (count < 1 || count % channels != 0 || rows > INT32_MAX) return false;
    if (step.op->keeps_dimensions) {
      if (shape.back() != channels) return false;
      shape.back() = outputs;
    } else {
      shape = {static_cast<int>(rows), outputs};
    }
    return step.layer->resize(1, 1, static_cast<int>(rows), threads);
  }
  if (shape.size() != 4 || shape[3] != channels) return false;
  if (step.layer == nullptr) return true;
  if (!step.layer->resize(shape[0], shape[1], shape[2], threads)) return false;
  shape = {shape[0], step.layer->out_height(), step.layer->out_width(), outputs};
  return true;
}

lite::Status Partition::put_shape(lite::Context* context, int tensor, const std::vector<int>& shape) const {
  const lite::IntArray& dims = *context->tensors[tensor].dims;
  if (std::equal(dims.begin(), dims.end(), shape.begin(), shape.end())) return lite::kOk;
  // The runtime will free it.
  auto* list = static_cast<int*>(std::malloc((shape.size() + 1) * sizeof(int)));
  if (list == nullptr) return lite::kError;
  list[0] = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), list + 1);
  return context->ResizeTensor(context, &context->tensors[tensor], reinterpret_cast<lite::IntArray*>(list));
}

lite::Status Partition::prepare(lite::Context* context) {
  const int threads = std::min(std::max(context->recommended_num_threads, 1), kMostThreads);
  pool_.reserve(threads);
  for (Step& step : steps_) {
    const int tensor = step.op->output;
    std::vector<int> shape = shape_of(context, step.source);
    if (!resize(step, shape, threads)) {
      context->ReportError(context, "kc_binary: the input of operator output %d has a shape that does not fit", tensor);
      return lite::kError;
    }
    shapes_[tensor] = shape;
    if (outputs_.count(tensor) == 0) {
      // Signs that layers take for themselves are nowhere.
      if (step.layer != nullptr || read_.count(tensor) != 0) inside_[tensor].resize(product(shape));
      continue;
    }
    if (put_shape(context, tensor, shape) != lite::kOk) return lite::kError;
  }
  return lite::kOk;
}

void Partition::run_sign(const Step& step, const int8_t* in, int8_t* out) const {
  const int channels = step.op->kernel.groups;
  const int64_t pixels = product(shapes_.at(step.op->output)) / channels;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int channel = 0; channel < channels; ++channel, ++in, ++out) {
      const bool flipped = step.signs.flip[channel / kBits] >> (channel % kBits) & 1;
      *out = (*in >= step.signs.least[channel]) != flipped ? 1 : -1;
    }
  }
}

lite::Status Partition::invoke(lite::Context* context) {
  for (Step& step : steps_) {
    const int tensor = step.op->output;
    const auto source = inside_.find(step.source), target = inside_.find(tensor);
    const auto* in = source != inside_.end() ? source->second.data()
                                             : static_cast<const int8_t*>(context->tensors[step.source].data);
    auto* out = target != inside_.end() ? target->second.data() : static_cast<int8_t*>(context->tensors[tensor].data);
    if (target == inside_.end() && outputs_.count(tensor) == 0) continue;
    if (in == nullptr || out == nullptr) return lite::kError;
    if (step.layer == nullptr) {
      run_sign(step, in, out);
    } else if (step.given && !as_said(step.op->levels, in, product(shape_of(context, step.source)))) {
      step.layer->run_any(in, out);
    } else {
      step.layer->run(in, out, &pool_);
    }
  }
  return lite::kOk;
}

// No exception may leave through the runtime, which is compiled without them.
template <typename Function>
lite::Status guarded(lite::Context* context, Function function) {
  try {
    return function();
  } catch (...) {
    context->ReportError(context, "kc_binary: out of memory");
    return lite::kError;
  }
}

void* init(lite::Context* context, const char* buffer, size_t) {
  Partition* made = nullptr;
  const auto* params = reinterpret_cast<const lite::DelegateParams*>(buffer);
  if (params == nullptr || current_graph == nullptr) return nullptr;
  guarded(context, [&] {
    const auto* plugin = static_cast<const Plugin*>(params->delegate->data);
    made = new Partition(*current_graph, *params, *plugin->path, *plugin->pool);
    return lite::kOk;
  });
  return made;
}

void release(lite::Context*, void* buffer) { delete static_cast<Partition*>(buffer); }

lite::Status prepare(lite::Context* context, lite::Node* node) {
  auto* partition = static_cast<Partition*>(node->user_data);
  return partition == nullptr ? lite::kError : guarded(context, [&] { return partition->prepare(context); });
}

lite::Status invoke(lite::Context* context, lite::Node* node) {
  auto* partition = static_cast<Partition*>(node->user_data);
  return partition == nullptr ? lite::kError : guarded(context, [&] { return partition->invoke(context); });
}

bool pays(const Path& path, const Weighted& found) {
  const int planes = std::max(1, found.levels.planes) * (found.values == Values::kTwoBits ? 2 : 1);
  return path.pays({planes, found.values == Values::kTernary, found.dense});
}

// Binary layers, and the signs that nothing else reads.
std::vector<int> chosen(const Graph& graph, const Plugin& plugin) {
  std::unordered_set<int> layers;
  for (const Operator& op : graph.operators()) {
    const auto found = graph.binary(op);
    if (found != nullptr && (op.of_bits || plugin.takes_all || pays(*plugin.path, *found))) layers.insert(op.index);
  }
  std::vector<int> nodes;
  for (const Operator& op : graph.operators()) {
    bool taken = layers.count(op.index) != 0;
    if (!taken && graph.sign(op) != nullptr) {
      const auto readers = graph.consumers((*op.node->outputs)[0]);
      taken = !readers.empty() && std::all_of(readers.begin(), readers.end(), [&](const Operator* reader) {
        return layers.count(reader->index) != 0;
      });
    }
    if (taken) nodes.push_back(op.index);
  }
  return nodes;
}

lite::Status delegate_prepare(lite::Context* context, lite::Delegate* delegate) {
  return guarded(context, [&] {
    auto* plugin = static_cast<Plugin*>(delegate->data);
    const Graph graph(context);
    const std::vector<int> nodes = graph.valid() ? chosen(graph, *plugin) : std::vector<int>();
    for (const Operator& op : graph.operators())
      if (op.of_bits && std::find(nodes.begin(), nodes.end(), op.index) == nodes.end())
        context->ReportError(context, "kc_binary: operator %d has %s", op.index, graph.refusal(op).c_str());
    if (nodes.empty()) return lite::kOk;
    std::vector<int> list{static_cast<int>(nodes.size())};
    list.insert(list.end(), nodes.begin(), nodes.end());
    lite::Registration registration{};
    registration.init = init, registration.free = release;
    registration.prepare = prepare, registration.invoke = invoke;
    registration.custom_name = "kc_binary";
    registration.version = 1;
    current_graph = &graph;
    const auto* array = reinterpret_cast<const lite::IntArray*>(list.data());
    const lite::Status status = context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, array, delegate);
    current_graph = nullptr;
    if (status == lite::kOk) plugin->taken += static_cast<int>(nodes.size());
    return status;
  });
}

}  // namespace
}  // namespace keras_compress

using keras_compress::Plugin;

// Options: "path", one of `path_names()` instead of this processor's best; the environment's KC_BINARY_PATH does the same.
// "take": "faster", what is faster here than on XNNPACK, or "all".
KC_EXPORT void* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*)) {
  const auto refuse = [report](const std::string& reason) {
    if (report != nullptr) report(reason.c_str());
    return nullptr;
  };
  try {
    const char* wanted = std::getenv("KC_BINARY_PATH");
    bool takes_all = false;
    for (size_t i = 0; i < count; ++i) {
      if (std::strcmp(keys[i], "path") == 0) {
        wanted = values[i];
      } else if (std::strcmp(keys[i], "take") == 0) {
        takes_all = std::strcmp(values[i], "all") == 0;
        if (!takes_all && std::strcmp(values[i], "faster") != 0)
          return refuse(std::string("Expected take as faster or all. Received: ") + values[i]);
      } else {
        return refuse(std::string("Expected the options path and take. Received: ") + keys[i]);
      }
    }
    const keras_compress::Path* path = keras_compress::find_path(wanted);
    if (path == nullptr)
      return refuse(std::string("Expected a path that this processor can run, out of ") + keras_compress::path_names() +
                    ". Received: " + wanted);
    auto plugin = std::make_unique<Plugin>();
    plugin->path = path;
    plugin->takes_all = takes_all;
    plugin->delegate.data = plugin.get();
    plugin->delegate.Prepare = keras_compress::delegate_prepare;
    plugin->delegate.flags = keras_compress::lite::kAllowDynamicTensors;
    return &plugin.release()->delegate;
  } catch (...) {
    return refuse("out of memory");
  }
}

KC_EXPORT void tflite_plugin_destroy_delegate(void* delegate) {
  if (delegate == nullptr) return;
  auto* plugin = static_cast<Plugin*>(static_cast<keras_compress::lite::Delegate*>(delegate)->data);
  // Threads of the process that was forked cannot be waited for.
  if (plugin->pool->forked()) static_cast<void>(plugin->pool.release());
  delete plugin;
}

// Operators that this delegate has taken so far, in all interpreters.
KC_EXPORT int kc_binary_taken(const void* delegate) {
  return static_cast<const Plugin*>(static_cast<const keras_compress::lite::Delegate*>(delegate)->data)->taken;
}

// The path that its layers take.
KC_EXPORT const char* kc_binary_path(const void* delegate) {
  return static_cast<const Plugin*>(static_cast<const keras_compress::lite::Delegate*>(delegate)->data)->path->name;
}
