// Runs the operators for TFLite-Micro on layers in the file `given`, and writes their outputs to the file `made`.
//
// A layer: 17 words (dense; sizes of input and output, four each; zero points of input and output; bytes of options, rows,
// bias; outputs; scales of rows; 1 for an error that is wanted), scales of input, output and rows as float32, then the
// options, rows, bias and input. Its outputs: as many bytes; for an error none.
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "kc_binary_tflm.h"
#include "tensorflow/lite/micro/micro_context.h"

TfLiteTensor stub_tensors[4];
TfLiteEvalTensor stub_values[4];

namespace {

alignas(16) unsigned char persistent[1 << 16], scratch[1 << 16];
size_t used = 0;

std::FILE *given_file, *made_file;

bool read(void* to, size_t bytes) { return std::fread(to, 1, bytes, given_file) == bytes; }

void* read_all(size_t bytes) {
  void* found = std::malloc(bytes + 1);
  if (!read(found, bytes)) std::exit(3);
  return found;
}

bool next() {
  int32_t head[17];
  if (!read(head, sizeof(head))) return false;
  static TfLiteFloatArray scales;
  static TfLiteAffineQuantization affine;
  static TfLiteIntArray dims[4], inputs, outputs;
  float ends[2];
  scales.size = head[15];
  if (!read(ends, sizeof(ends)) || !read(scales.data, sizeof(float) * scales.size)) std::exit(3);
  affine.scale = &scales;
  const int sizes[2][4] = {{head[1], head[2], head[3], head[4]}, {head[5], head[6], head[7], head[8]}};
  for (int i = 0; i < 2; ++i) {
    TfLiteIntArray& shape = dims[i == 0 ? 0 : 3];
    shape.size = head[0] ? 2 : 4;
    for (int k = 0; k < shape.size; ++k) shape.data[k] = sizes[i][head[0] ? 3 * k : k];
  }
  dims[1] = {2, {head[14], head[12] / head[14]}};
  void* options = read_all(head[11]);
  void* rows = read_all(head[12]);
  void* bias = read_all(head[13]);
  size_t given = 1, made = 1;
  for (int i = 0; i < 4; ++i) given *= head[1 + i], made *= head[5 + i];
  void* in = read_all(given);
  void* out = std::malloc(made);
  for (int i = 0; i < 4; ++i) stub_tensors[i].dims = &dims[i];
  stub_tensors[0].type = stub_tensors[3].type = kTfLiteInt8, stub_tensors[1].type = kTfLiteUInt8;
  stub_tensors[0].params = {ends[0], head[9]}, stub_tensors[3].params = {ends[1], head[10]};
  stub_tensors[1].quantization = {kTfLiteAffineQuantization, &affine};
  stub_values[0].data = in, stub_values[1].data = rows, stub_values[2].data = bias, stub_values[3].data = out;
  inputs = {3, {0, 1, head[13] == 0 ? -1 : 2}}, outputs = {1, {3}};

  used = 0;
  TfLiteContext context;
  context.AllocatePersistentBuffer = [](TfLiteContext*, size_t bytes) -> void* {
    void* found = persistent + used;
    used += (bytes + 15) / 16 * 16;
    return used <= sizeof(persistent) ? found : nullptr;
  };
  context.RequestScratchBufferInArena = [](TfLiteContext*, size_t bytes, int* index) {
    *index = 0;
    return bytes <= sizeof(scratch) ? kTfLiteOk : kTfLiteError;
  };
  context.GetScratchBuffer = [](TfLiteContext*, int) -> void* { return scratch; };
  TfLiteNode node{&inputs, &outputs, nullptr};
  const TFLMRegistration* op =
      head[0] ? keras_compress::Register_KC_BINARY_DENSE() : keras_compress::Register_KC_BINARY_CONV_2D();
  node.user_data = op->init(&context, static_cast<const char*>(options), head[11]);
  const bool good = op->prepare(&context, &node) == kTfLiteOk && op->invoke(&context, &node) == kTfLiteOk;
  if (good == (head[16] != 0)) std::exit(4);
  if (good) std::fwrite(out, 1, made, made_file);
  for (void* each : {options, rows, bias, in, out}) std::free(each);
  return true;
}

}  // namespace

#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
// Where a Cortex-M begins: its stack, and the C library's start.
extern "C" void _start();
extern "C" __attribute__((section(".vectors"), used)) void* const vectors[] = {reinterpret_cast<void*>(0x3ff000),
                                                                              reinterpret_cast<void*>(_start)};
#endif

int main() {
  given_file = std::fopen("given", "rb"), made_file = std::fopen("made", "wb");
  if (given_file == nullptr || made_file == nullptr) return 5;
  while (next()) {
  }
  return std::fclose(made_file);
}
