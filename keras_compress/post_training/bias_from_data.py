"""What rounding the weights does to the mean of each channel, taken out of the biases layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.batch_norms import batch_norm_after
from keras_compress.graph.model import compressed_layers, rebuild
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.lockstep import Lockstep
from keras_compress.post_training.record import NotApplicable, carry, record_of
from keras_compress.post_training.start import held, set_ranges, warn_of_few
from keras_compress.post_training.steps import CLOSED
from keras_compress.quantizers.kinds import Kind, kind_of

Array = NDArray[Any]


@global_state_kept()
def bias_from_data(
    quantized: keras.Model,
    data: Any,
    *,
    samples: int = 512,
    activations: bool = False,
    reference: keras.Model | None = None,
) -> keras.Model:
    """Add to each bias what rounding the weights took from the mean of its channel, layer by layer.

    `b += E[y] - E[y~]`: `y` is what the layer of the float model gives before its activation, `y~` the same with the
    weights, not the activations unless `activations`, of this and all layers before it rounded, those before it being
    corrected already.
    A layer without a bias whose outputs a BatchNormalization takes has its moving mean changed instead, which is the
    same for the device.

    Args:
        quantized: What `quantize_model` gives.
        data: Inputs without labels, see `keras_compress.data.batches.batches`.
        samples: How many of the first samples are used.
        activations: Whether what the rounding of activations does to the mean is taken out, too: a background that no
            level meets is off by the same everywhere.
        reference: The quantized model whose latent weights are aimed at, where they are no longer those of `quantized`.

    Returns:
        A new model.

    Raises:
        ValueError: For data that do not fit, or a model without quantized weights.

    **Reference**: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
    section 4.2 and appendix D.
    """
    data = held(quantized, data, samples)
    model = rebuild(quantized)
    set_ranges(model, data)
    lock = Lockstep(model, quantized if reference is None else reference, data, samples, round_activations=activations)
    warn_of_few(lock.samples, "the correction of biases")
    norms, done = batch_norm_after(lock.flat), set()
    left: list[LayerEffect] = []
    made: list[LayerEffect] = []
    with progress.ProgressLine("correcting biases") as line:
        line.step("layers", len(lock.calls))
        for position in lock:
            layer = lock.calls[position].operation
            if isinstance(layer, Compressed) and kind_of(layer) is Kind.LINEAR and id(layer) not in done:
                done.add(id(layer))
                effect = _corrected(lock, position, norms.get(id(layer)))
                (made if effect.note == "" else left).append(effect)
            else:
                lock.run([position])
            line.advance()
    closed = [
        path for path, layer in compressed_layers(model) if id(layer) not in done and kind_of(layer) is Kind.LINEAR
    ]
    left += [LayerEffect(path, "bias_from_data", note=CLOSED) for path in closed]
    if not made and not left:
        raise NotApplicable(
            "Expected a model with quantized weights, as `kc.quantize_model` makes one. "
            f"Received: {model.name!r}, without any"
        )
    if left:
        warn(f"Biases left as they are: {'; '.join(f'{each.layer!r}: {each.note}' for each in left)}")
    note = f"Bias corrected on {lock.samples} samples: {len(made)} layers"
    return carry(model, record_of(quantized).did([*made, *left], note))


def _corrected(lock: Lockstep, position: int, norm: keras.layers.BatchNormalization | None) -> LayerEffect:
    """Correct one layer, and run it."""
    layer = lock.calls[position].operation
    aim, found = _before_activation(lock, position)
    before, difference = sqnr_db(aim, found), aim - found
    bias, note = getattr(layer.layer, "bias", None), ""
    if not np.isfinite(difference).all():
        note = "its values are not finite"
    elif bias is not None:
        delta = _mean_in_shape(difference, tuple(bias.shape))
        bias.assign_add(delta)
        found = found + delta
    elif norm is not None:
        delta = _mean_in_shape(difference, tuple(norm.moving_mean.shape))
        norm.moving_mean.assign_sub(delta)
        found = found + delta
    else:
        note = "it has no bias, and no BatchNormalization takes its outputs"
    lock.run([position])
    return LayerEffect(layer.name, "bias_from_data", None, before, sqnr_db(aim, found), note)


def _mean_in_shape(values: Array, shape: tuple[int, ...]) -> Array:
    """Mean over the samples and all axes along which a bias is the same."""
    whole = (1,) * (values.ndim - len(shape)) + shape
    axes = tuple(axis for axis, n in enumerate(whole) if n == 1)
    return np.asarray(values.mean(axis=axes, keepdims=True, dtype=np.float64).reshape(shape), np.float32)


def _before_activation(lock: Lockstep, position: int) -> tuple[Array, Array]:
    """What the layer gives in the float model and in the quantized one, before its activation."""
    with _linear(lock.layers(position)):
        aim, found = lock.tried(position)
    return np.asarray(aim), np.asarray(found)


@contextmanager
def _linear(layers: list[keras.layers.Layer]) -> Iterator[None]:
    """Layers without their activations."""
    before = [(layer, layer.activation) for layer in layers if hasattr(layer, "activation")]
    for layer, _ in before:
        layer.activation = keras.activations.linear
    try:
        yield
    finally:
        for layer, activation in before:
            layer.activation = activation
