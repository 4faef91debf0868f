"""Accuracy with 50 to 98 % zeros by every way to make them, each given the same training steps in all; Fashion-MNIST.

Ways without a target are tuned by their strength, by bisection, and stand at the sparsity they reached. Rows that goals
are about take all seeds, the others the first.

    python benchmarks/sparsity.py
    python benchmarks/sparsity.py --nets=lenet300 --methods=RigL --methods=ticket --seeds=0
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import RESULTS, Goal, at_least, fashion_mnist, once, print_goals, write_results
from sparsity_methods import Method, methods
from sparsity_table import SHOWN, write_pages

import keras_compress as kc
from keras_compress.core.slots import slots_of
from keras_compress.demo import datasets, models
from keras_compress.graph import graph
from keras_compress.pipelines.pruning_rounds import levels_of, pruners_in

NETS: dict[str, Callable[[], keras.Model]] = {
    "lenet300": models.lenet300,
    "resnet8": lambda: models.resnet8(filters=16),
}
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
VALIDATION, TRAINED, BATCH, RATE = 5_000, 20_000, 128, 2e-3
# The step that the searches of the figures rewind to.
REWOUND_CURVES = 0
# Of each row in all; the small network takes longer to have learned what it can, and a tenth of the time.
EPOCHS = {"lenet300": 16.0, "resnet8": 6.0}
# Share of them in which the network is trained that rows of trained networks begin with.
FIRST = 0.25
# Sparsities of rows without a goal, and of rows with one for seeds behind the first, where that is not all.
FEWER = {"resnet8": (0.9,)}
FEWER_OF_SEEDS = {"resnet8": (0.9, 0.95)}
# Of each round of the searches for tickets.
ROUND_EPOCHS = 4.0
# Trainings for each sparsity that a strength is sought with, beside the two ends.
TRIES = 5
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NEWER = ("ContinuousSparsificationPruner", "AutoSparsePruner", "DynamicSparsePruner", "PdpPruner", "APoZWeightPruner")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of rows with a goal; the others take the first.")
_ALL = flags.DEFINE_bool("all_seeds", False, "All rows with all seeds.")
_NETS = flags.DEFINE_multi_enum("nets", list(NETS), list(NETS), "Networks.")
_METHODS = flags.DEFINE_multi_string("methods", None, "Rows whose names contain one of these; all by default.")
_SPARSITIES = flags.DEFINE_list("sparsities", [f"{each:g}" for each in SPARSITIES], "Shares of zeros.")
_FULL = flags.DEFINE_bool("all_sparsities", False, "All rows at all sparsities.")
_EPOCHS = flags.DEFINE_float("epochs", None, "Epochs of each row in all; by default those of the network.")
_CURVES = flags.DEFINE_bool("curves", True, "The figures of rewinding too, of LeNet-300-100.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_sparsity", "Folder of what is finished already.")
_RESULTS = flags.DEFINE_string("results", str(RESULTS), "Folder of the results; pages are written of the default one.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")


class Run:
    """One network and seed.

    Args:
        net: Name of the network.
        seed: Of weights and batches.
        folder: Where what is finished is kept, for all seeds.
        data: Fashion-MNIST.
    """

    def __init__(self, net: str, seed: int, folder: Path, data: datasets.Dataset) -> None:
        held = 200 if _QUICK.value else VALIDATION
        self.net, self.seed, self.folder = net, seed, folder / net
        self.x, self.y = data.x_train[held : held + TRAINED], data.y_train[held : held + TRAINED]
        self.validation = data.x_train[:held], data.y_train[:held]
        self.test = data.x_test, data.y_test
        self.epochs = EPOCHS[net] if _EPOCHS.value is None else _EPOCHS.value
        # What is left behind the part that rows of trained networks share.
        self.rest = (1.0 - FIRST) * self.epochs
        self.steps_per_epoch = -(-len(self.x) // BATCH)
        self.build = NETS[net]
        self.loss = LOSS

    def network(self, seed: int | None = None) -> keras.Model:
        """A new network."""
        keras.utils.set_random_seed(self.seed if seed is None else seed)
        return self.build()

    def steps(self, epochs: float) -> int:
        """Batches of a training of so many epochs."""
        return max(1, round(epochs * self.steps_per_epoch))

    def fitting(self, epochs: float, rate: float = RATE) -> Any:
        """Trains as all rows are trained: Adam, and a rate that falls as a cosine over these epochs."""
        return Fitting(self, epochs, rate)

    def trained(self, model: keras.Model, epochs: float) -> keras.Model:
        """A model after its training, in place."""
        self.fitting(epochs)(model)
        return model

    def begun(self) -> keras.Model:
        """The network after the first part of the steps, trained once."""
        path = self.folder / f"begun_{self.seed}.keras"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.trained(self.network(), self.epochs - self.rest).save(path)
        return keras.models.load_model(path, compile=False)

    def masks(self, model: keras.Model) -> list[Any]:
        """The pruners that hold a model's masks."""
        return [pruner for pruner, _ in pruners_in(model)]

    def strength(
        self, name: str, low: float, high: float, sparsity: float, try_: Callable[[Run, float], keras.Model]
    ) -> float:
        """The strength whose sparsity, with the first seed, is nearest: by bisection of its logarithm."""
        first = Run(self.net, int(_SEEDS.value[0]), self.folder.parent, fashion_mnist(_QUICK.value))

        def reached(strength: float) -> float:
            def make() -> dict[str, float]:
                return {"strength": strength, "sparsity": sparsity_of(try_(first, strength))}

            return once(self.folder / "tried" / f"{name}_{strength:.4g}.json", make)["sparsity"]

        tried = {each: reached(each) for each in (low, high)}
        # What was tried for other sparsities tells something about this one.
        for path in (self.folder / "tried").glob(f"{name}_*.json"):
            found = once(path, dict)
            tried[found["strength"]] = found["sparsity"]
        for _ in range(TRIES):
            below = max((s for s, zeros in tried.items() if zeros <= sparsity), default=low)
            above = min((s for s, zeros in tried.items() if zeros > sparsity and s > below), default=high)
            if abs(_density(tried[below]) - _density(sparsity)) < 0.05 or above <= below:
                break
            middle = float(f"{math.sqrt(below * above):.4g}")
            tried[middle] = reached(middle)
        return min(tried, key=lambda each: abs(_density(tried[each]) - _density(sparsity)))

    def row(self, method: Method, sparsity: float) -> dict[str, Any]:
        """A line of the results, kept when it is there."""
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"{method.name}_{sparsity:g}_{self.seed}")

        def make() -> dict[str, Any]:
            keras.utils.set_random_seed(self.seed)
            model = method.make(self, sparsity)
            figures = {"sparsity": sparsity_of(model), "accuracy": accuracy(model, self.test)}
            figures |= {"validation": accuracy(model, self.validation), **method.figures(model)}
            row = {"net": self.net, "method": method.name, "group": method.group, "target": sparsity}
            print({**row, "seed": self.seed, **figures}, flush=True)
            return {**row, "seed": self.seed, **figures}

        return once(self.folder / "rows" / f"{name}.json", make)


