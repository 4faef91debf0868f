"""What a teacher gives: to small students, to deep thin ones, and to students of few bits; Fashion-MNIST.

Temperature and alpha are chosen once, on validation data, for the student of a tenth of the teacher's parameters.

    python benchmarks/distillation.py                       # three seeds, 20,000 images
    python benchmarks/distillation.py --samples=4000 --seeds=0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import RESULTS, Goal, at_least, fashion_mnist, once, print_goals, save_whole, write_results
from distillation_table import write_page
from keras import layers

import keras_compress as kc

FRACTION_OF_A_TENTH = 0.3125
WIDTHS = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5}
BITS = (2, 4, 8)
# Polino et al. take T = 2 and 0.7, of a divergence that their program divides by the ten classes: 0.2 here.
TEMPERATURES, ALPHAS = (2.0, 4.0, 8.0), (0.2, 0.5, 0.9)
BUCKET = 256
UNLABELLED = "taught without a label, all 55,000 images"
# Times as many epochs for the small student.
LONG = 3
# Of the teacher.
DROPOUT = (0.2, 0.3, 0.5)
VALIDATION = 5000
METHODS: dict[str, dict[str, Any]] = {
    "labels alone": {},
    "LogitMatching": {"method": "logit_matching"},
    "SoftTargets": {"method": "soft_targets"},
    "DecoupledKD": {"method": "decoupled_kd"},
    "AttentionTransfer": {
        "method": ["soft_targets", "attention_transfer"],
        "weights": [1, 10],
        "hints": ["map1", "map2"],
    },
    "FitNets": {"method": ["soft_targets", "fit_nets"], "hints": ["map2"]},
    "SimilarityPreserving": {
        "method": ["soft_targets", "similarity_preserving"],
        "weights": [1, 100],
        "hints": ["map2"],
    },
    "RKDDistance": {"method": ["soft_targets", "rkd_distance"], "weights": [1, 5], "hints": ["features"]},
    "RKDAngle": {"method": ["soft_targets", "rkd_angle"], "weights": [1, 10], "hints": ["features"]},
    "CorrelationCongruence": {
        "method": ["soft_targets", "correlation_congruence"],
        "weights": [1, 10],
        "hints": ["features"],
    },
    "CRD": {"method": ["soft_targets", "crd"], "weights": [1, 0.2], "hints": ["features"]},
}
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_SAMPLES = flags.DEFINE_integer("samples", 20_000, "Training images.")
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Epochs of float models.")
# As many as of the float training: the paper trains quantized students as long as float ones.
_FEW = flags.DEFINE_integer("few_epochs", 12, "Epochs of quantized ones, behind the float training.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_distillation", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
_PART = flags.DEFINE_multi_string("part", None, "small, methods, deep, bits; all by default.")
LOSS = "sparse_categorical_crossentropy"


def net(width: float, name: str = "net", dropout: Sequence[float] = (0.0, 0.0, 0.0)) -> keras.Model:
    """Two convolutions of stride 2 and a layer of features; at 1: 32 and 64 channels, 128 features."""
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(round(32 * width), 3, 2, "same", activation="relu", name="map1")(inputs)
    x = layers.Dropout(dropout[0])(x)
    x = layers.Conv2D(round(64 * width), 3, 2, "same", activation="relu", name="map2")(x)
    x = layers.Flatten()(layers.Dropout(dropout[1])(x))
    x = layers.Dense(round(128 * width), "relu", name="features")(x)
    x = layers.Dropout(dropout[2])(x)
    return keras.Model(inputs, layers.Dense(10, "softmax", name="classes")(x), name=name)


def deep_net() -> keras.Model:
    """Thin and deeper than the teacher: fourteen convolutions of eight channels, without normalization."""
    inputs = x = keras.Input((28, 28, 1))
    for number in range(14):
        strides = 2 if number in (0, 4) else 1
        x = layers.Conv2D(8, 3, strides, "same", activation="relu", name=f"conv{number}")(x)
    x = layers.Dense(32, "relu", name="features")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10, "softmax", name="classes")(x), name="deep")


class Run:
    """All figures of one seed, each kept when it is there."""

    def __init__(self, seed: int, folder: Path) -> None:
        data = fashion_mnist(_QUICK.value)
        held = VALIDATION if not _QUICK.value else 200
        self.seed, self.folder = seed, folder / f"seed{seed}"
        count = min(_SAMPLES.value, len(data.x_train) - held)
        self.x, self.y = data.x_train[held : held + count], data.y_train[held : held + count]
        self.validation = data.x_train[:held], data.y_train[:held]
        self.test = data.x_test, data.y_test
        # Beside the images with labels those whose labels nobody looks at.
        self.unlabelled = data.x_train[held:]

    def fitting(self, epochs: int, rate: float, **teacher: Any) -> Any:
        model = None if not teacher else self.teacher() if teacher.get("hints") else self.outputs()
        taught = kc.Teacher(model, **teacher) if teacher else None
        training = kc.Training(LOSS, epochs=epochs, learning_rate=rate, seed=self.seed, batch_size=128, teacher=taught)
        return training.on(self.x, self.y)

    def accuracy(self, model: keras.Model, data: Any) -> float:
        found = model.predict(data[0], batch_size=1000, verbose=0)
        return 100.0 * float(np.mean(np.argmax(found, -1) == data[1]))

    def figure(self, name: str, make: Callable[[], keras.Model]) -> dict[str, float]:
        def measured() -> dict[str, float]:
            keras.utils.set_random_seed(self.seed)
            model = make()
            found = {"validation": self.accuracy(model, self.validation), "test": self.accuracy(model, self.test)}
            print(f"seed {self.seed}  {name}: {found['test']:.2f}", flush=True)
            return found

        return once(self.folder / f"{name.replace('/', '_').replace(' ', '_')}.json", measured)

    def kept(self, name: str, make: Callable[[], keras.Model]) -> keras.Model:
        path = self.folder / f"{name}.keras"
        if not path.is_file():
            keras.utils.set_random_seed(self.seed)
            save_whole(make(), path)
        return keras.models.load_model(path)

    def trained(self, model: keras.Model, epochs: int, rate: float = 2e-3, **teacher: Any) -> keras.Model:
        self.fitting(epochs, rate, **teacher)(model)
        return model

    def teacher(self) -> keras.Model:
        if not hasattr(self, "_teacher"):
            epochs = 2 * _EPOCHS.value
            plain = kc.Training(LOSS, epochs=epochs, learning_rate=2e-3, seed=self.seed).on(self.x, self.y)

            def make() -> keras.Model:
                # One that is sure of its training images says no more about them than their labels do.
                model = net(1.0, "teacher", DROPOUT)
                plain(model)
                return model

            self._teacher = self.kept("teacher", make)
        return self._teacher

    def outputs(self) -> kc.TeacherOutputs:
        """What the teacher says to the training images, computed once."""
        return kc.teacher_outputs(self.teacher(), self.x, self.folder / "outputs")


def choose(run: Run) -> dict[str, float]:
    """Temperature and alpha, by the validation data of one seed, of students that are trained as long as in `small`."""
    tried = {}
    for temperature in TEMPERATURES:
        for alpha in ALPHAS:
            name = f"chosen_{temperature:g}_{alpha:g}_{_long_epochs()}"
            how = {"temperature": temperature, "alpha": alpha}
            make = lambda how=how: run.trained(net(FRACTION_OF_A_TENTH), _long_epochs(), **how)  # noqa: E731
            tried[temperature, alpha] = run.figure(name, make)["validation"]
    temperature, alpha = max(tried, key=lambda each: tried[each])
    return {"temperature": temperature, "alpha": alpha}


def _long_epochs() -> int:
    """Until a student learns no more from labels: only then does a teacher have something to add."""
    return LONG * _EPOCHS.value


def small(run: Run, how: dict[str, float]) -> list[dict[str, Any]]:
    rows = [{"part": "small", "row": "teacher", **run.figure("teacher", run.teacher)}]
    for name, settings in (("labels", {}), ("taught", how)):
        make = lambda settings=settings: run.trained(net(FRACTION_OF_A_TENTH), _long_epochs(), **settings)  # noqa: E731
        rows.append({"part": "small", "row": name, **run.figure(f"small_{name}", make)})
    rows.append({"part": "small", "row": UNLABELLED, **run.figure("small_unlabelled", lambda: unlabelled(run, how))})
    return rows


def unlabelled(run: Run, how: dict[str, float]) -> keras.Model:
    """Taught without any label, with all images there are, in as many steps as the others."""
    model = net(FRACTION_OF_A_TENTH)
    teacher = kc.Teacher(run.teacher(), temperature=how["temperature"], alpha=1.0)
    epochs = max(1, round(_long_epochs() * len(run.x) / len(run.unlabelled)))
    training = kc.Training(LOSS, epochs=epochs, learning_rate=2e-3, seed=run.seed, batch_size=128, teacher=teacher)
    training.on(run.unlabelled)(model)
    return model


def methods(run: Run, how: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for name, settings in METHODS.items():
        warm = (
            {"temperature": how["temperature"]}
            if "temperature" in how and name not in ("labels alone", "LogitMatching")
            else {}
        )
        taught = {**warm, "alpha": how["alpha"], **settings} if settings else {}
        make = lambda taught=taught: run.trained(net(FRACTION_OF_A_TENTH), _EPOCHS.value, **taught)  # noqa: E731
        rows.append({"part": "methods", "row": name, **run.figure(f"method_{name}", make)})
    return rows


def deep(run: Run, how: dict[str, float]) -> list[dict[str, Any]]:
    def in_stages() -> keras.Model:
        plain = run.fitting(_EPOCHS.value, 2e-3)
        first = run.fitting(max(1, _EPOCHS.value // 3), 2e-3)
        return kc.two_stages(deep_net(), run.teacher(), [("map2", "conv8")], plain, first=first, **how)

    ways = {
        "labels": lambda: run.trained(deep_net(), _EPOCHS.value),
        "taught": lambda: run.trained(deep_net(), _EPOCHS.value, **how),
        "in stages": in_stages,
    }
    return [{"part": "deep", "row": name, **run.figure(f"deep_{name}", make)} for name, make in ways.items()]


def bits(run: Run, how: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for label, width in WIDTHS.items():
        # What is to show what a teacher adds must not have one earlier.
        students = {}
        for row, settings in (("float", how), ("float, labels", {})):
            make = lambda width=width, settings=settings: run.trained(net(width), _EPOCHS.value, **settings)  # noqa: E731
            students[row] = run.kept(f"student_{label.replace('/', '_')}_{row.replace(', ', '_')}", make)
            found = run.figure(f"bits_{label}_{row}", lambda s=students[row]: s)
            rows.append({"part": "bits", "width": label, "row": row, **found})
        for count in BITS:
            for name, way in quantized(run, students, count, how).items():
                found = run.figure(f"bits_{label}_{count}_{name}", way)
                rows.append({"part": "bits", "width": label, "bits": count, "row": name, **found})
    return rows


def quantized(
    run: Run, students: dict[str, keras.Model], count: int, how: dict[str, float]
) -> dict[str, Callable[[], keras.Model]]:
    """The paper's ways: rounded afterwards, trained with labels, trained with a teacher, positions trained."""

    def made(positions: bool, size: int | None, start: str = "float") -> keras.Model:
        return kc.quantize_in_buckets(students[start], count, size, train_positions=positions, per_channel=False)

    def fitted(positions: bool, size: int | None, rate: float, start: str = "float", **teacher: Any) -> keras.Model:
        return run.trained(made(positions, size, start), _FEW.value, rate, **teacher)

    even, free = False, True
    ways: dict[str, Callable[[], keras.Model]] = {}
    for name, size in (("", None), (" in buckets", BUCKET)):
        ways[f"afterwards{name}"] = partial(made, even, size)
        ways[f"labels{name}"] = partial(fitted, even, size, 1e-3, start="float, labels")
        ways[f"taught, then labels{name}"] = partial(fitted, even, size, 1e-3)
        ways[f"taught{name}"] = partial(fitted, even, size, 1e-3, **how)
        ways[f"positions{name}"] = partial(fitted, free, size, 3e-3, **how)
    return ways


