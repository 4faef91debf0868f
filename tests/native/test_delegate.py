"""The delegate beside stock LiteRT: the same integers, of what it takes and of what it leaves."""

from __future__ import annotations

import ctypes
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.native import library_path
from keras_compress.runtime.target import target
from keras_compress.testing.binary_layers import BinaryLayer
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

Array = NDArray[Any]
PATHS = ("portable", "avx2", "avx512", "neon")
DRAWN = 200


class Delegate:
    """A loaded delegate that counts what it takes."""

    def __init__(self, path: str, take: str = "all") -> None:
        self.loaded = litert.load_delegate(str(library_path()), {"path": path, "take": take})

    def taken(self) -> int:
        pointer = ctypes.c_void_p(self.loaded._get_native_delegate_pointer())
        return int(self.loaded._library.kc_binary_taken(pointer))


@pytest.fixture(scope="module")
def delegates() -> dict[str, Delegate]:
    """All paths of this processor."""
    try:
        library_path()
    except RuntimeError as error:
        pytest.skip(str(error))
    found = {}
    for path in PATHS:
        try:
            found[path] = Delegate(path)
        except ValueError:
            continue
    assert "portable" in found
    return found


def loaded(content: bytes, delegate: Delegate | None = None, threads: int = 1) -> litert.Interpreter:
    delegates = None if delegate is None else [delegate.loaded]
    return litert.Interpreter(model_content=content, num_threads=threads, experimental_delegates=delegates)


def run(interpreter: litert.Interpreter, values: Array) -> list[Array]:
    given = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(given, values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given, values)
    interpreter.invoke()
    return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()]


def same(content: bytes, values: Array, delegate: Delegate, taken: int) -> Array:
    """Runs a file with and without the delegate; what it took, and that all integers are the same."""
    wanted, before = run(loaded(content), values), delegate.taken()
    got = run(loaded(content, delegate), values)
    assert delegate.taken() - before == taken
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    return wanted[0]


def test_drawn_layers_give_the_integers_of_stock_kernels(delegates: dict[str, Delegate]) -> None:
    kinds, bits, varied = set(), set(), 0
    for seed in range(DRAWN):
        layer = BinaryLayer.drawn(seed)
        # Rows of an odd length in 4 bits, and an activation that leaves one integer: kernels of another rounding.
        odd = layer.weight_bits == 4 and layer.inputs % 2 == 1
        content, values = layer.content(), layer.values()
        wanted = run(loaded(content), values)[0]
        varied += len(np.unique(wanted)) > 3
        for name, delegate in delegates.items():
            before = delegate.taken()
            got = run(loaded(content, delegate), values)[0]
            np.testing.assert_array_equal(got, wanted, f"{layer} on {name}")
            took = delegate.taken() - before
            assert took > 0 or odd or layer.activation != "NONE", layer
        kinds.add((layer.kind, layer.groups > 1, layer.signs, layer.same, layer.batch > 1))
        bits.add((layer.weights, layer.levels))
    assert varied > DRAWN / 2
    assert len(kinds) > 25
    assert len(bits) == 9


@pytest.fixture
def delegate(delegates: dict[str, Delegate]) -> Delegate:
    """The best path, as an app gets it."""
    return delegates.get("avx512") or delegates.get("avx2") or delegates.get("neon") or delegates["portable"]


def test_inputs_that_are_no_signs_are_multiplied(delegate: Delegate) -> None:
    layer = BinaryLayer(groups=2, strides=(2, 1), zero_point=3)
    values = np.random.default_rng(0).integers(-128, 128, layer.input_shape()).astype(np.int8)
    assert len(np.unique(same(layer.content(), values, delegate, taken=1))) > 20


