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

from keras_compress.convert.files import make_folder, save_keras_atomic, write_atomic
from keras_compress.pipelines.fingerprints import fingerprint

_STATE = "steps.json"


class Checkpoints:
    """Models and figures of finished steps; a context manager, whose end removes what was kept for one run only.

    Args:
        folder: Where they are kept; made if it is not there. `None` keeps them for this run only.
        work: Name -> what decides the results (arguments, a model, data), see `fingerprint`: a folder of other work is
            refused.

    Raises:
        ValueError: The folder holds the steps of other work, a damaged list of them, or models that are no steps.
        OSError: The folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, work: Mapping[str, Any]) -> None:
        self._temporary: str | None = None
        if folder is None:
            folder = self._temporary = tempfile.mkdtemp(prefix="keras_compress-")
        self.folder = make_folder(folder)
        self._work = {
            name: hashlib.sha1(json.dumps(fingerprint(value), sort_keys=True).encode()).hexdigest()
            for name, value in work.items()
        }
        self._figures = self._read()
        # The list first: a model beside it was put there by a step.
        self._write()

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
            self._write()
        return self._figures[name]

    def model(self, name: str) -> keras.Model:
        """The model of a finished step, not compiled: its loss may be a function that no file holds."""
        return keras.models.load_model(self._path(name), compile=False)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.keras"

    def _write(self) -> None:
        state = {"work": self._work, "steps": self._figures}
        write_atomic(self.folder / _STATE, json.dumps(state, indent=1).encode())

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.folder / _STATE
        if not path.exists():
            self._check_empty()
            return {}
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            work, steps = state["work"], {str(name): dict(figures) for name, figures in state["steps"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Expected the steps of an earlier run. Received: {path} ({error})") from error
        if work != self._work:
            raise ValueError(
                "Expected a new folder, or the one of the same model, data and arguments. "
                f"Received: {self.folder}, which holds other work: {self._others(work)}"
            )
        return steps

    def _others(self, work: Any) -> str:
        if not isinstance(work, dict):
            return "that of an earlier version"
        return ", ".join(sorted(key for key in {*work, *self._work} if work.get(key) != self._work.get(key)))

    def _check_empty(self) -> None:
        """A step would take the place of a model of the same name."""
        found = sorted(path.name for path in self.folder.glob("*.keras") if not path.name.startswith("."))
        if found:
            raise ValueError(
                "Expected a new folder, or the one of an earlier run. "
                f"Received: {self.folder}, with models that are not its steps: {', '.join(found[:5])}"
            )
