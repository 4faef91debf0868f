"""The demo: a small model on real images, from training to the measured int8 file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.command import command_line
from keras_compress.cli.epochs import epochs_given
from keras_compress.cli.progress import CommandLine
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.convert import convert
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.data.training import Training
from keras_compress.demo import datasets, models
from keras_compress.recipes.recipe import Recipe
from keras_compress.report.page.report import page_figures
from keras_compress.report.stages import Deployed, stage_rows
from keras_compress.runtime.verification import Verification
from keras_compress.runtime.verify import verify

RECIPE = "pcqat"
LEARNING_RATE = 0.001
# Images that ranges are calibrated with, and that operators are compared on.
CALIBRATION_IMAGES = 200
VERIFIED_IMAGES = 1000
# Work besides training, in units of the progress bar.
_CONVERSION, _VERIFICATION, _MEASUREMENT = 40, 120, 80


@dataclass(frozen=True)
class Defaults:
    """What is used for a data set where the command line says nothing.

    Attributes:
        model: Architecture.
        epochs: Of the float model and of each stage of the recipe.
        batch_size: Images in a training batch.
    """

    model: str
    epochs: tuple[int, ...]
    batch_size: int


DEFAULTS = {
    "digits": Defaults("digits_cnn", (30, 25, 10, 10), 32),
    "fashion_mnist": Defaults("lenet5", (3, 3, 2, 1), 128),
}


@dataclass(frozen=True)
class Settings:
    """A demo run.

    Attributes:
        dataset: `"digits"` or `"fashion_mnist"`.
        model: A key of `models.MODELS`.
        seed: Of weights and shuffling.
        epochs: Of the float model and of each stage of the recipe.
        batch_size: Images in a training batch.
    """

    dataset: str
    model: str
    seed: int
    epochs: tuple[int, ...]
    batch_size: int

    @property
    def recipe(self) -> Recipe:
        """The packaged recipe with this run's epochs."""
        return Recipe.load(RECIPE).trained_for(self.epochs[1:])


def settings_of(values: flags.FlagValues) -> Settings:
    """Settings from the command line.

    Raises:
        ValueError: For epochs that are none.
    """
    defaults = DEFAULTS[values.dataset]
    return Settings(
        dataset=values.dataset,
        model=values.model or defaults.model,
        seed=values.seed,
        epochs=epochs_given(values.epochs, 1 + len(Recipe.load(RECIPE).stages)) or defaults.epochs,
        batch_size=values.batch_size or defaults.batch_size,
    )


def run(values: flags.FlagValues) -> None:
    """`keras-compress demo`."""
    settings = settings_of(values)
    folder = make_folder(values.out)
    data = datasets.load(settings.dataset)
    report = Demo(settings, data).run(folder, command_line("demo", values))
    page = report.pop("page")
    where = f"{report['seconds']:.0f} s. Models and {cli_report.FILE_NAME} are in {folder}."
    cli_report.show(values, report, where, *page)