def test_other_sizes(delegate: Delegate) -> None:
    for signs in ("given", "taken", "layer"):
        layer = BinaryLayer(signs=signs, strides=(2, 1), kernel=(3, 2))
        content = layer.content()
        stock, own = loaded(content), loaded(content, delegate)
        for batch, height, width in ((1, 8, 8), (3, 5, 11), (1, 1, 1), (2, 13, 4), (1, 8, 8)):
            other = replace(layer, batch=batch, height=height, width=width)
            np.testing.assert_array_equal(run(own, other.values())[0], run(stock, other.values())[0])
    dense = BinaryLayer("dense", inputs=70, outputs=9, signs="given")
    stock, own = loaded(dense.content()), loaded(dense.content(), delegate)
    for batch in (1, 7, 2):
        values = replace(dense, batch=batch).values()
        np.testing.assert_array_equal(run(own, values)[0], run(stock, values)[0])


def test_a_size_that_leaves_nothing_is_an_error(delegate: Delegate) -> None:
    layer = BinaryLayer(same=False)
    own = loaded(layer.content(), delegate)
    with pytest.raises((RuntimeError, ValueError), match="shape"):
        run(own, replace(layer, height=2).values())
    assert run(own, layer.values())[0].shape == (1, 6, 6, 16)


def test_several_interpreters_and_threads(delegate: Delegate) -> None:
    layers = [BinaryLayer(signs="taken", inputs=40 + seed, seed=seed) for seed in range(4)]
    wanted = [run(loaded(layer.content()), layer.values())[0] for layer in layers]

    def ran(number: int) -> Array:
        interpreter = loaded(layers[number].content(), delegate, threads=2)
        for _ in range(20):
            found = run(interpreter, layers[number].values())[0]
        return found

    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(ran, range(4)), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_threads_share_large_layers(delegates: dict[str, Delegate]) -> None:
    layer = BinaryLayer(signs="taken", height=40, width=37, inputs=130, outputs=70)
    content, values = layer.content(), layer.values()
    wanted = run(loaded(content), values)[0]
    for delegate in delegates.values():
        interpreter = loaded(content, delegate, threads=3)
        for _ in range(5):
            np.testing.assert_array_equal(run(interpreter, values)[0], wanted)


def test_a_forked_process_computes_alone(delegate: Delegate) -> None:
    layer = BinaryLayer(signs="taken", height=40, width=37, inputs=130, outputs=70)
    interpreter = loaded(layer.content(), delegate, threads=3)
    wanted = run(interpreter, layer.values())[0]
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        interpreter.invoke()
        got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        os._exit(0 if np.array_equal(got, wanted) else 1)
    assert os.waitpid(child, 0)[1] == 0


def edited(layer: BinaryLayer, edit: Any) -> bytes:
    graph = Graph(read_model(layer.content()))
    edit(graph)
    return write_model(graph.model)


def weights_of(graph: Graph, number: int, name: str, change: Any) -> None:
    """Changes a constant of one operator."""
    tensor = graph.operators[number].inputs[{"kernel": 1, "bias": 2}[name]]
    values = graph.constant(tensor)
    assert values is not None
    graph.set_constant(tensor, change(np.array(values)))


def one_other(values: Array) -> Array:
    values.flat[5] = 3
    return values


