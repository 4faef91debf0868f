"""The passes of each level of post-training quantization, in the order in which they are run: one list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import keras

from keras_compress.graph.graph import walk
from keras_compress.post_training.absorb_bias import absorb_bias
from keras_compress.post_training.bias_from_data import bias_from_data
from keras_compress.post_training.bias_from_statistics import bias_from_statistics
from keras_compress.post_training.breakpoints import fit_breakpoints
from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.fine_tune import fine_tune
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.gptq import gptq
from keras_compress.post_training.ranges import ranges_from_statistics
from keras_compress.post_training.reconstruction import adaround, brecq
from keras_compress.post_training.spiq import spiq
from keras_compress.post_training.split_channels import split_channels
from keras_compress.post_training.start import ranged, with_ranges
from keras_compress.post_training.synthetic_data import synthetic_data
from keras_compress.post_training.weight_clipping import clip_weights
from keras_compress.post_training.wide_points import WIDE_BITS, wide_points
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.lsq import LSQ
from keras_compress.quantizers.pwlq import PWLQ
from keras_compress.quantizers.uniform import UniformQuantizer
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

# Made inputs are all near the mean of the real ones, which go further: `benchmarks/ptq_margin.py`.
SYNTHETIC_MARGIN = 1.25
# Channels go half of the way to one range, in bits: all the way, what was not seen is cut in each of them. Ceilings of
# their own would cost an operator each.
HALF_WAY = {"power": 0.5, "relu6": "keep"}
WITH_DATA = (2, 3)


@dataclass
class Situation:
    """What passes are told beside the model.

    Attributes:
        trained: The model as it was given.
        data: Inputs without labels that can be gone through more than once, or `None`.
        options: Name of a pass -> more arguments for it.
        input_range: Lowest and highest value of the inputs, or `None`.
        quantizer: Of the weights, or `None`.
        seed: Of what is drawn.
        teacher: What level 3 learns from; the model as it was given by default.
        reference: What `quantize_model` made, before any pass changed it: the weights that all aim at.
        mixed: Whether layers get bits of their own, by a budget.
        level: Which level's passes are run.
        activation_bits: Of the activations, as far as no rule says otherwise.
    """

    trained: keras.Model
    data: Any
    options: Mapping[str, Mapping[str, Any]]
    input_range: tuple[float, float] | None
    quantizer: WeightQuantizer | None
    seed: int
    teacher: keras.Model | None = None
    reference: keras.Model | None = None
    mixed: bool = False
    level: int = 2
    activation_bits: int = 8

    @property
    def bits(self) -> int:
        """Of the weights, 8 at most."""
        return min(int(getattr(self.quantizer, "bits", 8)), 8)

    @property
    def per_channel(self) -> bool:
        """Whether weights have one scale for each output channel."""
        return bool(getattr(self.quantizer, "per_channel", True))

    @cached_property
    def synthetic(self) -> Any:
        """Data made from the trained model, once.

        Raises:
            NotApplicable: Where its statistics are not enough.
        """
        settings = {"input_range": self.input_range, "seed": self.seed, **self.options.get("synthetic_data", {})}
        return synthetic_data(self.trained, **settings)


Run = Callable[..., keras.Model]
When = Callable[[Situation], bool]


def _always(situation: Situation) -> bool:
    return True


def _never(situation: Situation) -> bool:
    return False


def _learned(situation: Situation) -> bool:
    """Few, evenly spaced levels: what rounding does to them is worth a few minutes."""
    few = situation.mixed or situation.bits < 8
    return few and type(situation.quantizer) in (UniformQuantizer, LSQ)


def _nearest(situation: Situation) -> bool:
    return not _learned(situation)


def _half_way(situation: Situation) -> bool:
    """Weights of 8 bits can give a little to activations, whose ranges data tell."""
    return situation.level in WITH_DATA and _nearest(situation) and situation.bits == 8


def _few_at_points(situation: Situation) -> bool:
    return situation.activation_bits < WIDE_BITS


def _piecewise(situation: Situation) -> bool:
    return isinstance(situation.quantizer, PWLQ)


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
    levels: tuple[int, ...] = (1, 2, 3)
    standard: When = _always
    scales: bool = False
    ranges: bool = False


def _without_situation(function: Callable[..., keras.Model]) -> Run:
    return lambda model, situation, **options: function(model, **options)


def _split(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    return split_channels(model, **{"bits": situation.bits, "per_channel": situation.per_channel, **options})


def _spiq(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    data = situation.data if situation.level in WITH_DATA else None
    return spiq(model, data, **{**HALF_WAY, **options})


def _wide(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    return wide_points(model, situation.data, **options)


def _synthetic_ranges(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    # The options are those of the data.
    return _ranging(model)(model, situation.synthetic, source="synthetic data", margin=SYNTHETIC_MARGIN)


def _data_ranges(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    return _ranging(model)(model, situation.data, **{"observer": "auto", **options})


def _ranging(model: keras.Model) -> Callable[..., keras.Model]:
    """How ranges are set: in what `quantize_model` made for this run, where it can be the reference all the same.

    As floats it gives the same with ranges as without, if these only describe the values.
    """
    points = (layer for _, layer in walk(model) if isinstance(layer, QuantizeActivation))
    return ranged if all(point.quantizer.describes for point in points) else with_ranges


def _on_data(function: Callable[..., keras.Model]) -> Run:
    """A method that changes weights or biases so that the model gives what the one before all of them gives."""
    return lambda model, situation, **options: function(
        model, situation.data, **{"reference": situation.reference, **options}
    )


def _drawn(function: Callable[..., keras.Model]) -> Run:
    return lambda model, situation, **options: _on_data(function)(
        model, situation, **{"seed": situation.seed, **options}
    )


def _taught(model: keras.Model, situation: Situation, **options: Any) -> keras.Model:
    return _drawn(fine_tune)(model, situation, **{"teacher": situation.teacher or situation.trained, **options})


# A model that none of level 1's passes can be run on goes on to `quantize_model` as it is.
PASSES = (
    Pass("fold_batch_norms", _without_situation(fold_batch_norms)),
    Pass("equalize", _without_situation(equalize), scales=True),
    Pass("absorb_bias", _without_situation(absorb_bias), scales=True),
    Pass("spiq", _spiq, standard=_half_way),
    Pass("split_channels", _split, standard=_never),
    # Before all that sets ranges, which depend on bits.
    Pass("wide_points", _wide, quantized=True, standard=_few_at_points, ranges=True),
    Pass("with_ranges", _data_ranges, quantized=True, levels=WITH_DATA, ranges=True),
    Pass("fit_breakpoints", _without_situation(fit_breakpoints), quantized=True, levels=WITH_DATA, standard=_piecewise),
    Pass("clip_weights", _without_situation(clip_weights), quantized=True, levels=WITH_DATA, standard=_learned),
    Pass("gptq", _on_data(gptq), quantized=True, levels=WITH_DATA, standard=_never),
    Pass("adaround", _drawn(adaround), quantized=True, levels=WITH_DATA, standard=_never),
    Pass("brecq", _drawn(brecq), quantized=True, levels=WITH_DATA, standard=_learned),
    # Learned rounding has made up for the rounding of activations, too, which this would take back.
    Pass(
        "bias_from_data",
        _on_data(partial(bias_from_data, activations=True)),
        quantized=True,
        levels=WITH_DATA,
        standard=_nearest,
    ),
    Pass("fine_tune", _taught, quantized=True, levels=(3,)),
    Pass(
        "ranges_from_statistics", _without_situation(ranges_from_statistics), quantized=True, levels=(1,), ranges=True
    ),
    Pass("synthetic_data", _synthetic_ranges, quantized=True, levels=(1,), ranges=True),
    Pass("bias_from_statistics", _without_situation(bias_from_statistics), quantized=True, levels=(1,)),
)
LEVELS = tuple(sorted({level for each in PASSES for level in each.levels}))


def chosen(level: int, situation: Situation, names: Any = None) -> list[Pass]:
    """The passes to run.

    Args:
        level: Which level's.
        situation: What is standard depends on the weights.
        names: Names of passes of this level, or `None` for its standard ones.

    Raises:
        ValueError: For a name that is none of the level's passes.
    """
    of_level = [each for each in PASSES if level in each.levels]
    if isinstance(names, str):
        names = [names]
    if names is None:
        return [each for each in of_level if each.standard(situation)]
    known = [each.name for each in of_level]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"Expected `passes` of level {level} out of {known}. Received: {unknown}")
    return [each for each in of_level if each.name in names]
