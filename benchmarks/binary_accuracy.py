"""How much of their accuracy binary and low-bit nets get back, by each way there is; Fashion-MNIST, on the device.

Every row starts from the same float model of its seed. First and last layer have 8 bits, as in the papers. Rows with a
goal take all seeds, the others the first.

    python benchmarks/binary_accuracy.py
    python benchmarks/binary_accuracy.py --rows="bagging of 3" --rows="bagging of 5" --seeds=0
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import binary_nets
import keras
import numpy as np
import training
from absl import app, flags
from binary_accuracy_table import write_section
from common import RESULTS, Goal, at_most, fashion_mnist, once, print_goals, save_whole, write_results

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.demo import datasets, models
from keras_compress.runtime import deployed
from keras_compress.runtime.kernels import runner_of

FLOAT_EPOCHS, FLOAT_BATCH, FLOAT_RATE = 8, 128, 2e-3
BATCH, RATE = 64, 7e-3
CALIBRATION_IMAGES = 500
WRAPPED_BITS = 8
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# The first and the last layer, and what enters them.
ENDS = [
    {"layers": "first", "weights": "int8"},
    {"layers": "last", "weights": "int8", "activations": "int8"},
    {"layers": "stage3_conv2", "activations": "int8"},
]
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of rows with a goal; the others take the first.")
_ROWS = flags.DEFINE_multi_string("rows", None, "Rows to run, by name; all by default.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_binary_accuracy", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: As `--rows` takes it.
        bits: Of weights and activations, for the reader.
        train: Makes its trained model.
        goal: Most points of accuracy lost beside the float row; `None` for none, and one seed.
        needs: Names of the registry and of the package that it cannot do without.
    """

    name: str
    bits: str
    train: Callable[[Run], keras.Model]
    goal: float | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One seed.

    Attributes:
        seed: The seed.
        data: Images and labels.
        work: Folder of what is finished.
    """

    seed: int
    data: datasets.Dataset
    work: Path

    def fit(self, model: keras.Model, epochs: int, rate: float = RATE, batch: int = BATCH, teacher: Any = None) -> None:
        """Train in place."""
        settings = {"learning_rate": rate, "seed": self.seed, "batch_size": batch, "teacher": teacher}
        training.fit(model, self.data, epochs=self.epochs(epochs), **settings)

    @staticmethod
    def epochs(wanted: int) -> int:
        return 1 if _QUICK.value else wanted

    def kept(self, name: str, make: Callable[[], keras.Model]) -> keras.Model:
        """A model that several rows begin with."""
        path = self.work / f"{name}_{self.seed}.keras"
        if not path.is_file():
            keras.utils.set_random_seed(self.seed)
            save_whole(make(), path)
        return keras.models.load_model(path, compile=False)

    def float_model(self) -> keras.Model:
        """What every row starts from."""

        def make() -> keras.Model:
            model = models.vgg()
            self.fit(model, FLOAT_EPOCHS, FLOAT_RATE, FLOAT_BATCH)
            return model

        return self.kept("base", make)

    def said(self) -> kc.TeacherOutputs:
        """What the float model says to the training images."""
        return kc.teacher_outputs(self.float_model(), self.data.x_train, self.work / f"base_{self.seed}_outputs")

    def signs(self) -> keras.Model:
        """The float model with signs in the place of ReLUs, trained for an epoch."""

        def make() -> keras.Model:
            model = kc.quantize_model(self.float_model(), None, "approx_sign", rules=ENDS)
            self.fit(model, 1)
            return model

        return self.kept("signs", make)

    def binary(self, weights: Any = "bwn") -> keras.Model:
        """Binary weights in front of these signs, not trained yet."""
        return kc.quantize_model(self.signs(), weights, None, rules=ENDS[:1] + [{"layers": "last", "weights": "int8"}])


def _named(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": name, "config": config}


def xnor(run: Run) -> keras.Model:
    model = run.binary()
    run.fit(model, 2)
    return model


def taught(run: Run) -> keras.Model:
    model = run.binary()
    run.fit(model, 2, teacher=run.said())
    return model


def xnor_plus_plus(run: Run) -> keras.Model:
    model = run.binary("xnor_plus_plus")
    run.fit(model, 2)
    return model


def react(run: Run) -> keras.Model:
    """Two stages, as in the paper: binary activations first, then binary weights too."""
    first = run.kept("react_signs", lambda: _react_stage(run, run.float_model(), None))
    return _react_stage(run, first, "bwn")


def _react_stage(run: Run, source: keras.Model, weights: Any) -> keras.Model:
    model = binary_nets.reactnet(run.float_model(), weights)
    binary_nets.take_weights(model, source)
    run.fit(model, 2 if weights is None else 3, 4e-3, teacher=run.said())
    return model


def ensemble(
    method: str, members: int, start: Callable[[Run], keras.Model], teacher: bool = False
) -> Callable[[Run], keras.Model]:
    """Members begin alike; an ensemble of more takes those of one of fewer."""

    def train(run: Run) -> keras.Model:
        fit = kc.Training(
            LOSS, epochs=run.epochs(2), learning_rate=RATE, batch_size=BATCH, teacher=run.said() if teacher else None
        )
        folder = run.work / f"{method}_{start.__name__}_{'taught' if teacher else 'labels'}_{run.seed}"
        data = run.data
        found = kc.train_ensemble(
            start(run),
            fit.on(data.x_train, data.y_train),
            members,
            method=method,
            vote="softmax",
            validation_data=(data.x_test, data.y_test),
            seed=run.seed,
            folder=folder,
        )
        print(found, flush=True)
        return found.model

    return train


def binary_start(run: Run) -> keras.Model:
    return run.binary()


def react_start(run: Run) -> keras.Model:
    return run.kept("react", lambda: react(run))


def wide(run: Run) -> keras.Model:
    """WRPN: twice the channels, two bits for weights and activations."""

    def make() -> keras.Model:
        model = kc.widen(run.float_model(), 2, function_preserving=True, seed=run.seed)
        run.fit(model, 1, 1e-3, FLOAT_BATCH)
        return model

    start = binary_nets.with_larger_weights(run.kept("wide", make))
    model = kc.quantize_model(start, _named("WRPN", bits=2), _named("WRPNActivation", bits=2), rules=ENDS)
    run.fit(model, 3, 4e-3)
    return model


def abc(bases: int) -> Callable[[Run], keras.Model]:
    """ABC-Net: as many binary bases of weights as of activations."""

    def train(run: Run) -> keras.Model:
        methods = (_named("ABCNet", bases=bases), _named("ABCNetActivation", bases=bases))
        model = kc.quantize_model(run.float_model(), *methods, rules=ENDS)
        run.fit(model, 3, 2e-3)
        return model

    return train


def fewer_filters(run: Run) -> keras.Model:
    """Main and subsidiary network, from the trained binary net."""
    data, quarter = run.data, len(run.data.x_train) // 4

    def fit(model: keras.Model, stage: Any) -> None:
        subsidiary = stage.method == "subsidiary"
        count = quarter if subsidiary else 2 * quarter
        keras.utils.set_random_seed(run.seed)
        rate = keras.optimizers.schedules.CosineDecay(1e-3 if subsidiary else 3e-3, -(-count // BATCH))
        model.compile(keras.optimizers.Adam(rate), LOSS, jit_compile=False)
        callbacks = list(stage.callbacks)
        model.fit(data.x_train[:count], data.y_train[:count], batch_size=BATCH, verbose=0, callbacks=callbacks)

    start = run.kept("binary", lambda: xnor(run))
    folder = run.work / f"fewer_filters_{run.seed}"
    found = kc.select_filters(start, fit, 2e-3, validation_data=(data.x_test, data.y_test), folder=folder)
    print(found, flush=True)
    run.fit(found.model, 1, 3e-3)
    return found.model


def few_bits(run: Run) -> keras.Model:
    """Binary weights, activations of two bits."""
    model = kc.quantize_model(run.float_model(), "bwn", _named("Pact", bits=2), rules=ENDS)
    run.fit(model, 2, 4e-3)
    return model


def wrapped(run: Run) -> keras.Model:
    """The same, trained for accumulators of 8 bits."""
    model = kc.wrap_sums(run.kept("few_bits", lambda: few_bits(run)), WRAPPED_BITS, penalty=1e-2)
    run.fit(model, 2, 2e-3)
    return kc.unwrap_sums(model)


def rows(tell: bool = False) -> list[Row]:
    """The table, without the rows whose methods are not there."""
    react_needs = ("rsign", "RPReLU")
    listed = [
        Row("float", "32/32", Run.float_model, 0.0),
        Row("XNOR 1/1", "1/1", xnor, 5.0),
        Row("XNOR 1/1, taught", "1/1", taught),
        Row("XNOR++ 1/1", "1/1", xnor_plus_plus, needs=("xnor_plus_plus",)),
        Row("ReActNet form 1/1", "1/1", react, 3.0, react_needs),
        Row("bagging of 3", "1/1", ensemble("bagging", 3, binary_start)),
        Row("bagging of 5", "1/1", ensemble("bagging", 5, binary_start), 2.0),
        Row("boosting of 3", "1/1", ensemble("boosting", 3, binary_start)),
        Row("boosting of 5", "1/1", ensemble("boosting", 5, binary_start), 2.0),
        Row("bagging of 3, ReActNet form", "1/1", ensemble("bagging", 3, react_start, True), 2.0, react_needs),
        Row("WRPN x2 2/2", "2/2", wide, 0.3, ("WRPN", "widen")),
        Row("ABC-Net 3x3", "3x1/3x1", abc(3), 1.5, ("ABCNet",)),
        Row("ABC-Net 5x5", "5x1/5x1", abc(5), needs=("ABCNet",)),
        Row("main/subsidiary 1/1", "1/1", fewer_filters),
        Row("BWN + PACT 1/2", "1/2", few_bits),
        Row("WrapNet 1/2, 8-bit sums", "1/2", wrapped),
    ]
    found = []
    for row in listed:
        missing = [name for name in row.needs if not _known(name)]
        if not missing:
            found.append(row)
        elif tell:
            print(f"Left out: {row.name}, which needs {', '.join(missing)}")
    return found


def _known(name: str) -> bool:
    wanted = name.lower().replace("_", "")
    kinds = ("weight_transform", "activation_quantizer")
    return hasattr(kc, name) or any(wanted == each.lower() for kind in kinds for each in registry.entries(kind))


def accuracy(outputs: Array, labels: Array) -> float:
    return float((outputs.argmax(-1) == labels).mean())


def trained(row: Row, run: Run, path: Path) -> dict[str, Any]:
    """Train a row and keep it in a file."""
    keras.utils.set_random_seed(run.seed)
    begin, cpu = time.perf_counter(), time.process_time()
    model = row.train(run)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    save_whole(model, path)
    found = accuracy(model.predict(run.data.x_test, batch_size=500, verbose=0), run.data.y_test)
    figures = {"row": row.name, "bits": row.bits, "seed": run.seed, "accuracy": found}
    return {**figures, "parameters": model.count_params(), "train_s": seconds, "train_cpu_s": cpu_seconds}


def on_the_device(row: Row, run: Run, path: Path) -> dict[str, Any]:
    """Convert a trained row, and run the test set on the device's kernels."""
    model, data = keras.models.load_model(path, compile=False), run.data
    mode = {"mode": "float32"} if row.name == "float" else {"representative_dataset": data.x_train[:CALIBRATION_IMAGES]}
    artifact = kc.convert(model, **mode)
    outputs = deployed.run(runner_of("xnnpack"), artifact.content, [data.x_test], row.name)[0]
    figures = {
        "deployed_accuracy": accuracy(outputs, data.y_test),
        "float_operators": len(artifact.float_ops) if row.name != "float" else None,
        "raw_bytes": artifact.stats.raw_bytes,
        "gzip_bytes": artifact.stats.gzip_bytes,
    }
    return figures | (_sums(artifact, data) if row.train in (few_bits, wrapped) else {})