@pytest.mark.parametrize(
    ("edit", "taken"),
    [
        (lambda graph: weights_of(graph, 1, "kernel", one_other), 0),
        # A sign that can be 0, or is not clipped.
        (lambda graph: weights_of(graph, 0, "bias", lambda values: values + 1), 0),
        (lambda graph: weights_of(graph, 0, "kernel", lambda values: values + 1), 0),
        (lambda graph: setattr(graph.operators[0].builtinOptions, "fusedActivationFunction", 0), 0),
        (lambda graph: graph.set_quantization(graph.operators[0].inputs[1], np.array([0.2], np.float32)), 0),
        (lambda graph: graph.set_quantization(graph.operators[0].outputs[0], np.array([0.4], np.float32)), 0),
        (lambda graph: graph.set_quantization(graph.operators[0].outputs[0], np.array([1.0], np.float32), 1), 0),
        # 1 / scale is 1.5 in float32, which goes to 2, and 0.5, which goes to 0: such "signs" are 2, and 0.
        (lambda graph: graph.set_quantization(graph.operators[0].outputs[0], np.array([2 / 3], np.float32)), 0),
        (lambda graph: graph.set_quantization(graph.operators[0].outputs[0], np.array([2.0], np.float32)), 0),
        (lambda graph: graph.raise_version(graph.operators[1], 99), None),
        (lambda graph: None, 2),
    ],
)
def test_what_is_left_alone(edit: Any, taken: int | None, delegate: Delegate) -> None:
    layer = BinaryLayer(signs="taken", outputs=24)
    content = edited(layer, edit)
    if taken is None:
        # No runtime of today has such a version.
        before = delegate.taken()
        with pytest.raises((RuntimeError, ValueError)):
            run(loaded(content, delegate), layer.values())
        assert delegate.taken() == before
        return
    same(content, layer.values(), delegate, taken)


def test_signs_that_others_want_too(delegate: Delegate) -> None:
    """An output of the file: the operator that makes it is taken, and its integers are there."""
    layer = BinaryLayer(signs="taken")

    def both(graph: Graph) -> None:
        graph.set_interface(graph.inputs, [*graph.outputs, graph.operators[0].outputs[0]])

    assert same(edited(layer, both), layer.values(), delegate, taken=2).shape == (1, 8, 8, 16)

    def read_twice(graph: Graph) -> None:
        sign, made = graph.operators[0].outputs[0], graph.operators[1].outputs[0]
        options = schema.ReshapeOptionsT()
        options.newShape = [1, -1]
        flat = graph.add_tensor("flat", (1, 1024), "int8")
        graph.set_quantization(flat, np.ones(1, np.float32))
        to = graph.add_constant("to", np.array([1, -1], np.int32))
        graph.operators.append(graph.make_operator("RESHAPE", [sign, to], [flat], options))
        graph.set_interface(graph.inputs, [made, flat])

    same(edited(layer, read_twice), layer.values(), delegate, taken=1)


def test_a_dense_layer_that_reads_an_image(delegate: Delegate) -> None:
    """LiteRT flattens what a dense layer reads: all of an image, or each pixel."""
    layer = BinaryLayer(signs="taken", height=4, width=4, inputs=48)
    for inputs, rows in ((4 * 4 * 48, 1), (48, 16)):

        def dense(graph: Graph, inputs: int = inputs, rows: int = rows) -> None:
            sign, made = graph.operators[0].outputs[0], graph.operators[1].outputs[0]
            weights = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (9, inputs))
            kernel = graph.add_constant("dense", weights)
            graph.set_quantization(kernel, np.array([0.3], np.float32))
            graph.tensors[made].shape = [rows, 9]
            op = graph.make_operator("FULLY_CONNECTED", [sign, kernel, -1], [made], schema.FullyConnectedOptionsT())
            graph.raise_version(op, 4)
            graph.operators = [graph.operators[0], op]

        found = same(edited(layer, dense), layer.values(), delegate, taken=2)
        assert found.shape == (rows, 9)
        assert len(np.unique(found)) > 3


@pytest.mark.parametrize(
    ("activation", "taken"),
    # Pooling that clips at 0 leaves 0 and 1.
    [("NONE", 1), ("RELU_N1_TO_1", 1), ("RELU", 0), ("RELU6", 0)],
)
def test_signs_go_through_pooling(activation: str, taken: int, delegate: Delegate) -> None:
    def pooled(graph: Graph) -> None:
        sign = graph.operators[0].outputs[0]
        options = schema.Pool2DOptionsT()
        options.padding, options.strideW, options.strideH = 1, 1, 1
        options.filterWidth = options.filterHeight = 1
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
        made = graph.add_tensor("pooled", graph.shape(sign), "int8")
        graph.set_quantization(made, np.ones(1, np.float32))
        layer = graph.operators[1]
        layer.inputs = [made, *layer.inputs[1:]]
        pool = graph.make_operator("MAX_POOL_2D", [sign], [made], options)
        graph.raise_version(pool, 2)
        graph.operators = [graph.operators[0], pool, layer]

    layer = BinaryLayer(signs="taken")
    same(edited(layer, pooled), layer.values(), delegate, taken=taken)


