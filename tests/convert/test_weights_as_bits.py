"""`weights_storage="bits"`: the format, the file, who runs it and who says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from numpy.typing import NDArray

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.convert.compressed import bit_file, expand_content
from keras_compress.native import library_path
from keras_compress.runtime.target import target
from keras_compress.testing.binary_layers import BinaryLayer
from keras_compress.tflite.bit_format import CONV, DENSE, BitOptions, magnitudes_of, pack_rows, unpack_rows
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.inspection import inspect_tflite
from keras_compress.tflite.passes.store_bits import has_bits

Array = NDArray[Any]


def test_bits_of_a_row() -> None:
    """Worked out by hand: value i is bit i & 7 of byte i >> 3; masks and second planes come behind."""
    signs = np.array([[2, -2, 2, 2, -2, -2, -2, 2, 2]], np.int8)
    assert magnitudes_of(signs) is not None
    np.testing.assert_array_equal(pack_rows(signs, "signs", np.array([2])), [[0b10001101, 1]])
    ternary = np.array([[5, 0, -5, 5]], np.int8)
    np.testing.assert_array_equal(pack_rows(ternary, "ternary", np.array([5])), [[0b1001, 0b1101]])
    # 3 = 1 + 2, 1 = -1 + 2, -1 = 1 - 2, -3 = -1 - 2.
    two_bits = np.array([[9, 3, -3, -9]], np.int8)
    np.testing.assert_array_equal(pack_rows(two_bits, "two_bits", np.array([3])), [[0b0101, 0b0011]])


@pytest.mark.parametrize(
    ("rows", "values", "magnitudes"),
    [
        ([[3, -3], [3, 3]], "signs", [3]),
        ([[3, -3], [0, 0]], "signs", [3, 0]),
        ([[3, 0], [-1, 1]], "ternary", [3, 1]),
        ([[3, -1], [-3, 3]], "two_bits", [1, 3]),
        ([[3, -1], [0, 1]], None, None),
        ([[2, -1], [1, 1]], None, None),
        ([[-128, 127], [1, 1]], None, None),
    ],
)
def test_values_of_rows(rows: list[list[int]], values: str | None, magnitudes: list[int] | None) -> None:
    weights = np.array(rows, np.int8)
    found = magnitudes_of(weights)
    if values is None:
        assert found is None
        return
    assert found is not None
    assert (found[0], found[1].tolist()) == (values, magnitudes)
    options = BitOptions(values, 0, 1, 0, (1, 1), (1, 1), (1, 1), 2, False, 1, found[1])
    np.testing.assert_array_equal(unpack_rows(pack_rows(weights, *found), options), weights)


def test_options_are_bytes() -> None:
    options = BitOptions("ternary", 2, 0, 3, (3, 2), (1, 2), (4, 1), 300, True, 4, np.array([5, 7], np.int8))
    wanted = (
        b"KCB\x01\x02\x02\x00\x03" + b"\x03\0\x02\0\x01\0\x02\0\x04\0\x01\0" + b"\x2c\x01\0\0" + b"\x01\x04\0\0\x05\x07"
    )
    assert options.packed() == wanted
    assert BitOptions.read(wanted).packed() == wanted
    with pytest.raises(ValueError, match=r"in version 1. Received: version 2"):
        BitOptions.read(b"KCB\x02" + wanted[4:])
    for damaged in (b"", wanted[:28], b"XCB" + wanted[3:], wanted[:4] + b"\x09" + wanted[5:], wanted[:-1] + b"\xff"):
        with pytest.raises(ValueError, match="Expected"):
            BitOptions.read(damaged)


def loaded_with(content: bytes, path: str) -> litert.Interpreter:
    delegate = litert.load_delegate(str(library_path()), {"path": path})
    return litert.Interpreter(model_content=content, num_threads=1, experimental_delegates=[delegate])


def run(interpreter: litert.Interpreter, values: Array) -> Array:
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    found: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return found


@pytest.fixture(scope="module")
def delegates() -> list[str]:
    """Paths of this processor."""
    try:
        library_path()
    except RuntimeError as error:
        pytest.skip(str(error))
    found = []
    for path in ("portable", "avx2", "avx512", "neon"):
        try:
            litert.load_delegate(str(library_path()), {"path": path})
            found.append(path)
        except ValueError:
            continue
    return found


def test_drawn_layers(delegates: list[str]) -> None:
    """Stored as bits, layers give the integers of the stock file on stock kernels; expanded, they are that file."""
    stored = 0
    for seed in range(60):
        layer = BinaryLayer.drawn(seed)
        content, values = layer.content(), layer.values()
        made = bit_file(content).content
        assert expand_content(made) == content
        if made == content:
            continue
        stored += 1
        assert len(made) < len(content)
        wanted = run(litert.Interpreter(model_content=content, num_threads=1), values)
        for path in delegates:
            np.testing.assert_array_equal(run(loaded_with(made, path), values), wanted, f"{layer} on {path}")
    assert stored > 20


def without_producer(content: bytes) -> bytes:
    """The layer alone: nothing proves what its inputs are."""
    graph = Graph(read_model(content))
    last = graph.operators[-1]
    graph.set_interface([last.inputs[0]], graph.outputs)
    graph.operators = [last]
    return write_model(graph.model)


@pytest.mark.parametrize(("levels", "weights"), [(0, "ternary"), (2, "two_bits"), (1, "signs")])
def test_inputs_that_nothing_proves(levels: int, weights: str, delegates: list[str]) -> None:
    """What is said of them is looked at in each run; anything else is multiplied."""
    layer = BinaryLayer(inputs=40, levels=levels, weights=weights, signs="taken", magnitude=41, seed=4)
    stock, made = without_producer(layer.content()), without_producer(bit_file(layer.content()).content)
    assert has_bits(Graph(read_model(made)))
    draw = np.random.default_rng(0)
    quantization = Graph(read_model(stock)).quantization(Graph(read_model(stock)).inputs[0])
    assert quantization is not None
    lowest, highest = (-1, 1) if not levels else (quantization[1], quantization[1] + 2**levels - 1)
    for low, high in ((lowest, highest), (-128, 127)):
        values = draw.integers(low, high + 1, layer.input_shape()).astype(np.int8)
        wanted = run(litert.Interpreter(model_content=stock, num_threads=1), values)
        assert len(np.unique(wanted)) > 5
        for path in delegates:
            np.testing.assert_array_equal(run(loaded_with(made, path), values), wanted)


def changed(content: bytes, change: Callable[[Any, Graph], None]) -> bytes:
    graph = Graph(read_model(content))
    op = next(op for op in graph.operators if graph.custom_name(op) in (CONV, DENSE))
    change(op, graph)
    return write_model(graph.model)


def options_byte(place: int, value: int) -> Callable[[Any, Graph], None]:
    def change(op: Any, graph: Graph) -> None:
        op.customOptions = np.array(op.customOptions, np.uint8)
        op.customOptions[place] = value

    return change


def fewer_rows(op: Any, graph: Graph) -> None:
    rows = graph.constant(op.inputs[1])
    assert rows is not None
    graph.set_constant(op.inputs[1], rows[:, :-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (options_byte(3, 2), "older and reads version 1"),
        (options_byte(0, 0), "damaged options"),
        (options_byte(4, 9), "damaged"),
        (options_byte(8, 77), "damaged"),
        (options_byte(28, 0x80), "damaged"),
        (options_byte(20, 3), "damaged"),
        (fewer_rows, None),
    ],
)
def test_damage_is_an_error(change: Any, said: str | None, delegates: list[str]) -> None:
    layer = BinaryLayer(inputs=40, signs="taken")
    content = changed(bit_file(layer.content()).content, change)
    runner = target("litert", delegate="kc_binary")
    with pytest.raises((ValueError, RuntimeError), match=said or "Expected"):
        runner.run(content, [layer.values()])
    with pytest.raises(ValueError, match="Could not read the bits of 'kernel'"):
        kc.expand(content)


def net() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(kc.QuantConv2D(24, 3, kernel_quantizer=kc.UniformQuantizer(8), use_bias=False)(x))
    x = kc.BinaryConv2D(24, 3, input_quantizer="ste_sign", kernel_quantizer="bwn", use_bias=False)(x)
    x = layers.Flatten()(layers.BatchNormalization()(x))
    x = kc.BinaryDense(20, input_quantizer="ste_sign", kernel_quantizer="bwn")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.BatchNormalization()(x)))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return net()


@pytest.fixture(scope="module")
def data() -> Array:
    return np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def artifact(model: keras.Model, data: Array) -> kc.Artifact:
    return kc.convert(model, representative_dataset=data, weights_storage="bits")


def test_a_converted_net(model: keras.Model, data: Array, artifact: kc.Artifact, delegates: list[str]) -> None:
    stock = kc.convert(model, representative_dataset=data, weights_storage="int8")
    assert any("weights of 2 layers are bits: no stock runtime runs this file" in note for note in artifact.notes)
    assert kc.expand(artifact.content) == stock.content
    found = {weight.op: weight for weight in inspect_tflite(artifact.content, alternatives=True).weights}
    conv, dense = found[CONV], found[DENSE]
    assert (conv.storage, conv.elements, conv.shape, conv.distinct_values) == ("bits", 24 * 216, (24, 3, 3, 24), 2)
    assert conv.bytes == 24 * 27 + 1
    assert dense.bytes == 20 * 48 + 1
    assert dense.alternatives == {"raw": 20 * 384, "bits": 961}
    assert len(stock.content) - len(artifact.content) > 7 / 8 * (5184 + 7680) - 500
    assert kc.verify(artifact, model, data).rows
    assert kc.verify(artifact, model, data, kernels=("kc_binary",)).rows
    measured = kc.measure(artifact, data, np.zeros(len(data), int), delegate="kc_binary")
    assert "kc_binary (" in measured.latency.delegate


def test_the_file_alone(model: keras.Model, data: Array, artifact: kc.Artifact, tmp_path: Path, delegates: Any) -> None:
    path = tmp_path / "bits.tflite"
    artifact.save(path)
    assert kc.verify(path, model, data, kernels=("kc_binary", "xnnpack")).rows
    with pytest.raises(
        ValueError, match=r"(?s)Expected delegate='kc_binary', of the version.*kc.expand gives the stock"
    ):
        kc.measure(path, data, np.zeros(len(data), int))
    with pytest.raises(ValueError, match=r"has weights as bits, which TFLite-Micro's host build does not read"):
        kc.measure(path, target="tflm")
    assert cli.main(["keras-compress", "measure", f"--model={path}", "--delegate=kc_binary"]) == 0


def test_what_is_refused(model: keras.Model, data: Array) -> None:
    for arguments, said in (
        ({"target": "ethos_u"}, "Expected weights_storage='int8' for target='ethos_u'"),
        ({"mode": "16x8"}, "Expected mode='int8' for weights_storage='bits'"),
        ({"sparsity": "block"}, "Expected weights_storage='bits' or sparsity='block'"),
    ):
        with pytest.raises(ValueError, match=said):
            kc.convert(model, representative_dataset=data, weights_storage="bits", **arguments)
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    with pytest.raises(ValueError, match=r"Expected a layer to store as bits \(strict=True\)"):
        kc.convert(plain, representative_dataset=x, weights_storage="bits", strict=True)
    notes = kc.convert(plain, representative_dataset=x, weights_storage="bits").notes
    assert any("weights_storage='bits' changed nothing" in note for note in notes)
