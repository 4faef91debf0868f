"""Recipes: compression declared as JSON. Data only: nothing in a recipe is ever executed."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from keras_compress.core.printable import printable
from keras_compress.core.registry import lookup
from keras_compress.core.shown import Shown
from keras_compress.data.training import Fit
from keras_compress.graph.finite import finite_training
from keras_compress.recipes import packaged, schema
from keras_compress.recipes.arguments import check_config, resolve_fractions, uses_fractions


@dataclass(frozen=True)
class Stage:
    """One step of a recipe: a method, its arguments, and the training that follows it.

    Attributes:
        name: Name of the stage, such as `"prune"`.
        method: Registered entry point, such as `"prune_low_magnitude"`.
        config: Its arguments, as JSON types.
        filters: Layers to work on; all by default.
        rules: Exceptions for some layers.
        epochs: Epochs to train after it; 0 for none.
        learning_rate: Of that training.
        teacher: How that training is taught: arguments of `kc.Teacher` but for the model, which is the one that
            `compress` was given unless it was given a teacher. In what `fit` is called with, the `kc.Teacher` itself.
    """

    name: str
    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    filters: str | list[str] | None = None
    rules: tuple[Mapping[str, Any], ...] = ()
    epochs: int = 1
    learning_rate: float = 0.001
    teacher: Any = None

    def apply(self, model: keras.Model, steps_per_epoch: int | None = None, data: Any = None) -> keras.Model:
        """A copy of the model with this stage's method applied, to be trained for `epochs`.

        Args:
            model: Plain model, or one made by this library.
            steps_per_epoch: Training batches in an epoch; needed where the recipe gives steps as fractions.
            data: What the method is given as `data`, where it takes any.

        Raises:
            ValueError: For fractions without `steps_per_epoch`, or what the method refuses.
        """
        total_steps = self._total_steps(steps_per_epoch)
        arguments = resolve_fractions(dict(self.config), total_steps)
        rules = resolve_fractions([dict(rule) for rule in self.rules], total_steps)
        method = lookup("entry_point", self.method)
        if data is not None and "data" in inspect.signature(method).parameters:
            arguments["data"] = data
        return method(model, **arguments, filters=self.filters, rules=rules or None)

    def _total_steps(self, steps_per_epoch: int | None) -> int:
        if steps_per_epoch is not None and (not isinstance(steps_per_epoch, int) or steps_per_epoch < 1):
            raise ValueError(f"Expected `steps_per_epoch` >= 1. Received: steps_per_epoch={steps_per_epoch}")
        if steps_per_epoch is None and uses_fractions([self.config, *self.rules]):
            raise ValueError(
                "Expected `steps_per_epoch`, the number of training batches in an epoch, because stage "
                f"{self.name!r} gives steps as fractions of its training. Received: steps_per_epoch=None"
            )
        return self.epochs * (steps_per_epoch or 0)


@dataclass(frozen=True, repr=False)
class Recipe(Shown):
    """An ordered list of stages, checked against a schema and against the methods' own arguments.

    Attributes:
        name: Name of the recipe.
        description: What it does, in a sentence.
        stages: In the order of application.
        goal: What somebody wants who takes it, in a few words.
        gives: What it gives, in a few words.
    """

    name: str
    description: str
    stages: tuple[Stage, ...]
    goal: str = ""
    gives: str = ""

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        rows = [(stage.name, f"{stage.method}, {stage.epochs} epochs") for stage in self.stages]
        return f"Recipe {self.name}", [("about", self.description), *rows]

    @classmethod
    def load(cls, source: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
        """A recipe from a name, a file or a mapping.

        Args:
            source: Name of a packaged recipe such as `"pcqat"` (see `Recipe.names`), path of a JSON file, a mapping
                of the same shape, or a recipe.

        Raises:
            ValueError: For an unknown name, bad JSON, unknown keys, wrong types, or an unknown method.
            OSError: If the file cannot be read.

        >>> [stage.name for stage in Recipe.load("pqat").stages]
        ['prune', 'quantize']
        """
        if isinstance(source, Recipe):
            return source
        if isinstance(source, Mapping):
            return cls._from_data(dict(source), repr(source["name"]) if "name" in source else "given as a mapping")
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f"Expected a recipe's name, path or mapping. Received: {type(source).__name__}")
        path = _path_of(os.fspath(source))
        return cls._from_data(_read(path), printable(str(source)))

    @staticmethod
    def names() -> list[str]:
        """Names of the packaged recipes."""
        return packaged.names()

    @property
    def trains(self) -> bool:
        """Whether any stage is to be trained."""
        return any(stage.epochs for stage in self.stages)

    @property
    def trainings(self) -> int:
        """How many stages are trained."""
        return sum(stage.epochs > 0 for stage in self.stages)

    def trained_for(self, epochs: Sequence[int]) -> Recipe:
        """The same recipe with other epochs.

        Args:
            epochs: Of each stage that is trained.

        Raises:
            ValueError: For another number of them.
        """
        if len(epochs) != self.trainings:
            raise ValueError(f"Expected epochs of {self.trainings} stages. Received: epochs={list(epochs)}")
        given = iter(epochs)
        stages = [replace(stage, epochs=next(given)) if stage.epochs else stage for stage in self.stages]
        return replace(self, stages=tuple(stages))

    @classmethod
    def _from_data(cls, data: Any, source: str) -> Recipe:
        schema.check(data, source)
        for index, entry in enumerate(data["stages"]):
            check_config(entry, ["stages", index], source)
        names = [entry["name"] for entry in data["stages"]]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected a different `name` for each stage of recipe {source}. Received: {names}")
        stages = tuple(Stage(**{**entry, "rules": tuple(entry.get("rules", ()))}) for entry in data["stages"])
        texts = {key: data.get(key, "") for key in ("description", "goal", "gives")}
        return cls(name=data["name"], stages=stages, **texts)


def compress(
    model: keras.Model,
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    steps_per_epoch: int | None = None,
    fit: Fit | None = None,
    data: Any = None,
    teacher: Any = None,
) -> keras.Model:
    """A copy of the model with all stages of a recipe applied.

    Args:
        model: Built model; a subclassed one too, as far as the methods of the stages take it.
        recipe: Name, path or mapping; see `Recipe.load`.
        steps_per_epoch: Training batches in an epoch; needed where the recipe gives steps as fractions.
        fit: `kc.Training(...).on(x, y)`, or a function `fit(model, stage)` that compiles and trains for
            `stage.epochs`; called after each stage that has epochs. This is how stages were meant: one is trained
            before the next begins. Without it all are applied at once, to be trained together.
        data: For methods that take `data`: inputs without labels for `quantize_post_training`, see each.
        teacher: Who teaches each stage's training beside the labels: a model (the float original is the natural one),
            several, or `kc.Teacher(model, method=..., alpha=...)`; see `kc.distill`. Stages that say `teacher` in the
            recipe are taught by `model` without it. A function `fit` finds it as `stage.teacher`.

    Returns:
        A new model: trained with `fit`, to be compiled and trained without.

    Raises:
        ValueError: For a mistake in the recipe (before anything is done), what a method refuses, a training that
            ends in numbers that are not finite, or a teacher without `fit`.
    """
    if teacher is not None and fit is None:
        raise ValueError(
            "Expected `fit=kc.Training(...).on(x, y)`, the training that is taught. Received: a teacher, and fit=None"
        )
    stages = [_taught(stage, teacher, model) for stage in Recipe.load(recipe).stages]
    for stage in stages:
        model = stage.apply(model, steps_per_epoch, data)
        if fit is not None and stage.epochs:
            with finite_training(model, stage.name):
                fit(model, stage)
    return model


def _taught(stage: Stage, teacher: Any, original: keras.Model) -> Stage:
    """A stage that knows its teacher."""
    if stage.teacher is None and teacher is None:
        return stage
    return replace(stage, teacher=lookup("teaching", "teacher")(teacher, original, stage.teacher or {}))


def _path_of(source: str) -> Path:
    path = Path(source)
    if path.suffix == ".json" or len(path.parts) > 1:
        return path
    return packaged.path_of(source, ", or a .json file")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a recipe in JSON. Received: {path} ({error})") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"keys given more than once: {repeated}")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