@pytest.mark.parametrize(("weights", "levels"), [("signs", 0), ("ternary", 0), ("ternary", 2), ("two_bits", 2)])
def test_what_is_taken_where_it_is_faster(weights: str, levels: int, delegates: dict[str, Delegate]) -> None:
    layer = BinaryLayer(weights=weights, levels=levels, signs="taken", magnitude=40, inputs=64)
    # Signs are taken with the layers that read them; levels are made by others.
    operators = 1 if levels else 2
    pays = {"portable": (weights, levels) == ("signs", 0), "avx512": weights != "two_bits"}
    for path in pays.keys() & delegates.keys():
        same(layer.content(), layer.values(), Delegate(path, "faster"), taken=operators * pays[path])


def levels_of(graph: Graph, change: Any) -> None:
    """Changes what is known of the levels that the last layer reads."""
    change(graph, graph.operators[-2])


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (lambda graph, op: None, 1),
        # Five integers, a range that does not begin at the zero point, integers that no operator makes.
        (lambda graph, op: graph.set_quantization(op.outputs[0], np.ones(1, np.float32), 123), 0),
        (lambda graph, op: setattr(op.builtinOptions, "fusedActivationFunction", 0), 0),
        (lambda graph, op: setattr(op.builtinOptions, "fusedActivationFunction", 2), 0),
    ],
)
def test_levels_are_proven(change: Any, taken: int, delegate: Delegate) -> None:
    layer = BinaryLayer(weights="ternary", levels=2, signs="taken", seed=2)
    content = edited(layer, lambda graph: levels_of(graph, change))
    assert len(np.unique(same(content, layer.values(), delegate, taken))) > 3


def test_levels_that_are_given_are_none(delegate: Delegate) -> None:
    layer = BinaryLayer(weights="ternary", levels=2, signs="taken", seed=2)

    def given(graph: Graph) -> None:
        graph.set_interface(graph.operators[0].outputs, graph.outputs)
        graph.operators = graph.operators[1:]

    same(edited(layer, given), layer.values(), delegate, taken=0)


def few_bits(weights: Any, activations: Any) -> keras.Model:
    """A net of few bits, with a shortcut, pooling and a dense layer."""
    keras.utils.set_random_seed(2)
    layers = keras.layers

    def block(x: Any, filters: int) -> Any:
        x = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", use_bias=False)(x))
        return layers.ReLU()(x)

    inputs = keras.Input((8, 8, 3))
    x = block(inputs, 16)
    x = block(layers.MaxPooling2D()(x), 24)
    x = layers.ReLU()(layers.Add()([block(x, 24), x]))
    x = layers.Flatten()(block(x, 8))
    return kc.quantize_model(keras.Model(inputs, layers.Dense(5)(x)), weights=weights, activations=activations)


@pytest.mark.parametrize(
    ("weights", "activations"),
    [(kc.TWN(), kc.Pact(2)), (kc.DoReFa(1), kc.DoReFaActivation(2)), (kc.DoReFa(2), kc.DoReFaActivation(2))],
)
def test_converted_nets_of_few_bits(weights: Any, activations: Any, delegate: Delegate) -> None:
    model = few_bits(weights, activations)
    data = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype(np.float32)
    model.compile("sgd", "mse")
    model.fit(data, np.zeros((12, 5)), verbose=0)
    content = kc.convert(model, representative_dataset=data).content
    before = delegate.taken()
    stock, own = loaded(content), loaded(content, delegate)
    found = [run(stock, row[None])[0] for row in data]
    for row, wanted in zip(data, found, strict=True):
        np.testing.assert_array_equal(run(own, row[None])[0], wanted)
    assert len(np.unique(found)) > 5
    # All but the first, whose inputs have 8 bits.
    assert delegate.taken() - before == 4


