"""How far the frozen model is from the model that was trained, where that begins, and whether rounding explains it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.final_grid import ends_of
from keras_compress.convert.side_by_side import Frozen, Kept, Trained, Values
from keras_compress.core import keras_private
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.data.batches import batches
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import unmoved

Array = NDArray[Any]
SAMPLES = 32
LARGEST_VALUES_BYTES = 128_000_000
LOW_DB = 25.0
FALL_DB = 6.0
# Below this an output holds a fifth of noise.
LITTLE_LEFT_DB = 15.0
# Above this a few values lie one step apart, and a fall says nothing.
GOOD_DB = 40.0


def argmax_agreement(reference: Array, values: Array) -> float | None:
    """Share of samples with the same largest entry; `None` for an output without classes."""
    classes = reference.ndim == 2 and reference.shape[1] > 1
    return float((values.argmax(-1) == reference.argmax(-1)).mean()) if classes else None


@dataclass(frozen=True)
class OutputDistance:
    """One output of the frozen model beside the trained model's.

    Attributes:
        name: The output.
        sqnr_db: Signal to noise, at most 120 dB.
        activations_only_db: The same of the trained model's own weights with activations on the frozen model's grids;
            `None` where all outputs have 34 dB or more.
        beyond_one_step: Share of the values that are more than one step of the output's integers apart; `None` where
            it has none.
        argmax_agreement: Share of samples with the same largest entry; `None` for an output without classes.
        varying_db: Signal to noise of what differs between samples; `None` where nothing does.
    """

    name: str
    sqnr_db: float
    activations_only_db: float | None
    beyond_one_step: float | None
    argmax_agreement: float | None
    varying_db: float | None

    @property
    def opens(self) -> bool:
        """Below 25 dB, or 6 dB below what the activations' rounding alone costs (which counts up to 40 dB)."""
        return is_open(self.sqnr_db, self.activations_only_db)


def is_open(found_db: float, activations_only_db: float | None) -> bool:
    """The rule of `OutputDistance.opens`."""
    alone = GOOD_DB if activations_only_db is None else min(activations_only_db, GOOD_DB)
    return found_db < LOW_DB or found_db < alone - FALL_DB


@dataclass(frozen=True)
class Distance:
    """From the trained model to the frozen one, on some data.

    Attributes:
        outputs: One for each output.
        samples: How many there were.
        opens_at: Where an output is far off (see `OutputDistance.opens`), the first layer that is; else `None`.
    """

    outputs: tuple[OutputDistance, ...]
    samples: int
    opens_at: str | None

    def report(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "samples": self.samples,
            "opens_at": self.opens_at,
            "outputs": [{k: _rounded(v) for k, v in asdict(each).items()} for each in self.outputs],
        }


def notes_of_distance(found: Distance | None) -> list[str]:
    """A note for each output of which rounding leaves little, with the layer where that begins."""
    return [
        f"Output {each.name!r} keeps little of the model's: {each.varying_db:.1f} dB of signal to noise on "
        f"{found.samples} samples, and it begins at {(found.opens_at or each.name)!r}, whose values differ by less "
        "than the steps of their range. Wider integers (mode='16x8') or narrower ranges there keep more."
        for each in ([] if found is None else found.outputs)
        if found is not None and each.varying_db is not None and each.varying_db < LITTLE_LEFT_DB
    ]


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def distance(model: keras.Model, frozen: keras.Model, data: Any) -> Distance:
    """The distance on the first samples of representative data.

    Args:
        model: The model that `frozen` was made from.
        frozen: What `freeze` gave.
        data: See `keras_compress.data.batches.batches`.

    Raises:
        ValueError: For data that does not fit the model.
    """
    first = [array[: samples_of(frozen)] for array in next(batches(data, frozen))]
    trained = Trained(model, data)
    after = Frozen(frozen, trained)
    return between(trained, after, first, trained.run(first, after.calls))


