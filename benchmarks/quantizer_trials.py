"""One quantizer, tried: trained on real data, lowered, and run on each kernel beside two models of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.demo import datasets
from keras_compress.runtime import integer_model
from keras_compress.runtime.kernels import runner_of
from keras_compress.tflite import multiplier
from keras_compress.tflite.segments import Segments

# Target -> kernels that run its file.
RUNTIMES = {"litert": "xnnpack", "tflm": "tflm"}
NUMPY_MODELS = ("tflm", "reference")
ENDS = [{"layers": "first", "weights": "int8"}, {"layers": "last", "weights": "int8", "activations": "int8"}]
# Largest share of an operator's values that may differ from the frozen model, each by one level.
SHARE, SHARE_OF_TWO_BITS = 0.005, 0.0005
Array = np.ndarray[Any, Any]


def net(initializer: Any = "glorot_uniform") -> keras.Model:
    """A convolution, a depthwise one and a Dense layer between two ends of 8 bits, for the 8x8 digits."""
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 1), name="image")
    for name, make in (
        ("first", lambda **k: layers.Conv2D(24, 3, **k)),
        ("conv", lambda **k: layers.Conv2D(24, 3, **k)),
        ("depthwise", lambda **k: layers.DepthwiseConv2D(3, **k)),
        ("pointwise", lambda **k: layers.Conv2D(32, 1, **k)),
    ):
        slot = "depthwise" if name == "depthwise" else "kernel"
        x = make(padding="same", use_bias=False, name=name, **{f"{slot}_initializer": initializer})(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Flatten(name="flatten")(layers.MaxPooling2D(name="pool")(x))
    x = layers.ReLU(name="dense_relu")(layers.Dense(32, name="dense", kernel_initializer=initializer)(x))
    return keras.Model(inputs, layers.Dense(10, name="last")(x), name="net")


def methods() -> list[tuple[str, str, int | None]]:
    """`(kind, class name, bits)` of all that is to be tried; bits `None` where the class has no choice."""
    found: list[tuple[str, str, int | None]] = []
    for kind, base in (("weight_transform", kc.WeightQuantizer), ("activation_quantizer", kc.ActivationQuantizer)):
        for name, cls in registry.entries(kind).items():
            if not issubclass(cls, base) or name == "FixedGrid":
                continue
            chooses = (
                "bits" in {key for sample in cls.samples() for key in cls(**sample).get_config()}
                and len(cls.allowed_bits) > 1
            )
            found += [(kind, name, bits) for bits in (cls.allowed_bits if chooses else (None,)) if bits != 16]
    return found


def made(kind: str, name: str, bits: int | None) -> Any:
    """The quantizer, with the other arguments of its first sample."""
    cls = registry.lookup(kind, name)
    arguments = dict(cls.samples()[0])
    return cls(**(arguments if bits is None else {**arguments, "bits": bits}))


def trained(weights: Any, activations: Any, data: datasets.Dataset, epochs: int) -> keras.Model:
    """The net with a quantizer, its scales and ranges set by real data."""
    keras.utils.set_random_seed(0)
    # Levels that follow no weight want weights that fill them: all others become 0 with 2 bits.
    first = keras.initializers.RandomUniform(-1.0, 1.0, seed=0) if isinstance(weights, kc.WRPN) else "glorot_uniform"
    model = kc.quantize_model(net(first), weights, activations, rules=ENDS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    model.fit(data.x_train, data.y_train, batch_size=128, epochs=epochs, verbose=0)
    return model


def tried(kind: str, name: str, bits: int | None, data: datasets.Dataset, epochs: int = 3) -> dict[str, Any]:
    """What became of one quantizer.

    Returns:
        `status` `"ok"`, `"beyond"` a bound, or `"refused"` with a `reason`; for each runtime the largest share of an
        operator's values that differ from the frozen model, and by how many levels; whether TFLite-Micro and LiteRT's
        reference kernels are the NumPy model of their arithmetic to the last bit; distinct integers of a weight.
    """
    quantizer = made(kind, name, bits)
    pair = (quantizer, "int8") if kind == "weight_transform" else ("int8", quantizer)
    row: dict[str, Any] = {"kind": kind, "name": name, "bits": bits}
    model = trained(*pair, data, epochs)
    try:
        artifacts = {target: kc.convert(model, target, io="int8") for target in RUNTIMES}
    except ValueError as error:
        return {**row, "status": "refused", "reason": str(error)}
    runtimes = {
        target: differences(artifacts[target], data.x_test, kernel, _bound(kind, bits))
        for target, kernel in RUNTIMES.items()
    }
    weighted = pieces(artifacts["tflm"])
    exact = {kernel: all(is_numpy_model(c, point, kernel) for point, c in weighted.items()) for kernel in NUMPY_MODELS}
    within = all(runtime["within"] for runtime in runtimes.values())
    simulated = accuracy(model.predict(data.x_test, verbose=0), data.y_test)
    return {
        **row,
        "status": "ok" if within and all(exact.values()) else "beyond",
        "runtimes": runtimes,
        "numpy_model": exact,
        "levels_in_file": max(weight.distinct_values for weight in artifacts["tflm"].stats.weights[1:-1]),
        "accuracy": simulated,
    }


def _bound(kind: str, bits: int | None) -> float:
    return SHARE_OF_TWO_BITS if kind == "activation_quantizer" and (bits or 1) <= 2 else SHARE


def differences(artifact: kc.Artifact, x: Array, kernel: str, bound: float) -> dict[str, Any]:
    """Operators on the frozen model's own integers, all in one: the largest share that differs, and by how much."""
    result = kc.verify(artifact, None, x, kernels=[kernel], op_samples=len(x), strict=False)
    share = max(row.fraction_differing for row in result.rows)
    levels = max(row.max_lsb for row in result.rows)
    agreement = min(row.argmax_agreement for row in result.outputs)
    within = bool(share <= bound and levels <= 1)
    return {"share": share, "levels": levels, "argmax_agreement": agreement, "within": within}


def accuracy(outputs: Array, labels: Array) -> float:
    return float((outputs.argmax(-1) == labels).mean())


def pieces(artifact: kc.Artifact) -> dict[str, bytes]:
    """The weighted operators between points, each as a file."""
    file, tensors = Segments(artifact.content), set(artifact.points.values())
    found = {}
    for point, tensor in artifact.points.items():
        names = file.inputs_of(tensor, tensors)
        if len(names) != 1 or names == [tensor] or names[0] not in tensors:
            continue
        content, _ = file.extract(names, [tensor])
        kinds = set(kc.inspect_tflite(content).operators)
        if len(kinds & set(integer_model.KERNELS)) == 1 and kinds <= {*integer_model.KERNELS, "RESHAPE"}:
            found[point] = content
    return found


def is_numpy_model(content: bytes, point: str, kernel: str) -> bool:
    """Whether a kernel computes what the NumPy model of its arithmetic does, on random integers."""
    runner = runner_of(kernel)
    shape = runner.describe(content, point).inputs[0].sample_shape
    integers = np.random.default_rng(0).integers(-128, 128, (100, *shape)).astype(np.int8)
    once = kernel == "reference" and "FULLY_CONNECTED" in kc.inspect_tflite(content).operators
    expected = integer_model.run(content, integers, multiplier.round_once if once else multiplier.round_twice)
    return bool(np.array_equal(runner.run(content, [integers], point)[0], expected))