class Fitting:
    """A training of part of an epoch too: `kc.Training` counts whole ones.

    Args:
        run: Whose data, batches and seed.
        epochs: How many, a fraction too.
        rate: First learning rate.
    """

    def __init__(self, run: Run, epochs: float, rate: float) -> None:
        self.run, self.epochs, self.rate = run, epochs, rate

    def __call__(self, model: keras.Model, stage: Any = None) -> None:
        run, steps = self.run, self.run.steps(self.epochs)
        keras.utils.set_random_seed(run.seed)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(self.rate, steps))
        model.compile(optimizer, LOSS, jit_compile=False)
        stop = _Stop(steps)
        epochs = math.ceil(steps / run.steps_per_epoch)
        callbacks = [stop, *getattr(stage, "callbacks", ())]
        model.fit(run.x, run.y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)


class _Stop(keras.callbacks.Callback):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left <= 0:
            self.model.stop_training = True


def accuracy(model: keras.Model, data: Any) -> float:
    """Share of images that are classified rightly."""
    found = model.predict(data[0], batch_size=1000, verbose=0).argmax(-1)
    return float((found == data[1]).mean())


def sparsity_of(model: keras.Model) -> float:
    """Share of zeros among the weights that can be pruned, as the stripped model has them."""
    zeros = size = 0
    for _, layer in graph.walk(kc.strip(model)):
        for slot in slots_of(layer):
            values = np.asarray(slot.variable(layer))
            zeros, size = zeros + int((values == 0).sum()), size + values.size
    return zeros / size


def _density(sparsity: float) -> float:
    """Sparsities in the measure in which 90 and 95 % are as far apart as 95 and 97.5 %."""
    return -math.log(max(1.0 - sparsity, 1e-6))


