"""Does training see what the device computes? The model that was trained, on test data, beside its file on LiteRT.

Networks on Fashion-MNIST (LeNet-5 pruned, clustered and quantized; ResNet-20 and a small residual network with average
poolings, quantized), and the rows of `docs/layers.md`, quantized with ranges from one batch. Distances are in steps of
the output's integers; `docs/training.md` shows the table.

    python benchmarks/simulated.py
    python benchmarks/simulated.py --every=1     # all rows; by default each fourth, and all poolings
    python benchmarks/simulated.py --only=LSTM   # rows whose name contains this
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import RESULTS, Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from layer_rows import ROWS, Row
from layer_trials import data_of

import keras_compress as kc
from keras_compress.demo import models
from keras_compress.graph import graph
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

IMAGES, TESTED, BATCH_SIZE = 6400, 500, 64
FAR = 1.5
_NETS = flags.DEFINE_list("nets", ["lenet5", "resnet20", "residual"], "Networks that are trained.")
_ONLY = flags.DEFINE_string("only", "", "Part of the names of the rows that are measured; the results stay in --work.")
_EVERY = flags.DEFINE_integer("every", 4, "Which share of the rows is measured: one in so many.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_simulated", "Folder of what is finished already.")
Array = np.ndarray[Any, Any]
layers = keras.layers


def residual() -> keras.Model:
    """Two residual blocks, each with an average pooling before and behind it."""
    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    for width in (8, 16):
        x = layers.AveragePooling2D(2)(x)
        x = layers.Conv2D(width, 1)(x)
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same", use_bias=False)(x)))
        y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same", use_bias=False)(y))
        x = layers.AveragePooling2D(3, 1, padding="same")(layers.ReLU()(layers.Add()([x, y])))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def fitted(model: keras.Model, x: Array, y: Array, rate: float = 1e-3) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=1, verbose=0)
    return model


def compressed(model: keras.Model, x: Array, y: Array) -> keras.Model:
    """Pruned to 80 %, 16 clusters."""
    schedule = kc.PolynomialDecay(0.3, 0.8, begin_step=0, end_step=80, frequency=10)
    return fitted(kc.cluster_weights(fitted(kc.prune_low_magnitude(model, schedule), x, y), 16), x, y)


BUILT: dict[str, Callable[[], keras.Model]] = {
    "lenet5": models.lenet5, "resnet20": models.resnet20, "residual": residual,
}  # fmt: skip


def net(name: str) -> dict[str, Any]:
    """A network that is trained, and trained on with quantization."""
    keras.utils.set_random_seed(0)
    data = fashion_mnist(quick=False)
    x, y = data.x_train[:IMAGES], data.y_train[:IMAGES]
    model = fitted(BUILT[name](), x, y)
    model = fitted(kc.quantize_model(compressed(model, x, y) if name == "lenet5" else model), x, y, 1e-4)
    return measured(name, "Networks", model, x[:BATCH_SIZE], data.x_test[:TESTED])


def layer(row: Row) -> dict[str, Any]:
    """A row of the table of layers."""
    model = row.model()
    x = data_of(row, model)
    try:
        quantized = kc.quantize_model(model)
        quantized(x, training=True)
        return measured(row.name, row.group, quantized, x, x)
    except Exception as error:
        return {"name": row.name, "group": row.group, "refused": f"{type(error).__name__}: {str(error)[:200]}"}


def measured(name: str, group: str, model: keras.Model, x: Any, test: Any) -> dict[str, Any]:
    """The distance from a trained model to its file."""
    artifact = kc.convert(model, representative_dataset=x)
    if artifact.float_ops:
        return {"name": name, "group": group, "refused": f"float: {[op.op for op in artifact.float_ops]}"}
    found = keras.tree.flatten(model.predict(test, batch_size=BATCH_SIZE, verbose=0))
    simulated = keras.tree.flatten(artifact.frozen.predict(test, batch_size=BATCH_SIZE, verbose=0))
    got = deployed.run(target("litert"), artifact.content, test, name)
    steps, of_frozen = ([each.ravel() for each in off] for off in zip(*map(in_steps, found, simulated, got,
                        output_steps(artifact.frozen)), strict=True))  # fmt: skip
    return {
        "name": name,
        "group": group,
        "points": sum(isinstance(each, kc.QuantizeActivation) for each in artifact.frozen.layers),
        "points_trained": sum(isinstance(each, kc.QuantizeActivation) for _, each in graph.walk(model)),
        **figures(np.concatenate(steps)),
        "frozen_to_device": figures(np.concatenate(of_frozen)),
    }


def in_steps(trained: Array, frozen: Array, device: Array, step: float) -> tuple[Array, Array]:
    return np.abs(trained - device.reshape(trained.shape)) / step, np.abs(frozen - device.reshape(frozen.shape)) / step


def output_steps(frozen: keras.Model) -> list[float]:
    """The scale of each output."""
    return [_point(tensor).quantizer.scale for tensor in frozen.outputs]


def _point(tensor: Any) -> Any:
    operation, index, _ = tensor._keras_history
    return operation if isinstance(operation, kc.QuantizeActivation) else _point(
        operation._inbound_nodes[index].input_tensors[0])  # fmt: skip


def figures(steps: Array) -> dict[str, Any]:
    return {
        "values": steps.size,
        "median_steps": round(float(np.median(steps)), 4),
        "within_1_5_steps": round(float((steps <= FAR).mean()), 5),
        "most_steps": round(float(steps.max()), 2),
    }


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    goals = []
    for row in (row for row in rows if "refused" not in row):
        goals.append(at_most(f"{row['name']}: median, in steps", row["median_steps"], 0.5))
        goals.append(at_least(f"{row['name']}: share within 1.5 steps", row["within_1_5_steps"], 0.99))
    return goals


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    work = Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    sampled = [row for i, row in enumerate(ROWS) if i % _EVERY.value == 0 or "AveragePooling" in row.name]
    chosen = [row for row in ROWS if _ONLY.value in row.name] if _ONLY.value else sampled
    rows = []
    for name in [] if _ONLY.value else _NETS.value:
        print(name, file=sys.stderr, flush=True)
        rows.append(once(work / f"net_{name}.json", lambda name=name: net(name)))
    for number, row in enumerate(chosen):
        found = layer(row) if _ONLY.value else once(work / f"row_{ROWS.index(row)}.json", lambda row=row: layer(row))
        print(f"{number + 1}/{len(chosen)}", {**found, "group": ""}, file=sys.stderr, flush=True)
        rows.append(found)
    settings: dict[str, Any] = {"images": IMAGES, "test_images": TESTED, "batch_size": BATCH_SIZE, "kernels": "xnnpack"}
    settings["every"] = _EVERY.value
    directory = work if _ONLY.value else RESULTS
    path = write_results("simulated", rows, goals_of(rows), seeds=[0, 1], settings=settings, directory=directory)
    print_goals([goal for goal in goals_of(rows) if not goal.met])
    print(path)


if __name__ == "__main__":
    app.run(main)