def _sums(artifact: kc.Artifact, data: datasets.Dataset) -> dict[str, Any]:
    """What the layers of few bits need of an accumulator."""
    found = kc.accumulator_bits(artifact, data.x_test[:500], bits=WRAPPED_BITS, bias=False)
    few = [row for row in found.rows if row.step > 1]
    return {
        "sum_bits": max(row.bits for row in few),
        "observed_sum_bits": max(row.observed_bits for row in few),
        "overflows": max(row.overflows for row in few),
    }


def measured_rows(data: datasets.Dataset, work: Path) -> list[dict[str, Any]]:
    """All rows that the flags ask for, each done once."""
    seeds = [int(seed) for seed in _SEEDS.value]
    found = []
    listed = rows(tell=True)
    for seed in seeds:
        run = Run(seed, data, work)
        for row in listed:
            if (_ROWS.value and row.name not in _ROWS.value) or (row.goal is None and seed != seeds[0]):
                continue
            path = work / f"row_{row.name.replace(' ', '_').replace('/', '-').replace(',', '')}_{seed}.keras"
            result = once(
                path.with_suffix(".trained.json"), lambda row=row, run=run, path=path: trained(row, run, path)
            )
            result |= once(
                path.with_suffix(".device.json"), lambda row=row, run=run, path=path: on_the_device(row, run, path)
            )
            found.append(result)
            print(result, flush=True)
            keras.backend.clear_session()
    return found


