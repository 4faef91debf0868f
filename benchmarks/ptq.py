"""Post-training int8 beside TensorFlow's converter and litert-quantizer: five nets, the same 200 samples for all.

python benchmarks/ptq.py [--quick] [--seeds=0,1,2] [--nets=resnet,mobilenet,densenet,xception,vit] [--layers]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from numpy.typing import NDArray
from ptq_nets import EPOCHS, KEEP, NETS, TRAINED, trained
from ptq_peers import MAKERS, OURS, PEERS, cpu_seconds, makers, outputs_of, tensors_of

from keras_compress.core.signal_to_noise import sqnr_db

Array = NDArray[Any]
SAMPLES, LOOKED_AT = 200, 256
_QUICK = flags.DEFINE_bool("quick", False, "One seed, little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Networks to train.")
_NETS = flags.DEFINE_list("nets", list(NETS), "Which networks.")
_LAYERS = flags.DEFINE_bool("layers", False, "Print how near each layer's outputs are, of all makers.")
_KEEP = flags.DEFINE_string("keep", KEEP, "Folder for trained networks, and for rows: remove it to begin anew.")


def rows_of(net: str, seed: int, data: Any) -> list[dict[str, Any]]:
    """The float model, and the file of each maker: outputs beside the float model's, accuracy, CPU seconds, bytes."""
    model = trained(net, seed, data, _KEEP.value)
    samples = data.x_train[np.random.default_rng(seed).permutation(len(data.x_train))[:SAMPLES]]
    exact = model.predict(data.x_test, verbose=0, batch_size=500)
    rows = [{"net": net, "seed": seed, "maker": "float", "accuracy": accuracy(exact, data)}]
    files: dict[str, bytes] = {}
    for name in makers():
        with cpu_seconds() as spent:
            files[name] = MAKERS[name](model, samples)
        found = outputs_of(files[name], data.x_test)
        rows.append({
            "net": net,
            "seed": seed,
            "maker": name,
            "accuracy": accuracy(found, data),
            "output_sqnr_db": round(sqnr_db(exact, found), 2),
            "cpu_seconds": round(spent[0], 2),
            "bytes": len(files[name]),
        })  # fmt: skip
    for each in rows:
        print(each, flush=True)
    if _LAYERS.value:
        print_layers(model, files, data.x_test[:LOOKED_AT])
    return rows


def accuracy(outputs: Array, data: Any) -> float:
    """Percent of right classes."""
    return round(100.0 * float((outputs.argmax(-1) == data.y_test).mean()), 2)


def print_layers(model: keras.Model, files: dict[str, bytes], x: Array) -> None:
    """Decibels of each layer's outputs; what is fused into another operator is a tensor of no file."""
    kept = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    real = keras.Model(model.input, [layer.output for layer in kept]).predict(x, verbose=0)
    tensors = {name: tensors_of(content, x) for name, content in files.items()}
    for layer, values in zip(kept, real, strict=True):
        near = {name: _closest(values, found) for name, found in tensors.items()}
        if max(near.values()) > 8:
            print(f"{layer.name:32s}", *(f"{name} {each:6.2f} dB" for name, each in near.items()), sep="  ")


def _closest(values: Array, found: Sequence[Array]) -> float:
    """Decibels of the tensor that is most like these values."""
    return max((sqnr_db(values, each) for each in found if each.shape == values.shape), default=-np.inf)


def mean(rows: Sequence[dict[str, Any]], net: str, maker: str, key: str) -> float:
    """Over the seeds; NaN for a peer that is not here."""
    found = [row[key] for row in rows if row["net"] == net and row["maker"] == maker]
    return float(np.mean(found)) if found else float("nan")


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Nearer to the float model than any peer, by 1 dB, no less accurate, and no slower than TensorFlow's converter."""
    goals = []
    for net in dict.fromkeys(row["net"] for row in rows):
        for ours in OURS:
            sqnr, right, seconds = (mean(rows, net, ours, key) for key in ("output_sqnr_db", "accuracy", "cpu_seconds"))
            best = np.nanmax([mean(rows, net, each, "output_sqnr_db") for each in PEERS])
            goals.append(at_least(f"{net}, {ours}: dB beyond the best peer", sqnr - float(best), 1.0))
            best = np.nanmax([mean(rows, net, each, "accuracy") for each in PEERS])
            goals.append(at_least(f"{net}, {ours}: points beyond the best peer", right - float(best), 0.0))
            theirs = mean(rows, net, "tensorflow", "cpu_seconds")
            goals.append(at_most(f"{net}, {ours}: CPU seconds over TensorFlow's", seconds / theirs, 1.0))
    return goals


def main(arguments: Sequence[str]) -> None:
    quick = _QUICK.value
    data, rows = fashion_mnist(quick), []
    seeds = [int(each) for each in _SEEDS.value[: 1 if quick else None]]
    # The first conversion of a process pays for what is loaded.
    warm_up(data)
    for seed in seeds:
        for net in _NETS.value:
            kept = Path(_KEEP.value) / f"ptq_{net}_{seed}{'_quick' if quick else ''}.json"
            rows += once(kept, lambda net=net, seed=seed: {"rows": rows_of(net, seed, data)})["rows"]
    goals = goals_of(rows)
    if not quick:
        settings = {"samples": SAMPLES, "trained": TRAINED, "epochs": EPOCHS, "tested": len(data.x_test)}
        extra = {"litert-quantizer": version_of_litert_quantizer()}
        print(write_results("ptq", rows, goals, seeds=seeds, settings=settings, extra_versions=extra))
    print_goals(goals)


def warm_up(data: Any) -> None:
    """Run every maker once on a net of one layer."""
    image = keras.Input((28, 28, 1))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    for name in makers():
        MAKERS[name](model, data.x_train[:20])


def version_of_litert_quantizer() -> str:
    from importlib import metadata

    return metadata.version("litert-quantizer") if "litert-quantizer" in makers() else "not installed"


if __name__ == "__main__":
    app.run(main)
