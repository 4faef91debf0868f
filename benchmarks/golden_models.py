"""The models of `golden.py`: small, seeded, and converted within seconds, with data to calibrate them and to run them.

Weights and ranges come from seeds and forward passes alone, as steps of training need not end alike with other threads.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from common import REPOSITORY
from keras import layers
from layer_rows import ROWS, Row
from layer_trials import data_of
from zoo_members import TINY
from zoo_models import build as zoo_model

import keras_compress as kc
from keras_compress.demo import models

sys.path.insert(0, str(REPOSITORY / "tests"))

import tests_zoo
from tests_graph_strategies import graph
from tests_graphs import build as build_graph
from tests_graphs import data as graph_data
from tests_graphs import randomize

SAMPLES, INPUTS = 64, 20
# Graphs that TensorFlow's converter cannot convert, or whose outputs are not finite, are left out.
GRAPHS = tuple(number for number in range(34) if number not in (1, 12, 18))
TARGETS = ("litert", "tflm")
Array = np.ndarray[Any, Any]
# A model, data that calibrate it, and data that it is run on.
Made = tuple[keras.Model, Any, Any]


@dataclass(frozen=True)
class Case:
    """One model, converted in one way.

    Attributes:
        group: Heading in the summary.
        net: What is converted.
        make: Builds it with its data; the last one made is kept for cases of the same net.
        settings: Of `kc.convert`.
        frozen: Whether the model is frozen first: once, for all cases of the same net.
    """

    group: str
    net: str
    make: Callable[[], Made]
    settings: Mapping[str, Any] = field(default_factory=dict)
    frozen: bool = False

    @property
    def name(self) -> str:
        """Group, net and settings."""
        return ": ".join([self.group, self.net, " ".join(str(value) for value in self.settings.values())])

    def artifact(self) -> tuple[kc.Artifact, Any]:
        """The converted model, and the data to run it on."""
        made = _frozen if self.frozen else _made
        model, calibration, inputs = made(self.make)
        return kc.convert(model, representative_dataset=calibration, **self.settings), inputs


@functools.lru_cache(maxsize=1)
def _made(make: Callable[[], Made]) -> Made:
    # Names that Keras gives by itself end up in the file.
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    return make()


@functools.lru_cache(maxsize=1)
def _frozen(make: Callable[[], Made]) -> Made:
    model, calibration, inputs = _made(make)
    return kc.freeze(model, calibration), calibration, inputs


def normal(model: keras.Model, samples: int, seed: int) -> Any:
    """Normal numbers for each input, by name where the model takes a dictionary."""
    rng = np.random.default_rng(seed)
    made = {t.name: rng.normal(size=(samples, *t.shape[1:])).astype(np.float32) for t in model.inputs}
    named = isinstance(model.input, dict)
    return made if named else list(made.values()) if len(made) > 1 else next(iter(made.values()))


def settled(model: keras.Model) -> keras.Model:
    """The model with weights as after training: what Keras begins with zeros or ones, biases above all, varies."""
    kept = [(weight, np.asarray(weight)) for weight in model.weights if np.ptp(np.asarray(weight)) > 0]
    randomize(model, 0)
    for weight, values in kept:
        weight.assign(values)
    return model


def with_data(build: Callable[[], keras.Model], *, as_it_is: bool = False) -> Callable[[], Made]:
    """A model with normal numbers for data, and weights as after training unless it is to stay as it is."""

    def make() -> Made:
        model = build() if as_it_is else settled(build())
        return model, normal(model, SAMPLES, 1), normal(model, INPUTS, 2)

    return make


def quantized(make: Callable[[], Made], **settings: Any) -> Callable[[], Made]:
    """The model as quantization-aware training has it after its first batch, which sets ranges and moves no weight."""

    def remade() -> Made:
        model, calibration, inputs = make()
        model = kc.quantize_model(model, **settings)
        model(calibration, training=True)
        return model, calibration, inputs

    return remade


def coarse(make: Callable[[], Made], levels: int = 7) -> Callable[[], Made]:
    """The model with kernels of so many values, most of them 0, as pruning and clustering leave them."""

    def remade() -> Made:
        model, calibration, inputs = make()
        for weight in model.trainable_weights:
            if weight.name.endswith("kernel"):
                step = 3.0 * keras.ops.std(weight) / levels * 2
                weight.assign(step * keras.ops.round(weight / step * 0.8))
        return model, calibration, inputs

    return remade


def _row(row: Row) -> Callable[[], Made]:
    def make() -> Made:
        model = settled(row.model())
        calibration = data_of(row, model)
        rng = np.random.default_rng(3)
        count = INPUTS

        def fresh(like: Array) -> Array:
            shape = (count, *like.shape[1:])
            if like.dtype == np.float32:
                return rng.normal(size=shape).astype(np.float32)
            return rng.integers(0, 10, size=shape).astype(like.dtype)

        inputs = [fresh(a) for a in calibration] if isinstance(calibration, list) else fresh(calibration)
        return model, calibration, inputs

    return make


def _rows() -> list[Case]:
    """All rows on both targets; a fourth of them in 16x8, and a fourth of those with weights in int4."""
    found, own = [], [row for row in ROWS if row.own]
    for number, row in enumerate(ROWS):
        make = _row(row)
        for target in TARGETS:
            settings = {"target": target, "mode": "int8"}
            found.append(Case("layers", row.name, make, settings, frozen=True))
        if number % 4 == 0:
            found.append(Case("layers, 16x8", row.name, make, {"target": "tflm", "mode": "16x8"}))
        if row in own[::4]:
            trained = quantized(make, weights="int4", activations="int8")
            found.append(Case("layers, QAT int4", row.name, trained, {"target": "litert", "mode": "int8"}))
    return found


def _graph(number: int) -> Callable[[], Made]:
    def make() -> Made:
        description = graph(number)
        model = build_graph(description)
        found = [graph_data(description, count, seed) for count, seed in ((SAMPLES, 0), (INPUTS, 1))]
        calibration, inputs = ([x[t.name] for t in model.inputs] for x in found)
        return model, *(x if len(x) > 1 else x[0] for x in (calibration, inputs))

    return make


def _graphs() -> list[Case]:
    return [
        Case("graphs", f"{number}", _graph(number), {"target": TARGETS[number % 2], "mode": "int8"})
        for number in GRAPHS
    ]  # fmt: skip


def _zoo(name: str) -> Callable[[], Made]:
    return with_data(lambda: tests_zoo.build(name), as_it_is=True)


def transformer() -> keras.Model:
    inputs = keras.Input((6, 8), name="tokens")
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(2, 4)(inputs, inputs))
    y = layers.Dense(8)(layers.Dense(16, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x + y))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def recurrent() -> keras.Model:
    inputs = keras.Input((5, 4), name="steps")
    x = layers.LSTM(4)(layers.Bidirectional(layers.GRU(3, return_sequences=True))(inputs))
    return keras.Model(inputs, layers.Dense(2)(x))


def named() -> keras.Model:
    """Inputs and outputs in dictionaries whose order is not that of the alphabet, nor that of the graph."""
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="extra")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(4)(extra)])
    outputs = {"zone": layers.Dense(2)(x), "kind": layers.Dense(3, activation="softmax")(x), "all": x}
    return keras.Model({"image": image, "extra": extra}, outputs)


def several() -> keras.Model:
    """Two inputs, one of them read twice, and outputs that are read, given twice and of different shapes."""
    left, right = keras.Input((6, 4), name="left"), keras.Input((6, 4), name="right")
    x = layers.Conv1D(4, 3, padding="same", activation="relu")(left)
    y = layers.Dense(4)(right)
    z = layers.Multiply()([x, y])
    return keras.Model([right, left], [z, layers.Dense(2)(layers.Flatten()(z + left)), y])


def passed_through() -> keras.Model:
    """An output that is an input, and one that is only reshaped."""
    inputs = keras.Input((4, 3), name="x")
    return keras.Model(inputs, [inputs, layers.Reshape((12,))(inputs), layers.Dense(2)(inputs)])


def deeply_nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, activation="relu")], name="inner")
    middle_input = keras.Input((6,))
    middle = keras.Model(middle_input, [inner(middle_input), inner(inner(middle_input))], name="middle")
    inputs = keras.Input((6,), name="x")
    first, second = middle(inputs)
    return keras.Model(inputs, layers.Add()([first, *middle(second)]))


def large_ranges() -> keras.Model:
    """Scales far apart: of channels, of the sides of a sum, and of what is put together."""
    inputs = keras.Input((6, 6, 4), name="image")
    conv = layers.Conv2D(6, 3, padding="same", name="uneven", bias_initializer="normal")
    x = conv(inputs)
    conv.kernel.assign(conv.kernel * np.geomspace(1e-3, 10.0, 6))
    small = layers.Conv2D(6, 1, name="small")(inputs * 0.01)
    return keras.Model(inputs, layers.Concatenate()([layers.Add()([x, small]), small, x * 8.0]))


BUILT: dict[str, Callable[[], Made]] = {
    **{name: _zoo(name) for name in tests_zoo.NETS},
    **{
        build.__name__: with_data(build)
        for build in (transformer, recurrent, named, several, passed_through, deeply_nested, large_ranges)
    },
}


def _nets() -> list[Case]:
    """Small nets of every structure, in each type of inputs and outputs, mode and storage."""
    found = []
    for name, make in BUILT.items():
        found.append(Case("nets", name, make, {"target": "litert", "mode": "int8"}))
        found.append(Case("nets", name, make, {"target": "tflm", "mode": "int8", "io": "int8"}))
        found.append(Case("nets", name, make, {"target": "tflm", "mode": "16x8"}))
    for name in ("conv_bn_relu", "named"):
        for settings in (
            {"mode": "int8", "io": "uint8"},
            *({"mode": mode} for mode in ("dynamic", "float16", "float32")),
        ):
            found.append(Case("nets", name, BUILT[name], {"target": "litert", **settings}))
        found.append(Case("nets", name, BUILT[name], {"target": "ethos_u", "mode": "int8"}))
        found.append(Case("nets", name, BUILT[name], {"target": "tflm", "mode": "16x8", "io": "int16"}))
    return found


QUANTIZERS = (
    "apot", "asymmetric_quantizer", "ste_sign", "approx_sign", "swish_sign", "binary_connect", "bwn", "do_re_fa",
    "learned_clip", "log2", "lq_nets", "lsq", "pwlq", "ste_tern", "term_quantizer", "ttq", "twn", "int2", "int3",
)  # fmt: skip
SIGNS = ("ste_sign", "swish_sign")
STORED = ("conv_bn_relu", "preactivation")


def _few_bits() -> list[Case]:
    """Every weight quantizer, sign nets, and weights of few values in each storage."""
    found = []
    for number, quantizer in enumerate(QUANTIZERS):
        made = quantized(_zoo("conv_bn_relu"), weights=quantizer)
        found.append(Case("few bits", quantizer, made, {"target": TARGETS[number % 2], "mode": "int8"}))
    for sign in SIGNS:
        made = quantized(_zoo("preactivation"), weights=sign, activations="ste_sign")
        found += [Case("few bits", f"net of {sign}", made, {"target": t, "mode": "int8"}) for t in TARGETS]
    for net in STORED:
        made = coarse(BUILT[net])
        storages = {"litert": ("int4", "int2", "auto"), "tflm": ("int4", "lut", "bitmap", "huffman", "auto")}
        for target, names in storages.items():
            for name in names:
                settings = {"target": target, "mode": "int8", "weights_storage": name}
                found.append(Case("few bits", f"{net}, coarse", made, settings))
    return found


def _mobilenet(builder: str, alpha: float) -> Callable[[], Made]:
    def build() -> keras.Model:
        made = getattr(keras.applications, builder)
        model = made(weights=None, input_shape=(32, 32, 3), alpha=alpha, classes=10)
        for weight in model.weights:
            if weight.name.endswith("kernel"):
                fan_in = math.prod(weight.shape[: 2 if "depthwise" in weight.path else -1])
                weight.assign(weight * (math.sqrt(2.0 / fan_in) / keras.ops.std(weight)))
        return model

    return with_data(build)


def _zoo_models() -> list[Case]:
    shape = (12, 12, 1)
    nets: dict[str, Callable[[], Made]] = {
        "tiny": with_data(lambda: zoo_model(TINY, 0)),
        "digits_cnn": with_data(models.digits_cnn),
        "lenet5": with_data(lambda: models.lenet5((16, 16, 1))),
        "lenet300": with_data(lambda: models.lenet300(shape)),
        "resnet8": with_data(lambda: models.resnet8(shape, filters=8)),
        "MobileNet, alpha 0.25": _mobilenet("MobileNet", 0.25),
        "MobileNetV2, alpha 0.35": _mobilenet("MobileNetV2", 0.35),
    }
    found = []
    for number, (name, make) in enumerate(nets.items()):
        found.append(Case("zoo", name, make, {"target": TARGETS[number % 2], "mode": "int8"}))
    return found


CASES: dict[str, Case] = {case.name: case for case in (*_nets(), *_few_bits(), *_graphs(), *_zoo_models(), *_rows())}
