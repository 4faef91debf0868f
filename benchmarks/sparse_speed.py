"""Sparse weights on stock runtimes: latency in turns with the dense float32 and int8 files, and what pruning costs.

python benchmarks/sparse_speed.py [--quick] [--seeds=0,1,2]

Figures of LiteRT.js want Node and `@litertjs/core` (see docs/sparsity.md); without them these rows are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from keras import layers
from sparse_nets import ENDS, VARIANTS, dense_net, forced, mobilenet, transformer_mlp, variant, with_zeros

import keras_compress as kc
from keras_compress.runtime.target import target

WIDTHS, SHARES = (1024, 2048, 4096), (0.8, 0.9, 0.95)
# Times that a sparse float32 net must be faster than the dense one, for goals.
WANTED = {0.8: 2.0, 0.9: 3.5}
# Wider nets do not stay in caches.
WARM_WIDTH = 2048
RUNS, WARMUP = 60, 5
TRAIN_EPOCHS, PRUNE_EPOCHS, BATCH = 6, 6, 256
# Blocks of inputs: of float32, and of int8.
BLOCK, INT8_BLOCK = 4, 16
_QUICK = flags.DEFINE_bool("quick", False, "Small nets, little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Networks to train.")
_KEEP = flags.DEFINE_string("keep", "/tmp/keras_compress_sparse", "Folder for rows: remove it to begin anew.")


def main(_: list[str]) -> None:
    folder = Path(_KEEP.value) / ("quick" if _QUICK.value else "full")
    seeds = [int(seed) for seed in _SEEDS.value]
    rows = [once(folder / f"accuracy_{seed}.json", lambda seed=seed: accuracy_row(seed)) for seed in seeds]
    for width in (256,) if _QUICK.value else WIDTHS:
        for share in SHARES:
            rows.append(once(folder / f"dense_{width}_{share}.json", lambda w=width, s=share: dense_row(w, s)))
            if width <= WARM_WIDTH:
                rows.append(once(folder / f"warm_{width}_{share}.json", lambda w=width, s=share: warm_row(w, s)))
    for tokens in (1, 32):
        for share in SHARES:
            rows.append(once(folder / f"mlp_{tokens}_{share}.json", lambda t=tokens, s=share: transformer_row(t, s)))
    web = target("litert_web")
    missing = web.available()
    if missing is None:
        rows.append(once(folder / "mobilenet.json", mobilenet_row))
        names = ("nothing", "max pooling", *ENDS[-1:]) if _QUICK.value else (*VARIANTS, *ENDS, "60 % zeros")
        for name in names:
            rows.append(once(folder / f"graph_{name.replace(' ', '_')}.json", lambda n=name: graph_row(n)))
    else:
        print(f"LiteRT.js is left out: {missing}")
    goals = goals_of(rows)
    print_goals(goals)
    if not _QUICK.value:
        settings = {"runs": RUNS, "train_epochs": TRAIN_EPOCHS, "prune_epochs": PRUNE_EPOCHS, "threads": 1}
        print(write_results("sparse_speed", rows, goals, seeds=seeds, settings=settings))


def goals_of(rows: list[dict[str, Any]]) -> list[Goal]:
    """What the rows must show."""
    goals = []
    for row in rows:
        if row["part"] == "dense" and row["share"] in WANTED and row["width"] >= 1024:
            name = f"{row['width']} wide, {row['share']:.0%} zeros: times faster than dense float32"
            goals.append(at_least(name, row["faster"]["sparse float32"], WANTED[row["share"]]))
        if row["part"] == "accuracy":
            for share, lost in row["lost_points"].items():
                goals.append(
                    at_most(f"Fashion-MNIST, seed {row['seed']}, {float(share):.0%} zeros: points lost", lost, 0.5)
                )
        if row["part"] == "mobilenet":
            goals.append(at_least("MobileNetV1 in LiteRT.js, 85 % zeros: times faster", row["faster"], 2.0))
            goals.append(at_most("MobileNetV1 in LiteRT.js: relative difference", row["difference"], 1e-4))
    graphs = [row for row in rows if row["part"] == "graph"]
    if graphs:
        goals.append(at_most("graphs that LiteRT.js computes wrong, and convert writes", unnoticed(graphs), 0))
        goals.append(
            at_least("graphs whose path was foretold", sum(g["told"] == g["seen"] for g in graphs), len(graphs) - 1)
        )
    return goals


def unnoticed(graphs: list[dict[str, Any]]) -> int:
    """Graphs that are computed wrong and were written all the same."""
    return sum(row["written"] and row["written_difference"] > 1e-4 for row in graphs)


def dense_row(width: int, share: float) -> dict[str, Any]:
    """Two hidden layers of one width, at one share of zeros."""
    keras.utils.set_random_seed(0)
    files = _files(dense_net(width), dense_net(width), share, (width,))
    return {"part": "dense", "width": width, "share": share, **_timed(files)}


def warm_row(width: int, share: float) -> dict[str, Any]:
    """The same nets, sparse and dense of one type only in turns: what one file's weights leave in the caches stays."""
    keras.utils.set_random_seed(0)
    files = _files(dense_net(width), dense_net(width), share, (width,))
    faster = {}
    for kind in ("float32", "int8"):
        pair = {name: files[f"{name} {kind}"] for name in ("dense", "sparse")}
        found = kc.measure_all(pair, runs=RUNS, warmup=WARMUP, time_limit_s=1200.0)
        faster[kind] = found["dense"].latency.p10_ms / found["sparse"].latency.p10_ms
    return {"part": "warm", "width": width, "share": share, "faster": faster}


