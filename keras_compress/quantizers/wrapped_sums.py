"""WrapNet: layers that are trained for an accumulator of few bits, which begins anew where it overflows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from keras_compress.core import keras_private
from keras_compress.core.context import first_time_in_call
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import PACKAGE
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform, apply_all
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import LayerCopies, check_model, copied, copy_layer
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any
_LAYERS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
# What integers pass through as they are, so that they can be quantized behind it as well.
_PASSING = (
    *(keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.Flatten, keras.layers.Reshape),
    *(keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.Dropout),
)


def cyclic(sums: Tensor, bits: int, slope: float) -> Tensor:
    """WrapNet's cyclic activation: the same for sums that are a multiple of `2^bits` apart, and continuous.

    **Forward** With `h = 2^(bits - 1)` and `m = (z + h) mod 2h - h`: `m` for `|m| <= k / (k + 1) h`, beyond it
    `sign(m) k (h - |m|)`.
    **Gradient** 1 for `|m| <= k / (k + 1) h`, beyond it `-k`.

    Args:
        sums: Sums z, as integers.
        bits: Width of the accumulator.
        slope: k > 0.
    """
    half = float(2 ** (bits - 1))
    # What is taken away is constant between two overflows.
    wrapped = sums - tf.stop_gradient(sums - (tf.math.floormod(sums + half, 2.0 * half) - half))
    size = tf.abs(wrapped)
    folded = tf.sign(wrapped) * slope * (half - size)
    return tf.where(size <= knee(bits, slope), wrapped, folded)


def knee(bits: int, slope: float) -> float:
    """The largest sum that the cyclic activation leaves as it is."""
    return float(slope / (slope + 1.0) * 2 ** (bits - 1))


@keras.saving.register_keras_serializable(package=PACKAGE)
class WrappedSums(Compressed):
    """A layer on integers that is trained for accumulators of `bits` bits with wrap-around.

    **Forward** `y = s c(z) + b`, z the layer's sums as integers, s the scale of its weights times that of its inputs, c
    the cyclic activation, see `cyclic`: an accumulator that overflows gives the same. The bias b is added behind it.
    **Loss** `penalty * mean(max(|z| - k / (k + 1) 2^(bits - 1), 0))` while training.

    Args:
        layer: See `Compressed`, as the next ones.
        transforms: The last one of the kernel makes integers.
        input_point: What quantizes the inputs; needed.
        bits: Width of the accumulator, 2 to 31.
        slope: k, of the cyclic activation behind its fold, > 0.
        penalty: Strength of the loss, >= 0.

    **Reference**: Ni et al., "WrapNet: neural net inference with ultra-low-precision arithmetic" (2021), the cyclic
    activation and the overflow penalty.
    **Deviations**: the penalty begins where the activation folds, not at `2^(bits - 1)`: sums that it has brought below
    are the same without the activation, on kernels that do not wrap.
    """

    ended_by = "kc.unwrap_sums(model)"

    def __init__(
        self,
        layer: keras.layers.Layer,
        transforms: Mapping[str, Sequence[WeightTransform]],
        slots: Mapping[str, Sequence[int]] | None = None,
        *,
        bits: int = 8,
        slope: float = 2.0,
        penalty: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 31:
            raise ValueError(f"Expected `bits` as an integer in [2, 31]. Received: bits={bits!r}")
        if not slope > 0 or not penalty >= 0:
            raise ValueError(f"Expected `slope` > 0 and `penalty` >= 0. Received: slope={slope}, penalty={penalty}")
        super().__init__(layer, transforms, slots, **kwargs)
        if self.input_point is None or not _makes_integers(self):
            raise ValueError(
                "Expected a layer with an `input_point` whose kernel is quantized to integers. "
                f"Received: {self.layer.name!r}"
            )
        self.bits, self.slope, self.penalty = bits, float(slope), float(penalty)

    def step(self) -> Tensor:
        """What 1 of a sum is worth: the scale of each output channel's weights times that of the inputs."""
        ((slot, listed),) = list(self.items())
        weight = apply_all(listed[:-1], ops.cast(value_of(slot.variable(self.layer)), "float32"))
        method, state = listed[-1].grid()
        scale = tf.reshape(method.to_integers(weight, *state)[1], (-1,))
        point: Any = self.input_point
        return tf.stop_gradient(scale * point.quantizer.parameters()[0])

    def call(self, inputs: Any, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        outputs = super().call(inputs, *args, training=training, **kwargs)
        step = self.step()
        bias = self._bias(outputs.dtype)
        sums = (tf.cast(outputs, "float32") - bias) / step
        if training and self.penalty and self.trainable and first_time_in_call((id(self), "penalty")):
            beyond = tf.nn.relu(tf.abs(sums) - knee(self.bits, self.slope))
            self.add_loss(self.penalty * tf.reduce_mean(beyond))
        return tf.cast(cyclic(sums, self.bits, self.slope) * step + bias, outputs.dtype)

    def _bias(self, dtype: Any) -> Tensor:
        """What the layer has added to its sums, by the output channel, which is the last axis."""
        bias = getattr(self.layer, "bias", None)
        return tf.zeros(()) if bias is None else tf.cast(tf.cast(value_of(bias), dtype), "float32")

    def values(self, inputs: Tensor, *args: Any) -> Tensor:
        return self.call(inputs, *args)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "slope": self.slope, "penalty": self.penalty}