def net() -> keras.Model:
    """Binary blocks between layers of 8 bits; the sums around them are no signs."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = inputs = keras.Input((12, 12, 3))
    x = kc.QuantConv2D(16, 3, kernel_quantizer=kc.UniformQuantizer(8), use_bias=False, padding="same")(x)
    x = layers.BatchNormalization()(x)
    for strides in (1, 2):
        y = kc.BinaryConv2D(
            16, 3, strides=strides, padding="same", input_quantizer="ste_sign", kernel_quantizer="bwn", use_bias=False
        )(x)
        y = layers.BatchNormalization()(y)
        x = layers.Add()([y, x]) if strides == 1 else y
    x = kc.BinaryConv2D(32, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    x = kc.BinaryDense(20, input_quantizer="ste_sign", kernel_quantizer="bwn")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.BatchNormalization()(x)))


def test_a_converted_net(delegate: Delegate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = net()
    data = np.random.default_rng(0).normal(size=(24, 12, 12, 3)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=data)
    before = delegate.taken()
    stock, own = loaded(artifact.content), loaded(artifact.content, delegate)
    for row in data:
        np.testing.assert_array_equal(run(own, row[None])[0], run(stock, row[None])[0])
    # Two signs of sums, four layers; signs of layers are part of those.
    assert delegate.taken() - before == 6
    found = kc.verify(artifact, model, data, kernels=("xnnpack", "kc_binary"))
    rows = {kernel: [replace(row, kernel="") for row in found.rows if row.kernel == kernel] for kernel in
            ("xnnpack", "kc_binary")}  # fmt: skip
    assert len(rows["kc_binary"]) > 5
    assert rows["kc_binary"] == rows["xnnpack"]
    measured = kc.measure(artifact, data, np.zeros(len(data), int), delegate="kc_binary")
    assert measured.latency.delegate.startswith("kc_binary (")
    assert measured.latency.delegate.endswith("operators), XNNPACK")

    files = {"--model": tmp_path / "net.keras", "--file": tmp_path / "net.tflite", "--data": tmp_path / "data.npz"}
    model.save(files["--model"])
    artifact.save(files["--file"])
    np.savez(files["--data"], x=data)
    given = [f"{key}={path}" for key, path in files.items()]
    assert cli.main(["keras-compress", "verify", *given, "--delegate=kc_binary"]) == 0
    assert cli.main(["keras-compress", "measure", f"--model={files['--file']}", "--delegate=kc_binary"]) == 0
    said = capsys.readouterr().out
    assert "kc_binary" in said
    assert "6 operators" in said
    assert cli.main(["keras-compress", "verify", *given, "--delegate=kc_binary", "--target=tflm"]) != 0
    assert "Expected --target=litert for --delegate" in capsys.readouterr().err


def test_the_target_takes_a_path(delegates: dict[str, Delegate]) -> None:
    layer = BinaryLayer(signs="taken")
    runner = target("litert", delegate="kc_binary", delegate_options={"path": "portable"})
    (got,) = runner.run(layer.content(), [layer.values()])
    np.testing.assert_array_equal(got, run(loaded(layer.content()), layer.values())[0])
    for options, said in (({"take": "some"}, "take as faster or all"), ({"pick": "all"}, "options path and take")):
        with pytest.raises(RuntimeError, match=said):
            target("litert", delegate="kc_binary", delegate_options=options).run(layer.content(), [layer.values()])
    wrong = target("litert", delegate="kc_binary", delegate_options={"path": "sse9"})
    with pytest.raises(RuntimeError, match=r"(?s)Expected a path that this processor can run.*Received: sse9"):
        wrong.run(layer.content(), [layer.values()])
