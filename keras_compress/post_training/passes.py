"""The passes of each level of post-training quantization, in the order in which they are run: one list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_compress.post_training.absorb_bias import absorb_bias
from keras_compress.post_training.correct_bias import correct_bias
from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.measured_ranges import ranges_from_data
from keras_compress.post_training.ranges import ranges_from_statistics
from keras_compress.post_training.split_channels import split_channels
from keras_compress.post_training.synthetic_data import synthetic_data

# Made inputs are all near the mean of the real ones: logits of a trained net went a third further on real images.
SYNTHETIC_MARGIN = 1.5


@dataclass
class Situation:
    """What passes are told beside the model.

    Attributes:
        trained: The model as it was given.
        data: Inputs without labels that can be gone through more than once, or `None`.
        options: Name of a pass -> more arguments for it.
        input_range: Lowest and highest value of the inputs, or `None`.
        bits: Of the weights.
        per_channel: Whether they have one scale for each output channel.
        seed: Of what is drawn.
    """

    trained: keras.Model
    data: Any
    options: Mapping[str, Mapping[str, Any]]
    input_range: tuple[float, float] | None
    bits: int
    per_channel: bool
    seed: int
    _synthetic: dict[str, Any] = field(default_factory=dict)

    def synthetic(self) -> Any:
        """Data made from the trained model, once."""
        if "data" not in self._synthetic:
            settings = {"input_range": self.input_range, "seed": self.seed, **self.options.get("synthetic_data", {})}
            self._synthetic["data"] = synthetic_data(self.trained, **settings)
        return self._synthetic["data"]


Run = Callable[..., keras.Model]


@dataclass(frozen=True)
class Pass:
    """A step of post-training quantization.

    Attributes:
        name: Its name, of the function that does it.
        run: `(model, situation, **options) -> model`. It raises `NotApplicable` where it finds nothing to do.
        quantized: Whether it takes what `quantize_model` makes; otherwise the plain model before.
        levels: Levels that it belongs to.
        standard: Whether it is run where no passes are named.
        scales: Whether it changes the scales of channels, which may be for the worse where none are far apart.
        ranges: Whether it sets ranges of activations.
    """

    name: str
    run: Run
    quantized: bool = False
    levels: tuple[int, ...] = (1, 2)
    standard: bool = True
    scales: bool = False
    ranges: bool = False


def _without_situation(function: Callable[..., keras.Model]) -> Run:
    return lambda model, situation, **options: function(model, **options)


def _split(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    return split_channels(model, **{"bits": situation.bits, "per_channel": situation.per_channel, **options})


def _synthetic_ranges(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    # The options are those of the data.
    return ranges_from_data(model, situation.synthetic(), "synthetic data", SYNTHETIC_MARGIN)


def _data_ranges(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    return ranges_from_data(model, situation.data, **options)


# A model that none of level 1's passes can be run on goes on to `quantize_model` as it is.
PASSES = (
    Pass("fold_batch_norms", _without_situation(fold_batch_norms)),
    Pass("equalize", _without_situation(equalize), scales=True),
    Pass("absorb_bias", _without_situation(absorb_bias), scales=True),
    Pass("split_channels", _split, standard=False),
    Pass("ranges_from_data", _data_ranges, quantized=True, levels=(2,), ranges=True),
    Pass(
        "ranges_from_statistics", _without_situation(ranges_from_statistics), quantized=True, levels=(1,), ranges=True
    ),
    Pass("synthetic_data", _synthetic_ranges, quantized=True, levels=(1,), ranges=True),
    Pass("correct_bias", _without_situation(correct_bias), quantized=True, levels=(1,)),
)
LEVELS = tuple(sorted({level for each in PASSES for level in each.levels}))


def chosen(level: int, names: Any = None) -> list[Pass]:
    """The passes to run.

    Args:
        level: Which level's.
        names: Names of passes of this level, or `None` for its standard ones.

    Raises:
        ValueError: For a name that is none of the level's passes.
    """
    of_level = [each for each in PASSES if level in each.levels]
    if names is None:
        return [each for each in of_level if each.standard]
    known = [each.name for each in of_level]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"Expected `passes` of level {level} out of {known}. Received: {unknown}")
    return [each for each in of_level if each.name in names]
