"""Runs what a user would run on a broken file, and judges how it ended."""

from __future__ import annotations

import contextlib
import io
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from robustness.mutations import has_header, mutate_tflite, pick
from robustness.mutations_json import mutate_keras, mutate_recipe

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.recipes.packaged import FOLDER
from keras_compress.recipes.recipe import Recipe
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout

PACKAGE = str(Path(kc.__file__).parent)
OURS = (ValueError, TypeError, OSError, RuntimeCrash, RuntimeTimeout, kc.VerificationError)
# A runtime may have this much address space.
MEMORY_LIMIT_BYTES = 2 << 30
# Each call makes a few requests, each of which may be tried twice.
CALL_LIMIT_S = 60.0
KINDS = ("tflite", "recipe", "keras")


@dataclass(frozen=True)
class Verdict:
    """How one call on one broken file ended.

    Attributes:
        call: Such as `"measure tflm"`.
        outcome: `"ok"`, or how it was refused: the class of the error.
        seconds: Wall-clock time.
        fault: What should not have happened; `None` where all is well.
    """

    call: str
    outcome: str
    seconds: float
    fault: str | None


@dataclass(frozen=True)
class Case:
    """One broken file.

    Attributes:
        kind: Out of `KINDS`.
        what: The mutations.
        content: The file's bytes.
        reaches_runtime: Whether it has a valid header.
    """

    kind: str
    what: str
    content: bytes
    reaches_runtime: bool


class Bed:
    """Intact files to break, and the calls on what came of them.

    Args:
        folder: For the broken files.
        time_limit_s: A runtime may be silent for this long, in seconds.
        verify_each: Every so many files are verified too, which takes the longest.
    """

    def __init__(self, folder: Path, time_limit_s: float = 4.0, verify_each: int = 1) -> None:
        self.folder, self.verify_each = folder, verify_each
        self._limits: dict[str, Any] = {"time_limit_s": time_limit_s, "memory_limit_bytes": MEMORY_LIMIT_BYTES}
        self.model = _net()
        self.x = np.random.default_rng(0).random((6, 6, 6, 1), dtype=np.float32)
        self.y = np.array([0, 1, 2, 3, 0, 1])
        self.model.save(folder / "intact.keras")
        np.savez(folder / "data.npz", x=self.x, y=self.y)
        self.artifact = kc.convert(self.model, representative_dataset=self.x)
        single = kc.convert(self.model, mode="float32")
        self.files = (self.artifact.content, single.content, kc.convert(self.model, mode="dynamic").content)
        self.keras = (folder / "intact.keras").read_bytes()

    def case(self, kind: str, seed: int, number: int) -> Case:
        """The broken file of this number: always the same."""
        generator = np.random.default_rng([seed, KINDS.index(kind), number])
        if kind == "tflite":
            what, content = mutate_tflite(pick(generator, (self.files[0], *self.files)), generator)
            return Case(kind, what, content, has_header(content))
        if kind == "recipe":
            name = pick(generator, Recipe.names())
            what, content = mutate_recipe((FOLDER / f"{name}.json").read_text(encoding="utf-8"), generator)
        else:
            what, content = mutate_keras(self.keras, generator)
        return Case(kind, what, content, False)

    def run(self, case: Case, number: int) -> Iterator[Verdict]:
        """All calls on one broken file."""
        suffix = {"tflite": ".tflite", "recipe": ".json", "keras": ".keras"}[case.kind]
        path = self.folder / f"broken{suffix}"
        path.write_bytes(case.content)
        calls = {"tflite": self._tflite, "recipe": self._recipe, "keras": self._keras}[case.kind](path, case, number)
        for name, call in calls.items():
            yield judge(name, call, str(path))

    def _tflite(self, path: Path, case: Case, number: int) -> dict[str, Callable[[], Any]]:
        runtime = ("litert", "tflm")[number % 2]
        x, y = (self.x, self.y) if number % 4 < 2 else (None, None)
        kernels = (("xnnpack",), ("tflm",), ("reference",))[number % 3]
        broken = replace(self.artifact, content=case.content)
        calls: dict[str, Callable[[], Any]] = {
            "inspect": lambda: kc.inspect_tflite(path),
            f"measure {runtime}": lambda: kc.measure(path, x, y, target=runtime, **self._limits),
        }
        if number % self.verify_each == 0:
            calls[f"verify {kernels[0]}"] = lambda: kc.verify(broken, None, self.x, kernels=kernels, **self._limits)
        return calls

    def _recipe(self, path: Path, case: Case, number: int) -> dict[str, Callable[[], Any]]:
        arguments = [
            f"--model={self.folder}/intact.keras",
            f"--data={self.folder}/none.npz",
            f"--out={self.folder}/out",
        ]
        return {
            "load": lambda: Recipe.load(path),
            "apply": lambda: kc.compress(self.model, path, steps_per_epoch=10),
            # Refused at the data at the latest, so that nothing is trained.
            "compress": lambda: command("compress", *arguments, f"--recipe={path}"),
        }

    def _keras(self, path: Path, case: Case, number: int) -> dict[str, Callable[[], Any]]:
        data = f"--data={self.folder}/data.npz"
        return {
            "inspect": lambda: command("inspect", f"--model={path}"),
            "measure": lambda: command("measure", f"--model={path}"),
            # A conversion takes seconds: a fifth of them.
            **(
                {"verify": lambda: command("verify", f"--model={path}", data)}
                if number % (5 * self.verify_each) == 0
                else {}
            ),
        }


