// The operators KC_BINARY_CONV_2D and KC_BINARY_DENSE for TFLite-Micro; the resolver that `export_c` writes adds them.
#ifndef KERAS_COMPRESS_KC_BINARY_TFLM_H_
#define KERAS_COMPRESS_KC_BINARY_TFLM_H_

#include "tensorflow/lite/micro/micro_common.h"

namespace keras_compress {

const TFLMRegistration* Register_KC_BINARY_CONV_2D();
const TFLMRegistration* Register_KC_BINARY_DENSE();

}  // namespace keras_compress

#endif  // KERAS_COMPRESS_KC_BINARY_TFLM_H_
