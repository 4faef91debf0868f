"""`from_tfmot`: a tf_keras model that tfmot wrapped, as the same Keras 3 model with this library's transforms."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.printable import scope_name
from keras_compress.graph import graph
from keras_compress.graph.model import LayerCopies, copy_layer
from keras_compress.migrate.stored import Stored, stored
from keras_compress.migrate.transforms import CannotMapError, with_transforms
from keras_compress.migrate.unwrapped import POINT, QUANTIZE, Unwrapped, Wrapped, unwrapped
from keras_compress.quantizers.activation import MovingAverageRange, QuantizeActivation

# Weight of the past in tfmot's moving averages.
_DECAY = 0.999


@global_state_kept()
def from_tfmot(model: str | os.PathLike[str] | Any) -> keras.Model:
    """A model that tfmot (tensorflow-model-optimization) pruned, clustered or quantized, as one of this library.

    It gives the same outputs (values that lie on the edge between two steps of a grid may fall to the other side), and
    training goes on from there: masks, schedules and their steps, centroids, ranges and the steps of weight grids are
    tfmot's. The grids' steps, which tfmot takes from the last batch, are trained from there on (`LSQ`). A weight whose
    clusters tfmot gave scales of each channel has a codebook for each channel here.

    Args:
        model: Path of an .h5 file, which needs nothing else; path of a .keras file or SavedModel of tf_keras, which a
            process with tf_keras and tfmot reads (the extra `tfmot`, or a Python that `KERAS_COMPRESS_TFMOT_PYTHON`
            names); or the tf_keras model itself. One without wrappers becomes a plain model.

    Raises:
        OSError: If the file is not there.
        TypeError: For an object that is no tf_keras model.
        ValueError: For layers that have no twin here, all named, or a file that holds no model.
        RuntimeError: If tf_keras or tfmot is needed and missing.
    """
    found = unwrapped(stored(model))
    _refuse(found.refused)
    return _Carried(found).model(_loaded(found.plain))


def _refuse(layers: Mapping[str, str]) -> None:
    if layers:
        listed = "; ".join(f"{path!r}: {why}" for path, why in layers.items())
        raise ValueError(f"Expected layers that have a twin in Keras 3 and keras_compress. Received: {listed}")


def _loaded(plain: Stored) -> keras.Model:
    """The plain model, by Keras's own reader of Keras 2 files."""
    with tempfile.TemporaryDirectory(prefix="keras_compress-") as folder:
        path = Path(folder) / "plain.h5"
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(plain.config)
            group = file.create_group("model_weights")
            group.attrs.update({"backend": "tensorflow", "keras_version": "2", "layer_names": list(plain.values)})
            for layer, values in plain.values.items():
                names = [f"{place}" for place, _ in enumerate(values)]
                held = group.create_group(layer)
                held.attrs["weight_names"] = names
                for name, (_, value) in zip(names, values, strict=True):
                    held[name] = value
        try:
            model: keras.Model = keras.models.load_model(path, compile=False)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"Expected a model that Keras 3 loads. Received: {error}") from error
    return model


@dataclass
class _Carried:
    """Visitor that rebuilds the plain model with what tfmot's wrappers did."""

    found: Unwrapped
    _refused: dict[str, str] = field(default_factory=dict)
    _copies: LayerCopies = field(init=False)
    _activations: dict[str, keras.layers.Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._copies = LayerCopies(self._layer, self)

    def model(self, plain: keras.Model) -> keras.Model:
        """The new model."""
        made: keras.Model = graph.Rebuild(self).model(plain)
        _refuse(self._refused)
        return made

    def _layer(self, path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        wrapped = self.found.wrapped.get(path)
        if wrapped is None:
            return copy_layer(layer)
        try:
            return with_transforms(copy_layer(layer, **_split(wrapped)), wrapped)
        except CannotMapError as error:
            self._refused[path] = str(error)
            return copy_layer(layer)

    def __call__(self, call: graph.Call) -> Any:
        wrapped = self.found.wrapped.get(call.path)
        if wrapped is None or wrapped.kind not in (QUANTIZE, POINT):
            return self._copies(call)
        if wrapped.kind == POINT:
            name = keras_private.maker(call.args[0]).name
            return _point(call.args[0], wrapped, "", name, f"{scope_name(name)}_quantized")
        again, name = f"_{call.index}" if call.index else "", call.operation.name
        outputs = self._copies(call)
        if _split(wrapped):
            outputs = _point(outputs, wrapped, "pre_activation_", name, f"{name}_linear_quantized{again}")
            outputs = self._activation(call)(outputs)
        outputs = _point(outputs, wrapped, "post_activation_", name, f"{name}_quantized{again}")
        return _point(outputs, wrapped, "output_", name, f"{name}_quantized{again}")

    def _activation(self, call: graph.Call) -> keras.layers.Layer:
        """The activation of a layer, as a layer behind it."""
        if call.path not in self._activations:
            function = call.operation.activation
            name = f"{call.operation.name}_{function.__name__}"
            self._activations[call.path] = keras.layers.Activation(function, name=name)
        return self._activations[call.path]


def _split(wrapped: Wrapped) -> dict[str, None]:
    """What a layer's configuration gets where tfmot quantizes between its sum and its activation."""
    return {"activation": None} if "pre_activation_min" in wrapped.values else {}


def _point(tensor: Any, wrapped: Wrapped, values: str, stands_for: str, name: str) -> Any:
    """The tensor on tfmot's grid; itself where tfmot has none there."""
    if f"{values}min" not in wrapped.values:
        return tensor
    low, high = (float(np.asarray(wrapped.values[f"{values}{end}"][0])) for end in ("min", "max"))
    quantizer = MovingAverageRange(8, decay=_DECAY)
    quantizer.set_range(low, high)
    return QuantizeActivation(quantizer, stands_for=stands_for, name=name).behind(tensor)
