"""LSTMs as one operator and step by step: bytes, time, arena, distance from the float model, accuracy on images by row.

python benchmarks/recurrent.py
python benchmarks/recurrent.py --steps=14   # without the longer sequences, whose steps take minutes to convert
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import at_least, fashion_mnist, print_goals, write_results
from recurrent_table import write_page

import keras_compress as kc
from keras_compress.convert.distance import sqnr_db
from keras_compress.runtime.target import target

UNITS, INPUTS, SAMPLES = 64, 16, 64
FORMS = ("fused", "unrolled")
_STEPS = flags.DEFINE_list("steps", ["14", "49", "100"], "Lengths of the sequences.")
layers = keras.layers


def network(steps: int, inputs: int) -> keras.Model:
    """An LSTM and ten classes."""
    keras.utils.set_random_seed(0)
    sequence = keras.Input((steps, inputs), name="sequence")
    return keras.Model(sequence, layers.Dense(10, name="classes")(layers.LSTM(UNITS, name="lstm")(sequence)))


def forms_of(model: keras.Model, data: Any, runtime: str) -> dict[str, tuple[kc.Artifact, float]]:
    """Form -> artifact, and seconds of converting."""
    found = {}
    for form in FORMS:
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


def rows_of_images() -> list[dict[str, Any]]:
    """Fashion-MNIST, a row of 28 pixels at a step."""
    data = fashion_mnist(quick=False)
    model = network(28, 28)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.x_train[:30_000, ..., 0], data.y_train[:30_000], epochs=4, batch_size=128, verbose=0)
    x, labels = data.x_test[:5000, ..., 0], data.y_test[:5000]
    return [row_of(model, x, "rows of Fashion-MNIST", runtime, labels) for runtime in ("litert", "tflm")]


def main(arguments: Sequence[str]) -> None:
    rows = []
    for steps in map(int, _STEPS.value):
        x = np.random.default_rng(0).normal(size=(SAMPLES, steps, INPUTS)).astype(np.float32)
        rows += [row_of(network(steps, INPUTS), x, f"{steps} steps", runtime) for runtime in ("litert", "tflm")]
    rows += rows_of_images()
    goals = [
        at_least(f"{row['name']} on {row['target']}, one operator, dB", row["fused"]["sqnr_db"], 30.0) for row in rows
    ]
    for row in rows[-2:]:
        lost = row["fused"]["accuracy"] - row["float_accuracy"]
        goals.append(at_least(f"{row['name']} on {row['target']}, accuracy beside the float model", lost, -0.005))
    print(write_results("recurrent", rows, goals, seeds=[0], settings={"units": UNITS, "inputs": INPUTS}))
    write_page()
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
