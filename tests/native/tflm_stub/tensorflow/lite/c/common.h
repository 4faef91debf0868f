// As much of TFLite-Micro's interface as its operators for weights as bits use, for tests: there is no package of its headers.
#pragma once

#include <cstddef>
#include <cstdint>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
enum TfLiteType { kTfLiteInt32 = 2, kTfLiteUInt8 = 3, kTfLiteInt8 = 9 };
enum TfLiteQuantizationType { kTfLiteNoQuantization = 0, kTfLiteAffineQuantization = 1 };

struct TfLiteIntArray {
  int size;
  int data[8];
};
struct TfLiteFloatArray {
  int size;
  float data[4096];
};
struct TfLiteAffineQuantization {
  TfLiteFloatArray* scale;
  TfLiteIntArray* zero_point;
  int32_t quantized_dimension;
};
struct TfLiteQuantization {
  TfLiteQuantizationType type;
  void* params;
};
struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
};
struct TfLiteTensor {
  TfLiteType type;
  TfLiteIntArray* dims;
  TfLiteQuantizationParams params;
  TfLiteQuantization quantization;
};
struct TfLiteEvalTensor {
  void* data;
};
struct TfLiteNode {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  void* user_data;
};
struct TfLiteContext {
  void* (*AllocatePersistentBuffer)(TfLiteContext*, size_t bytes);
  TfLiteStatus (*RequestScratchBufferInArena)(TfLiteContext*, size_t bytes, int* index);
  void* (*GetScratchBuffer)(TfLiteContext*, int index);
};
struct TFLMRegistration {
  void* (*init)(TfLiteContext*, const char*, size_t);
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
};