def transformer_row(tokens: int, share: float) -> dict[str, Any]:
    """The dense layers of two transformer blocks, for one or several tokens at a time."""
    keras.utils.set_random_seed(0)
    files = _files(transformer_mlp(tokens), transformer_mlp(tokens), share, (tokens, 512))
    return {"part": "transformer", "tokens": tokens, "share": share, **_timed(files)}


def _files(model: keras.Model, other: keras.Model, share: float, shape: tuple[int, ...]) -> dict[str, kc.Artifact]:
    """Dense and sparse files in float32 and int8; for int8 zeros are in blocks of their own size."""
    data = np.random.default_rng(0).normal(0, 1, (8, *shape)).astype(np.float32)
    fours, sixteens = with_zeros(model, share, BLOCK), with_zeros(other, share, INT8_BLOCK)
    return {
        "dense float32": kc.convert(fours, mode="float32", sparsity="none"),
        "sparse float32": kc.convert(fours, mode="float32", sparsity="block"),
        "dense int8": kc.convert(sixteens, representative_dataset=data, weights_storage="int8", sparsity="none"),
        "sparse int8": kc.convert(sixteens, representative_dataset=data, weights_storage="int8", sparsity="block"),
    }


def _timed(files: Mapping[str, kc.Artifact], where: str = "litert") -> dict[str, Any]:
    """Bytes and latency, all in turns, and how many times faster than dense float32 each is."""
    found = kc.measure_all(files, target=where, runs=RUNS, warmup=WARMUP, time_limit_s=1200.0)
    # Other work on the machine takes memory's bandwidth from the largest file most: the tenth percentile is less of it.
    base = found["dense float32"].latency.p10_ms
    return {
        "bytes": {name: each.raw_bytes for name, each in found.items()},
        "latency": {name: asdict(each.latency) for name, each in found.items()},
        "faster": {name: base / each.latency.p10_ms for name, each in found.items()},
    }


def mobilenet_row() -> dict[str, Any]:
    """MobileNetV1 at 85 % zeros in LiteRT.js, and on this machine's LiteRT, where nothing is gained."""
    size = 64 if _QUICK.value else 224
    keras.utils.set_random_seed(0)
    model = with_zeros(mobilenet(size), 0.85, 1)
    dense = kc.convert(model, mode="float32", batch_size=1, sparsity="none")
    sparse = kc.convert(model, mode="float32", batch_size=1, sparsity="block")
    files = {"dense float32": dense, "sparse float32": sparse}
    web, here = _timed(files, "litert_web"), _timed(files)
    inputs = np.random.default_rng(0).normal(0, 1, (2, size, size, 3)).astype(np.float32)
    return {
        "part": "mobilenet",
        "share": 0.85,
        "faster": web["faster"]["sparse float32"],
        "faster_litert_x86": here["faster"]["sparse float32"],
        "difference": _difference(dense.content, sparse.content, inputs),
        "bytes": web["bytes"],
        "latency": web["latency"],
        "notes": list(sparse.notes),
    }


