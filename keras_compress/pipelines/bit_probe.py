"""A copy of a model each of whose weights and activations can be put on a grid of some bits, traced once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.calibration.calibrate import MeasuredRange
from keras_compress.core import affine
from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.core.ste import finite_extremes, in_float32
from keras_compress.core.wrapper import Compressed
from keras_compress.data.examples import Examples
from keras_compress.data.samples import in_order, input_specs
from keras_compress.graph import graph
from keras_compress.graph.model import candidates, slots_in, strip
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import INFERENCE_IDENTITY, Place
from keras_compress.quantizers.placement import PlacePoints
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Array = NDArray[Any]


@dataclass(frozen=True)
class Site:
    """A point where activations are quantized.

    Attributes:
        root: Path of the layer whose values these are, as in the rules of `quantize_model`.
        is_mean: Whether they are means over all positions, which have 8 bits at least.
        layer: The point.
    """

    root: str
    is_mean: bool
    layer: QuantizeActivation


class BitProbe:
    """A plain copy of a model with switches.

    Args:
        model: Built float model.
        examples: Inputs and, where there are any, targets. All of them are kept in memory.

    Attributes:
        model: The copy, with a point at each place where the device holds integers; they let values pass.
        sites: These points, but for those whose grid the runtime fixes.
        batches: `(inputs, targets)`.
        outputs: What the float model makes of each batch: arrays, one for each output.
        extremes: Lowest and highest finite value at each site, shape (sites, 2).

    Raises:
        ValueError: For a model that is quantized, data without an example or without finite values at a site, data
            with NaN or infinity, or outputs with NaN: beside it all widths would look alike.
    """

    def __init__(self, model: keras.Model, examples: Examples) -> None:
        check_float(model)
        self.model, self.sites = _pointed(strip(model))
        self._plain: dict[str, list[Array]] = {}
        self._numbers = {id(site.layer): number for number, site in enumerate(self.sites)}
        self.batches = [(self._in_order(x), y) for x, y in examples]
        if not self.batches:
            raise ValueError("Expected data with at least one example. Received: none")
        with quiet_tensorflow():
            self.outputs, self.extremes = self._observed()
        self._switched = tf.function(self._of_grids, reduce_retracing=True, autograph=False)
        self._errors = tf.function(self._errors_of_grids, reduce_retracing=True, autograph=False)

    def kernels(self) -> dict[str, list[tuple[keras.Variable, tuple[int, ...]]]]:
        """Path of a layer -> its compressible weights, each with its output-channel axes."""
        return {
            path: [(slot.variable(layer), slot.channel_axes) for slot in slots_in(layer)]
            for path, layer in candidates(self.model, quiet=True)
        }

    @contextmanager
    def rounded(self, bits: Mapping[str, int]) -> Iterator[None]:
        """Within it the weights of some layers are rounded from what they were at first; then as they were before.

        Args:
            bits: Path of a layer -> bits of its weights.
        """
        kernels = self.kernels()
        if not self._plain:
            self._plain = {path: [np.array(v) for v, _ in each] for path, each in kernels.items()}
        before = [(variable, np.array(variable)) for path in bits for variable, _ in kernels[path]]
        try:
            for path, width in bits.items():
                for (variable, axes), weight in zip(kernels[path], self._plain[path], strict=True):
                    variable.assign(rounded_weight(weight, width, axes))
            yield
        finally:
            for variable, weight in before:
                variable.assign(weight)

    def grids(self, bits: Mapping[str, int]) -> Array:
        """What `run` takes: scale, zero point, lowest and highest integer and a switch for each site.

        Args:
            bits: Root of a site -> bits of its grid; others let values pass.
        """
        return np.array([self._grid(n, bits.get(s.root)) for n, s in enumerate(self.sites)], np.float32).reshape(-1, 5)

    def run(self, grids: Array) -> Iterator[tuple[list[Array], Any, list[Array]]]:
        """`(outputs, targets, float model's outputs)` of each batch, the weights being what they are now."""
        for (inputs, targets), reference in zip(self.batches, self.outputs, strict=True):
            with quiet_tensorflow():
                found = self._switched(inputs, tf.constant(grids))
            yield [np.asarray(each) for each in tree.flatten(found)], targets, reference

    def squared_errors(self, grids: Array) -> Array:
        """Mean squared error of a value at each site, the values before it being those of the float model."""
        sizes = [len(real[0]) for real in self.outputs]
        found = [[float(n) for n in self._errors(inputs, tf.constant(grids))] for inputs, _ in self.batches]
        return np.average(np.array(found).reshape(len(sizes), -1), axis=0, weights=sizes)

    def walk(self, inputs: Any, at_site: Any) -> Any:
        """The outputs, `at_site(number, values)` in place of the values at each site."""
        if not graph.is_graph(self.model):
            return self.model(inputs, training=False)

        def visit(call: graph.Call) -> Any:
            operation = call.operation
            if isinstance(operation, QuantizeActivation):
                number = self._numbers.get(id(operation))
                return call.args[0] if number is None else at_site(number, call.args[0])
            # Called without a word of training, augmentations would begin.
            return call.args[0] if type(operation).__name__ in INFERENCE_IDENTITY else call.run()

        return graph.Rebuild(visit, flat=True).run(self.model, inputs, "", 0)

    def _in_order(self, x: Any) -> Any:
        if not graph.is_graph(self.model):
            made = tree.map_structure(tf.convert_to_tensor, x)
            arrays = [np.asarray(each) for each in tree.flatten(made)]
            check_finite(arrays, [f"input {number}" for number in range(len(arrays))])
            return made
        specs = input_specs(self.model)
        arrays = in_order(x, specs)
        check_finite(arrays, [f"input {spec.name!r}" for spec in specs])
        return [tf.cast(array, t.dtype) for array, t in zip(arrays, self.model.inputs, strict=True)]

    def _observed(self) -> tuple[list[list[Array]], Array]:
        @tf.function(reduce_retracing=True, autograph=False)
        def observe(inputs: Any) -> Any:
            ends: dict[int, list[Any]] = {}

            def at_site(number: int, values: Any) -> Any:
                ends.setdefault(number, []).append(finite_extremes(tf.cast(values, "float32"))[:2])
                return values

            outputs = self.walk(inputs, at_site)
            lows = [tf.reduce_min([low for low, _ in ends[n]]) for n in range(len(self.sites))]
            highs = [tf.reduce_max([high for _, high in ends[n]]) for n in range(len(self.sites))]
            return outputs, lows, highs

        found = [observe(inputs) for inputs, _ in self.batches]
        outputs = [[np.asarray(each) for each in tree.flatten(made)] for made, _, _ in found]
        lows = np.array([[float(n) for n in low] for _, low, _ in found]).min(0)
        highs = np.array([[float(n) for n in high] for _, _, high in found]).max(0)
        empty = [site.root for site, low, high in zip(self.sites, lows, highs, strict=True) if low > high]
        if empty:
            raise ValueError(f"Expected data that give finite values. Received: none that is finite at {empty[:10]}")
        if any(np.isnan(each).any() for made in outputs for each in made):
            raise ValueError("Expected data that give outputs which are numbers. Received: NaN")
        return outputs, np.stack([lows, highs], axis=1).astype(np.float32)

    def _grid(self, number: int, bits: int | None) -> tuple[float, ...]:
        if bits is None:
            return (1.0, 0.0, 0.0, 0.0, 0.0)
        spec = MeasuredRange(bits).spec
        low, high = self.extremes[number]
        scale, zero_point = affine.affine_parameters(low, high, spec)
        return (float(scale), float(zero_point), spec.minimum, spec.maximum, 1.0)

    def _of_grids(self, inputs: Any, grids: Any) -> Any:
        return self.walk(inputs, lambda number, values: _on_grid(values, grids[number]))

    def _errors_of_grids(self, inputs: Any, grids: Any) -> Any:
        found: dict[int, Any] = {}

        def at_site(number: int, values: Any) -> Any:
            error = tf.reduce_mean(tf.square(tf.cast(values - _on_grid(values, grids[number]), "float32")))
            found.setdefault(number, error)
            return values

        self.walk(inputs, at_site)
        return [found[number] for number in range(len(self.sites))]


def _on_grid(values: Any, grid: Any) -> Any:
    """Values on a grid of `BitProbe.grids`, or as they are where its switch is off."""
    scale, zero_point, low, high, on = tf.unstack(grid)

    def rounded(x: Any) -> Any:
        return affine.dequantize(tf.clip_by_value(tf.round(x / scale) + zero_point, low, high), scale, zero_point)

    return tf.cond(on > 0, lambda: in_float32(rounded, values), lambda: tf.identity(values))


def check_finite(arrays: Sequence[Array], names: Sequence[str]) -> None:
    """Refuse NaN and infinity, which any sum over the data would become.

    Raises:
        ValueError: Naming the array.
    """
    for array, name in zip(arrays, names, strict=True):
        if array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float32)).all():
            raise ValueError(f"Expected finite data and outputs. Received: NaN or infinity in {name}")


def check_float(model: keras.Model) -> None:
    """Refuse a model whose bits were chosen.

    Raises:
        ValueError: Naming a layer that has a quantizer.
    """
    for path, layer in graph.walk(model):
        wrapper = isinstance(layer, Compressed) and any(isinstance(t, WeightQuantizer) for t in layer.transform_list)
        if wrapper or isinstance(layer, QuantizeActivation):
            raise ValueError(
                "Expected a model that is not quantized yet; `kc.strip` gives a plain one. "
                f"Received: {model.name!r} with a quantizer at {path!r}"
            )


def rounded_weight(values: Array, bits: int, channel_axes: tuple[int, ...]) -> Array:
    """A weight on the symmetric grid of `UniformQuantizer`, as real numbers; of 16 bits too.

    Args:
        values: Float weight.
        bits: 2 to 16.
        channel_axes: Axes that have scales of their own; none for one scale.
    """
    spec = affine.QuantSpec(bits=bits, axis=channel_axes)
    values = np.asarray(values, np.float32)
    return np.asarray(affine.fake_quantize(values, affine.symmetric_scale(values, spec), 0.0, spec))


def _pointed(plain: keras.Model) -> tuple[keras.Model, list[Site]]:
    """The model with points, and those whose grid is not the runtime's."""
    if not graph.is_graph(plain):
        return plain, []
    kept: list[tuple[Any, str, Place]] = []

    def make(root: str, place: Place) -> MeasuredRange:
        made = MeasuredRange()
        kept.append((made, root, place))
        return made

    model = PlacePoints(make).place(plain)
    known = {id(made): (root, place) for made, root, place in kept}
    points = [layer for _, layer in graph.walk(model) if isinstance(layer, QuantizeActivation)]
    found = [(layer, *known[id(layer.quantizer)]) for layer in points if id(layer.quantizer) in known]
    return model, [Site(root, place is Place.MEAN, layer) for layer, root, place in found]


def output_noise(outputs: list[Array], reference: list[Array]) -> Array:
    """Sums of squares of each output's noise and of its signal, shape (outputs, 2)."""
    return np.array(
        [
            (np.square(np.float64(made) - np.float64(real)).sum(), np.square(np.float64(real)).sum())
            for made, real in zip(outputs, reference, strict=True)
        ]
    )
