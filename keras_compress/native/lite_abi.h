// The part of LiteRT's C interface that a delegate speaks, written down from its documented layout: wheels come without
// headers. Fields are only ever appended there; sizes and places that this library relies on are checked below, and
// `delegate.cc` checks at run time that what it is handed makes sense before it touches anything.
#pragma once

#include <cstddef>
#include <cstdint>

namespace keras_compress::lite {

enum Status : int { kOk = 0, kError = 1 };

enum Type : int { kInt32 = 2, kUInt8 = 3, kInt8 = 9, kInt4 = 18 };

enum Allocation : int { kMemoryMapped = 1 };

enum Padding : int { kSame = 1, kValid = 2 };

enum Activation : int { kNone = 0, kRelu = 1, kReluN1To1 = 2, kRelu6 = 3 };

enum Operator : int {
  kAdd = 0,
  kConv2d = 3,
  kDepthwiseConv2d = 4,
  kFullyConnected = 9,
  kMaxPool2d = 17,
  kReluOperator = 19,
  kReshape = 22,
  kCustom = 32,
  kTranspose = 39,
  kSqueeze = 43,
  kExpandDims = 70,
};

// A list of integers or floats: a count, and as many values behind it.
struct IntArray {
  int size;
  const int* begin() const { return &size + 1; }
  const int* end() const { return begin() + size; }
  int operator[](int index) const { return begin()[index]; }
};

struct FloatArray {
  int size;
  const float* begin() const { return reinterpret_cast<const float*>(&size + 1); }
};

struct AffineQuantization {
  FloatArray* scale;
  IntArray* zero_point;
  int32_t quantized_dimension;
};

struct Quantization {
  int type;  // 1: affine
  void* params;
};

struct QuantizationParams {
  float scale;
  int32_t zero_point;
};

struct Delegate;

struct Tensor {
  Type type;
  void* data;
  IntArray* dims;
  QuantizationParams params;
  Allocation allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  Delegate* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  Quantization quantization;
  void* sparsity;
  const IntArray* dims_signature;
};

struct Node {
  IntArray* inputs;
  IntArray* outputs;
  IntArray* intermediates;
  IntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  Delegate* delegate;
  bool might_have_side_effect;
};

struct DelegateParams {
  Delegate* delegate;
  IntArray* nodes_to_replace;
  IntArray* input_tensors;
  IntArray* output_tensors;
};

struct Context;

struct Registration {
  void* (*init)(Context*, const char* buffer, size_t length);
  void (*free)(Context*, void* buffer);
  Status (*prepare)(Context*, Node*);
  Status (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
  // Handed over by value: a later runtime that reads more fields finds zeros.
  uint64_t reserved[8];
};

// More fields follow; a runtime always makes it.
struct Context {
  size_t tensors_size;
  Status (*GetExecutionPlan)(Context*, IntArray** plan);
  Tensor* tensors;
  void* impl;
  Status (*ResizeTensor)(Context*, Tensor*, IntArray* new_size);
  void (*ReportError)(Context*, const char* message, ...);
  Status (*AddTensors)(Context*, int count, int* first);
  Status (*GetNodeAndRegistration)(Context*, int index, Node**, Registration**);
  Status (*ReplaceNodeSubsetsWithDelegateKernels)(Context*, Registration, const IntArray* nodes, Delegate*);
  int recommended_num_threads;
};

struct Delegate {
  void* data;
  Status (*Prepare)(Context*, Delegate*);
  void* CopyFromBufferHandle;
  void* CopyToBufferHandle;
  void* FreeBufferHandle;
  int64_t flags;
  void* opaque_delegate_builder;
  uint64_t reserved[8];
};

// 1: tensors may change their shapes. Without it the runtime prepares all operators before it asks the delegate.
constexpr int64_t kAllowDynamicTensors = 1;

struct ConvParams {
  Padding padding;
  int stride_width;
  int stride_height;
  Activation activation;
  int dilation_width_factor;
  int dilation_height_factor;
};

struct DepthwiseConvParams {
  Padding padding;
  int stride_width;
  int stride_height;
  int depth_multiplier;
  Activation activation;
  int dilation_width_factor;
  int dilation_height_factor;
};

struct FullyConnectedParams {
  Activation activation;
  int weights_format;
  uint8_t keep_num_dims;  // a bool there
  uint8_t asymmetric_quantize_inputs;
};

struct AddParams {
  Activation activation;
};

struct PoolParams {
  Padding padding;
  int stride_width;
  int stride_height;
  int filter_width;
  int filter_height;
  Activation activation;
};

#if UINTPTR_MAX == UINT64_MAX
static_assert(offsetof(Tensor, bytes) == 40 && offsetof(Tensor, quantization) == 80, "Tensor");
static_assert(sizeof(Tensor) == 112 && sizeof(Node) == 80, "Tensor, Node");
static_assert(offsetof(Registration, builtin_code) == 40 && offsetof(Registration, reserved) == 88, "Registration");
static_assert(offsetof(Context, recommended_num_threads) == 72, "Context");
static_assert(offsetof(Delegate, flags) == 40 && offsetof(Delegate, reserved) == 56, "Delegate");
#endif

}  // namespace keras_compress::lite
