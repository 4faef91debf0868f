"""Vectors of weights beside single values: bits a weight, accuracy and bytes on TFLite-Micro; and nets that grow.

Every row of the first table begins with one float ResNet-8 a seed, is trained for as many epochs, taught by it unless
it says so, then for one epoch with integers. In the second a narrow ResNet-8 becomes a wide or deep one.

    python benchmarks/product_quantization.py
    python benchmarks/product_quantization.py --seeds=0 --parts=growing
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import keras
from absl import app, flags
from common import RESULTS, Goal, at_least, at_most, fashion_mnist, once, print_goals, save_whole, write_results

import keras_compress as kc
from keras_compress.demo import datasets, models
from keras_compress.structured.surgery import largest_difference

BATCH, VALIDATION, TRAINED = 128, 5_000, 20_000
FLOAT_EPOCHS, TUNED_EPOCHS, INTEGER_EPOCHS = 8, 6, 1
RATE, TUNED_RATE, INTEGER_RATE = 2e-3, 3e-3, 3e-4
# Of nets that grow: a rate that stays, so that epochs can be compared wherever they are.
NARROW_EPOCHS, GROWN_EPOCHS, GROWN_RATE = 8, 10, 1e-3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_PARTS = flags.DEFINE_multi_enum("parts", ["vectors", "growing"], ["vectors", "growing"], "Tables.")
_ROWS = flags.DEFINE_multi_string("rows", None, "Rows whose names contain one of these; all by default.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_vectors", "Folder of what is finished already.")
_RESULTS = flags.DEFINE_string("results", str(RESULTS), "Folder of the results.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
Make = Callable[["Run"], keras.Model]


class Run:
    """One seed.

    Args:
        seed: Of weights and batches.
        folder: Where what is finished is kept.
        data: Fashion-MNIST.
    """

    def __init__(self, seed: int, folder: Path, data: datasets.Dataset) -> None:
        held = 200 if _QUICK.value else VALIDATION
        self.seed, self.folder = seed, folder
        self.x, self.y = data.x_train[held : held + TRAINED], data.y_train[held : held + TRAINED]
        self.validation = data.x_train[:held], data.y_train[:held]
        self.test = data.x_test, data.y_test

    def epochs(self, count: int) -> int:
        """Of a training; fewer where the script is only checked."""
        return min(count, 2) if _QUICK.value else count

    def fit(self, model: keras.Model, epochs: int, rate: float, teacher: Any = None) -> keras.Model:
        """A model after its training, in place."""
        how = {"epochs": self.epochs(epochs), "learning_rate": rate, "batch_size": BATCH, "seed": self.seed}
        kc.Training(LOSS, **how, teacher=teacher).on(self.x, self.y)(model)
        return model

    def float_model(self) -> keras.Model:
        """The trained network that all rows begin with."""
        path = self.folder / f"float_{self.seed}.keras"
        if not path.is_file():
            keras.utils.set_random_seed(self.seed)
            save_whole(self.fit(models.resnet8(filters=16), FLOAT_EPOCHS, RATE), path)
        return keras.models.load_model(path, compile=False)


def pq(taught: bool = True, weighed: bool = True, **settings: Any) -> tuple[Make, bool]:
    """A row of product quantization."""

    def make(run: Run) -> keras.Model:
        return kc.product_quantize(run.float_model(), data=run.x if weighed else None, seed=run.seed, **settings)

    return make, taught


def plain(method: Callable[..., keras.Model], **settings: Any) -> tuple[Make, bool]:
    """A row of another method."""
    return (lambda run: method(run.float_model(), **settings)), True


def softly(run: Run) -> keras.Model:
    """Four values, hard after two of the three epochs."""
    return kc.cluster_softly(run.float_model(), 4, steps=run.epochs(2) * -(-len(run.x) // BATCH))


# Name -> what makes the model that is trained, whether the float model teaches it, and how its weights are stored.
METHODS: dict[str, tuple[tuple[Make, bool], str]] = {
    "float": ((lambda run: run.float_model(), True), "none"),
    "int8": ((lambda run: run.float_model(), True), "auto"),
    "vectors, 1.5 bits": (pq(bits=1.5), "vectors"),
    "vectors, 1.5 bits, labels alone": (pq(bits=1.5, taught=False), "vectors"),
    "vectors, 1.5 bits, all weights alike": (pq(bits=1.5, weighed=False), "vectors"),
    "vectors, 1.25 bits": (pq(bits=1.25), "vectors"),
    "two codebooks added, 1.5 bits": (pq(bits=1.5, number_of_codebooks=2), "vectors"),
    "16 values": (plain(kc.cluster_weights, number_of_clusters=16), "auto"),
    "4 values": (plain(kc.cluster_weights, number_of_clusters=4), "auto"),
    "4 values, soft at first": ((softly, True), "auto"),
    "by entropy, 2 bits": (plain(kc.cluster_by_entropy, bits=2.0), "huffman"),
    "by entropy, 1.5 bits": (plain(kc.cluster_by_entropy, bits=1.5), "huffman"),
}


def vector_row(run: Run, name: str) -> dict[str, Any]:
    """A line of the first table, kept when it is there."""
    (make, taught), storage = METHODS[name]

    def made() -> dict[str, Any]:
        teacher = run.float_model() if taught else None
        model = make(run)
        figures = {"at_once": accuracy(model, run.test)}
        run.fit(model, TUNED_EPOCHS, TUNED_RATE, teacher)
        figures |= {"accuracy": accuracy(model, run.test), "validation": accuracy(model, run.validation)}
        if storage != "none":
            integers = run.fit(kc.quantize_model(model), INTEGER_EPOCHS, INTEGER_RATE, teacher)
            figures |= of_file(kc.convert(integers, target="tflm", weights_storage=storage), run)
        return _told({"part": "vectors", "name": name, "seed": run.seed, **figures})

    return once(run.folder / "rows" / f"{_slug(name)}_{run.seed}.json", made)


def deep_row(run: Run) -> dict[str, Any]:
    """`deep_compression` within a point, taught by the float model as the others are."""

    def made() -> dict[str, Any]:
        model = run.float_model()
        epochs = {step: run.epochs(count) for step, count in (("prune", 2), ("cluster", 2), ("quantize", 1))}
        sparsities = (0.5,) if _QUICK.value else (0.6, 0.7, 0.8)
        found = kc.deep_compression(
            model,
            run.x,
            run.y,
            validation_data=run.validation,
            max_drop=1.0 if _QUICK.value else 0.01,
            pruning=kc.Pruning(sparsities=sparsities),
            training=kc.Training(LOSS, epochs=epochs, seed=run.seed, teacher=model),
            conversion=kc.Conversion(target="tflm", weights_storage="auto"),
        )
        figures = {"sparsity": found.sparsity, "accuracy": accuracy(found.model, run.test)}
        row = {"part": "vectors", "name": "deep_compression", "seed": run.seed}
        return _told({**row, **figures, **of_file(found.artifact, run)})

    return once(run.folder / "rows" / f"deep_compression_{run.seed}.json", made)


def of_file(artifact: kc.Artifact, run: Run) -> dict[str, Any]:
    """Figures of a file on TFLite-Micro, beside the plain int8 file of the same model."""
    x, y = run.test
    count = 200 if _QUICK.value else len(x)
    file = kc.measure(artifact, x[:count], y[:count], target="tflm")
    whole = kc.measure(kc.expand(artifact), target="tflm")
    weights = kc.inspect_tflite(artifact.content).weights
    return {
        "file_accuracy": file.accuracy,
        "bytes": len(artifact.content),
        "bits_per_weight": 8 * sum(w.bytes for w in weights) / sum(w.elements for w in weights),
        "arena_bytes": file.memory["arena_minimum_bytes"],
        "plain_arena_bytes": whole.memory["arena_minimum_bytes"],
        "time_ratio": file.latency.median_ms / whole.latency.median_ms,
    }


def curve(run: Run, model: keras.Model, epochs: int) -> list[float]:
    """Test accuracy after each epoch, at a rate that stays."""
    keras.utils.set_random_seed(run.seed)
    model.compile(keras.optimizers.Adam(GROWN_RATE), LOSS, jit_compile=False)
    found = []
    for _ in range(run.epochs(epochs)):
        model.fit(run.x, run.y, batch_size=BATCH, verbose=0)
        found.append(accuracy(model, run.test))
    return found


def growing_rows(run: Run) -> list[dict[str, Any]]:
    """Wide and deep nets from scratch and out of the trained narrow one."""
    path = run.folder / f"narrow_{run.seed}.keras"

    def narrow() -> keras.Model:
        if not path.is_file():
            keras.utils.set_random_seed(run.seed)
            model = models.resnet8(filters=8)
            curve(run, model, NARROW_EPOCHS)
            save_whole(model, path)
        return keras.models.load_model(path, compile=False)

    def deeper(model: keras.Model) -> keras.Model:
        # The convolutions in front of a ReLU of their own; others are followed by an addition.
        return kc.deepen(model, _behind_relus(model), data=run.x)

    ways: dict[str, Callable[[], tuple[keras.Model, keras.Model | None]]] = {
        "narrow, trained on": lambda: (narrow(), None),
        "wide, from scratch": lambda: (kc.widen(narrow(), 2.0, seed=run.seed), None),
        "wide, Net2WiderNet": lambda: _beside(narrow(), kc.widen(narrow(), 2.0, function_preserving=True)),
        "wide, Net2WiderNet, no noise": lambda: _beside(
            narrow(), kc.widen(narrow(), 2.0, function_preserving=True, noise=0.0)
        ),
        "deep, from scratch": lambda: (_drawn_anew(deeper(narrow()), run.seed), None),
        "deep, Net2DeeperNet": lambda: _beside(narrow(), deeper(narrow())),
    }
    rows = []
    for name, make in ways.items():

        def made(name: str = name, make: Callable[[], Any] = make) -> dict[str, Any]:
            model, before = make()
            row = {"part": "growing", "name": name, "seed": run.seed, "weights": model.count_params()}
            if before is not None:
                row["difference"] = largest_difference(before, model, run.test[0][:200])
            row["at_once"] = accuracy(model, run.test)
            return _told({**row, "curve": curve(run, model, GROWN_EPOCHS)})

        rows.append(once(run.folder / "rows" / f"{_slug(name)}_{run.seed}.json", made))
    return rows


def _beside(before: keras.Model, grown: keras.Model) -> tuple[keras.Model, keras.Model]:
    return grown, before


def _behind_relus(model: keras.Model) -> list[str]:
    """Convolutions whose ReLU is behind their own normalization."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            norm = layer.output
            readers = [each for each in model.layers if each is not layer and each.input is norm]
            behind = [each for each in model.layers for norm in readers if each.input is norm.output]
            if any(isinstance(each, keras.layers.ReLU | keras.layers.Activation) for each in behind):
                found.append(layer.name)
    return found


