"""A Keras 2 model as its file has it: the configuration, and the values of each layer by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from keras_compress.migrate import process

Array = NDArray[Any]
# Where tfmot has a Python of its own.
PYTHON = "KERAS_COMPRESS_TFMOT_PYTHON"
_LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Stored:
    """A Keras 2 model.

    Attributes:
        config: `{"class_name": "Functional", "config": {...}}`.
        values: Name of a layer of the outermost model -> `(name, value)` in the order of the file.
    """

    config: dict[str, Any]
    values: Mapping[str, list[tuple[str, Array]]]


def stored(model: Any) -> Stored:
    """What there is of a model: an .h5 file, a .keras file or SavedModel of tf_keras, or a tf_keras model itself.

    Raises:
        OSError: If the file is not there.
        TypeError: For an object that is no tf_keras model.
        ValueError: For a file that holds no such model.
        RuntimeError: If a file that only tf_keras reads meets no tf_keras and tfmot.
    """
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.exists():
            raise FileNotFoundError(2, "No such file or folder", str(path))
        return _of_h5(path) if path.is_file() and h5py.is_hdf5(path) else _of_process(path)
    if not type(model).__module__.startswith(("tf_keras", "keras.src.engine", "tensorflow.python.keras")):
        raise TypeError(
            "Expected a tf_keras model, or the path of one that was saved (.h5, .keras, or a SavedModel folder). "
            f"Received: {model!r} of type {type(model).__name__}"
        )
    return _of_parts(process.parts_of(model))


def _of_h5(path: Path) -> Stored:
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise ValueError(
                "Expected an .h5 file of a whole model, `model.save('model.h5')`. "
                f"Received: {path}, which holds weights without a model"
            )
        try:
            values = _values(file["model_weights"])
        except KeyError as error:
            raise ValueError(
                f"Expected an .h5 file that was written to its end. Received: {path} ({error.args[0]}). tf_keras "
                "cannot write pruned recurrent layers, whose masks have one name, to .h5: save them as model.keras"
            ) from error
    return Stored(json.loads(config), values)


def _values(groups: h5py.Group) -> dict[str, list[tuple[str, Array]]]:
    return {
        name: [(weight, np.asarray(groups[name][weight])) for weight in _names(groups[name], "weight_names")]
        for name in _names(groups, "layer_names")
    }


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which HDF5 has in pieces where it is long."""
    pieces = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(pieces)}" in group.attrs:
        pieces.append(f"{attribute}{len(pieces)}")
    found = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]


def _of_process(path: Path) -> Stored:
    """A model that tf_keras alone reads, read by a process that has it."""
    with tempfile.TemporaryDirectory(prefix="keras_compress-") as folder:
        target = Path(folder) / "parts.npz"
        python = os.environ.get(PYTHON, sys.executable)
        try:
            done = subprocess.run(
                [python, process.__file__, str(path), str(target)],
                env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
                capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"Expected {path} to be read within {_LONGEST_SECONDS:g} s. Received: no end") from error
        if done.returncode == 0:
            with np.load(target, allow_pickle=False) as parts:
                return _of_parts({key: parts[key] for key in parts.files})
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    if "ModuleNotFoundError" in said:
        raise RuntimeError(
            f"Expected tf_keras and tfmot to read {path}: pip install 'keras-compress[tfmot]', or let {PYTHON} name a "
            f"Python that has them. An .h5 file needs neither. Received: {said}"
        )
    raise ValueError(f"Expected a model that tf_keras loads. Received: {path} ({said})")


def _of_parts(parts: Mapping[str, Any]) -> Stored:
    values = {
        layer: [(name, np.asarray(parts[f"{index}/{place}"])) for place, name in enumerate(names)]
        for index, (layer, names) in enumerate(json.loads(str(parts["names"])))
    }
    return Stored(json.loads(str(parts["config"])), values)
