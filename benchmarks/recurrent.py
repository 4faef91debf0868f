"""Recurrent layers as one operator and step by step: bytes, time, arena, distance from the float model, accuracy.

python benchmarks/recurrent.py
python benchmarks/recurrent.py --steps=14 --rows=28   # without the longer sequences, whose steps take minutes
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import at_least, at_most, fashion_mnist, print_goals, write_results
from recurrent_table import write_page

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.runtime.target import target

UNITS, INPUTS, SAMPLES = 64, 16, 64
FORMS = ("fused", "unrolled")
_STEPS = flags.DEFINE_list("steps", ["14", "40", "100"], "Lengths of the sequences of random numbers.")
_ROWS = flags.DEFINE_list("rows", ["28", "56", "112"], "Into how many steps an image is cut.")
# LiteRT's own quantizer, of an LSTM of 64 units over 40 steps of 16 numbers: bytes and milliseconds.
PEER_STEPS, PEER_BYTES, PEER_MS = 40, 154_000, 0.051
layers = keras.layers


def network(steps: int, inputs: int, kind: str = "LSTM") -> keras.Model:
    """A recurrent layer and ten classes."""
    keras.utils.set_random_seed(0)
    sequence = keras.Input((steps, inputs), name="sequence")
    recurrent = getattr(layers, kind)(UNITS, name=kind.lower())(sequence)
    return keras.Model(sequence, layers.Dense(10, name="classes")(recurrent))


def forms_of(model: keras.Model, data: Any, runtime: str) -> dict[str, tuple[kc.Artifact, float]]:
    """Form -> artifact, and seconds of converting."""
    found = {}
    for form in FORMS if isinstance(model.layers[1], layers.LSTM) else FORMS[1:]:
        start = time.perf_counter()
        made = kc.convert(model, runtime, representative_dataset=data, recurrent=form)
        found[form] = made, time.perf_counter() - start
    return found


def row_of(model: keras.Model, x: Any, name: str, runtime: str, labels: Any = None) -> dict[str, Any]:
    """Figures of both forms on a runtime, timed in turns with the float file where the runtime takes it."""
    made, real = forms_of(model, x[:SAMPLES], runtime), model.predict(x, verbose=0)
    files = {form: artifact.content for form, (artifact, _) in made.items()}
    runner = target(runtime)
    if runtime == "litert":
        files["float32"] = kc.convert(model, mode="float32").content
    times = runner.latency(files, runs=100)
    row: dict[str, Any] = {"name": name, "target": runtime}
    for form, content in files.items():
        (outputs,) = runner.run(content, [x])
        row[form] = {
            "bytes": len(content),
            "ms": times[form].median_ms,
            "memory": runner.memory(content),
            "sqnr_db": sqnr_db(real, outputs),
        }
        if form in made:
            artifact, seconds = made[form]
            row[form]["seconds_to_convert"] = seconds
            if form == "fused":  # thousands of operators are verified one by one elsewhere
                row[form]["verified"] = bool(kc.verify(artifact, model, x[:SAMPLES], strict=False))
        if labels is not None:
            row[form]["accuracy"] = float((outputs.argmax(-1) == labels).mean())
    if labels is not None:
        row["float_accuracy"] = float((real.argmax(-1) == labels).mean())
    return row


def rows_of_images(steps: int, kind: str) -> list[dict[str, Any]]:
    """Fashion-MNIST, a row of 28 pixels at a step, or a part of one."""
    data = fashion_mnist(quick=False)
    model = network(steps, 784 // steps, kind)
    rate = 1e-3 if kind == "SimpleRNN" else 3e-3
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, test = (images.reshape(len(images), steps, -1) for images in (data.x_train[:30_000], data.x_test[:5000]))
    model.fit(x, data.y_train[:30_000], epochs=4, batch_size=128, verbose=0)
    name = f"Fashion-MNIST, {kind}, {steps} steps"
    return [row_of(model, test, name, runtime, data.y_test[:5000]) for runtime in ("litert", "tflm")]


def goals_of(row: dict[str, Any]) -> list[Any]:
    """What the row must show."""
    name, goals = f"{row['name']} on {row['target']}", []
    if "fused" in row:
        goals.append(at_least(f"{name}, one operator, dB", row["fused"]["sqnr_db"], 30.0))
    forms = [form for form in FORMS if form in row] if "float_accuracy" in row else []
    for form in forms:
        lost = row[form]["accuracy"] - row["float_accuracy"]
        goals.append(at_least(f"{name}, {form}, accuracy beside the float model", lost, -0.005))
    if row["name"] == f"{PEER_STEPS} steps":
        goals.append(at_most(f"{name}, unrolled, bytes", row["unrolled"]["bytes"], PEER_BYTES))
        if row["target"] == "litert":
            goals.append(at_most(f"{name}, unrolled, ms", row["unrolled"]["ms"], PEER_MS))
    return goals


def main(arguments: Sequence[str]) -> None:
    rows = []
    for steps in map(int, _STEPS.value):
        x = np.random.default_rng(0).normal(size=(SAMPLES, steps, INPUTS)).astype(np.float32)
        rows += [row_of(network(steps, INPUTS), x, f"{steps} steps", runtime) for runtime in ("litert", "tflm")]
    for steps, kind in [*((int(steps), "LSTM") for steps in _ROWS.value), (28, "GRU"), (28, "SimpleRNN")]:
        rows += rows_of_images(steps, kind)
    goals = [goal for row in rows for goal in goals_of(row)]
    print(write_results("recurrent", rows, goals, seeds=[0], settings={"units": UNITS, "inputs": INPUTS}))
    write_page()
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
