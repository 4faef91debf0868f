"""A user's own files: `.keras` models, `.npz` data, and the task that both together make."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.keras_file import load_keras
from keras_compress.core import keras_private
from keras_compress.graph.model import check_model
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import activation_name
from keras_compress.runtime.measure import accuracy

Array = NDArray[Any]
KEYS = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "x", "y")


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """A `.keras` model that this library can work on, loaded as `load_keras` does: no code in the file is run.

    Raises:
        OSError: If the file is not there.
        ValueError: If it is no `.keras` file, holds what safe mode refuses, or a model that is not supported.
    """
    model = load_keras(path)
    check_model(model)
    return model


def content_check(path: Path) -> None:
    """Raises `OSError` now if a file cannot be read."""
    with open(path, "rb"):
        pass


@dataclass(frozen=True)
class Data:
    """Arrays of an `.npz` file.

    Attributes:
        path: The file, for errors.
        arrays: Those of `KEYS` that it has.
    """

    path: Path
    arrays: Mapping[str, Array]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Data:
        """Read and check a file.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no `.npz` file, has Python objects in it, or numbers that are not finite.
        """
        path = Path(path)
        content_check(path)
        if not zipfile.is_zipfile(path):
            raise ValueError(f"Expected an .npz file (`np.savez`). Received: {path}")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: np.asarray(file[key]) for key in KEYS if key in file.files}
                found = sorted(file.files)
        except Exception as error:
            # What a broken file makes of NumPy: ValueError, EOFError, MemoryError, zlib.error, BadZipFile, ...
            raise ValueError(f"Expected arrays of numbers in an .npz file. Received: {path} ({error})") from error
        if not arrays:
            raise ValueError(f"Expected arrays out of {KEYS} in {path}. Received: {found}")
        for key, array in arrays.items():
            _check_array(array, key, path)
        return cls(path, arrays)

    def part(self, *names: str) -> tuple[Array, Array]:
        """Samples and labels, of the first part that there is.

        Args:
            names: Parts in the order of preference: `"train"`, `"val"`, `"test"`, or `""` for `x` and `y`.

        Raises:
            ValueError: If there is none, or samples and labels do not pair.
        """
        for name in names:
            suffix = f"_{name}" if name else ""
            keys = (f"x{suffix}", f"y{suffix}")
            if all(key in self.arrays for key in keys):
                x, y = (self.arrays[key] for key in keys)
                if len(x) != len(y):
                    raise ValueError(
                        f"Expected as many labels as samples in {self.path}. "
                        f"Received: {keys[0]} {x.shape}, {keys[1]} {y.shape}"
                    )
                return x, y
        wanted = " or ".join(f"x{s}, y{s}" for s in (f"_{n}" if n else "" for n in names))
        raise ValueError(f"Expected {wanted} in {self.path}. Received: {sorted(self.arrays)}")

    def samples(self, *names: str) -> Array:
        """Samples without labels, of the first part that there is; see `part`."""
        return self.arrays[self.samples_key(*names)]

    def samples_key(self, *names: str) -> str:
        """The key of what `samples` gives, such as `x_train`."""
        keys = [f"x_{name}" if name else "x" for name in names]
        found = [key for key in keys if key in self.arrays]
        if not found:
            raise ValueError(f"Expected {' or '.join(keys)} in {self.path}. Received: {sorted(self.arrays)}")
        return found[0]


def on_training_data(x: Array, trained: Array | None) -> list[str]:
    """What is to be said of samples to measure on, where they are those that models are trained on."""
    return ["Measured on the training data: the file has no x_test with y_test."] if x is trained else []


def _check_array(array: Array, key: str, path: Path) -> None:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"Expected numbers in `{key}` of {path}. Received: {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"Expected at least one sample in `{key}` of {path}. Received: shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite numbers in `{key}` of {path}. Received: NaN or infinite ones")


def as_input(x: Array, model: keras.Model, path: Path) -> Array:
    """Samples in the type of the model's only input.

    Raises:
        ValueError: For a model with several inputs, or samples of another shape.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "Expected a model with one input and one output on the command line; the Python functions take others. "
            f"Received: {len(model.inputs)} inputs, {len(model.outputs)} outputs"
        )
    expected = tuple(model.inputs[0].shape[1:])
    fits = x.ndim == len(expected) + 1 and all(e in (None, n) for e, n in zip(expected, x.shape[1:], strict=True))
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in ("samples", *expected))
        raise ValueError(f"Expected samples of shape ({wanted}) in {path}. Received: {x.shape}")
    return x.astype(model.inputs[0].dtype)