def _drawn_anew(model: keras.Model, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(model)


def accuracy(model: keras.Model, data: Any) -> float:
    """Share of images that are classified rightly."""
    found = model.predict(data[0], batch_size=1000, verbose=0).argmax(-1)
    return float((found == data[1]).mean())


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row


def epochs_to(curve_: Sequence[float], wanted: float) -> int | None:
    """The first epoch, from 1 on, after which an accuracy was reached; `None` where none was."""
    return next((number for number, each in enumerate(curve_, start=1) if each >= wanted), None)


def goals_of(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """Points beside the float model, bytes beside `deep_compression`, and epochs that growing takes."""

    def values(name: str, key: str) -> list[float]:
        return [row[key] for row in rows if row["name"] == name and key in row]

    goals = []
    teachers, vectors = values("float", "accuracy"), values("vectors, 1.5 bits", "file_accuracy")
    if teachers and vectors:
        points = 100 * (mean(vectors) - mean(teachers))
        goals.append(at_least("vectors at 1.5 bits on TFLite-Micro, points beside float", points, -1.0))
        goals.append(
            at_most("vectors, bits a weight of the file", mean(values("vectors, 1.5 bits", "bits_per_weight")), 1.6)
        )
    deep = values("deep_compression", "bytes")
    if deep and vectors:
        ratio = mean(values("vectors, 1.5 bits", "bytes")) / mean(deep)
        goals.append(at_most("bytes of the file with vectors over those of deep_compression", ratio, 1.0))
    for kind, grown in (("wide", "Net2WiderNet"), ("deep", "Net2DeeperNet")):
        scratch, taken = values(f"{kind}, from scratch", "curve"), values(f"{kind}, {grown}", "curve")
        if scratch and taken:
            goals.append(
                at_most(f"{grown}: largest difference of outputs", max(values(f"{kind}, {grown}", "difference")), 1e-5)
            )
            shares = [_share(one, other) for one, other in zip(scratch, taken, strict=False)]
            goals.append(at_most(f"{grown}: epochs to the best of as many from scratch, as a share", mean(shares), 0.5))
    return goals


def _share(scratch: Any, grown: Any) -> float:
    """Epochs that a grown net takes to the best accuracy of one from scratch, over those that this took."""
    best = max(scratch)
    took = epochs_to(scratch, best)
    reached = epochs_to(grown, best)
    return (reached or 2 * len(grown)) / float(took or 1)


def main(_: list[str]) -> None:
    """Run what is asked for; print and write the results of all that the work folder holds."""
    data = fashion_mnist(_QUICK.value)
    folder = Path(_WORK.value) / ("quick" if _QUICK.value else "whole")
    for seed in map(int, _SEEDS.value):
        run = Run(seed, folder, data)
        if "vectors" in _PARTS.value:
            for name in METHODS:
                if _ROWS.value is None or any(each in name for each in _ROWS.value):
                    vector_row(run, name)
            if _ROWS.value is None:
                deep_row(run)
        if "growing" in _PARTS.value:
            growing_rows(run)
    rows = [once(path, dict) for path in sorted((folder / "rows").glob("*.json"))]
    order = [*METHODS, "deep_compression"]
    rows.sort(key=lambda row: (row["part"] != "vectors", order.index(row["name"]) if row["name"] in order else 99))
    goals = goals_of(rows)
    print_goals(goals)
    settings = {
        "images": min(TRAINED, len(data.x_train)),
        "epochs": {"float": FLOAT_EPOCHS, "tuned": TUNED_EPOCHS, "integers": INTEGER_EPOCHS, "grown": GROWN_EPOCHS},
        "batch_size": BATCH,
    }
    target = folder if _QUICK.value else Path(_RESULTS.value)
    found = sorted({row["seed"] for row in rows})
    write_results("product_quantization", rows, goals, seeds=found, settings=settings, directory=target)


if __name__ == "__main__":
    app.run(main)
