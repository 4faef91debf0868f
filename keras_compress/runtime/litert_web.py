"""LiteRT.js, the runtime of browsers, in Node: the same WebAssembly that a page loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.runtime.child import RuntimeTimeout
from keras_compress.runtime.frames import Header
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.process_target import ProcessTarget
from keras_compress.runtime.target import Array, Signature

PACKAGE, VERSION = "@litertjs/core", "2.5.3"
# Names the folder whose `node_modules` has the package; the current one by default.
FOLDER = "KERAS_COMPRESS_LITERTJS"
_SCRIPT = Path(__file__).with_suffix(".mjs")
_DTYPES = ("float32", "int32", "uint8")


@register("target", "litert_web")
class LiteRTWeb(ProcessTarget):
    """LiteRT.js on this machine's CPU, in a process of Node.

    Args:
        time_limit_s: Longest time of a request in seconds, ten times that for timing.
        memory_limit_bytes: Not used: WebAssembly ends at 4 GiB.

    `memory` gives `resident_memory_bytes`: growth of the process that loads the model and runs it once.
    """

    name = "litert_web"
    title = "LiteRT.js"
    package = PACKAGE

    def __init__(self, *, time_limit_s: float = 120.0, memory_limit_bytes: int | None = None) -> None:
        super().__init__({}, time_limit_s, memory_limit_bytes)
        self._inputs_and_outputs = LiteRT(time_limit_s=time_limit_s, memory_limit_bytes=memory_limit_bytes)

    def available(self) -> str | None:
        """None where the runtime can be used, else the reason why not."""
        if shutil.which("node") is None:
            return "Node is not installed (https://nodejs.org, or `apt-get install nodejs npm`)"
        found = _package() / "package.json"
        version = json.loads(found.read_text(encoding="utf-8"))["version"] if found.is_file() else None
        if version != VERSION:
            has = f"version {version} is" if version else "it is not"
            return (
                f"{PACKAGE} {VERSION} is wanted, and {has} in {_package().parents[2]}: "
                f"`npm install {PACKAGE}@{VERSION}` there, or let {FOLDER} name the folder that has its node_modules"
            )
        return None

    def describe(self, content: bytes, label: str = "") -> Signature:
        """The model's inputs and outputs, as LiteRT tells them.

        Raises:
            ValueError: If LiteRT refuses the file, or LiteRT.js has no arrays for its inputs or outputs.
        """
        signature = self._inputs_and_outputs.describe(content, label)
        for spec in (*signature.inputs, *signature.outputs):
            if spec.dtype not in _DTYPES:
                raise ValueError(
                    f"Expected inputs and outputs out of {_DTYPES} for LiteRT.js, such as those of io='float32'. "
                    f"Received: {label or 'a file'} with {spec.name!r} of {spec.dtype}"
                )
        return signature

    def tensors(
        self, content: bytes, inputs: Sequence[Array], names: Sequence[str], label: str = ""
    ) -> dict[str, Array]:
        """LiteRT.js shows inputs and outputs only."""
        raise ValueError("Expected target 'litert' to read intermediate tensors. Received: target 'litert_web'")

    def _request(
        self, header: Header, contents: list[bytes], arrays: list[Array], label: str, fresh: bool = False
    ) -> tuple[Header, list[Array]]:
        self._check(contents, label)
        with tempfile.TemporaryDirectory(prefix="keras_compress-") as folder:
            models = [_written(Path(folder) / f"model{i}.tflite", content) for i, content in enumerate(contents)]
            inputs = [_written(Path(folder) / f"input{i}", array.tobytes()) for i, array in enumerate(arrays)]
            samples = len(arrays[0]) if arrays else 0
            outputs = str(Path(folder) / "output")
            job = {**header, "models": models, "inputs": inputs, "samples": samples, "outputs": outputs}
            answer = self._asked(job, Path(folder), label)
            if "outputs" in answer:
                return answer, [_read(outputs, i, spec, samples) for i, spec in enumerate(answer["outputs"])]
        if "times" in answer:
            return {"delegates": [answer["node"]] * len(contents)}, [np.asarray(answer["times"], np.int64)]
        return answer, []

    def _asked(self, job: dict[str, Any], folder: Path, label: str) -> dict[str, Any]:
        """What Node says to a job."""
        question, answer = folder / "job.json", folder / "answer.json"
        question.write_text(json.dumps({**job, "package": str(_package())}), encoding="utf-8")
        seconds = self.time_limit_s * (10 if job["op"] == "latency" else 1)
        try:
            done = subprocess.run(
                ["node", str(_SCRIPT), str(question), str(answer)],
                capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RuntimeTimeout(f"LiteRT.js gave no answer in {seconds:g} s. Received: {label}") from error
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise RuntimeError(f"Expected LiteRT.js to run {label}. Received: {last}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        if "error" in found:
            raise ValueError(f"Expected a file that LiteRT.js runs. Received: {label}: {found['error']}")
        return found

    def _delegate(self, name: str) -> str:
        return f"XNNPACK in WebAssembly, Node {name}"


def _package() -> Path:
    return Path(os.environ.get(FOLDER) or os.getcwd()).resolve() / "node_modules" / PACKAGE


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _read(prefix: str, index: int, spec: Header, samples: int) -> Array:
    return np.fromfile(f"{prefix}{index}", spec["dtype"]).reshape(samples, *spec["shape"])