def curves(run: Run) -> list[dict[str, Any]]:
    """The two figures of rewinding: by 20 % a round, each round a whole training, beside what it is compared with."""
    if run.net != "lenet300":
        return []
    fit, last = run.fitting(ROUND_EPOCHS), max(SPARSITIES)
    how: dict[str, Any] = {"validation_data": run.test, "seed": run.seed, "scope": "global"}
    every = max(1, run.steps(ROUND_EPOCHS) // 12)
    # The rounds that the page shows.
    levels = levels_of(last, None, None)
    shown = {1 + min(range(len(levels)), key=lambda n: abs(levels[n] - wanted)) for wanted in SHOWN}
    begin = {"rewind_to": REWOUND_CURVES, "score_every": every, "control_rounds": shown}
    ways: dict[str, Callable[[Any], Any]] = {
        "ticket": lambda folder: kc.find_ticket(
            run.build, fit, last, control="random_reinit", folder=folder, **begin, **how
        ),
        "learning-rate rewinding": lambda folder: kc.find_ticket(
            run.build, fit, last, rewind="learning_rate", folder=folder, **how
        ),
        "fine-tuning": lambda folder: kc.prune_iteratively(
            run.trained(run.network(), ROUND_EPOCHS),
            run.fitting(ROUND_EPOCHS, RATE / 20),
            sparsity=last,
            folder=folder,
            **how,
        ),
    }
    found = []
    for name, search in ways.items():

        def make(name: str = name, search: Callable[[Any], Any] = search) -> dict[str, Any]:
            made = search(run.folder / f"search_{name.replace(' ', '_')}_{run.seed}")
            return {"net": run.net, "curve": name, "seed": run.seed, "rounds": made.report()["rounds"]}

        found.append(once(run.folder / "rows" / f"curve_{name.replace(' ', '_')}_{run.seed}.json", make))
    return found


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Points beside the dense network trained as long, and of the ticket beside its control."""

    def points(net: str, method: str, target: float) -> float | None:
        found = [
            row["accuracy"]
            for row in rows
            if (row.get("method"), row["net"], row.get("target")) == (method, net, target)
        ]
        return 100 * mean(found) if found else None

    goals = []
    for net in NETS:
        dense = points(net, "dense", 0.0)
        for method, most in (("RegularizedPruner", 0.3), ("iterative, global", 0.3), ("RigLPruner", 0.5)):
            value = points(net, method, 0.9)
            if dense is not None and value is not None:
                goals.append(at_least(f"{net}, {method} at 90 %, points beside dense", value - dense, -most))
    goals += _ticket_goals(rows)
    newer = [name for name in NEWER if any(row.get("method") == name and row["target"] == 0.9 for row in rows)]
    if newer:
        goals.append(at_least("of the newer methods, in the table at 90 %", len(newer), 2))
    return goals


def _ticket_goals(rows: Iterable[dict[str, Any]]) -> list[Goal]:
    """Of the searches by 20 % a round: the round nearest to 95 %."""
    gains = []
    for row in rows:
        if row.get("curve") != "ticket":
            continue
        nearest = min(row["rounds"], key=lambda each: abs(each["sparsity"] - 0.95))
        # A search that ended before says nothing of it.
        if nearest["control"] is not None and abs(nearest["sparsity"] - 0.95) < 0.02:
            gains.append(100 * (nearest["metric"] - nearest["control"]))
    return [at_least("ticket at 95 %, points beside its masks over other weights", mean(gains), 1.0)] if gains else []


def chosen_methods() -> list[Method]:
    """Those that the flags name."""
    names = _METHODS.value
    return [each for each in methods() if names is None or any(name in each.name for name in names)]


def targets_of(method: Method, net: str, seed: int, sparsities: Sequence[float]) -> list[float]:
    """The sparsities of a row."""
    first = seed == int(_SEEDS.value[0])
    if not (first or method.all_seeds or _ALL.value):
        return []
    if method.name == "dense":
        return [0.0]
    if _FULL.value or (first and method.all_seeds):
        return list(sparsities)
    few = (FEWER if first else FEWER_OF_SEEDS).get(net, sparsities)
    return [each for each in sparsities if each in few]


def kept_rows(folder: Path) -> list[dict[str, Any]]:
    """All that the work folder holds, in the order of the methods: a part of the benchmark adds to what was there."""
    order = {name: place for place, name in enumerate(["dense", *(each.name for each in methods())])}
    found = [once(path, dict) for path in sorted(folder.glob("*/rows/*.json"))]
    nets = list(NETS)
    return sorted(
        found,
        key=lambda row: (nets.index(row["net"]), order.get(row.get("method"), 99), row.get("target", 0), row["seed"]),
    )


def main(_: list[str]) -> None:
    """Run what is asked for, print and write the results of all that the work folder holds."""
    data = fashion_mnist(_QUICK.value)
    folder = (
        Path(_WORK.value)
        / f"{'quick' if _QUICK.value else TRAINED}_{'usual' if _EPOCHS.value is None else f'{_EPOCHS.value:g}'}"
    )
    seeds = [int(seed) for seed in _SEEDS.value]
    sparsities = [float(each) for each in _SPARSITIES.value]
    for net in _NETS.value:
        for seed in seeds:
            run = Run(net, seed, folder, data)
            for method in chosen_methods():
                for target in targets_of(method, net, seed, sparsities):
                    run.row(method, target)
            if _CURVES.value:
                curves(run)
    rows = kept_rows(folder)
    goals = goals_of(rows)
    print_goals(goals)
    settings = {
        "images": min(TRAINED, len(data.x_train)),
        "epochs": {net: each if _EPOCHS.value is None else _EPOCHS.value for net, each in EPOCHS.items()},
        "round_epochs": ROUND_EPOCHS,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "weights": {net: make().count_params() for net, make in NETS.items()},
    }
    target = folder if _QUICK.value else Path(_RESULTS.value)
    found = sorted({row["seed"] for row in rows})
    write_results("sparsity", rows, goals, seeds=found, settings=settings, directory=target)
    if target == RESULTS:
        write_pages()


if __name__ == "__main__":
    app.run(main)