@dataclass
class Demo:
    """Pipeline of the demo.

    Args:
        settings: What to run.
        data: Images and labels.
    """

    settings: Settings
    data: datasets.Dataset
    _trained: dict[str, keras.Model] = field(default_factory=dict, init=False)
    _artifacts: dict[str, Artifact] = field(default_factory=dict, init=False)

    def run(self, folder: Path, command: str | None = None) -> dict[str, Any]:
        """Train, compress, convert, verify, measure; then write all files, the report last.

        Args:
            folder: Where to write.
            command: How to make all of it again, for the page.

        Returns:
            The report.
        """
        started = time.monotonic()
        keras.utils.set_random_seed(self.settings.seed)
        with CommandLine(self._work()) as line, cli_report.collected_warnings() as warned:
            self._train(line)
            self._convert(line)
            verification = self._verify(line)
            line.begin("measuring")
            rows, notes = stage_rows(self._deployed(), self.data.x_test, self.data.y_test)
            figures = self._figures(rows, verification)
        report = {
            **dataclasses.asdict(self.settings),
            "title": f"{self.settings.model} on {self.settings.dataset}, {len(self.data.y_test):,} test images",
            "recipe": RECIPE,
            **cli_report.header(time.monotonic() - started),
            "verification": cli_report.verification_entry(verification),
            "stages": rows,
            "notes": [*notes, *_folded_note(rows), *warned],
        }
        self._save(folder, report)
        report["page"] = cli_report.save_page(report, {**figures, "command": command}, folder)
        return report

    def _figures(self, rows: list[dict[str, Any]], verification: Verification) -> dict[str, Any]:
        """For the page: the last stage in detail."""
        last = self._artifacts["pcqat int8"]
        models = {"model": self._trained["compressed"], "original": self._trained["float"]}
        x = self.data.x_test
        return page_figures(rows, last.content, artifact=last, **models, x=x, verification=verification)

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self.data.x_train) // self.settings.batch_size)

    def _work(self) -> int:
        conversions = (len(self.settings.epochs) + 1) * _CONVERSION
        return sum(self.settings.epochs) * self._steps_per_epoch + conversions + _VERIFICATION + _MEASUREMENT

    def _train(self, line: CommandLine) -> None:
        model = models.build(self.settings.model, self.data.input_shape, self.data.num_classes)
        self._fit(model, "training float", self.settings.epochs[0], LEARNING_RATE, line)
        self._trained["float"] = model
        for name, stage in zip(("pruned", "clustered", "compressed"), self.settings.recipe.stages, strict=True):
            model = stage.apply(model, self._steps_per_epoch)
            self._fit(model, f"training, stage {stage.name}", stage.epochs, stage.learning_rate, line)
            self._trained[name] = model

    def _fit(self, model: keras.Model, what: str, epochs: int, learning_rate: float, line: CommandLine) -> None:
        line.begin(what)
        training = Training(
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            epochs,
            learning_rate,
            decay=False,
            batch_size=self.settings.batch_size,
            seed=None,
            metrics=["accuracy"],
            callbacks=[line.callback(what, epochs)],
            jit_compile="auto",
        )
        training.on(self.data.x_train, self.data.y_train)(model)

    def _convert(self, line: CommandLine) -> None:
        examples = self.data.x_train[:CALIBRATION_IMAGES]
        for name, model, options in (
            ("float", "float", {"mode": "float32"}),
            ("int8", "float", {"representative_dataset": examples}),
            ("pruned", "pruned", {"mode": "float32"}),
            ("clustered", "clustered", {"mode": "float32"}),
            ("pcqat int8", "compressed", {}),
        ):
            line.begin(f"converting {name}")
            self._artifacts[name] = convert(self._trained[model], **options)
            line.advance(_CONVERSION)

    def _verify(self, line: CommandLine) -> Verification:
        line.begin("verifying the int8 file operator by operator")
        found = verify(
            self._artifacts["pcqat int8"],
            self._trained["compressed"],
            self.data.x_test[:VERIFIED_IMAGES],
            kernels=("xnnpack", "reference", "tflm"),
            strict=False,
        )
        line.advance(_VERIFICATION)
        return found

    def _deployed(self) -> dict[str, Deployed]:
        found = {}
        for name, artifact in self._artifacts.items():
            simulation = artifact.frozen or self._trained[name]
            found[name] = Deployed(artifact.content, accuracy_of(simulation, self.data.x_test, self.data.y_test))
        return found

    def _save(self, folder: Path, report: Mapping[str, Any]) -> None:
        for name, file in (
            ("float", "model_float.tflite"),
            ("int8", "model_plain_int8.tflite"),
            ("pruned", "model_pruned.tflite"),
            ("clustered", "model_clustered.tflite"),
            ("pcqat int8", "model_int8.tflite"),
        ):
            self._artifacts[name].save(folder / file)
        for name, model in self._trained.items():
            save_keras_atomic(model, folder / f"model_{name}.keras")
        cli_report.save(report, folder)


def _folded_note(rows: list[dict[str, Any]]) -> list[str]:
    """Why the float file of the clustered model has more values than there are clusters."""
    values = {row["name"]: row["distinct_values"] for row in rows}
    if values["clustered"] <= values["pcqat int8"]:
        return []
    return [
        "clustered: in the float file the converter has folded BatchNormalization into the weights, so each channel "
        f"has multiples of its own; the int8 file stores {values['pcqat int8']} values or fewer in each weight."
    ]


def accuracy_of(model: keras.Model, x: Any, y: Any) -> float:
    """Share of samples that a Keras model classifies rightly."""
    return float((model.predict(x, batch_size=256, verbose=0).argmax(-1) == y).mean())
