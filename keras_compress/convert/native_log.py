"""The TFLite converter's log: kept back, and cut down to causes and Keras layers where it fails."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import keras

from keras_compress.core.descriptors import turned
from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.graph import graph, parts
from keras_compress.graph.model import inner

_CAUSE = re.compile(r"\berror\b|neither a custom op|failed to legalize|unsupported", re.IGNORECASE)
# Lines that hold such a word and name no cause of their own.
_NOISE = re.compile(r"failed while converting|Error code:|see current operation|called from|cuInit|register factory")
_LINES, _LINE_LENGTH = 8, 240
_NO_OPERATOR = "op is neither a custom op nor a flex op"


class NativeLog:
    """What native code wrote to stdout and stderr (file descriptors 1 and 2) while it was captured."""

    text: str = ""


@contextlib.contextmanager
def quiet_native_logs() -> Iterator[NativeLog]:
    """Capture file descriptors 1 and 2 and TensorFlow's Python loggers; both are restored whatever happens.

    Descriptors belong to the process: another thread that captures waits for this one, see `core.descriptors`.

    Yields:
        A `NativeLog` whose `text` is filled when the block ends.
    """
    log = NativeLog()
    with tempfile.TemporaryFile() as sink:
        try:
            with turned((1, 2), sink.fileno()), quiet_tensorflow():
                yield log
        finally:
            sink.seek(0)
            log.text = sink.read().decode("utf-8", "replace")


class LayerNames:
    """Finds the Keras layer behind a converter's location such as `enc.conv1_1/Relu;enc.conv1_1/convolution`.

    Args:
        model: The user's model, or what was made of it: a flat model has `.` where paths have `/`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._layers: dict[tuple[str, ...], str] = {}
        self._add(model, "", (), ())

    def _add(self, model: Any, prefix: str, scopes: tuple[str, ...], around: tuple[int, ...]) -> None:
        for reference, layer in graph.children(model):
            if id(layer) in around:
                continue
            path, scope = prefix + parts.path_of(reference), (*scopes, layer.name)
            told = f"{path!r} ({type(inner(layer)).__name__})"
            for key in (scope, (".".join(scope),), (path.replace("/", "."),)):
                self._layers.setdefault(key, told)
            self._add(layer, f"{path}/", scope, (*around, id(layer)))

    def of(self, location: str) -> str | None:
        """Path and class of the layer, `None` where the location names none."""
        for name in location.split(";"):
            # Keras enters each layer's name scope twice, so TensorFlow numbers the second one.
            scopes = [part for raw in name.split("/") for part in (raw, re.sub(r"_\d+$", "", raw))]
            found = list(self._matches(scopes))
            if found:
                return found[-1]
        return None

    def _matches(self, scopes: list[str]) -> Iterator[str]:
        """Layers all of whose scopes occur, the most exact last."""
        # What a layer was taken apart into is named `layer.part`.
        known = {".".join(scope.split(".")[:n]) for scope in scopes for n in range(1, scope.count(".") + 2)}
        for key in sorted(self._layers, key=lambda key: (len(".".join(key)), len(key))):
            if known.issuperset(key):
                yield self._layers[key]


def cause_of(log: NativeLog, failure: BaseException, names: LayerNames) -> str:
    """The lines of a failed conversion that name a cause, each with its layer; at most eight.

    Args:
        log: What the converter wrote.
        failure: What it raised.
        names: Of the model's layers.
    """
    lines = [*log.text.splitlines(), *str(failure).splitlines()]
    found = dict.fromkeys(filter(None, (_told(line, names) for line in lines)))
    if not found:
        said = [line.strip() for line in str(failure).splitlines() or log.text.splitlines()[-_LINES:] if line.strip()]
        found = dict.fromkeys(line[:_LINE_LENGTH] for line in said[:3])
    named = list(found)
    if len(named) > _LINES:
        named[_LINES:] = [f"and {len(named) - _LINES} more"]
    if any(_NO_OPERATOR in line for line in named):
        named.append(
            "TFLite has no built-in operator for it: build the layer from other operations, or leave it out of the "
            "model that is converted."
        )
    return "\n".join(f"  {line}" for line in named)


def _told(line: str, names: LayerNames) -> str | None:
    if not _CAUSE.search(line) or _NOISE.search(line):
        return None
    places, message = _split(line)
    if not message:
        return None
    layer = next(filter(None, (names.of(place) for place in places)), None)
    return f"{f'layer {layer}: ' if layer else ''}{message[:_LINE_LENGTH]}"


def _split(line: str) -> tuple[list[str], str]:
    """The names in the `loc(...)` of a line, and the line without them."""
    places, kept, position = [], "", 0
    while (start := line.find("loc(", position)) >= 0:
        end, depth = start + 4, 1
        while end < len(line) and depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        places += re.findall(r'"([^"@]+)[^"]*"', line[start:end])
        kept, position = kept + line[position:start], end
    kept += line[position:]
    return places, re.sub(r"^(?:[^:]*?<unknown>:0:|error:|:|\s)+", "", kept).strip()
