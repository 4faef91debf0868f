"""`convert(metadata=)`, read back by the published schema's places and by what reads archives.

The same file was read by tflite-support 0.4.4's `MetadataDisplayer` and by the classes that MediaPipe 1.2.3 generates
from `metadata_schema.fbs`; both are too large to be installed for this.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import number_types

import keras_compress as kc
from keras_compress.runtime.adb import adb_lines

LABELS = ["cat", "dog", "gnu"]
DIGITS: dict[str, Any] = {
    "name": "animals", "description": "Which animal it is", "version": "2", "author": "A. Nimal", "license": "MIT",
    "mean": 127.5, "std": (127.5, 127.0, 1.5), "color": "RGB", "labels": LABELS,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> keras.Model:
    image = keras.Input((4, 4, 3), name="image")
    return keras.Model(image, keras.layers.Dense(3, name="animal")(keras.layers.Flatten()(image)))


@pytest.fixture(scope="module")
def content(model: keras.Model) -> bytes:
    return kc.convert(model, mode="float32", metadata=DIGITS).content


class Table:
    """A table of a flatbuffer, by the places of its fields: `metadata_schema.fbs` counts two for a union."""

    def __init__(self, data: bytes, position: int) -> None:
        self._table = flatbuffers.table.Table(bytearray(data), position)
        self._data = data

    def _at(self, place: int) -> int:
        offset = self._table.Offset(4 + 2 * place)
        assert offset, f"no field {place}"
        return int(offset) + self._table.Pos

    def text(self, place: int) -> str:
        return str(self._table.String(self._at(place)), "utf-8")

    def code(self, place: int) -> int:
        return int(self._table.Get(number_types.Int8Flags, self._at(place)))

    def table(self, place: int) -> Table:
        return Table(self._data, self._table.Indirect(self._at(place)))

    def tables(self, place: int) -> list[Table]:
        offset = self._at(place) - self._table.Pos
        start, count = self._table.Vector(offset), self._table.VectorLen(offset)
        return [Table(self._data, self._table.Indirect(start + 4 * i)) for i in range(count)]

    def floats(self, place: int) -> list[float]:
        flags, offset = number_types.Float32Flags, self._at(place) - self._table.Pos
        return [float(each) for each in self._table.GetVectorAsNumpy(flags, offset)]


def metadata_of(content: bytes) -> Table:
    model = schema.Model.GetRootAs(content, 0)
    entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    data = model.Buffers(entries[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    return Table(data, int.from_bytes(data[:4], "little"))


def test_the_model(content: bytes) -> None:
    found = metadata_of(content)
    names = ("name", "description", "version", "author", "license")
    assert [found.text(place) for place in (0, 1, 2, 4, 5)] == [DIGITS[name] for name in names]
    assert found.text(7) == "1.0.0"


def test_the_input_is_an_image_to_be_normalized(content: bytes) -> None:
    (subgraph,) = metadata_of(content).tables(3)
    (image,) = subgraph.tables(2)
    assert image.text(0) == "image"
    kind, rgb, normalization = 2, 1, 1
    assert image.table(3).code(0) == kind
    assert image.table(3).table(1).code(0) == rgb
    (unit,) = image.tables(4)
    assert unit.code(0) == normalization
    assert unit.table(1).floats(0) == [127.5, 127.5, 127.5]
    assert unit.table(1).floats(1) == [127.5, 127.0, 1.5]


def test_the_output_has_labels_in_an_archive_behind_the_file(content: bytes) -> None:
    (subgraph,) = metadata_of(content).tables(3)
    (animal,) = subgraph.tables(3)
    (file,) = animal.tables(6)
    axis_labels = 2
    assert (animal.text(0), file.text(0), file.code(2)) == ("animal", "labels.txt", axis_labels)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt").decode().split() == LABELS
        assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED


def test_the_file_computes_what_it_did_and_keeps_its_signature(model: keras.Model, content: bytes) -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype("float32")
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["animal"]}}
    outputs = interpreter.get_signature_runner("serving_default")(image=x)["animal"]
    np.testing.assert_allclose(outputs, model(x), atol=1e-5)
    assert kc.inspect_tflite(content).weight_payload_bytes > 0
    plain = kc.convert(model, mode="float32")
    assert kc.convert(model, mode="float32", metadata=kc.Metadata(**DIGITS)).content == content
    assert len(plain.content) < len(content) < len(plain.content) + 1500


def test_an_integer_file_with_metadata_is_verified(model: keras.Model) -> None:
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype("float32")
    artifact = kc.convert(model, representative_dataset=x, metadata={"name": "animals", "labels": LABELS})
    assert kc.verify(artifact, model, x).ok


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "n", "labels": ["one"]}, "a label for each of the 3 values of output 'animal'.* Received: 1 labels"),
        ({"name": "n", "mean": [1.0, 2.0], "std": 1.0}, "one for each of the 3 channels of input 'image'"),
        ({"name": "n", "mean": 1.0}, "Expected `mean` and `std` together"),
        ({"name": "n", "mean": 1.0, "std": 0.0}, "`std` other than 0"),
        ({"name": "n", "version": 1}, "Expected a string for `version`"),
        ({"name": "n", "labels": "abc"}, "`labels` as a list of names"),
        ({"name": "n", "color": "BGR"}, "Expected `color` out of"),
        ({"name": "n", "labels": ["a\nb", "c", "d"]}, "labels of one line each"),
        ({"labels": LABELS}, "Expected a name"),
        ({"name": "n", "lables": LABELS}, "did you mean 'labels'"),
    ],
)
def test_refused(model: keras.Model, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.convert(model, mode="float32", metadata=given)


def test_not_for_microcontrollers(model: keras.Model) -> None:
    with pytest.raises(ValueError, match="Expected no `metadata` for target 'tflm'"):
        kc.convert(model, "tflm", mode="float32", metadata={"name": "n"})
    with pytest.raises(TypeError, match=r"kc.Metadata\(name=...\) or a mapping"):
        kc.convert(model, mode="float32", metadata="animals")  # type: ignore[arg-type]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of docs/android.md runs as it is, and its commands are those of the package."""
    page = Path(__file__).parents[2] / "docs" / "android.md"
    if not page.is_file():
        pytest.skip("no checkout around these tests")
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    image = keras.Input((8, 8, 1), name="image")
    model = keras.Model(image, keras.layers.Dense(10, name="digit")(keras.layers.Flatten()(image)))
    given = {"kc": kc, "model": model, "x_train": np.random.default_rng(0).uniform(size=(8, 8, 8, 1)).astype("float32")}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(snippet, given)  # noqa: S102
    names, dtypes, scales, zero_points = zip(*(line.split() for line in capsys.readouterr().out.splitlines()))
    assert set(dtypes) == {"uint8"}
    assert all(float(scale) > 0 for scale in scales)
    # The page's first formula, on the output.
    interpreter = Interpreter("digits.tflite")
    scale, zero_point = float(scales[1]), int(zero_points[1])
    integers = interpreter.get_signature_runner()(image=np.full((1, 8, 8, 1), 200, np.uint8))["digit"]
    real = scale * (integers.astype(int) - zero_point)
    x = (200 - int(zero_points[0])) * float(scales[0])
    np.testing.assert_allclose(real, model(np.full((1, 8, 8, 1), x, np.float32)), atol=3 * scale)
    assert "\n".join(adb_lines("digits.tflite")) in text
