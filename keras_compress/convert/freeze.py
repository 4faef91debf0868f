"""`freeze`: the Keras model that computes what the device will."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_compress.calibration.calibrate import untrained_points
from keras_compress.convert.batch_size import AUTO, BatchSize, batch_of, check_frozen_batch
from keras_compress.convert.expand.rows_apart import rows_apart
from keras_compress.convert.expand.small_rows import small_rows
from keras_compress.convert.flatten import flatten
from keras_compress.convert.fold_ahead import fold_ahead
from keras_compress.convert.freezer import Freezer, Grid
from keras_compress.convert.lstm.form import RecurrentForm
from keras_compress.convert.lstm.layers import FusedLSTM
from keras_compress.convert.points import set_ranges, with_points
from keras_compress.convert.refusals import check_layers
from keras_compress.core.context import float32_policy
from keras_compress.core.frozen import FrozenGrid
from keras_compress.core.garbage import older_objects_apart
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.wrapper import Compressed
from keras_compress.data.samples import peekable
from keras_compress.graph import graph
from keras_compress.graph.finite import check_finite
from keras_compress.graph.lora import check_no_lora
from keras_compress.graph.model import check_model, check_phases_ended
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.tflite.storage import INT8, Storage


def is_frozen(model: keras.Model) -> bool:
    """Whether a model came out of `freeze`."""
    wrappers = [layer for layer in model.layers if isinstance(layer, Compressed)]
    known = bool(wrappers) or any(isinstance(layer, FusedLSTM) for layer in model.layers)
    return known and all(isinstance(t, FrozenGrid) for w in wrappers for t in w.transform_list)


def points_in(model: keras.Model) -> list[QuantizeActivation]:
    """The points of a model, nested models opened, where activations are quantized."""
    return [layer for _, layer in graph.walk(model) if isinstance(layer, QuantizeActivation)]


def has_points(model: keras.Model) -> bool:
    """Whether activations of a model have ranges somewhere. Signs have none, and want integers before them."""
    return any(not point.quantizer.replaces_relu for point in points_in(model))


@older_objects_apart()
@global_state_kept()
@float32_policy()
def freeze(
    model: keras.Model,
    representative_dataset: Any = None,
    *,
    activation_bits: int = 8,
    activations: bool = True,
    storage: Storage = INT8,
    grids: Mapping[str, Grid] | None = None,
    recurrent: str = "unrolled",
    batch_size: BatchSize = AUTO,
) -> keras.Model:
    """A Keras model that computes what the device will: "the simulation" of this library, in full.

    BatchNormalization is folded, weights are exactly `integers * scale` (shifted up to fill int8), biases are whole
    steps of input scale times weight scale, every activation point has its final scale and zero point, and average
    pooling rounds as the int8 kernel does. Nested models are put in line; inputs and outputs keep order and structure.

    Args:
        model: Plain model, or one made by this library. A plain one gets 8-bit weights and activations first.
        representative_dataset: Data that calibrates the ranges that training did not set; see `convert`.
        activation_bits: 8 or 16.
        activations: `False` freezes the weights only and leaves activations and biases float.
        storage: How the weights will be stored: integers that will be packed into fewer than 8 bits are not shifted up.
        grids: Activation point -> grid that it gets in place of what `representative_dataset` says.
        recurrent: See `convert`; 8-bit activations only.
        batch_size: See `convert`; the frozen model takes any for 1 too.

    Returns:
        A Functional model; its outputs for a batch are the device's, but for the rounding of the kernels themselves.
        Its `calibration_samples` tells how many samples set ranges, its `recurrent_notes` what became of recurrent
        layers, its `without_operator` which of them are unrolled for want of one. Grids of activations are its layers'
        configuration, not weights: `set_weights` and `load_weights` from another frozen model move the weights alone,
        onto this one's grids. A `.keras` file, and `keras.models.clone_model` with `set_weights`, have both.

    Raises:
        ValueError: For ranges that are not known, or a layer without an integer kernel, by name.
    """
    check_model(model)
    check_no_lora(model)
    check_phases_ended(model)
    check_finite(model)
    check_layers(model)
    if is_frozen(model):
        check_frozen_batch(model, batch_size)
        return model
    representative_dataset = peekable(representative_dataset)
    form = RecurrentForm(recurrent if activations and activation_bits == 8 else "unrolled", storage.target)
    mode = "dynamic" if not activations else "16x8" if activation_bits == 16 else "int8"
    everywhere = activations and not has_points(model)
    measures = everywhere and activation_bits == 8
    flat = flatten(model, representative_dataset, form, mode, measures)
    prepared, known, seen = flat.model, {}, 0
    if activations:
        has_data = representative_dataset is not None
        flat = replace(flat, model=fold_ahead(flat.model))
        prepared = with_points(flat, activation_bits, everywhere=everywhere, has_data=has_data)
        trained = {point.name for point in points_in(prepared)} - {point.name for point in untrained_points(prepared)}
        known = {name: grid for name, grid in (grids or {}).items() if name not in trained}
        seen = set_ranges(prepared, model if graph.is_graph(model) else prepared, representative_dataset)
        prepared = small_rows(rows_apart(prepared), known)
    batch = batch_of(prepared, batch_size)
    freezer = Freezer(prepared, activation_bits, activations, storage, known, mode, measures)
    frozen = graph.Rebuild(freezer, input_shape=lambda tensor: (batch, *tensor.shape[1:])).model(prepared)
    frozen.calibration_samples, frozen.recurrent_notes = seen, (*flat.notes, *flat.without_operator)
    frozen.without_operator = flat.without_operator
    return frozen