def _net() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(image)
    x = keras.layers.Add(name="sum")([x, keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)])
    x = keras.layers.Flatten(name="flatten")(keras.layers.MaxPooling2D(name="pool")(x))
    return keras.Model(image, keras.layers.Dense(4, activation="softmax", name="classes")(x), name="net")


class Refused(Exception):
    """A command ended with exit code 1 and one clear line."""


class Unclear(Exception):
    """A command ended otherwise than it should."""


def command(*arguments: str) -> None:
    """The command line in this process. Raises `Refused` with the message, or `Unclear`."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = cli.main(["keras-compress", *arguments])
    said = error.getvalue()
    if escapes := re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", out.getvalue() + said):
        raise Unclear(f"control characters {set(escapes)} in what was printed")
    if code == 0:
        return
    line = said.strip().splitlines()[-1] if said.strip() else ""
    if code != 1 or (said and not line.startswith("Error: ")) or "--debug shows where" in line or "Traceback" in said:
        raise Unclear(f"exit code {code}: {said[-500:]}")
    raise Refused(line)


def judge(name: str, call: Callable[[], Any], path: str, limit_s: float = CALL_LIMIT_S) -> Verdict:
    """Runs a call and says whether it ended as it should: well, or with one clear error of this package, in time."""
    began = time.perf_counter()
    outcome, fault = "ok", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            # Said of a model without data, which most recipes do not need.
            warnings.filterwarnings("ignore", "Expected data, or BatchNormalizations")
            call()
    except Refused:
        outcome = "refused"
    except Exception as error:
        outcome, fault = type(error).__name__, _fault(error)
    seconds = time.perf_counter() - began
    if fault is None and seconds > limit_s:
        fault = f"took {seconds:.0f} s"
    return Verdict(name, outcome, seconds, fault)


def _fault(error: Exception) -> str | None:
    """What is wrong with an exception; `None` for one of this package's own."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_by_us = bool(frames) and frames[-1].filename.startswith(PACKAGE)
    clear = (
        isinstance(error, OURS[2:]) or str(error).startswith(("Expected", "Unexpected")) or ": Expected" in str(error)
    )
    if isinstance(error, OURS) and raised_by_us and clear:
        return None
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-5:]))
    return f"{type(error).__name__}: {str(error)[:300]} at {where}"
