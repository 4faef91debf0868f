"""Adam whose steps are shares of what each variable is measured in, so that one rate does for all nets and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.post_training.opened import wrappers_of
from keras_compress.quantizers.lsq import LSQ

Tensor = Any
Array = NDArray[Any]
# Of what has no weight beside it, such as the slopes of a PReLU: a share of itself.
SHARE = 2.0**-6
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-7


class RelativeAdam:
    """Adam on `u`, where a variable is `unit * u`: `w -= rate * unit * m / (sqrt(v) + epsilon)`.

    `m` and `v` are the corrected averages of `unit * g` and of its square. For the function that a net computes it is
    all the same then whether a weight is large or small, and rate is a number of units.

    Args:
        variables: What is trained.
        units: For each the unit, which broadcasts against it.

    **Reference**: Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1.
    """

    def __init__(self, variables: Sequence[keras.Variable], units: Sequence[Array]) -> None:
        self._variables = list(variables)
        self._units = [tf.constant(unit, tf.float32) for unit in units]
        self._first, self._second = ([tf.Variable(tf.zeros(v.shape)) for v in variables] for _ in range(2))
        self._count = tf.Variable(0.0)

    def apply(self, gradients: Sequence[Tensor], rate: Tensor) -> None:
        """One step, down some gradients; `None` for a variable that is not moved."""
        self._count.assign_add(1.0)
        first, second = 1.0 - FIRST_DECAY**self._count, 1.0 - SECOND_DECAY**self._count
        for variable, unit, m, v, gradient in zip(
            self._variables, self._units, self._first, self._second, gradients, strict=True
        ):
            if gradient is None:
                continue
            moved = unit * tf.cast(tf.convert_to_tensor(gradient), tf.float32)
            m.assign(FIRST_DECAY * m + (1.0 - FIRST_DECAY) * moved)
            v.assign(SECOND_DECAY * v + (1.0 - SECOND_DECAY) * tf.square(moved))
            change = rate * unit * (m / first) / (tf.sqrt(v / second) + EPSILON)
            variable.assign_sub(tf.cast(change, variable.dtype))


def units_of(flat: keras.Model, inputs: Sequence[Tensor]) -> dict[int, Array]:
    """`id` of each trainable variable -> its unit: a change that counts as much as that of a weight by one step.

    Of a quantized weight it is its step, for each channel. The others of its layer have the same share of what they
    act on: a trained step of itself, a bias of the root mean square of what the layer gives.

    Args:
        flat: Quantized model, as `opened` gives it.
        inputs: A few samples.
    """
    found: dict[int, Array] = {}
    for wrapper, magnitude in _magnitudes(flat, inputs).values():
        _of_wrapper(wrapper, magnitude, found)
    for layer in keras_private.flattened(flat):
        own = [variable for variable in layer.trainable_variables if id(variable) not in found]
        # Ends of a range are measured by the wider one.
        largest = max((float(np.abs(np.asarray(variable)).max(initial=0.0)) for variable in own), default=0.0)
        if not isinstance(layer, keras.Model):
            found.update((id(variable), np.float32(SHARE * (largest or 1.0))) for variable in own)
    return found


def _magnitudes(flat: keras.Model, inputs: Sequence[Tensor]) -> dict[int, tuple[Compressed, float]]:
    """Wrappers, and the root mean square of what the call gives in which each of them is."""
    found: dict[int, tuple[Compressed, float]] = {}

    def visit(call: graph.Call) -> Any:
        made = call.run()
        for wrapper in wrappers_of(call.node):
            values = tf.cast(keras.tree.flatten(made)[0], tf.float32)
            found[id(wrapper)] = (wrapper, float(tf.sqrt(tf.reduce_mean(tf.square(values)))))
        return made

    graph.Rebuild(visit).run(flat, list(inputs), "", 0)
    return found


def _of_wrapper(wrapper: Compressed, magnitude: float, found: dict[int, Array]) -> None:
    shares = []
    for slot, transforms in wrapper.items():
        quantizer, latent = transforms[-1], wrapper.latent(slot.name)
        weight = np.asarray(latent, np.float32)
        step = _step(quantizer, weight)
        found[id(latent)] = step
        shares.append(float(np.mean(step)) / max(float(np.sqrt(np.mean(np.square(weight)))), 1e-12))
        for variable in quantizer.trainable_variables:
            # Some are shares of a first value; others, such as a clip, are values themselves.
            size = 1.0 if isinstance(quantizer, LSQ) else float(np.abs(np.asarray(variable)).mean())
            found[id(variable)] = np.float32(shares[-1] * size)
    for variable in wrapper.trainable_variables:
        if id(variable) not in found:
            found[id(variable)] = np.float32(float(np.mean(shares or [SHARE])) * magnitude)


def _step(quantizer: Any, weight: Array) -> Array:
    """Distance of neighbouring levels; of levels that are not even, their mean."""
    if isinstance(quantizer, LSQ):
        return np.asarray(quantizer.step, np.float32)
    levels = 2 ** (min(int(getattr(quantizer, "bits", 8)), 8) - 1)
    return np.asarray(max(float(np.abs(weight).max(initial=0.0)), 1e-12) / levels, np.float32)


def by_variable(units: Mapping[int, Array], variables: Sequence[keras.Variable]) -> list[Array]:
    """Units in the order of some variables."""
    return [units[id(variable)] for variable in variables]
