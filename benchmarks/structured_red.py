"""Channels merged, kernels shared, weights hashed without any data or training: what goes, and what is lost.

Each network is trained once for each seed; every row then starts from it. What a row removes is followed over a range
of settings on the 10,000 test images, and the table has the most that costs half a point. L1 pruning without training,
which needs no data either, stands beside it.

    python benchmarks/structured_red.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import app, flags
from common import RESULTS, fashion_mnist, once, write_results
from keras import layers

import keras_compress as kc
from keras_compress.demo import datasets, models

BATCH_SIZE, RATE = 128, 2e-3
EPOCHS = {"lenet300": 6, "lenet5": 3, "vgg": 4, "wide_dense": 3}
WITH_CONVOLUTIONS = ("lenet5", "vgg")
MOST_POINTS_LOST = 0.5
TOLERANCES = (0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.025, 1.05, 1.075, 1.1, 1.15, 1.2, 1.25, 1.3)
HASH_ERRORS = (0.02, 0.05, 0.1, 0.2)
HASH_ERROR_BEFORE_MERGES = 0.05
RATIOS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds.")
_NETS = flags.DEFINE_multi_enum("net", list(EPOCHS), list(EPOCHS), "Networks.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_red", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
Change = Callable[[keras.Model, float], keras.Model]


def wide_dense() -> keras.Model:
    """Far wider than the task needs: 2000-1000, 3.6 million parameters."""
    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(2000, activation="relu", name="hidden1")(x)
    x = layers.Dense(1000, activation="relu", name="hidden2")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="wide_dense")


def ascending(model: keras.Model, tolerance: float) -> keras.Model:
    """Tolerances that grow from the first layer to the last."""
    groups = kc.channel_graph(model).prunable
    rules = [
        {"layers": list(group.layers), "tolerance": tolerance * (number + 1) / len(groups)}
        for number, group in enumerate(groups)
    ]
    return kc.merge_channels(model, rules=rules)


AFTER_HASHING = f"hash {HASH_ERROR_BEFORE_MERGES}, merge"
# Method -> what it does, and its settings from weak to strong.
METHODS: dict[str, tuple[Change, Sequence[float]]] = {
    "hash": (kc.hash_weights, HASH_ERRORS),
    "merge": (kc.merge_channels, TOLERANCES),
    "merge, tolerance ascending": (ascending, TOLERANCES),
    AFTER_HASHING: (kc.merge_channels, TOLERANCES),
    "separate": (kc.separate_convolutions, TOLERANCES),
    "L1, not trained": (lambda model, ratio: kc.prune_channels(model, ratio, criterion="l1", round_to=1), RATIOS),
}


def trained(net: str, seed: int, data: datasets.Dataset, path: Path) -> dict[str, Any]:
    """Train the float model and keep it."""
    keras.utils.set_random_seed(seed)
    model = wide_dense() if net == "wide_dense" else models.build(net, (28, 28, 1))
    epochs = 1 if _QUICK.value else EPOCHS[net]
    steps = epochs * -(-len(data.x_train) // BATCH_SIZE)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    begin = time.perf_counter()
    model.fit(data.x_train, data.y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    model.save(path)
    return {"epochs": epochs, "seconds": time.perf_counter() - begin}


def accuracy(model: keras.Model, data: datasets.Dataset) -> float:
    # In eager mode: each model is run once, and tracing would take longer.
    right = 0
    for start in range(0, len(data.x_test), 1000):
        part = slice(start, start + 1000)
        outputs = keras.ops.convert_to_numpy(model(data.x_test[part], training=False))
        right += int((outputs.argmax(-1) == data.y_test[part]).sum())
    return right / len(data.x_test)


def curve(model: keras.Model, method: str, data: datasets.Dataset) -> list[dict[str, float]]:
    """What each setting of a method removes and costs."""
    before, params = accuracy(model, data), model.count_params()
    macs = kc.channel_graph(model).macs()
    change, settings = METHODS[method]
    if method == AFTER_HASHING:
        model = kc.hash_weights(model, HASH_ERROR_BEFORE_MERGES)
    points = []
    for setting in settings:
        begin = time.perf_counter()
        made = change(model, setting)
        seconds = time.perf_counter() - begin
        points.append(
            {
                "setting": setting,
                "params_removed": 1.0 - made.count_params() / params,
                "macs_removed": 1.0 - kc.channel_graph(made).macs() / macs,
                "points_lost": 100.0 * (before - accuracy(made, data)),
                "seconds": seconds,
            }
        )
    return points


def row(net: str, seed: int, method: str, data: datasets.Dataset, path: Path) -> dict[str, Any]:
    """The strongest setting that costs no more than half a point, and all that were tried."""
    model = keras.models.load_model(path, compile=False)
    points = curve(model, method, data)
    within = [point for point in points if point["points_lost"] <= MOST_POINTS_LOST]
    best = max(within, key=lambda p: (p["params_removed"], p["macs_removed"], p["setting"]), default=None)
    if best is not None and method == "hash":
        # It removes nothing: what counts is the largest error.
        best = within[-1]
    return {
        "net": net,
        "seed": seed,
        "method": method,
        "float_accuracy": accuracy(model, data),
        "params": model.count_params(),
        "best": best,
        "curve": points,
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Expected flags only. Received: {argv[1:]}")
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    work.mkdir(parents=True, exist_ok=True)
    data = fashion_mnist(_QUICK.value)
    rows = []
    for seed in map(int, _SEEDS.value):
        for net in _NETS.value:
            path = work / f"{net}_{seed}.keras"
            once(
                path.with_suffix(".trained.json"), lambda net=net, seed=seed, path=path: trained(net, seed, data, path)
            )
            for number, method in enumerate(METHODS):
                if method == "separate" and net not in WITH_CONVOLUTIONS:
                    continue
                kept = work / f"{net}_{seed}_{number}.json"
                rows.append(
                    once(kept, lambda net=net, seed=seed, method=method, path=path: row(net, seed, method, data, path))
                )
                found = rows[-1]["best"] or {}
                print(net, seed, method, {key: round(value, 4) for key, value in found.items()}, flush=True)
                keras.backend.clear_session()
    settings = {
        "data": "fashion_mnist",
        "quick": _QUICK.value,
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "learning_rate": RATE,
        "most_points_lost": MOST_POINTS_LOST,
        "chosen_on": "the test images that are reported",
    }
    directory = work if _QUICK.value else RESULTS
    path = write_results(
        "structured_red", rows, [], seeds=[int(s) for s in _SEEDS.value], settings=settings, directory=directory
    )
    print(f"Wrote {path}")


if __name__ == "__main__":
    app.run(main)