def lost(found: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Points of accuracy lost beside the float row of the same seeds, on the device."""
    base = {row["seed"]: row["deployed_accuracy"] for row in found if row["row"] == "float"}
    mine = [row for row in found if row["row"] == name and row["seed"] in base]
    return 100 * mean(base[row["seed"]] - row["deployed_accuracy"] for row in mine) if mine else None


def goals_of(found: Sequence[Mapping[str, Any]]) -> list[Goal]:
    goals = []
    for row in rows():
        points = lost(found, row.name)
        if row.goal and points is not None:
            goals.append(at_most(f"{row.name}: points lost beside float", points, row.goal))
    return goals


def summary_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds."""
    made = []
    for row in rows():
        mine = [each for each in found if each["row"] == row.name]
        if not mine:
            continue
        line: dict[str, Any] = {"row": row.name, "bits": row.bits, "seeds": len(mine)}
        for key in ("accuracy", "deployed_accuracy", "parameters", "gzip_bytes", "train_cpu_s"):
            values = [each[key] for each in mine]
            line |= {key: mean(values), f"{key}_spread": pstdev(values)}
        for key in ("sum_bits", "observed_sum_bits", "overflows"):
            if key in mine[0]:
                line[key] = max(each[key] for each in mine)
        points = lost(found, row.name)
        made.append(line if points is None else {**line, "points_lost": points})
    return made


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Expected flags only. Received: {argv[1:]}")
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    work.mkdir(parents=True, exist_ok=True)
    found = measured_rows(fashion_mnist(_QUICK.value), work)
    goals = goals_of(found)
    settings = {
        "model": "vgg 16-32-64",
        "batch_size": BATCH,
        "float_epochs": FLOAT_EPOCHS,
        "wrapped_bits": WRAPPED_BITS,
    }
    directory = work if _QUICK.value else RESULTS
    seeds = [int(seed) for seed in _SEEDS.value]
    lines = [*summary_rows(found), *found]
    write_results("binary_accuracy", lines, goals, seeds=seeds, settings=settings, directory=directory)
    if not _QUICK.value:
        write_section()
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
