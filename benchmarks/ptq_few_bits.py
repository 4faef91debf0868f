"""Few bits after training, without labels: five nets by level 2's defaults, and GPTQ beside Keras's on a Dense net.

python benchmarks/ptq_few_bits.py [--quick] [--seeds=0,1,2] [--nets=resnet,mobilenet,densenet,xception,vit]

W4A4 is what `wide_points` makes of it: 4 bits where weights multiply, 8 at both ends of the model, behind the first
layer, and elsewhere. Weights have 4 bits in all layers.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from keras import ops
from numpy.typing import NDArray
from ptq import accuracy
from ptq_nets import LOSS, trained
from ptq_peers import cpu_seconds

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.graph.as_matrix import as_matrix, hessian
from keras_compress.post_training.gptq import rounded

Array = NDArray[Any]
SAMPLES, MOST_SECONDS, CORES = 512, 180.0, 2
# Bits of weights and of activations, and how many points of accuracy may be lost.
SETTINGS = {"W4A8": (4, 8, 0.5), "W4A4": (4, 4, 2.0), "W3A8": (3, 8, 1.5)}
DENSE_SAMPLES, DENSE_BITS, DAMPING = 2_000, 4, 0.01


def rows_of(net: str, seed: int, data: Any, keep: str) -> list[dict[str, Any]]:
    """The float model, and each setting by what level 2 does for it."""
    model = trained(net, seed, data, keep)
    samples = data.x_train[np.random.default_rng(seed).permutation(len(data.x_train))[:SAMPLES]]
    exact = model.predict(data.x_test, verbose=0, batch_size=500)
    rows = [{"net": net, "seed": seed, "bits": "float", "accuracy": accuracy(exact, data)}]
    print(rows[0], flush=True)
    for name, (weights, activations, _) in SETTINGS.items():
        bits = {"weights": f"int{weights}", "activations": f"int{activations}", "seed": seed}
        with cpu_seconds() as spent:
            start = time.perf_counter()
            made = kc.quantize_post_training(model, samples, report=False, **bits)
            seconds = time.perf_counter() - start
        found = made.predict(data.x_test, verbose=0, batch_size=500)
        row = {"net": net, "seed": seed, "bits": name, "accuracy": accuracy(found, data)}
        row |= {"output_sqnr_db": round(sqnr_db(exact, found), 2)}
        row |= {"cpu_seconds": round(spent[0], 1), "seconds": round(seconds, 1)}
        rows.append(row)
        print(rows[-1], flush=True)
    return rows


def dense_rows(seed: int, data: Any) -> list[dict[str, Any]]:
    """Signal to noise of what each layer of a Dense net gives, its inputs being those of the float model."""
    model = dense_net(seed, data)
    x, rows = data.x_train[:DENSE_SAMPLES].reshape(-1, 784), []
    for layer in model.layers:
        kernel, y = np.asarray(layer.kernel), x @ np.asarray(layer.kernel)
        step = np.abs(kernel).max(axis=0, keepdims=True) / (2 ** (DENSE_BITS - 1) - 1)
        made = {"nearest": np.rint(kernel / step)}
        for ordered in (False, True):
            suffix = ", large inputs first" if ordered else ""
            made[f"Keras's GPTQ{suffix}"] = _by_keras(x, kernel, step, ordered)
            made[f"gptq{suffix}"] = _by_ours(layer, x, kernel, step, ordered)
        decibels = {name: round(sqnr_db(y, x @ (integers * step)), 2) for name, integers in made.items()}
        rows.append({"net": "dense", "seed": seed, "layer": f"{kernel.shape[0]}-{kernel.shape[1]}", **decibels})
        print(rows[-1], flush=True)
        x = np.asarray(layer(x))
    return rows


def dense_net(seed: int, data: Any) -> keras.Model:
    """784-300-100-10, two epochs."""
    keras.utils.set_random_seed(seed)
    made = [keras.layers.Dense(n, "relu") for n in (300, 100)]
    model = keras.Sequential([keras.Input((784,)), *made, keras.layers.Dense(10)])
    model.compile("adam", LOSS, jit_compile=False)
    model.fit(data.x_train.reshape(-1, 784), data.y_train, batch_size=128, epochs=2, verbose=0)
    return model


def _by_ours(layer: keras.layers.Layer, x: Array, kernel: Array, step: Array, ordered: bool) -> Array:
    form, limit = as_matrix(layer), 2 ** (DENSE_BITS - 1) - 1
    second = hessian(form, ops.convert_to_tensor(x))
    wide = form.to_matrix(np.broadcast_to(step, kernel.shape))
    found = rounded(form.to_matrix(kernel), second, wide, (-limit, limit), DAMPING, ordered)
    return np.asarray(form.from_matrix(found))


def _by_keras(x: Array, kernel: Array, step: Array, ordered: bool) -> Array:
    """Keras's own rounding on the same symmetric grid, with the same damping; its integers begin at 0."""
    from keras.src.quantizers.gptq import gptq_quantize_matrix

    limit = 2 ** (DENSE_BITS - 1) - 1
    second = 2.0 * x.T @ x / len(x)
    diagonal = np.diag(second).copy()
    damped = np.where(diagonal == 0, 1.0, diagonal)
    second += np.diag(damped - diagonal + DAMPING * damped.mean())
    grid = (ops.convert_to_tensor(step.T), ops.full(step.T.shape, float(limit)), float(2 * limit))
    found, *_ = gptq_quantize_matrix(
        ops.convert_to_tensor(kernel.T),
        ops.linalg.inv(ops.convert_to_tensor(second, "float32")),
        activation_order=ordered,
        order_metric=ops.convert_to_tensor(np.diag(second)),
        compute_scale_zero=lambda weights: grid,
    )
    return np.asarray(found).T - limit


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Points lost and time taken by each net, means over the seeds; each layer of the Dense net beside Keras's GPTQ."""
    goals = []
    for net in dict.fromkeys(row["net"] for row in rows if "bits" in row):
        own = [row for row in rows if row["net"] == net]
        mean = {bits: np.mean([row["accuracy"] for row in own if row["bits"] == bits]) for bits in ("float", *SETTINGS)}
        for bits, (_, _, bound) in SETTINGS.items():
            goals.append(at_most(f"{net}, {bits}: points lost", float(mean["float"] - mean[bits]), bound))
        longest = max(row["cpu_seconds"] / CORES for row in own if "cpu_seconds" in row)
        goals.append(at_most(f"{net}: CPU seconds of each of {CORES} cores, at most", longest, MOST_SECONDS))
    for row in rows:
        if "layer" in row:
            theirs = max(row["Keras's GPTQ"], row["Keras's GPTQ, large inputs first"])
            name = f"dense, seed {row['seed']}, {row['layer']}: dB beyond Keras's GPTQ"
            goals.append(at_least(name, row["gptq, large inputs first"] - theirs, 0.0))
    return goals


def main(arguments: Sequence[str]) -> None:
    values = flags.FLAGS
    data, rows = fashion_mnist(values.quick), []
    seeds = [int(each) for each in values.seeds[: 1 if values.quick else None]]
    warnings.simplefilter("ignore")
    folder, suffix = Path(values.keep), "_quick" if values.quick else ""

    def kept(name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return once(folder / f"few_bits_{name}{suffix}.json", lambda: {"rows": make()})["rows"]

    for seed in seeds:
        rows += kept(f"dense_{seed}", lambda seed=seed: dense_rows(seed, data))
        for net in values.nets:
            rows += kept(f"{net}_{seed}", lambda net=net, seed=seed: rows_of(net, seed, data, values.keep))
    goals = goals_of(rows)
    if not values.quick:
        settings = {"samples": SAMPLES, "tested": len(data.x_test), "dense_samples": DENSE_SAMPLES, "damping": DAMPING}
        settings["few_activation_bits"] = "where weights multiply; elsewhere, behind the first layer and at both ends 8"
        print(write_results("ptq_few_bits", rows, goals, seeds=seeds, settings=settings))
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
