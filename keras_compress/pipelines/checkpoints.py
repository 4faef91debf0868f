"""Steps of a long pipeline, each kept on disk when it is done, so that a killed run goes on behind its last one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_compress.convert.files import make_folder, save_keras_atomic, write_atomic

_STATE = "steps.json"


class Checkpoints:
    """Models and figures of finished steps; a context manager, whose end removes what was kept for one run only.

    Args:
        folder: Where they are kept; made if it is not there. `None` keeps them for this run only.
        work: What decides the results (arguments, weights, data), as JSON types: a folder of other work is refused.

    Raises:
        ValueError: The folder holds the steps of other work, or a damaged list of them.
        OSError: The folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, work: Any) -> None:
        self._temporary: str | None = None
        if folder is None:
            folder = self._temporary = tempfile.mkdtemp(prefix="keras_compress-")
        self.folder = make_folder(folder)
        self._work = hashlib.sha1(json.dumps(work, sort_keys=True).encode()).hexdigest()
        self._figures = self._read()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def step(self, name: str, make: Callable[[], tuple[keras.Model | None, dict[str, Any]]]) -> dict[str, Any]:
        """The figures of a step, which is done now if it was not done before.

        Args:
            name: Name of the step, and of its `.keras` file.
            make: Gives the step's model, if it makes one, and its figures, as JSON types.
        """
        if name not in self._figures:
            model, figures = make()
            if model is not None:
                # The model first: a step that is listed is whole.
                save_keras_atomic(model, self._path(name))
            self._figures[name] = figures
            state = {"work": self._work, "steps": self._figures}
            write_atomic(self.folder / _STATE, json.dumps(state, indent=1).encode())
        return self._figures[name]

    def model(self, name: str) -> keras.Model:
        """The model of a finished step."""
        return keras.models.load_model(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.keras"

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.folder / _STATE
        if not path.exists():
            return {}
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            work, steps = state["work"], {str(name): dict(figures) for name, figures in state["steps"].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"Expected the steps of an earlier run. Received: {path} ({error})") from error
        if work != self._work:
            raise ValueError(
                "Expected a new folder, or the one of the same model, data and arguments. "
                f"Received: {self.folder}, which holds other work"
            )
        return steps


def fingerprint(value: Any) -> Any:
    """What stands for a value among a pipeline's work: digests of arrays, weights, functions, JSON types as they are.

    Of other objects, such as a `tf.data.Dataset`, the type alone is compared.
    """
    if isinstance(value, keras.Model):
        return [fingerprint(keras.ops.convert_to_numpy(weight)) for weight in value.weights]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha1(np.ascontiguousarray(value).data).hexdigest()
        return [list(value.shape), value.dtype.name, digest]
    if isinstance(value, (list, tuple)):
        return [fingerprint(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): fingerprint(each) for key, each in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, keras.losses.Loss):
        # `get_config` of Keras's wrapped functions leaves their arguments out.
        return [type(value).__name__, repr(value.get_config()), repr(getattr(value, "_fn_kwargs", ""))]
    if hasattr(value, "__array__"):
        return fingerprint(np.asarray(value))
    if hasattr(value, "__code__"):
        constants = [each for each in value.__code__.co_consts if isinstance(each, (int, float, str))]
        return [value.__qualname__, hashlib.sha1(value.__code__.co_code).hexdigest(), constants]
    return type(value).__name__