def graph_row(name: str) -> dict[str, Any]:
    """One graph: what is told of it, and what LiteRT.js makes of it where all weights are sparse all the same."""
    keras.utils.set_random_seed(1)
    model = with_zeros(variant(name), 0.6 if name == "60 % zeros" else 0.9, 1)
    dense = kc.convert(model, mode="float32", batch_size=1, sparsity="none")
    inputs = np.random.default_rng(0).normal(0, 1, (2, *model.input_shape[1:])).astype(np.float32)
    try:
        written = kc.convert(model, mode="float32", batch_size=1, sparsity="block").content
        refusal = ""
    except ValueError as error:
        written, refusal = b"", str(error)
    everything = forced(dense.content)
    return {
        "part": "graph",
        "graph": name,
        "told": kc.sparse_ready(everything).conv_path,
        "seen": _seen(dense.content, everything, inputs),
        "written": bool(written),
        "written_difference": _difference(dense.content, written, inputs) if written else None,
        "refusal": refusal,
    }


def _seen(dense: bytes, sparse: bytes, inputs: Any) -> str:
    """Sparse kernels sum in another order; the same numbers to the bit come from the dense ones."""
    try:
        difference = _difference(dense, sparse, inputs)
    except ValueError:
        return "wrong"  # refused at run time
    return "wrong" if difference > 1e-4 else "sparse" if difference else "dense"


def _difference(dense: bytes, sparse: bytes, inputs: Any) -> float:
    """Largest difference of an output in LiteRT.js, relative to its largest value."""
    web = target("litert_web")
    pairs = zip(web.run(dense, [inputs]), web.run(sparse, [inputs]), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def accuracy_row(seed: int) -> dict[str, Any]:
    """A wide network on Fashion-MNIST, trained, then pruned in blocks; the dense one is trained as long."""
    data = fashion_mnist(_QUICK.value)
    x, y = data.x_train.reshape(len(data.x_train), -1), data.y_train
    test = data.x_test.reshape(len(data.x_test), -1), data.y_test
    keras.utils.set_random_seed(seed)
    hidden = 64 if _QUICK.value else 1024
    stack = [keras.Input((x.shape[1],))]
    for number in range(2):
        stack += [layers.Dense(hidden, activation="relu", name=f"hidden{number}"), layers.Dropout(0.2)]
    model = keras.Sequential([*stack, layers.Dense(10, name="logits")])
    _fit(model, x, y, TRAIN_EPOCHS, 1e-3)
    steps = -(-len(x) // BATCH) * PRUNE_EPOCHS
    longer = keras.models.clone_model(model)
    longer.set_weights(model.get_weights())
    _fit(longer, x, y, PRUNE_EPOCHS, 5e-4)
    row: dict[str, Any] = {"part": "accuracy", "seed": seed, "dense": _accuracy(longer, test), "accuracy": {}}
    row |= {"files": {}, "lost_points": {}}
    for share in (0.8, 0.9):
        schedule = kc.PolynomialDecay(0.3, share, begin_step=0, end_step=int(0.6 * steps), frequency=20)
        pruned = kc.prune_low_magnitude(model, schedule, (BLOCK, 1), filters=lambda layer: layer.name != "logits")
        _fit(pruned, x, y, PRUNE_EPOCHS, 5e-4)
        artifact = kc.convert(pruned, mode="float32", sparsity="block")
        found = kc.measure(artifact, test[0][:2000], test[1][:2000])
        row["accuracy"][str(share)] = _accuracy(pruned, test)
        row["lost_points"][str(share)] = 100 * (row["dense"] - row["accuracy"][str(share)])
        row["files"][str(share)] = {
            "accuracy_of_2000": found.accuracy,
            "weights": [[w.name, w.storage, w.bytes, w.sparsity] for w in artifact.stats.weights],
            "bytes": [found.raw_bytes, len(kc.convert(pruned, mode="float32", sparsity="none").content)],
        }
    return row


def _fit(model: keras.Model, x: Any, y: Any, epochs: int, rate: float) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)


def _accuracy(model: keras.Model, test: tuple[Any, Any]) -> float:
    return float((model.predict(test[0], batch_size=1000, verbose=0).argmax(-1) == test[1]).mean())


if __name__ == "__main__":
    app.run(main)
