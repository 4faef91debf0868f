"""GPTQ: weights are rounded one after the other, and those not rounded yet make up for the error."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.graph.as_matrix import MAX_BYTES, AsMatrix, as_matrix, bytes_of_hessian, hessian, inverse_factor
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.lockstep import Lockstep
from keras_compress.post_training.record import carry, record_of
from keras_compress.post_training.start import begin, held, warn_of_few
from keras_compress.post_training.steps import Stepped, by_wrapper, stepped_weights, warn_of_nearest

Array = NDArray[Any]
# Inputs whose errors are handed on to all later ones together.
_BLOCK = 128


def rounded(
    weight: Array, second: Array, step: Array, ends: tuple[int, int], damping: float = 0.01, ordered: bool = False
) -> Array:
    """Integers of a weight, by GPTQ.

    In order of the inputs i, with the upper Cholesky factor U of the inverse of H: `q_i = round(w_i)`,
    `e = (w_i - q_i) / U_ii`, and `w_j -= e U_ij` for all j behind i: the least loss that is left for them.

    Args:
        weight: `[groups, inputs, outputs]`.
        second: H, `[groups, inputs, inputs]`.
        step: Scale that broadcasts against the weight.
        ends: Lowest and highest integer.
        damping: Share of the mean of H's diagonal that is added to it.
        ordered: Take inputs with a large diagonal first.

    Returns:
        Whole numbers in the shape of the weight.

    >>> second = np.array([[[2.0, 1.8], [1.8, 2.0]]])
    >>> rounded(np.array([[[0.4], [0.4]]]), second, np.ones((1, 1, 1)), (-2, 1), damping=0.0).tolist()
    [[[0.0], [1.0]]]

    **Reference**: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
    (2022), algorithm 1.
    """
    weight = weight.astype(np.float64)
    step = np.broadcast_to(step, weight.shape).astype(np.float64)
    order = np.argsort(-np.diagonal(second, axis1=1, axis2=2), axis=1, kind="stable")
    if not ordered:
        order = np.broadcast_to(np.arange(weight.shape[1]), weight.shape[:2])
    groups = np.arange(len(weight))[:, np.newaxis]
    weight, step = weight[groups, order], step[groups, order]
    factor = inverse_factor(second[groups[..., np.newaxis], order[:, :, np.newaxis], order[:, np.newaxis]], damping)
    integers = np.zeros_like(weight)
    for start in range(0, weight.shape[1], _BLOCK):
        end = min(start + _BLOCK, weight.shape[1])
        errors = np.zeros_like(weight[:, start:end])
        for i in range(start, end):
            integers[:, i] = np.clip(np.rint(weight[:, i] / step[:, i]), *ends)
            error = (weight[:, i] - integers[:, i] * step[:, i]) / factor[:, i, i, np.newaxis]
            weight[:, i:end] -= factor[:, i, i:end, np.newaxis] * error[:, np.newaxis]
            errors[:, i - start] = error
        weight[:, end:] -= np.swapaxes(factor[:, start:end, end:], 1, 2) @ errors
    found = np.zeros_like(integers)
    found[groups, order] = integers
    return found


@global_state_kept()
def gptq(
    quantized: keras.Model,
    data: Any,
    *,
    samples: int = 512,
    damping: float = 0.01,
    ordered: bool = True,
    max_bytes: int = MAX_BYTES,
    reference: keras.Model | None = None,
) -> keras.Model:
    """Round the weights of Dense, EinsumDense, Conv and DepthwiseConv layers by GPTQ, layer by layer.

    `H = 2 X^T X` of what each weight is multiplied with in the quantized model, all before it being rounded already. No
    training: seconds for a small net. Other layers are rounded to the nearest, which is said.

    Args:
        quantized: What `quantize_model` gives, with weights on evenly spaced levels. Ranges of activations that are not
            known are set to those of the float model.
        data: Inputs without labels, see `keras_compress.data.batches.batches`.
        samples: How many of the first samples are used.
        damping: Share of the mean of H's diagonal that is added to it.
        ordered: Round inputs with large squares first ("act-order" in the authors' code).
        max_bytes: Memory for one layer, >= 1: 48 bytes for each pair of its inputs. Larger ones are rounded to the
            nearest, which is said.
        reference: The quantized model whose latent weights are aimed at, where they are no longer those of `quantized`.

    Returns:
        A new model whose latent weights are whole steps.

    Raises:
        ValueError: For data that do not fit, or a model without such weights.

    **Reference**: Frantar et al. (2022), see `rounded`. **Deviations**: steps for each output channel, not for groups
    of inputs; of convolutions the inputs are patches, of depthwise ones those of each channel.
    """
    if not damping >= 0.0:
        raise ValueError(f"Expected `damping` of 0 or more. Received: damping={damping}")
    if not isinstance(max_bytes, int) or max_bytes < 1:
        raise ValueError(f"Expected `max_bytes` of 1 or more. Received: max_bytes={max_bytes!r}")
    data = held(quantized, data, samples)
    model = begin(quantized, data)
    weights = by_wrapper(stepped_weights(model))
    lock = Lockstep(model, quantized if reference is None else reference, data, samples)
    warn_of_few(lock.samples, "GPTQ")
    left: dict[str, str] = {}
    effects: list[LayerEffect] = []
    with progress.ProgressLine("rounding") as line:
        line.step("layers", len(lock.calls))
        for position in lock:
            operation = lock.calls[position].operation
            for each in weights.pop(id(operation), []):
                effect = _round(lock, position, each, damping, ordered, max_bytes)
                if effect.note:
                    left[each.path] = effect.note
                else:
                    effects.append(effect)
            lock.run([position])
            line.advance()
    warn_of_nearest(left, weights)
    return carry(model, record_of(quantized).did(effects, f"Rounded by GPTQ: {len(effects)} weights"))


def _round(lock: Lockstep, position: int, each: Stepped, damping: float, ordered: bool, max_bytes: int) -> LayerEffect:
    form = as_matrix(each.wrapper.layer)
    if form is None:
        return LayerEffect(each.path, "gptq", note=f"GPTQ has no form of a {type(each.wrapper.layer).__name__}")
    weight = lock.float_weights([position])[id(each.wrapper)][each.slot.name].numpy()
    needed = bytes_of_hessian(form, weight)
    if needed > max_bytes:
        note = f"its inputs' products take {needed:,} bytes, more than max_bytes={max_bytes:,}"
        return LayerEffect(each.path, "gptq", note=note)
    values = lock.quantized(lock.calls[position].input_tensors[0])
    if each.wrapper.input_point is not None:
        values = each.wrapper.input_point(values)
    second = hessian(form, values)
    if not np.isfinite(second).all():
        return LayerEffect(each.path, "gptq", note="its inputs are not finite")
    aim, before = (np.asarray(tensor) for tensor in lock.tried(position))
    each.set_integers(_integers(form, weight, second, each, damping, ordered))
    after = np.asarray(lock.tried(position)[1])
    error = -sqnr_db(weight, each.weight)
    return LayerEffect(each.path, "gptq", error, sqnr_db(aim, before), sqnr_db(aim, after))


def _integers(form: AsMatrix, weight: Array, second: Array, each: Stepped, damping: float, ordered: bool) -> Array:
    step = form.to_matrix(np.broadcast_to(each.step, weight.shape))
    found = rounded(form.to_matrix(weight), second, step, each.ends, damping, ordered)
    return form.from_matrix(found)