@global_state_kept()
def wrap_sums(
    model: keras.Model,
    bits: int = 8,
    *,
    slope: float = 2.0,
    penalty: float = 1e-3,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """A copy of a quantized model that is trained for accumulators of few bits.

    The sums of its layers pass through the cyclic activation, and those beyond its fold cost loss, see `WrappedSums`.
    Stock kernels add up in 32 bits: a narrow accumulator is for hardware, or kernels, of your own. Behind the training,
    `kc.unwrap_sums(model)` gives the model to convert, and `kc.accumulator_bits(artifact, x, bits=bits, bias=False)`
    tells from the file what is left beyond.

    Args:
        model: What `kc.quantize_model` made: convolutions and dense layers with integer weights, without an activation
            of their own, whose inputs are quantized. Weights and activations of few bits.
        bits: Width of the accumulators, 2 to 31.
        slope: Of the cyclic activation behind its fold, > 0.
        penalty: Strength of the loss for each layer, >= 0; in the mean over its sums, in integers.
        filters: Which layers; by default all of which a single product fits `bits`.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"bits"`, `"slope"` or `"penalty"`.

    Returns:
        A new model to compile, train and give to `unwrap_sums`.

    Raises:
        ValueError: For arguments out of range, a rule that matches nothing, or a model without such layers.

    **Reference**: Ni et al., "WrapNet: neural net inference with ultra-low-precision arithmetic" (2021).
    """
    check_model(model)
    if not graph.is_graph(model):
        raise ValueError(
            f"Expected a Functional or Sequential model. Received: {model.name!r} with a `call` of its own"
        )
    points = dict(_quantized_layers(model))
    listed = [(layer.name, layer) for layer, _ in points.values() if _product_bits(layer, points) <= bits]
    if not listed:
        raise ValueError(
            "Expected a model with integer weights and activations of few bits, such as "
            "kc.quantize_model(model, 'bwn', 'dorefa2'). "
            f"Received: {model.name!r}, of which no layer has products of at most {bits} bits"
        )
    settings = settings_by_path(listed, {"bits": bits, "slope": slope, "penalty": penalty}, filters, rules)
    chosen = {key: each for key, each in points.items() if each[0].name in settings}
    moved = {id(point) for _, point in chosen.values() if point is not None}

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if id(layer) not in chosen or not isinstance(copy, Compressed):
            return copy
        point = chosen[id(layer)][1]
        input_point = copy.input_point if point is None else copy_layer(point)
        parts = {"input_point": input_point, "gradients": copy.gradients, "name": copy.name}
        return WrappedSums(copy.layer, copy.transforms, copy.slot_axes, **parts, **settings[layer.name])

    def visit(call: graph.Call) -> Any:
        return call.args[0] if id(call.operation) in moved else copies(call)

    copies = LayerCopies(make, visit, inside=False)
    made: keras.Model = copied(model, copies)
    return made


@global_state_kept()
def unwrap_sums(model: keras.Model) -> keras.Model:
    """A copy of a model that `wrap_sums` made, as it computes where nothing overflows: to be converted.

    Args:
        model: What `wrap_sums` made, trained.

    Raises:
        ValueError: For a model without such layers.
    """
    check_model(model)
    if not any(isinstance(layer, WrappedSums) for _, layer in graph.walk(model)):
        raise ValueError(f"Expected a model made by kc.wrap_sums. Received: {model.name!r}")

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        return copy.remade(copy.transforms) if isinstance(copy, WrappedSums) else copy

    made: keras.Model = copied(model, LayerCopies(make))
    return made


def _makes_integers(layer: Compressed) -> bool:
    """Whether integers times a scale are all that the layer computes with."""
    plain = getattr(layer.layer, "activation", keras.activations.linear) is keras.activations.linear
    listed = list(layer.transforms.values())
    last = listed[0][-1] if len(listed) == 1 else None
    return plain and isinstance(last, WeightQuantizer) and last.has_integers


def _quantized_layers(model: keras.Model) -> Iterator[tuple[int, tuple[Compressed, QuantizeActivation | None]]]:
    """Layers of integer sums, and what quantizes the inputs of each, if it is a layer of its own that can be moved."""
    held = graph.functional(model)
    nodes = graph.nodes(model)
    readers: dict[int, int] = {id(tensor): 1 for tensor in tree.flatten(held.outputs)}
    calls: dict[int, int] = {}
    for node in nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
        for tensor in node.input_tensors:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    for node in nodes:
        layer = node.operation
        if not isinstance(layer, Compressed) or not isinstance(layer.layer, _LAYERS) or not _makes_integers(layer):
            continue
        if layer.input_point is not None:
            yield id(layer), (layer, None)
            continue
        tensor = node.input_tensors[0]
        while readers[id(tensor)] == 1 and isinstance(keras_private.maker(tensor), _PASSING):
            tensor = keras_private.call_node(tensor).input_tensors[0]
        point = keras_private.maker(tensor)
        alone = readers[id(tensor)] == 1 and calls[id(layer)] == 1 == calls.get(id(point))
        if isinstance(point, QuantizeActivation) and alone:
            yield id(layer), (layer, point)


def _product_bits(layer: Compressed, points: Mapping[int, Any]) -> int:
    """Width that holds the largest product of a weight and an input."""
    point: Any = points[id(layer)][1] or layer.input_point
    grid = point.quantizer
    (listed,) = layer.transforms.values()
    weight = 2 ** (int(listed[-1].storage_bits or 8) - 1) - 1
    return int(max(weight, 1) * (2**grid.bits - 1)).bit_length() + 1