@dataclass(frozen=True)
class Task:
    """What a model is trained for.

    Attributes:
        name: `"classification"`, `"binary classification"` or `"regression"`.
        loss: Keras's configuration of the loss.
        reason: Where the loss comes from, in words.
        threshold: Between the two classes of a single output.
    """

    name: str
    loss: dict[str, Any] | str
    reason: str
    threshold: float = 0.5

    def new_loss(self) -> Any:
        """A new loss to compile with."""
        return keras.saving.deserialize_keras_object(self.loss) if isinstance(self.loss, dict) else self.loss

    def metric(self, outputs: list[Array], y: Any) -> float:
        """Accuracy, or the mean absolute error of a regression."""
        if self.name == "regression":
            return float(np.abs(outputs[0].reshape(-1) - np.asarray(y).reshape(-1)).mean())
        if self.name == "binary classification":
            return float(((outputs[0].reshape(-1) > self.threshold) == (np.asarray(y).reshape(-1) > 0.5)).mean())
        return accuracy(outputs, y)


def task_of(model: keras.Model, y: Array) -> Task:
    """The loss that the model was compiled with, or else one that fits its labels.

    Args:
        model: Loaded model with one output.
        y: Labels: class numbers, one-hot rows, 0 / 1, or real numbers.

    Raises:
        ValueError: For labels that do not fit the output.
    """
    is_logit = _last_activation(model) not in ("softmax", "sigmoid")
    loss = model.get_compile_config().get("loss") if model.compiled else None
    if loss is not None:
        name = _task_name(loss)
        return Task(name, loss, f"the model's own loss, {_loss_name(loss)}", _threshold(loss))
    classes = model.outputs[0].shape[-1]
    kind = y.dtype.kind
    if y.ndim == 2 and y.shape[1] == classes and classes > 1 and kind in "iub":
        fitting: Any = keras.losses.CategoricalCrossentropy(from_logits=is_logit)
    elif classes and classes > 1 and kind in "iu" and y.size == len(y):
        _check_labels(y, classes)
        fitting = keras.losses.SparseCategoricalCrossentropy(from_logits=is_logit)
    elif classes == 1 and y.size == len(y) and set(np.unique(y)) <= {0, 1}:
        fitting = keras.losses.BinaryCrossentropy(from_logits=is_logit)
    elif kind == "f" and y.size == len(y) * int(np.prod(model.outputs[0].shape[1:])):
        fitting = keras.losses.MeanSquaredError()
    else:
        raise ValueError(
            "Expected labels as class numbers, one-hot integers, 0 / 1, or real numbers in the shape of the output "
            f"{model.outputs[0].shape}, or a compiled model. Received: {y.dtype} of shape {y.shape}"
        )
    config = keras.saving.serialize_keras_object(fitting)
    last = f", from_logits={is_logit} by the last activation" if "Crossentropy" in type(fitting).__name__ else ""
    return Task(_task_name(config), config, f"{type(fitting).__name__} by the labels{last}", _threshold(config))


def _check_labels(y: Array, classes: int) -> None:
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"Expected class numbers from 0 to {classes - 1}. Received: {y.min()} to {y.max()}")


def _loss_name(loss: Any) -> str:
    if isinstance(loss, dict):
        return str(loss.get("config") if loss.get("class_name") == "function" else loss.get("class_name"))
    return str(loss)


def _task_name(loss: Any) -> str:
    name = _loss_name(loss).lower().replace("_", "")
    if "binary" in name:
        return "binary classification"
    return "classification" if "categorical" in name else "regression"


def _threshold(loss: Any) -> float:
    config = loss.get("config") if isinstance(loss, dict) else None
    return 0.0 if isinstance(config, dict) and config.get("from_logits") else 0.5


def _last_activation(model: keras.Model) -> str | None:
    tensor = model.outputs[0]
    operation = keras_private.maker(tensor)
    while isinstance(operation, (QuantizeActivation, keras.Model)):
        node = keras_private.call_node(tensor)
        tensor = operation.outputs[0] if isinstance(operation, keras.Model) else node.input_tensors[0]
        operation = keras_private.maker(tensor)
    return activation_name(operation)
