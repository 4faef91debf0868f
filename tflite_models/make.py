"""Makes the models of this folder and their card again: `python tflite_models/make.py` (1 to 3 minutes).

The float model is trained and converted; the same model is pruned, clustered, trained with quantization and converted
to int8. Every figure of the card is read from the files by the runtimes, in the same run.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import math
from pathlib import Path
from typing import Any

import keras

import keras_compress as kc
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.files import write_atomic
from keras_compress.demo import datasets, models
from keras_compress.runtime import deployed
from keras_compress.runtime.measure import accuracy
from keras_compress.runtime.target import target

SEED = 0
BATCH = 64
EPOCHS = {"float": 40, "prune": 30, "cluster": 10, "quantize": 15}
SPARSITY = 0.8  # of the two layers that are pruned
CLUSTERS = 16
FOLDER = Path(__file__).parent


def train(model: keras.Model, data: datasets.Dataset, epochs: int, learning_rate: float) -> keras.Model:
    """Trains with a cosine learning rate; the test images are not looked at."""
    steps = epochs * math.ceil(len(data.x_train) / BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data.x_train, data.y_train, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def make(data: datasets.Dataset) -> dict[str, Artifact]:
    """The float and the int8 model."""
    keras.utils.set_random_seed(SEED)
    base = train(models.digits_cnn(), data, EPOCHS["float"], 2e-3)
    # These three hold 976 of 22,480 weights: nothing to win, and what comes first and last is what errs first.
    schedule = kc.PolynomialDecay(
        0.3, SPARSITY, begin_step=0, end_step=0.7, frequency=10,
        total_steps=EPOCHS["prune"] * math.ceil(len(data.x_train) / BATCH),
    )  # fmt: skip
    rules = [{"layers": ["stem", "depthwise", "logits"], "skip": True}]
    model = train(kc.prune_low_magnitude(base, schedule, rules=rules), data, EPOCHS["prune"], 2e-3)
    model = train(kc.cluster_weights(model, CLUSTERS), data, EPOCHS["cluster"], 5e-4)
    model = train(kc.quantize_model(model), data, EPOCHS["quantize"], 5e-4)
    # Verified with float inputs and outputs, so that their rounding is compared too; the file itself takes integers.
    kc.verify(kc.convert(model), model, data.x_test)
    return {"digits_float": kc.convert(base, mode="float32"), "digits_int8": kc.convert(model, io="int8")}


def figures(content: bytes, data: datasets.Dataset) -> dict[str, Any]:
    """What the runtimes and the file say of one model; TFLM's are `None` where it is not installed."""
    stats = kc.inspect_tflite(content)
    runtimes = {name: target(name) for name in ("litert", "tflm")}
    here = {name: runner for name, runner in runtimes.items() if runner.available() is None}
    found: dict[str, Any] = {
        f"{name}_accuracy": accuracy(deployed.run(runner, content, data.x_test), data.y_test)
        for name, runner in here.items()
    }
    return found | {
        "tflm_arena_bytes": here["tflm"].memory(content)["arena_bytes"] if "tflm" in here else None,
        "raw_bytes": stats.raw_bytes,
        "gzip_bytes": stats.gzip_bytes,
        "weight_payload_bytes": stats.weight_payload_bytes,
        "sparsity": round(stats.sparsity, 6),
        "distinct_values": stats.distinct_values,
    }


def main() -> None:
    """Trains, converts, verifies, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: this one)")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    data = datasets.load("digits")
    found = {}
    for name, artifact in make(data).items():
        artifact.save(folder / f"{name}.tflite")
        found[name] = figures(artifact.content, data)
    print(json.dumps(found, indent=2))
    template = (FOLDER / "README.md").read_text(encoding="utf-8")
    write_atomic(folder / "README.md", with_figures(template, found).encode())


BEGIN, END = "<!-- figures: written by make.py -->", "<!-- end of figures -->"
_ROWS = (
    ("accuracy on LiteRT", "litert_accuracy", lambda v: f"{100 * v:.2f} %"),
    ("accuracy on TFLite-Micro", "tflm_accuracy", lambda v: f"{100 * v:.2f} %"),
    ("file", "raw_bytes", lambda v: f"{v:,} B"),
    ("file, `gzip -9`", "gzip_bytes", lambda v: f"{v:,} B"),
    ("weights in the file", "weight_payload_bytes", lambda v: f"{v:,} B"),
    ("zeros among the weights", "sparsity", lambda v: f"{100 * v:.2f} %"),
    ("most distinct values in one weight", "distinct_values", lambda v: f"{v:,}"),
    ("TFLite-Micro arena", "tflm_arena_bytes", lambda v: f"{v:,} B"),
)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The card's table, in Markdown."""
    lines = ["| | " + " | ".join(f"`{name}.tflite`" for name in found) + " |", "|---|" + "---:|" * len(found)]
    for label, key, show in _ROWS:
        cells = ["not measured" if each.get(key) is None else show(each[key]) for each in found.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_figures(card: str, found: dict[str, dict[str, Any]]) -> str:
    """The card with its table replaced."""
    before, _, rest = card.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


if __name__ == "__main__":
    main()
