// What a delegate can know of a graph: which operators make which tensors, and which tensors hold nothing but -1 and 1, or
// at most four integers from the zero point on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kc_bits.h"
#include "layer.h"
#include "lite_abi.h"

namespace keras_compress {

struct Operator {
  int index = -1;
  int kind = -1;
  int version = 0;
  const lite::Node* node = nullptr;
  bool of_bits = false;  // a custom operator whose weights are bits
  bool dense = false;    // of those
};

// An operator with weights, read from the file; `bias` is empty where there is none.
struct Weighted {
  bool depthwise = false, dense = false;
  Kernel kernel;
  std::vector<int8_t> weights;
  std::vector<int32_t> bias;
  std::vector<float> scale;  // of each output, from sums to the output's integers
  Range range{};
  Levels levels;  // of the input; none where it holds signs
  Values values = Values::kOther;
  int input = -1, output = -1;
  int32_t input_zero_point = 0;
  bool keeps_dimensions = false;  // of a dense layer
  bool unproven = false;          // whether inputs are to be looked at in each run
};

enum class SignProof {
  kNone,
  kProven,  // by the operators that make the tensor
  kGiven,   // a tensor that is fed, with the scale of signs: to be looked at in each run
};

class Graph {
 public:
  // Reads the execution plan. `valid` is false where what the runtime hands over makes no sense.
  explicit Graph(lite::Context* context);
  bool valid() const { return valid_; }
  const std::vector<Operator>& operators() const { return operators_; }

  // The layer of few bits that the operator is, with signs or levels for inputs; nullptr where it is none.
  std::unique_ptr<Weighted> binary(const Operator& op) const;
  // The operator as a 1x1 depthwise convolution that takes signs, one threshold a channel; nullptr where it is none.
  std::unique_ptr<Weighted> sign(const Operator& op) const;

  // Why a custom operator with weights as bits cannot be computed.
  std::string refusal(const Operator& op) const;

  SignProof proof(int tensor) const;
  // What a tensor can hold, where operators prove that it is no more than levels of two bits; else no planes.
  Levels levels(int tensor) const;
  const Operator* producer(int tensor) const;
  // Operators that read a tensor.
  std::vector<const Operator*> consumers(int tensor) const;

 private:
  bool plausible(const lite::Tensor& tensor) const;
  bool read(const lite::Node* node, const lite::Registration* registration, int index);
  const lite::Tensor* tensor(int index) const;
  bool int8_activation(int index) const;
  bool is_sign_operator(const Operator& op) const;
  bool passes_signs(const Operator& op) const;
  bool range_of(const Operator& op, Range& range) const;
  std::unique_ptr<Weighted> weighted(const Operator& op) const;
  bits::Options options_of(const Operator& op, bool& good) const;
  bool read_bits(const Operator& op, Weighted& found) const;
  bool read_bias(const Operator& op, Weighted& found) const;
  bool read_kernel(const Operator& op, Weighted& found) const;
  bool read_constants(const Operator& op, Weighted& found) const;
  bool read_scales(const Operator& op, int activation, Weighted& found) const;

  lite::Context* context_;
  bool valid_ = false;
  std::vector<Operator> operators_;
  std::unordered_map<int, int> producers_;
  std::unordered_set<int> read_;
};

// The thresholds of a sign operator, for a layer with `groups` groups of `inputs` channels.
Signs thresholds(const Weighted& sign, int groups, int inputs);

}  // namespace keras_compress
