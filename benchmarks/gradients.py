"""Gradients written in few bytes: bytes of a step, accuracy and time of each codec beside float32, three networks.

python benchmarks/gradients.py [--quick] [--seeds=0,1] [--nets=lenet5,wide,resnet8]

Workers are shards of each batch that one process computes in turn; the messages are those that processes would send.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from keras import layers

import keras_compress as kc
from keras_compress.demo import models

TRAINED, EPOCHS, BATCH, WORKERS = 20_000, 6, 128, (2, 4)
VOCABULARY, LEVELS = 2**17, 6
# Goals: times fewer bytes, points that may be lost, and the network whose transfer is slow.
SKETCH_ML, DGC = (6.0, 0.3), (50.0, 0.5)
MEGABITS = 100
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_QUICK = flags.DEFINE_bool("quick", False, "One seed, little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Networks to train.")
_NETS = flags.DEFINE_list("nets", ["lenet5", "wide", "resnet8"], "Networks.")
_KEEP = flags.DEFINE_string(
    "keep", "/tmp/keras_compress_gradients", "Folder for rows that are done: remove it to begin anew."
)


def wide() -> keras.Model:
    """One row of an embedding for each neighbourhood of a picture as it looks; a batch points at a few of them."""
    tokens = keras.Input((13 * 13,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, 8, name="embedding")(tokens)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    x = layers.Dense(128, activation="relu", name="hidden")(layers.Rescaling(10.0, name="larger")(x))
    return keras.Model(tokens, layers.Dense(10, name="logits")(x), name="wide")


def tokens_of(images: np.ndarray) -> np.ndarray:
    """Each 2x2 neighbourhood of a picture of 14x14, in so many levels, and its place: hashed to a row of the table."""
    small = images[..., 0].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    levels = np.minimum((small * LEVELS).astype(np.int64), LEVELS - 1)
    corners = [levels[:, a : 13 + a, b : 13 + b] for a in (0, 1) for b in (0, 1)]
    looks = sum(each * LEVELS**power for power, each in enumerate(corners))
    places = np.arange(13 * 13).reshape(13, 13) * LEVELS**4
    return ((looks + places) * 2_654_435_761 % 2**32 % VOCABULARY).astype(np.int32).reshape(len(images), -1)


NETS: dict[str, tuple[Callable[[], keras.Model], Callable[[np.ndarray], np.ndarray]]] = {
    "lenet5": (models.lenet5, lambda images: images),
    "wide": (wide, tokens_of),
    "resnet8": (lambda: models.resnet8(filters=16), lambda images: images),
}


def codecs(steps_per_epoch: int) -> dict[str, tuple[Any, str]]:
    """Name -> codec, and the optimizer that its paper has, or could have."""
    return {
        "float32": (None, "adam"),
        "float32, momentum": (None, "momentum"),
        "Float16Codec": (kc.Float16Codec(), "adam"),
        "SketchML": (kc.SketchML(), "adam"),
        "DeepGradientCompression": (
            # A value is sent once in some 100 steps, of 1,000; the paper's 99.9 % are for trainings of 100,000.
            kc.DeepGradientCompression(0.99, momentum=0.9, warm_up_steps=steps_per_epoch // 4),
            "sgd",
        ),
        "SignSGD": (kc.SignSGD(), "sign"),
        "QSGD": (kc.QSGD(bits=4), "adam"),
        "TernGrad": (kc.TernGrad(), "adam"),
        "OneBitSGD": (kc.OneBitSGD(), "momentum"),
        "DoReFaCodec": (kc.DoReFaCodec(bits=6), "adam"),
    }


# With two workers too.
BOTH = ("float32", "float32, momentum", "SketchML", "DeepGradientCompression")
BASELINE = {"DeepGradientCompression": "float32, momentum", "OneBitSGD": "float32, momentum"}


def optimizer(kind: str, steps: int, net: str) -> keras.optimizers.Optimizer:
    """Its learning rate falls to 0 as a cosine."""
    rates = {"adam": 1e-3, "momentum": 0.02, "sgd": 0.02, "sign": 3e-4}
    # The embedding sees a row a few times only.
    rate = keras.optimizers.schedules.CosineDecay(rates[kind] * (10 if net == "wide" else 1), steps)
    if kind == "adam":
        return keras.optimizers.Adam(rate)
    return keras.optimizers.SGD(rate, momentum=0.9 if kind == "momentum" else 0.0)


def row_of(net: str, name: str, workers: int, seed: int, data: Any) -> dict[str, Any]:
    """A network trained with one codec; `codec_ms` is CPU time."""
    make, inputs = NETS[net]
    count, epochs = (512, 1) if _QUICK.value else (TRAINED, EPOCHS)
    x, y = inputs(data.x_train[:count]), data.y_train[:count]
    per_epoch = -(-count // BATCH)
    codec, kind = codecs(per_epoch)[name]
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(optimizer(kind, per_epoch * epochs, net), LOSS, metrics=["accuracy"])
    trainer = kc.DistributedTrainer(model, codec, workers=workers)
    begin = time.process_time()
    trainer.fit(x, y, batch_size=BATCH, epochs=epochs, seed=seed)
    found = model.predict(inputs(data.x_test), batch_size=500, verbose=0).argmax(-1)
    sent = trainer.traffic
    return {
        "net": net,
        "codec": name,
        "workers": workers,
        "seed": seed,
        "accuracy": float((found == data.y_test).mean()),
        "bytes_per_step": sent.bytes_per_step,
        "times_fewer": sent.times_fewer,
        "codec_ms": 1e3 * sent.codec_seconds / sent.steps,
        "transfer_ms": 1e3 * sent.float32_bytes / sent.steps * 8 / (MEGABITS * 1e6),
        "optimizer": kind,
        "cpu_seconds": time.process_time() - begin,
    }


def all_rows(data: Any) -> list[dict[str, Any]]:
    """Every row; each is kept."""
    rows = []
    seeds = [0] if _QUICK.value else [int(seed) for seed in _SEEDS.value]
    for seed in seeds:
        for net in _NETS.value:
            for name in codecs(1):
                for workers in WORKERS if name in BOTH else WORKERS[-1:]:
                    file = re.sub(r"\W+", "_", f"{net} {name} {workers} {seed}") + ("_quick" if _QUICK.value else "")
                    make = lambda n=net, c=name, w=workers, s=seed: row_of(n, c, w, s, data)  # noqa: E731
                    rows.append(once(Path(_KEEP.value) / f"{file}.json", make))
                    print(rows[-1], flush=True)
                    keras.backend.clear_session()
    return rows


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Bytes, points lost beside float32 with the same number of workers, and time beside the transfer of float32."""

    def mean(key: str, **wanted: Any) -> float:
        return float(np.mean([row[key] for row in rows if wanted.items() <= row.items()]))

    goals = []
    for net in dict.fromkeys(row["net"] for row in rows):
        for name, (fewer, points) in {"SketchML": SKETCH_ML, "DeepGradientCompression": DGC}.items():
            # SketchML is for sparse gradients, DGC for dense ones.
            if (name == "SketchML") != (net == "wide"):
                continue
            for workers in WORKERS:
                wanted = {"net": net, "workers": workers}
                base = mean("accuracy", codec=BASELINE.get(name, "float32"), **wanted)
                lost = 100 * (base - mean("accuracy", codec=name, **wanted))
                label = f"{net}, {workers} workers, {name}"
                goals.append(at_least(f"{label}: times fewer bytes", mean("times_fewer", codec=name, **wanted), fewer))
                goals.append(at_most(f"{label}: points lost", lost, points))
        for name in list(codecs(1))[2:]:
            wanted = {"net": net, "codec": name, "workers": WORKERS[-1]}
            spent, transfer = mean("codec_ms", **wanted), mean("transfer_ms", **wanted)
            goals.append(at_most(f"{net}, {name}: ms to encode and decode", spent, transfer))
    return goals


def main(_: Sequence[str]) -> None:
    """Measure, print, write."""
    rows = all_rows(fashion_mnist(_QUICK.value))
    goals = goals_of(rows)
    print_goals(goals)
    print(f"{sum(row['cpu_seconds'] for row in rows):.0f} CPU s")
    if not _QUICK.value:
        settings = {"samples": TRAINED, "epochs": EPOCHS, "batch_size": BATCH, "workers": "shards in one process"}
        write_results("gradients", rows, goals, seeds=[int(seed) for seed in _SEEDS.value], settings=settings)


if __name__ == "__main__":
    app.run(main)