def samples_of(frozen: keras.Model) -> int:
    """How many samples are looked at: few enough that the values of all points stay within `LARGEST_VALUES_BYTES`."""
    points = [layer.output for layer in frozen.layers if isinstance(layer, QuantizeActivation)]
    largest = 3 * 4 * sum(math.prod(n or 1 for n in tensor.shape[1:]) for tensor in points)
    return int(np.clip(LARGEST_VALUES_BYTES // max(largest, 1), 1, SAMPLES))


def between(trained: Trained, frozen: Frozen, inputs: Sequence[Array], in_trained: Values) -> Distance:
    """The distance on these samples, of which the trained model gives `in_trained` at `frozen.calls`."""
    names, steps = graph.output_names(frozen.model), _steps(frozen.model)
    in_frozen = frozen.run(inputs, frozenset(frozen.points))
    found, simulated = in_trained.outputs, in_frozen.outputs
    close = all(sqnr_db(f, s.reshape(f.shape)) >= GOOD_DB - FALL_DB for f, s in zip(found, simulated, strict=True))
    if close:
        outputs = tuple(map(_output, names, found, simulated, steps, [None] * len(names)))
        return Distance(outputs, len(inputs[0]), None)
    on_grids = trained.on_grids(inputs, frozen, frozen.calls)
    outputs = tuple(map(_output, names, found, simulated, steps, on_grids.outputs))
    far = [each.name for each in outputs if each.opens]
    pairs = pairs_of(frozen, in_frozen.kept, in_trained.kept, on_grids.kept) if far else iter(())
    kept = ((name, s, _as_read(trained, frozen, name, f), g) for name, s, f, g in pairs)
    layers = (name for name, s, f, g in kept if is_open(sqnr_db(f, s), sqnr_db(f, g)))
    return Distance(outputs, len(inputs[0]), next(itertools.chain(layers, far), None))


def _as_read(trained: Trained, frozen: Frozen, name: str, values: Array) -> Array:
    """Values at a point; a measured range cuts off only what nothing behind it tells from its ends."""
    return values if trained.point(name) is not None else np.clip(values, *ends_of(frozen.grids[name]))


def pairs_of(frozen: Frozen, simulated: Kept, *of_trained: Kept) -> Iterator[tuple[Any, ...]]:
    """Layer, its values in a run of the frozen model and in runs of the trained one, in order, where all have them."""
    for point, name in frozen.points.items():
        values = [simulated.get(point), *(kept.get(name) for kept in of_trained)]
        if all(v is not None for v in values) and len({v.shape for v in values if v is not None}) == 1:
            yield (name, *values)


def _output(name: str, found: Array, simulated: Array, step: float | None, on_grids: Array | None) -> OutputDistance:
    found = found.astype(np.float32)
    simulated = simulated.astype(np.float32).reshape(found.shape)
    # A step of one is the same integer in float32's rounding.
    beyond = None if step is None else float((np.abs(found - simulated) > 1.01 * step).mean())
    alone = None if on_grids is None else sqnr_db(found, on_grids.astype(np.float32).reshape(found.shape))
    agreement = argmax_agreement(found, simulated)
    return OutputDistance(name, sqnr_db(found, simulated), alone, beyond, agreement, _varying_db(found, simulated))


def _varying_db(found: Array, simulated: Array) -> float | None:
    mean = found.mean(axis=0, dtype=np.float64)
    varies = len(found) > 1 and float(np.ptp(found, axis=0).max()) > 1e-4 * float(np.abs(found).max())
    return sqnr_db(found - mean, simulated - mean) if varies else None


def _steps(frozen: keras.Model) -> list[float | None]:
    """The scale of each output's integers, where a point makes it, or moves it there."""
    found: list[float | None] = []
    for tensor in frozen.outputs:
        operation = keras_private.maker(unmoved(tensor))
        found.append(operation.quantizer.scale if isinstance(operation, QuantizeActivation) else None)
    return found
