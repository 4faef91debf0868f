// What TFLite-Micro wants of an operator, around the kernel in kc_bits_kernel.h.
#include "kc_binary_tflm.h"

#include <new>

#include "kc_bits_kernel.h"
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_context.h"
#include "tensorflow/lite/micro/micro_log.h"

// TFLite-Micro's classes are in tflite, or, in newer versions, in tflite::micro.
namespace tflite {
namespace micro {}
}  // namespace tflite

namespace keras_compress {
namespace {

using namespace ::tflite;         // NOLINT
using namespace ::tflite::micro;  // NOLINT

// Of one operator, for as long as the interpreter lives.
struct Data {
  bits::Layer layer;
  const uint8_t* options;
  size_t options_size;
  int scratch;
};

// Tensors that TFLite-Micro lends while it prepares.
class Lent {
 public:
  Lent(MicroContext* context, TfLiteTensor* tensor) : context_(context), tensor_(tensor) {}
  ~Lent() {
    if (tensor_ != nullptr) context_->DeallocateTempTfLiteTensor(tensor_);
  }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  TfLiteTensor* get() const { return tensor_; }

 private:
  MicroContext* context_;
  TfLiteTensor* tensor_;
};

void* Init(TfLiteContext* context, const char* buffer, size_t length) {
  void* memory = context->AllocatePersistentBuffer(context, sizeof(Data));
  if (memory == nullptr) return nullptr;
  Data* data = new (memory) Data();
  // The file stays where it is.
  data->options = reinterpret_cast<const uint8_t*>(buffer), data->options_size = length;
  return data;
}

const TfLiteAffineQuantization* scales_of(const TfLiteTensor& tensor) {
  if (tensor.quantization.type != kTfLiteAffineQuantization) return nullptr;
  return static_cast<const TfLiteAffineQuantization*>(tensor.quantization.params);
}

// Integers that the activation leaves, rounded half away from zero as TFLite-Micro does it.
void set_range(int activation, const TfLiteTensor& output, bits::Layer& layer) {
  const auto integer = [&](float value) {
    const float found = roundf(value / output.params.scale) + static_cast<float>(output.params.zero_point);
    return static_cast<int32_t>(found < -128.0f ? -128.0f : found > 127.0f ? 127.0f : found);
  };
  layer.zero_point = output.params.zero_point, layer.lowest = -128, layer.highest = 127;
  if (activation == 1 || activation == 3) layer.lowest = layer.zero_point < -128 ? -128 : layer.zero_point;
  if (activation == 3) layer.highest = integer(6.0f);
  if (activation == 2) layer.lowest = integer(-1.0f), layer.highest = integer(1.0f);
}

bool set_factors(TfLiteContext* context, bool dense, const TfLiteTensor& input, const TfLiteTensor& rows,
                 const TfLiteTensor& output, bits::Layer& layer) {
  const TfLiteAffineQuantization* scales = scales_of(rows);
  if (scales == nullptr || scales->scale == nullptr) return false;
  if (scales->scale->size != 1 && scales->scale->size != layer.outputs) return false;
  auto* factors = static_cast<bits::Factor*>(
      context->AllocatePersistentBuffer(context, sizeof(bits::Factor) * static_cast<size_t>(layer.outputs)));
  if (factors == nullptr) return false;
  for (int i = 0; i < layer.outputs; ++i) {
    const bool one = scales->scale->size == 1;
    const float scale = scales->scale->data[one ? 0 : i];
    // As the operators do it that these stand for: a dense layer of one scale multiplies in float.
    const double product = dense && one ? static_cast<double>(input.params.scale * scale)
                                        : static_cast<double>(input.params.scale) * static_cast<double>(scale);
    factors[i] = bits::factor_of(product / static_cast<double>(output.params.scale));
  }
  layer.factors = factors;
  return true;
}

bool set_sizes(bool dense, const TfLiteTensor& input, const TfLiteTensor& rows, const TfLiteTensor& output,
               bits::Layer& layer) {
  const bits::Options& o = layer.options;
  const int channels = static_cast<int>(o.inputs);
  if (rows.type != kTfLiteUInt8 || rows.dims->size != 2 || rows.dims->data[1] != o.row_bytes()) return false;
  layer.outputs = rows.dims->data[0];
  if (o.magnitude_count != 1 && o.magnitude_count != static_cast<size_t>(layer.outputs)) return false;
  int64_t elements = 1, made = 1;
  for (int i = 0; i < input.dims->size; ++i) elements *= input.dims->data[i];
  for (int i = 0; i < output.dims->size; ++i) made *= output.dims->data[i];
  if (dense) {
    if (elements < 1 || elements % channels != 0 || o.row() != channels) return false;
    layer.batch = static_cast<int>(elements / channels), layer.channels = channels;
    layer.height = layer.width = 1;
  } else {
    if (input.dims->size != 4) return false;
    layer.batch = input.dims->data[0], layer.height = input.dims->data[1], layer.width = input.dims->data[2];
    layer.channels = input.dims->data[3];
  }
  if (layer.channels < 1 || layer.channels % channels != 0 || layer.outputs % layer.groups() != 0) return false;
  layer.out_height = bits::out_size(o.same, layer.height, o.height, o.stride_height, o.dilation_height);
  layer.out_width = bits::out_size(o.same, layer.width, o.width, o.stride_width, o.dilation_width);
  return made == int64_t{layer.batch} * layer.out_height * layer.out_width * layer.outputs;
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node, bool dense) {
  Data* data = static_cast<Data*>(node->user_data);
  if (data == nullptr) return kTfLiteError;
  if (!bits::read(data->options, data->options_size, data->layer.options)) {
    MicroPrintf("KC_BINARY: options of version %d, not %d, or damaged", bits::version_of(data->options, data->options_size),
                bits::kVersion);
    return kTfLiteError;
  }
  MicroContext* micro = GetMicroContext(context);
  const Lent input(micro, micro->AllocateTempInputTensor(node, 0)), rows(micro, micro->AllocateTempInputTensor(node, 1));
  const Lent output(micro, micro->AllocateTempOutputTensor(node, 0));
  if (input.get() == nullptr || rows.get() == nullptr || output.get() == nullptr) return kTfLiteError;
  bits::Layer& layer = data->layer;
  layer.input_zero_point = input.get()->params.zero_point;
  const bool good = input.get()->type == kTfLiteInt8 && output.get()->type == kTfLiteInt8 &&
                    set_sizes(dense, *input.get(), *rows.get(), *output.get(), layer) &&
                    set_factors(context, dense, *input.get(), *rows.get(), *output.get(), layer);
  if (!good) {
    MicroPrintf("KC_BINARY: sizes or types that do not fit together");
    return kTfLiteError;
  }
  set_range(layer.options.activation, *output.get(), layer);
  return context->RequestScratchBufferInArena(context, layer.scratch_words() * sizeof(uint32_t), &data->scratch);
}

TfLiteStatus PrepareConv(TfLiteContext* context, TfLiteNode* node) { return Prepare(context, node, false); }
TfLiteStatus PrepareDense(TfLiteContext* context, TfLiteNode* node) { return Prepare(context, node, true); }

TfLiteStatus Eval(TfLiteContext* context, TfLiteNode* node) {
  Data* data = static_cast<Data*>(node->user_data);
  const TfLiteEvalTensor* bias = node->inputs->size > 2 ? ::tflite::micro::GetEvalInput(context, node, 2) : nullptr;
  bits::Layer layer = data->layer;
  layer.rows = ::tflite::micro::GetTensorData<uint8_t>(::tflite::micro::GetEvalInput(context, node, 1));
  layer.bias = bias == nullptr ? nullptr : ::tflite::micro::GetTensorData<int32_t>(bias);
  bits::run(layer, ::tflite::micro::GetTensorData<int8_t>(::tflite::micro::GetEvalInput(context, node, 0)),
            static_cast<uint32_t*>(context->GetScratchBuffer(context, data->scratch)),
            ::tflite::micro::GetTensorData<int8_t>(::tflite::micro::GetEvalOutput(context, node, 0)));
  return kTfLiteOk;
}

}  // namespace

const TFLMRegistration* Register_KC_BINARY_CONV_2D() {
  static TFLMRegistration registration = ::tflite::micro::RegisterOp(Init, PrepareConv, Eval);
  return &registration;
}

const TFLMRegistration* Register_KC_BINARY_DENSE() {
  static TFLMRegistration registration = ::tflite::micro::RegisterOp(Init, PrepareDense, Eval);
  return &registration;
}

}  // namespace keras_compress
