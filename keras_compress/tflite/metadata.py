"""TFLite metadata: what Android Studio, MediaPipe and the Task Library read of a model, written into its file.

A flatbuffer of its own schema (`metadata_schema.fbs` of tflite-support, identifier M001) lies in a buffer that the
model lists as `TFLITE_METADATA`; files that belong to the model, such as labels, are a ZIP archive behind it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.core.suggest import did_you_mean
from keras_compress.tflite.flatbuffer import read_model, write_model

ENTRY, IDENTIFIER, LABELS = "TFLITE_METADATA", b"M001", "labels.txt"
# The oldest parser that knows all that is written here.
_PARSER_VERSION = "1.0.0"
_COLORS = {"RGB": 1, "GRAYSCALE": 2}
_AXIS_LABELS, _IMAGE_PROPERTIES, _NORMALIZATION, _FEATURE_PROPERTIES = 2, 2, 1, 1
# A date, as archives need one: the same file on every day.
_DATE = (1980, 1, 1, 0, 0, 0)
Numbers = float | Sequence[float]


@dataclass(frozen=True)
class Metadata:
    """What an app can read of a model in its `.tflite` file.

    Attributes:
        name: Of the model.
        description: What it does.
        version: Of the model.
        author: Who made it.
        license: Its licence.
        mean: What is subtracted from each value (of each channel, if several) before the model sees it.
        std: What the difference is divided by: an image of 0 to 255 for a model of -1 to 1 has mean 127.5, std 127.5.
        color: `"RGB"` or `"GRAYSCALE"`, where the first input is an image.
        labels: A name for each value of the first output, in order.
    """

    name: str
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    mean: Numbers | None = None
    std: Numbers | None = None
    color: str | None = None
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for key in ("name", "description", "version", "author", "license"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"Expected a string for `{key}`. Received: {getattr(self, key)!r}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"Expected `mean` and `std` together. Received: mean={self.mean}, std={self.std}")
        numbers = [*_listed(self.mean), *_listed(self.std)]
        if not np.isfinite(numbers).all() or 0.0 in _listed(self.std):
            raise ValueError(f"Expected finite `mean`, and `std` other than 0. Received: {self.mean}, {self.std}")
        if self.color not in (None, *_COLORS):
            raise ValueError(f"Expected `color` out of {sorted(_COLORS)}. Received: color={self.color!r}")
        if self.labels is None:
            return
        if isinstance(self.labels, str) or not isinstance(self.labels, Sequence):
            raise ValueError(f"Expected `labels` as a list of names. Received: {self.labels!r}")
        if any("\n" in str(label) for label in self.labels):
            raise ValueError("Expected labels of one line each. Received: a label with a line break")


def as_metadata(given: Metadata | Mapping[str, Any] | None) -> Metadata | None:
    """What `convert` may be given.

    Raises:
        ValueError: For unknown keys.
        TypeError: For anything else.
    """
    if given is None or isinstance(given, Metadata):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"Expected `metadata` as kc.Metadata(name=...) or a mapping. Received: {type(given).__name__}")
    known = [each.name for each in fields(Metadata)]
    for key in given:
        if key not in known:
            raise ValueError(f"Expected keys of `metadata` out of {known}. Received: {key!r}{did_you_mean(key, known)}")
    if "name" not in given:
        raise ValueError(f"Expected a name in `metadata`. Received: {dict(given)}")
    return Metadata(**given)


def with_metadata(content: bytes, metadata: Metadata) -> bytes:
    """The file with metadata, and an archive of its labels behind it.

    Raises:
        ValueError: Where labels are not as many as the first output has values, or `mean` not as many as channels.
    """
    model = read_model(content)
    subgraph = model.subgraphs[0]
    inputs, outputs = ([subgraph.tensors[i] for i in side] for side in (subgraph.inputs, subgraph.outputs))
    names = [[_text(each.name) for each in side] for side in _sides(model, inputs, outputs)]
    _check_labels(metadata, outputs[0].shape, names[1][0])
    _check_normalization(metadata, inputs[0].shape, names[0][0])
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_flatbuffer(metadata, *names), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    written = io.BytesIO(write_model(model))
    if metadata.labels is not None:
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(zipfile.ZipInfo(LABELS, _DATE), "".join(f"{label}\n" for label in metadata.labels))
    return written.getvalue()


def _sides(model: Any, inputs: list[Any], outputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """What names inputs and outputs, in their order: the signature, or the tensors where there is none."""
    if not model.signatureDefs:
        return inputs, outputs
    signature, subgraph = model.signatureDefs[0], model.subgraphs[0]
    by_index = [{entry.tensorIndex: entry for entry in side} for side in (signature.inputs, signature.outputs)]
    sides = zip(by_index, (subgraph.inputs, subgraph.outputs), (inputs, outputs), strict=True)
    first, last = ([known.get(i, t) for i, t in zip(order, tensors, strict=True)] for known, order, tensors in sides)
    return first, last


def _check_labels(metadata: Metadata, shape: Sequence[int], output: str) -> None:
    values = int(shape[-1]) if len(shape) else 1
    if metadata.labels is not None and len(metadata.labels) != values:
        raise ValueError(
            f"Expected a label for each of the {values} values of output {output!r}. "
            f"Received: {len(metadata.labels)} labels"
        )


def _check_normalization(metadata: Metadata, shape: Sequence[int], given: str) -> None:
    channels = int(shape[-1]) if len(shape) else 1
    for name in ("mean", "std"):
        numbers = _listed(getattr(metadata, name))
        if len(numbers) not in (0, 1, channels):
            raise ValueError(
                f"Expected one `{name}`, or one for each of the {channels} channels of input {given!r}. "
                f"Received: {len(numbers)} of them"
            )


def _listed(numbers: Numbers | None) -> list[float]:
    return [] if numbers is None else [float(each) for each in np.atleast_1d(numbers)]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _flatbuffer(metadata: Metadata, inputs: Iterable[str], outputs: Iterable[str]) -> bytes:
    tables = _Tables()
    # Readers want as many of one as of the other.
    mean, std = (_listed(each) for each in (metadata.mean, metadata.std))
    longest = max(len(mean), len(std))
    normalized = tables.normalization(*(each * longest if len(each) == 1 else each for each in (mean, std)))
    given = [
        tables.tensor(name, tables.content(None if i else metadata.color), None if i else normalized)
        for i, name in enumerate(inputs)
    ]
    labels = tables.labels() if metadata.labels is not None else None
    made = [tables.tensor(name, tables.content(None), None, None if i else labels) for i, name in enumerate(outputs)]
    subgraph = tables.table(10, {2: tables.vector(given), 3: tables.vector(made)})
    texts = (metadata.name, metadata.description, metadata.version, metadata.author, metadata.license)
    places = dict(zip((0, 1, 2, 4, 5), map(tables.text, texts), strict=True))
    root = tables.table(8, {**places, 3: tables.vector([subgraph]), 7: tables.text(_PARSER_VERSION)})
    return tables.finished(root)


class _Tables:
    """Tables of the metadata schema; fields are known by their places in it."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int | None:
        return int(self._builder.CreateString(value)) if value else None

    def vector(self, offsets: Sequence[int]) -> int:
        return self._vector(4, offsets, self._builder.PrependUOffsetTRelative)

    def _vector(self, width: int, values: Sequence[Any], prepend: Callable[[Any], None]) -> int:
        self._builder.StartVector(width, len(values), width)
        for value in reversed(values):
            prepend(value)
        return int(self._builder.EndVector())

    def table(self, size: int, offsets: Mapping[int, int | None], codes: Mapping[int, int] | None = None) -> int:
        """A table of `size` fields: offsets of other things, and codes of one byte."""
        self._builder.StartObject(size)
        for place, offset in offsets.items():
            if offset is not None:
                self._builder.PrependUOffsetTRelativeSlot(place, offset, 0)
        for place, code in (codes or {}).items():
            self._builder.PrependInt8Slot(place, code, 0)
        return int(self._builder.EndObject())

    def normalization(self, mean: list[float], std: list[float]) -> int | None:
        if not mean:
            return None
        numbers = [self._vector(4, each, self._builder.PrependFloat32) for each in (mean, std)]
        options = self.table(2, dict(enumerate(numbers)))
        return self.vector([self.table(2, {1: options}, {0: _NORMALIZATION})])

    def content(self, color: str | None) -> int:
        """What a tensor holds: an image, or features."""
        if color is None:
            return self.table(3, {1: self.table(0, {})}, {0: _FEATURE_PROPERTIES})
        return self.table(3, {1: self.table(2, {}, {0: _COLORS[color]})}, {0: _IMAGE_PROPERTIES})

    def labels(self) -> int:
        texts = {0: self.text(LABELS), 1: self.text("Names of the values")}
        return self.vector([self.table(4, texts, {2: _AXIS_LABELS})])

    def tensor(self, name: str, content: int, units: int | None = None, files: int | None = None) -> int:
        return self.table(7, {0: self.text(name), 3: content, 4: units, 6: files})

    def finished(self, root: int) -> bytes:
        self._builder.Finish(root, IDENTIFIER)
        return bytes(self._builder.Output())
