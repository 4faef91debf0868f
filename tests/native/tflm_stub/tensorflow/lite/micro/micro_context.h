#pragma once
#include "tensorflow/lite/c/common.h"

// The tensors that a test hands over.
extern TfLiteTensor stub_tensors[4];
extern TfLiteEvalTensor stub_values[4];

namespace tflite {
class MicroContext {
 public:
  TfLiteTensor* AllocateTempInputTensor(const TfLiteNode* node, int index) { return &stub_tensors[node->inputs->data[index]]; }
  TfLiteTensor* AllocateTempOutputTensor(const TfLiteNode* node, int index) { return &stub_tensors[node->outputs->data[index]]; }
  void DeallocateTempTfLiteTensor(TfLiteTensor*) {}
};
inline MicroContext* GetMicroContext(TfLiteContext*) {
  static MicroContext context;
  return &context;
}
}  // namespace tflite