def summarized(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds of each row."""
    keys = ("part", "width", "bits", "row")
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in found:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row["test"])
    return [
        {
            **{key: value for key, value in zip(keys, group, strict=True) if value is not None},
            "test": round(mean(values), 3),
            "spread": round(pstdev(values), 3),
            "seeds": len(values),
        }
        for group, values in groups.items()
    ]


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    at = {(row["part"], row.get("width"), row.get("bits"), row["row"]): row["test"] for row in rows}
    found = []
    if ("small", None, None, "taught") in at:
        gain = at["small", None, None, "taught"] - at["small", None, None, "labels"]
        found.append(at_least("points that a student of a tenth gains by a teacher", gain, 0.5))
        gain = at["small", None, None, UNLABELLED] - at["small", None, None, "labels"]
        found.append(at_least("points that it gains by a teacher and images without labels", gain, 0.5))
    if ("deep", None, None, "in stages") in at:
        gain = at["deep", None, None, "in stages"] - at["deep", None, None, "labels"]
        found.append(at_least("points that a deep thin student gains by hints", gain, 0.0))
    few = [
        at["bits", w, b, f"taught{n}"] - at["bits", w, b, f"labels{n}"]
        for w in WIDTHS
        for b in (2, 4)
        for n in ("", " in buckets")
        if ("bits", w, b, f"taught{n}") in at
    ]
    if few:
        found.append(at_least("points that 2 and 4 bits gain by a teacher over labels, mean", mean(few), 0.5))
    return found


def main(_: Any) -> None:
    name = f"{'quick' if _QUICK.value else _SAMPLES.value}_{_EPOCHS.value}_{_FEW.value}"
    folder = Path(_WORK.value) / name
    seeds = [int(seed) for seed in _SEEDS.value]
    chosen = once(folder / f"chosen_{_long_epochs()}.json", lambda: choose(Run(seeds[0], folder)))
    print(f"chosen on validation data: {chosen}", flush=True)
    parts = {"small": small, "deep": deep, "bits": bits, "methods": methods}
    found: list[dict[str, Any]] = []
    for seed in seeds:
        run = Run(seed, folder)
        for part in _PART.value or parts:
            found += parts[part](run, chosen)
    rows = summarized(found)
    reached = goals(rows)
    settings = {
        "samples": _SAMPLES.value,
        "epochs": _EPOCHS.value,
        "few_epochs": _FEW.value,
        "chosen": chosen,
        "chosen_epochs": _long_epochs(),
        "bucket_size": BUCKET,
        "parameters": {
            w: net(v).count_params() for w, v in {"1": 1.0, "a tenth": FRACTION_OF_A_TENTH, **WIDTHS}.items()
        },
    }
    target = folder if _QUICK.value else RESULTS
    path = write_results("distillation", rows, reached, seeds=seeds, settings=settings, directory=target)
    print_goals(reached)
    if not _QUICK.value:
        write_page(path)


if __name__ == "__main__":
    app.run(main)
