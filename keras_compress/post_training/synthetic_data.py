"""Inputs made from a model alone: such as give its BatchNormalizations the statistics that they remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.core import keras_private, progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import check_model
from keras_compress.post_training.record import NotApplicable
from keras_compress.structured.opened import opened
from keras_compress.structured.unit_places import all_nodes

Array = NDArray[np.float32]
UNKNOWN_LENGTH = 32


@global_state_kept()
def synthetic_data(
    model: keras.Model,
    samples: int = 64,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    input_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Any:
    """A calibration set made of nothing but a model: inputs whose statistics in the network are those of training.

    From normally distributed noise, Adam goes down

        sum over BatchNormalizations of |mean(x) - moving_mean|^2 + |std(x) - moving_std|^2

    of what they read, per channel over samples and positions, each divided by the mean of the moving variance, so that
    each normalization has the same say.

    Args:
        model: Plain built model with BatchNormalizations, as it was trained.
        samples: How many inputs, >= 2.
        steps: Steps of Adam, >= 1.
        learning_rate: Of Adam, > 0.
        input_range: Lowest and highest value of the real inputs, where that is known: `(0.0, 1.0)`.
        seed: Of the noise.

    Returns:
        One array, or arrays in the structure of the model's inputs, float32.

    Raises:
        ValueError: For fewer samples or steps, a model without BatchNormalizations, or with inputs that are no floats.

    **Reference**: Cai et al., "ZeroQ: a novel zero shot quantization framework" (2020), section 3.1, distilled data.
    **Deviations**: each layer's term relative to its variance; inputs stay in `input_range`, instead of having mean 0
    and variance 1.
    """
    if samples < 2 or steps < 1 or not learning_rate > 0.0:
        raise ValueError(
            "Expected `samples` >= 2, `steps` >= 1 and `learning_rate` > 0. Received: "
            f"samples={samples}, steps={steps}, learning_rate={learning_rate}"
        )
    check_model(model)
    model = opened(model)
    held = keras_graph.functional(model)
    _check(model, held)
    random = np.random.default_rng(seed)
    variables = [tf.Variable(_noise(random, tensor, samples, input_range)) for tensor in held.inputs]
    loss = _loss(model)
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            total = loss(variables)
        optimizer.apply(tape.gradient(total, variables), variables)
        if input_range is not None:
            for variable in variables:
                variable.assign(tf.clip_by_value(variable, *input_range))

    with progress.ProgressLine("making data", steps) as line:
        for _ in range(steps):
            step()
            line.advance()
    return _packed(held, [variable.numpy() for variable in variables])


def _packed(held: Any, arrays: list[Array]) -> Any:
    return keras.tree.pack_sequence_as(keras_private.inputs_structure(held), arrays)


def _check(model: keras.Model, held: Any) -> None:
    # Those that a user's layer runs inside its `call` are not seen.
    if not any(isinstance(node.operation, keras.layers.BatchNormalization) for node in all_nodes(model)):
        raise NotApplicable(
            "Expected a model with BatchNormalizations, whose statistics data can be made from; give one as it was "
            f"trained, before they are folded. Received: {model.name!r}, whose graph has none"
        )
    others = [tensor.name for tensor in held.inputs if "float" not in str(tensor.dtype)]
    if others:
        raise NotApplicable(f"Expected inputs of floats, that can be moved step by step. Received: {others}")


def _noise(random: Any, tensor: Any, samples: int, input_range: tuple[float, float] | None) -> Array:
    shape = (samples, *(n or UNKNOWN_LENGTH for n in tensor.shape[1:]))
    if input_range is None:
        return random.normal(size=shape).astype(np.float32)  # type: ignore[no-any-return]
    return random.uniform(*input_range, size=shape).astype(np.float32)  # type: ignore[no-any-return]


def _loss(model: keras.Model) -> Callable[[list[Any]], Any]:
    """How far the statistics of what normalizations read are from those that they remember."""

    def loss(inputs: list[Any]) -> Any:
        found: list[Any] = []

        def visit(call: keras_graph.Call) -> Any:
            if isinstance(call.operation, keras.layers.BatchNormalization):
                found.append(_distance(call.operation, ops.cast(call.args[0], "float32")))
            return call.run()

        keras_graph.Rebuild(visit, flat=True).run(model, [ops.convert_to_tensor(each) for each in inputs], "", 0)
        return tf.add_n(found) / len(found)

    return loss


def _distance(norm: keras.layers.BatchNormalization, values: Any) -> Any:
    axes = [axis for axis in range(len(values.shape)) if axis != norm.axis % len(values.shape)]
    mean, variance = ops.mean(values, axis=axes), ops.var(values, axis=axes)
    wanted = ops.convert_to_tensor(norm.moving_variance)
    off = ops.square(mean - norm.moving_mean) + ops.square(ops.sqrt(variance + 1e-12) - ops.sqrt(wanted + 1e-12))
    return ops.mean(off) / (ops.mean(wanted) + norm.epsilon)
