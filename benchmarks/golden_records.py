"""What `golden.py` keeps of a model: its file, outputs, and what the conversion says of itself."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from layer_trials import stable

from keras_compress.convert.files import write_atomic

Array = np.ndarray[Any, Any]
KERNELS = ("xnnpack", "reference")


@dataclass
class Record:
    """One model.

    Attributes:
        name: Of the case.
        status: `"ok"`, `"refused"` (by an error that users are meant to see), `"failed"` (any other) or `"lost"`: the
            process crashed or hung.
        message: Why, without what changes from run to run.
        notes: Of the artifact.
        float_ops: Kind, tensor and reason of each.
        points: Activation point -> tensor.
        refused: Kernel -> why it does not run the file.
        seconds: For all of it.
        content: The `.tflite` file.
        outputs: Kernel -> its outputs, in the file's order.
    """

    name: str
    status: str = "ok"
    message: str = ""
    notes: list[str] = field(default_factory=list)
    float_ops: list[list[str]] = field(default_factory=list)
    points: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    content: bytes = b""
    outputs: dict[str, list[Array]] = field(default_factory=dict)

    def told(self) -> str:
        """A few words."""
        where = "".join(f", {kernel} refused it" for kernel in self.refused)
        return f"{len(self.content):,} B{where}" if self.status == "ok" else f"{self.status}: {self.message[:120]}"

    def write(self, folder: Path) -> None:
        """Put it into a folder; the JSON file, last, tells that all is there."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file_name(self.name, "json")
        path.unlink(missing_ok=True)
        write_atomic(folder / file_name(self.name, "tflite"), self.content)
        packed = io.BytesIO()
        named = {f"{kernel}.{n}": a for kernel, found in self.outputs.items() for n, a in enumerate(found)}
        np.savez_compressed(packed, **named)
        write_atomic(folder / file_name(self.name, "npz"), packed.getvalue())
        kept = {key: value for key, value in asdict(self).items() if key not in ("content", "outputs")}
        write_atomic(path, json.dumps(kept, indent=1).encode())

    @classmethod
    def read(cls, folder: Path, name: str) -> Record:
        """What `write` wrote."""
        found = cls(**json.loads((folder / file_name(name, "json")).read_text()))
        found.content = (folder / file_name(name, "tflite")).read_bytes()
        with np.load(folder / file_name(name, "npz")) as arrays:
            for key in arrays.files:
                found.outputs.setdefault(key.split(".")[0], []).append(arrays[key])
        return found


def file_name(name: str, ending: str) -> str:
    """A name for files: readable, and unlike for names that differ in signs only."""
    digest = hashlib.sha1(name.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[:60]}_{digest}.{ending}"


def made(name: str) -> Record:
    """Convert a model, and run it."""
    # Here: the parent process needs neither models nor TensorFlow's threads.
    from golden_models import CASES

    from keras_compress.convert.float_flatbuffer import ConversionError

    started = time.monotonic()
    found = Record(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            artifact, inputs = CASES[name].artifact()
            _fill(found, artifact, inputs)
        except Exception as error:
            foreseen = isinstance(error, (ValueError, ConversionError))
            if not foreseen:
                traceback.print_exc()
            found.status = "refused" if foreseen else "failed"
            found.message = stable(f"{type(error).__name__}: {error}")
    found.seconds = round(time.monotonic() - started, 2)
    return found


def _fill(found: Record, artifact: Any, inputs: Any) -> None:
    """Take over what the conversion made, and what each kernel makes of it."""
    from keras_compress.convert.compressed import expand_content
    from keras_compress.runtime import deployed
    from keras_compress.runtime.kernels import runner_of

    found.content, found.notes = artifact.content, [stable(note) for note in artifact.notes]
    found.float_ops = [[op.op, op.tensor, stable(op.reason)] for op in artifact.float_ops]
    found.points = dict(artifact.points)
    for kernel in (*KERNELS, *(("tflm",) if artifact.runtime == "tflm" else ())):
        content = found.content if kernel == "tflm" else expand_content(found.content)
        try:
            found.outputs[kernel] = deployed.run(runner_of(kernel), content, inputs, found.name)
        except (ValueError, RuntimeError) as error:
            found.refused[kernel] = stable(str(error))
