"""Layers of few bits by counting bits: time beside int8 and float32 kernels, and integers beside those of stock LiteRT.

python benchmarks/binary_speed.py [--kinds | --exact] [--quick]

Six 3x3 convolutions in a row, or six dense layers, signs between them: one file on LiteRT's kernels (XNNPACK, int8) and
on each path of kc_binary, and a float32 file of the same shapes. A net like ResNet-18 at 224x224 with binary 3x3
convolutions (first and last layer and shortcuts in 8 bits), and ResNet-18 itself in float32 and int8. All in one
process and one thread, invocation by invocation in turns; times are CPU time.

--kinds: the same layers with ternary weights, with activations of two bits, and with weights of two bits, on each path
whether it is faster there or not; and the bytes of files as int8, as bits (which kc_binary alone runs) and with Huffman
codes (which TFLite-Micro alone runs).

--exact: layers of random settings (channels, kernels, strides, padding, dilation, groups, batch, activations, zero
points, 4-bit weights) on each path beside stock LiteRT: the integers must be the same.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import app, flags
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from common import Goal, at_least, at_most, print_goals, write_results
from numpy.typing import NDArray

import keras_compress as kc
from keras_compress.convert.compressed import bit_file, compress_content
from keras_compress.native import library_path
from keras_compress.testing.binary_layers import VALUES, BinaryLayer
from keras_compress.tflite.flatbuffer import Graph, write_model

Array = NDArray[Any]
LAYERS = 6
# Channels and side of an image; a side of 0 stands for a dense layer.
SIZES = ((64, 56), (128, 28), (256, 14), (512, 7), (1024, 0))
# Name, weights, bits of activations (0: signs).
KINDS = (
    ("ternary weights, signs", "ternary", 0),
    ("W1A2", "signs", 2),
    ("ternary weights, A2", "ternary", 2),
    ("W2A2", "two_bits", 2),
)
KIND_SIZES = ((64, 56), (128, 28), (512, 7), (1024, 0))
PATHS = ("avx512", "avx2", "neon", "portable")
RUNS, NET_RUNS, DENSE_RUNS_TOGETHER = 200, 60, 20
EXACT_LAYERS = 1000
_KINDS = flags.DEFINE_bool("kinds", False, "Other weights and activations than signs, and bytes of files.")
_EXACT = flags.DEFINE_bool("exact", False, "Compare integers in place of times.")
_QUICK = flags.DEFINE_bool("quick", False, "A few runs; results are not written.")


def delegates(take: str = "faster") -> dict[str, Any]:
    """Each path of this processor, the best first."""
    found = {}
    for path in PATHS:
        try:
            found[path] = litert.load_delegate(str(library_path()), {"path": path, "take": take})
        except ValueError:
            continue
    return found


def taken(delegate: Any) -> int:
    """Operators that a delegate has taken so far."""
    return int(delegate._library.kc_binary_taken(ctypes.c_void_p(delegate._get_native_delegate_pointer())))


def loaded(content: bytes, delegate: Any = None) -> litert.Interpreter:
    """A model in LiteRT, one thread, its inputs set."""
    delegates = None if delegate is None else [delegate]
    made = litert.Interpreter(model_content=content, num_threads=1, experimental_delegates=delegates)
    made.allocate_tensors()
    for details in made.get_input_details():
        values = np.random.default_rng(0).choice([-1, 1], details["shape"]).astype(details["dtype"])
        made.set_tensor(details["index"], values)
    return made


def chain(channels: int, side: int, dtype: str, weights_of: str = "signs", bits: int = 0) -> bytes:
    """Layers one behind the other, each clipping its sums to signs, or to levels of so many bits.

    The first one's inputs are given, which levels cannot be: of those there is one layer more, in front.
    """
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    model.subgraphs = [schema.SubGraphT()]
    model.subgraphs[0].tensors, model.subgraphs[0].operators = [], []
    graph, draw = Graph(model), np.random.default_rng(0)
    shape = (1, side, side, channels) if side else (1, channels)
    first = last = graph.add_tensor("given", shape, dtype)
    zero_point = 128 - 2**bits if bits else 0
    weight_scale = 1.0 / np.sqrt(9 * channels) if bits else 4.0
    activation = schema.ActivationFunctionType.RELU if bits else schema.ActivationFunctionType.RELU_N1_TO_1
    for number in range(LAYERS):
        values = 2 * np.array(VALUES[weights_of], np.int8)
        weights = draw.choice(values, (channels, 3, 3, channels) if side else (channels, channels))
        bias = 2 * draw.integers(-20, 20, channels).astype(np.int32) + 1
        if dtype == "float32":
            weights, bias = weights.astype(np.float32), bias.astype(np.float32)
        operands = [graph.add_constant(f"kernel{number}", weights), graph.add_constant(f"bias{number}", bias)]
        options = schema.Conv2DOptionsT() if side else schema.FullyConnectedOptionsT()
        if side:
            options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = activation
        made = graph.add_tensor(f"made{number}", shape, dtype)
        if dtype == "int8":
            graph.set_quantization(made, np.ones(1, np.float32), zero_point)
            for tensor in operands:
                graph.set_quantization(tensor, np.array([weight_scale], np.float32))
        op = graph.make_operator("CONV_2D" if side else "FULLY_CONNECTED", [last, *operands], [made], options)
        graph.raise_version(op, 1 if dtype == "float32" else 4)
        graph.operators.append(op)
        last = made
    if dtype == "int8":
        graph.set_quantization(first, np.ones(1, np.float32), zero_point)
    if bits:
        _clip(graph, first, zero_point)
    graph.set_interface([first], [last])
    return write_model(model)


def _clip(graph: Graph, first: int, zero_point: int) -> None:
    """Puts a RELU in front, which leaves levels alone."""
    clipped = graph.add_tensor("clipped", graph.shape(first), "int8")
    graph.set_quantization(clipped, np.ones(1, np.float32), zero_point)
    graph.operators[0].inputs = [clipped, *graph.operators[0].inputs[1:]]
    relu = graph.make_operator("RELU", [first], [clipped])
    graph.raise_version(relu, 2)
    graph.operators = [relu, *graph.operators]


def in_turns(models: Mapping[str, litert.Interpreter], runs: int, together: int = 1) -> dict[str, float]:
    """Median CPU time of an invocation in ms."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-3, runs):
        for name, model in models.items():
            begin = time.process_time()
            for _ in range(together):
                model.invoke()
            if turn >= 0:
                times[name].append((time.process_time() - begin) / together * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(ms: Mapping[str, float], best: str) -> dict[str, float]:
    """How many times faster the best path is."""
    return {f"{name}_over_{best}": ms[name] / ms[best] for name in ("float32", "int8")}


def layer_rows(quick: bool) -> list[dict[str, Any]]:
    """Times of layers of each size."""
    rows, paths = [], delegates()
    for channels, side in SIZES:
        content = chain(channels, side, "int8")
        models = {"float32": loaded(chain(channels, side, "float32")), "int8": loaded(content)}
        for path, delegate in paths.items():
            before = taken(delegate)
            models[path] = loaded(content, delegate)
            if taken(delegate) - before != LAYERS:
                raise RuntimeError(f"Expected {LAYERS} operators to be taken. Received: {taken(delegate) - before}")
        ms = in_turns(models, 5 if quick else RUNS, 1 if side else DENSE_RUNS_TOGETHER)
        macs = LAYERS * channels**2 * (9 * side**2 if side else 1)
        what = f"3x3, {channels} channels at {side}x{side}" if side else f"dense {channels}"
        rows.append({"what": what, "macs": macs, "ms": ms, **ratios(ms, next(iter(paths)))})
        print(rows[-1], flush=True)
    return rows


def kind_rows(quick: bool) -> list[dict[str, Any]]:
    """Times of layers of other weights and activations than signs, on every path."""
    rows, paths = [], delegates("all")
    for name, weights_of, bits in KINDS:
        for channels, side in KIND_SIZES:
            content = chain(channels, side, "int8", weights_of, bits)
            models = {"int8": loaded(content)}
            for path, delegate in paths.items():
                before = taken(delegate)
                models[path] = loaded(content, delegate)
                if taken(delegate) - before != LAYERS:
                    raise RuntimeError(f"Expected {LAYERS} operators to be taken. Received: {taken(delegate) - before}")
            ms = in_turns(models, 5 if quick else RUNS, 1 if side else DENSE_RUNS_TOGETHER)
            size = f"3x3, {channels} channels at {side}x{side}" if side else f"dense {channels}"
            over = {f"int8_over_{path}": ms["int8"] / ms[path] for path in paths}
            rows.append({"what": f"{name}: {size}", "kind": name, "size": size, "ms": ms, **over})
            rows[-1]["bytes"] = bytes_of(content)
            print(rows[-1], flush=True)
    return rows


def bytes_of(content: bytes) -> dict[str, int]:
    """What a file takes as it is, as bits, and with Huffman codes."""
    huffman = compress_content(content, "huffman", encode=True).content
    return {"int8": len(content), "bits": len(bit_file(content).content), "huffman": len(huffman)}


def kinds(quick: bool) -> None:
    """Times of layers of few bits, and bytes of nets."""
    rows = kind_rows(quick)
    best = next(iter(delegates()))
    data = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    net = kc.convert(resnet18(True, 32), representative_dataset=data, weights_storage="int8").content
    rows.append({"what": "ResNet-18, binary", "kind": "net", "bytes": bytes_of(net)})
    print(rows[-1], flush=True)
    pays = [row for row in rows[:-1] if row["kind"] != "W2A2"]
    goals = [at_least(f"{row['what']}: int8 over kc_binary", row[f"int8_over_{best}"], 1) for row in pays]
    if not quick:
        write_results("binary_kinds", rows, goals, seeds=[0], settings={"layers": LAYERS, "runs": RUNS, "threads": 1})
    print_goals(goals)


def _unit(x: Any, channels: int, strides: int, binary: bool) -> Any:
    layers = keras.layers
    settings = {"strides": strides, "padding": "same", "use_bias": False}
    if binary:
        x = kc.BinaryConv2D(channels, 3, input_quantizer="ste_sign", kernel_quantizer="bwn", **settings)(x)
    else:
        x = layers.Conv2D(channels, 3, **settings)(x)
    return layers.BatchNormalization()(x)


def _eight_bits(channels: int, kernel: int, strides: int, binary: bool) -> Any:
    settings = {"strides": strides, "padding": "same", "use_bias": False}
    if binary:
        return kc.QuantConv2D(channels, kernel, kernel_quantizer=kc.UniformQuantizer(8), **settings)
    return keras.layers.Conv2D(channels, kernel, **settings)


def resnet18(binary: bool, side: int = 224) -> keras.Model:
    """ResNet-18, or with binary 3x3 convolutions, each with a shortcut of its own as in Bi-Real Net.

    BatchNormalizations have means and variances as if trained: sums around 0, some of either sign.
    """
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.BatchNormalization()(_eight_bits(64, 7, 2, binary)(inputs))
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.ReLU()(x))
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            short = x
            if strides == 2:
                short = layers.AveragePooling2D(2)(x)
                short = layers.BatchNormalization()(_eight_bits(channels, 1, 1, binary)(short))
            y = _unit(x, channels, strides, binary)
            if binary:
                x = layers.Add()([y, short])
                x = layers.Add()([_unit(x, channels, 1, binary), x])
            else:
                y = _unit(layers.ReLU()(y), channels, 1, binary)
                x = layers.ReLU()(layers.Add()([y, short]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(1000)(x))
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma = layer.get_weights()[0]
            layer.set_weights([
                draw.uniform(0.5, 1.5, gamma.shape),
                draw.normal(0.0, 0.3, gamma.shape),
                draw.normal(0.0, 0.3, gamma.shape),
                draw.uniform(0.5, 2.0, gamma.shape),
            ])  # fmt: skip
    return model


def net_row(quick: bool) -> dict[str, Any]:
    """Times of whole nets, and whether the delegate gives the same outputs."""
    side = 64 if quick else 224
    data = np.random.default_rng(0).normal(size=(4, side, side, 3)).astype(np.float32)
    plain, binary = resnet18(False, side), resnet18(True, side)
    content = kc.convert(binary, representative_dataset=data).content
    paths = delegates()
    models = {
        "float32": loaded(kc.convert(plain, mode="float32").content),
        "int8": loaded(kc.convert(plain, mode="int8", representative_dataset=data).content),
        "binary on stock kernels": loaded(content),
    }
    operators = {}
    for path, delegate in paths.items():
        before = taken(delegate)
        models[path] = loaded(content, delegate)
        operators[path] = taken(delegate) - before
    best = next(iter(paths))
    equal = all(_equal(models["binary on stock kernels"], models[best], sample[None]) for sample in data)
    ms = in_turns(models, 3 if quick else NET_RUNS)
    row = {"what": f"ResNet-18 at {side}x{side}", "ms": ms, "operators": operators[best], "equal_outputs": equal}
    row |= ratios(ms, best) | {f"binary_over_{best}": ms["binary on stock kernels"] / ms[best]}
    print(row, flush=True)
    return row


def _equal(one: litert.Interpreter, other: litert.Interpreter, values: Array) -> bool:
    outputs = []
    for model in (one, other):
        model.set_tensor(model.get_input_details()[0]["index"], values)
        model.invoke()
        outputs.append(model.get_tensor(model.get_output_details()[0]["index"]))
    return len(np.unique(outputs[0])) > 10 and np.array_equal(*outputs)


def speed(quick: bool) -> None:
    """Times and goals."""
    rows = layer_rows(quick)
    best = next(iter(delegates()))
    goals: list[Goal] = []
    for row in rows:
        goals.append(at_least(f"{row['what']}: float32 over kc_binary", row[f"float32_over_{best}"], 8))
        goals.append(at_least(f"{row['what']}: int8 over kc_binary", row[f"int8_over_{best}"], 3))
    rows.append(net_row(quick))
    goals.append(at_least("the net's outputs are those of stock kernels", rows[-1]["equal_outputs"], 1))
    if not quick:
        settings = {"layers": LAYERS, "runs": RUNS, "net_runs": NET_RUNS, "threads": 1, "clock": "CPU time"}
        write_results("binary_speed", rows, goals, seeds=[0], settings=settings)
    print_goals(goals)


def outputs_of(content: bytes, values: Array, delegate: Any = None) -> Array:
    """What the file gives for one input."""
    model = loaded(content, delegate)
    model.set_tensor(model.get_input_details()[0]["index"], values)
    model.invoke()
    found: Array = model.get_tensor(model.get_output_details()[0]["index"])
    return found


def exact(quick: bool) -> None:
    """Integers of drawn layers on each path beside stock kernels."""
    paths = delegates("all")
    rows: dict[str, dict[str, Any]] = {
        path: {"path": path, "layers": 0, "operators_taken": 0, "values": 0, "differing": 0} for path in paths
    }
    # Beyond the seeds of the tests.
    for seed in range(10_000, 10_000 + (50 if quick else EXACT_LAYERS)):
        layer = BinaryLayer.drawn(seed)
        content, values = layer.content(), layer.values()
        wanted = outputs_of(content, values)
        for path, delegate in paths.items():
            before = taken(delegate)
            got = outputs_of(content, values, delegate)
            row = rows[path]
            row["layers"] += 1
            row["operators_taken"] += taken(delegate) - before
            row["values"] += got.size
            row["differing"] += int(np.count_nonzero(got != wanted))
    goals = [
        at_most(f"{path}: values that differ from stock kernels", row["differing"], 0) for path, row in rows.items()
    ]
    for row in rows.values():
        print(row)
    if not quick:
        settings = {"layers": EXACT_LAYERS, "first_seed": 10_000}
        write_results("binary_exact", list(rows.values()), goals, seeds=[0], settings=settings)
    print_goals(goals)


def main(_: list[str]) -> None:
    (exact if _EXACT.value else kinds if _KINDS.value else speed)(_QUICK.value)


if __name__ == "__main__":
    app.run(main)
