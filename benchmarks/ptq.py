"""Post-training int8 by plain ranges beside TensorFlow's converter: outputs, and layer by layer, of a mini-Xception.

python benchmarks/ptq.py [--quick]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from common import at_least, fashion_mnist, print_goals, write_results
from keras import layers
from numpy.typing import NDArray
from tensorflow_int8 import tensorflow_int8

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db

Array = NDArray[Any]
FILTERS, EPOCHS, TESTED = (32, 48, 64), 2, 512
SAMPLES = (32, 128, 512)
_QUICK = flags.DEFINE_bool("quick", False, "One seed, little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Networks to train.")


def mini_xception() -> keras.Model:
    """Separable convolutions with norms, residual sums, poolings; outputs are logits."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = _normed(layers.Conv2D(16, 3, padding="same", use_bias=False)(x), relu=True)
    for filters in FILTERS:
        side = _normed(layers.Conv2D(filters, 1, strides=2, padding="same", use_bias=False)(x), relu=False)
        x = _normed(layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x), relu=True)
        x = _normed(layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x), relu=False)
        x = layers.Add()([layers.MaxPooling2D(3, strides=2, padding="same")(x), side])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="mini_xception")


def _normed(x: Any, relu: bool) -> Any:
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def trained(seed: int, data: Any) -> keras.Model:
    """The network after a little training."""
    keras.utils.set_random_seed(seed)
    model = mini_xception()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.x_train[:12_000], data.y_train[:12_000], batch_size=64, epochs=EPOCHS, verbose=0)
    return model


def files_of(model: keras.Model, samples: Array) -> dict[str, bytes]:
    """int8 files of both converters, calibrated on the same samples."""
    ours = kc.convert(model, representative_dataset=samples).content
    return {"keras_compress": ours, "tensorflow": tensorflow_int8(model, samples)}


def tensors_of(content: bytes, x: Array) -> list[Array]:
    """Real values of every computed tensor, on LiteRT's reference kernels; the last is the output."""
    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    feed = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(feed, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(feed, x)
    interpreter.invoke()
    made = {tensor for op in interpreter._get_ops_details() for tensor in op["outputs"]}
    found = []
    for detail in interpreter.get_tensor_details():
        if detail["index"] in made:
            values, (scale, zero_point) = interpreter.get_tensor(detail["index"]), detail["quantization"]
            found.append((values.astype(np.float64) - zero_point) * scale if scale else values.astype(np.float64))
    found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(np.float64))
    return found


def row_of(seed: int, model: keras.Model, count: int, data: Any) -> dict[str, Any]:
    """Decibels of the outputs, bytes, and decibels of each layer whose output both files have."""
    chosen = np.random.default_rng(count).permutation(min(4096, len(data.x_train)))[:count]
    files, x = files_of(model, data.x_train[chosen]), data.x_test[:TESTED]
    kept = [layer for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    real = keras.Model(model.input, [layer.output for layer in kept]).predict(x, verbose=0)
    tensors = {name: tensors_of(content, x) for name, content in files.items()}
    row: dict[str, Any] = {"seed": seed, "samples": count}
    row["bytes"] = {name: len(content) for name, content in files.items()}
    row["sqnr_db"] = {name: round(sqnr_db(real[-1], found[-1]), 2) for name, found in tensors.items()}
    row["layers"] = {
        layer.name: {name: round(_closest(values, found), 2) for name, found in tensors.items()}
        for layer, values in zip(kept, real, strict=True)
    }
    # What is fused into another operator is a tensor of neither file.
    row["layers"] = {name: each for name, each in row["layers"].items() if min(each.values()) > 8}
    return row


def _closest(values: Array, found: Sequence[Array]) -> float:
    """Decibels of the tensor that is most like these values."""
    return max((sqnr_db(values, each) for each in found if each.shape == values.shape), default=-np.inf)


def main(arguments: Sequence[str]) -> None:
    data, rows = fashion_mnist(_QUICK.value), []
    for seed in map(int, _SEEDS.value[: 1 if _QUICK.value else None]):
        model = trained(seed, data)
        for count in SAMPLES[: 1 if _QUICK.value else None]:
            rows.append(row_of(seed, model, count, data))
            print(seed, count, rows[-1]["sqnr_db"], rows[-1]["bytes"], flush=True)
    ahead = [row["sqnr_db"]["keras_compress"] - row["sqnr_db"]["tensorflow"] for row in rows]
    goals = [
        at_least("mean of all rows, dB beyond TensorFlow's file", float(np.mean(ahead)), 0.0),
        at_least("worst row, dB beyond TensorFlow's file", min(ahead), 0.0),
    ]
    for name, each in rows[0]["layers"].items():
        print(f"{name:32s} keras_compress {each['keras_compress']:6.2f} dB, tensorflow {each['tensorflow']:6.2f} dB")
    if not _QUICK.value:
        print(write_results("ptq", rows, goals, seeds=list(map(int, _SEEDS.value)), settings={"tested": TESTED}))
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
