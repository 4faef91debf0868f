// kc_binary in a C or C++ app: link the library, or load it with LiteRT's TfLiteExternalDelegateCreate.
//
//   TfLiteDelegate* delegate = (TfLiteDelegate*)tflite_plugin_create_delegate(NULL, NULL, 0, NULL);
//   TfLiteInterpreterOptionsAddDelegate(options, delegate);      // C; interpreter->ModifyGraphWithDelegate(delegate) in C++
//   ...
//   tflite_plugin_destroy_delegate(delegate);                    // after the interpreters that use it
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// A `TfLiteDelegate*`, or NULL after `report` was called with the reason. Options: "path": "avx512", "avx2", "neon" or
// "portable" in place of the processor's best, which the environment's KC_BINARY_PATH chooses as well; "take": "faster" (layers
// that are faster here than on XNNPACK) or "all".
void* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*));

void tflite_plugin_destroy_delegate(void* delegate);

// How many operators the delegate has taken so far, in all interpreters.
int kc_binary_taken(const void* delegate);

// The path that its layers take.
const char* kc_binary_path(const void* delegate);

#ifdef __cplusplus
}
#endif
