"""How much a model minds few bits: the weights of each layer and the activations of each point, each alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.signal_to_noise import decibels
from keras_compress.data.examples import Examples
from keras_compress.graph.model import candidates
from keras_compress.pipelines.bit_probe import BitProbe, check_finite, output_noise, rounded_weight
from keras_compress.pipelines.hessian import hutchinson
from keras_compress.structured.accuracy import right_ones
from keras_compress.structured.sensitivity import GroupSensitivity, Scan

BITS = (2, 3, 4, 8, 16)
METHODS = ("accuracy", "sqnr", "hessian")
# Random vectors for each batch.
TRACE_SAMPLES = 8


@dataclass(frozen=True, repr=False)
class BitSensitivity(Scan):
    """What `sensitivity(of="bits")` found: `groups` are weights of layers, `tried` are bits.

    Attributes:
        points: The same of activations, by the layer whose values they are; `width` is how many points it has.
    """

    points: tuple[GroupSensitivity, ...] = ()
    unit: ClassVar[str] = "weights"
    parts: ClassVar[tuple[str, ...]] = ("groups", "points")
    tried_are: ClassVar[str] = "bits"
    begins_at: ClassVar[float | None] = None

    def losses(self) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
        """What each choice of bits costs, for sums over the model: of weights, and of activations.

        Noise over signal of the outputs for `"sqnr"` (noises of several layers add up), the points of accuracy lost
        for `"accuracy"`, the size of the loss's change for `"hessian"`. Never negative.
        """
        of_value = {
            "sqnr": lambda value: 10 ** (-value / 10),
            "accuracy": lambda value: self.unpruned - value,
            # Off a minimum, or by few samples, a trace may be negative: nothing is gained by noise there.
            "hessian": abs,
        }[self.criterion]

        def of(part: Sequence[GroupSensitivity]) -> dict[str, dict[int, float]]:
            return {
                group.name: {int(b): max(of_value(v), 0.0) for b, v in zip(self.tried, group.values, strict=True)}
                for group in part
            }

        return of(self.groups), of(self.points)


@register("sensitivity", "bits")
@global_state_kept()
def bit_sensitivity(
    model: keras.Model,
    evaluate: Callable[[keras.Model], float] | None = None,
    *,
    data: Any = None,
    bits: Sequence[int] = BITS,
    method: str = "auto",
    loss: Any = None,
    filters: Selector | None = None,
    seed: int = 0,
) -> BitSensitivity:
    """How much a model minds few bits: the weights of each layer, and the activations of each point, each alone.

    The model is traced twice, whatever its size: bits and scales are inputs, and weights are rounded outside and
    assigned. Each point costs one pass over the data. Weights have a scale for each output channel, activations the
    range of the data, both as `quantize_model` has them.

    Args:
        model: Built float model; it is not changed.
        evaluate: Not taken: activations are rounded outside of any model that could be handed over.
        data: `x`, `(x, y)`, or batches of them that can be gone through more than once. All are kept in memory.
        bits: Widths to try, 2 to 16.
        method: `"accuracy"` on `(x, y)`; `"sqnr"`, signal to noise of the outputs in dB, the mean of the outputs'
            noises, at most 120; `"hessian"`, minus what the loss is expected to rise by:
            `Tr(H) / n * ||Q(w) - w||^2 / 2`. `"auto"`: accuracy with targets, else SQNR.
        loss: For `"hessian"`: `(y_true, y_pred) -> loss`, or its name; the compiled one by default.
        filters: Layers whose weights are scanned: name, `"re:..."`, `"class:..."`, class or callable.
        seed: Of the Hessian's random vectors.

    Returns:
        The value at each width, the higher the better: `print(result)`, `result.plot("bits.png")`.

    Raises:
        ValueError: Without data, for bits out of range, a model that is quantized, another method, or one that needs
            targets without them; for data, outputs or, for `"hessian"`, derivatives that are not finite.

    **Reference**: Dong et al., "HAWQ-V2: Hessian aware trace-weighted quantization of neural networks" (2020): the
    average trace times the squared error. **Deviations**: one product with the Hessian serves the weights of all
    layers, and one all activations, with independent vectors; the factor 1/2, which makes it the second term of the
    loss's series.
    """
    if evaluate is not None:
        raise ValueError("Expected `data` for of='bits', as x or (x, y). Received: evaluate=" + repr(evaluate))
    tried = checked_bits(bits)
    examples, method = checked_examples(model, data, loss, method)
    return scanned(BitProbe(model, examples), examples, method, tried, filters, seed)


def scanned(
    probe: BitProbe, examples: Examples, method: str, tried: Sequence[int], filters: Selector | None, seed: int
) -> BitSensitivity:
    """As `bit_sensitivity`, of a copy that is there already and of checked arguments."""
    chosen = settings_by_path(candidates(probe.model, quiet=True), {}, filters)
    scan = (_Bends if method == "hessian" else Measured)(probe, method, examples, seed)
    paths, roots = list(chosen), list(dict.fromkeys(site.root for site in probe.sites))
    with ProgressLine("sensitivity", total=(len(paths) + len(roots)) * len(tried)) as line:
        groups = tuple(scan.of_weights(path, tried, line) for path in paths)
        points = tuple(scan.of_points(root, tried, line) for root in roots)
    return BitSensitivity(method, scan.unquantized, tuple(map(float, tried)), groups, points=points)


def checked_bits(bits: Sequence[int]) -> tuple[int, ...]:
    """Widths in ascending order.

    Raises:
        ValueError: For none, or one out of range.
    """
    whole = all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in bits)
    tried = tuple(sorted({int(each) for each in bits})) if whole else ()
    if not tried or not 2 <= tried[0] <= tried[-1] <= 16 or set(tried) & set(range(9, 16)):
        raise ValueError(f"Expected `bits` out of 2 to 8 and 16, at least one. Received: bits={tuple(bits)}")
    return tried


def checked_examples(model: keras.Model, data: Any, loss: Any, method: str) -> tuple[Examples, str]:
    """The data, with a loss where the method needs one, and the method that `"auto"` is.

    Raises:
        ValueError: For another method, or data that it cannot work with.
    """
    if method not in ("auto", *METHODS):
        raise ValueError(f"Expected `method` out of {('auto', *METHODS)}. Received: method={method!r}")
    needs = ("inputs", "targets") if method == "hessian" else ("inputs",)
    examples = Examples.for_model(model, data, loss, needs, f"method {method!r} of bits")
    labelled = next(iter(examples))[1] is not None
    if method == "accuracy" and not labelled:
        raise ValueError("Expected `data=(x, y)` to take the accuracy on, or method='sqnr'. Received: inputs only")
    return examples, ("accuracy" if labelled else "sqnr") if method == "auto" else method


class Measured:
    """Accuracy or output SQNR with one part rounded."""

    def __init__(self, probe: BitProbe, method: str, examples: Examples, seed: int) -> None:
        self.probe, self._method = probe, method
        self._kernels = probe.kernels()
        if method == "sqnr":
            # Infinite logits of masks have classes, but no noise.
            for made in probe.outputs:
                check_finite(made, [f"output {number}, for method 'sqnr'" for number in range(len(made))])
        self.unquantized = self._value(probe.grids({}))

    def of_weights(self, path: str, tried: Sequence[int], line: ProgressLine) -> GroupSensitivity:
        """The value at each width of a layer's weights; the weights are put back."""
        grids, values = self.probe.grids({}), []
        line.describe(path)
        for bits in tried:
            with self.probe.rounded({path: bits}):
                values.append(self._value(grids))
            line.advance()
        size = sum(math.prod(variable.shape) for variable, _ in self._kernels[path])
        return GroupSensitivity(path, (path,), size, tuple(values))

    def of_points(self, root: str, tried: Sequence[int], line: ProgressLine) -> GroupSensitivity:
        """The value at each width of a layer's activations."""
        line.describe(root)
        values = []
        for bits in tried:
            values.append(self._value(self.probe.grids({root: bits})))
            line.advance()
        return GroupSensitivity(root, (root,), _points_of(self.probe, root), tuple(values))

    def loss(self, grids: NDArray[Any]) -> float:
        """Noise over signal of the outputs, or points of accuracy lost, with the weights that the model has now."""
        value = self._value(grids)
        return 10 ** (-value / 10) if self._method == "sqnr" else self.unquantized - value

    def _value(self, grids: NDArray[Any]) -> float:
        if self._method == "sqnr":
            sums = sum(output_noise(made, real) for made, _, real in self.probe.run(grids))
            return mean_decibels(np.asarray(sums))
        right = [right_ones(made[0] if len(made) == 1 else made, targets) for made, targets, _ in self.probe.run(grids)]
        return float(np.concatenate([each.reshape(-1) for each in right]).mean())


def mean_decibels(sums: NDArray[np.float64]) -> float:
    """Signal over the mean noise of several outputs, each beside its own signal; at most 120 dB.

    Args:
        sums: Noise and signal of each output, shape (outputs, 2).

    >>> mean_decibels(np.array([[1.0, 100.0], [3.0, 100.0]]))
    16.989700043360187
    """
    return decibels(1.0, float(np.mean(sums[:, 0] / np.maximum(sums[:, 1], 1e-300))))


class _Bends:
    """What the loss is expected to lose to one part rounded, from its second derivatives."""

    unquantized = 0.0

    def __init__(self, probe: BitProbe, method: str, examples: Examples, seed: int) -> None:
        self.probe = probe
        self._kernels = probe.kernels()
        variables = [variable for kernels in self._kernels.values() for variable, _ in kernels]
        sites = range(len(probe.sites))

        def recorded(watch: Callable[[Any], Any], inputs: Any, targets: Any) -> tuple[Any, list[Any]]:
            values: dict[int, Any] = {}

            def at_site(number: int, tensor: Any) -> Any:
                # A nested model that is called again has its second values behind its first ones.
                if number not in values:
                    values[number] = tensor = watch(tensor)
                return tensor

            watched = [watch(variable.value) for variable in variables]
            outputs = probe.walk(inputs, at_site)
            lost = tf.reduce_mean(examples.loss(targets, outputs))  # type: ignore[misc]
            return lost, watched + [values[n] for n in sites]

        sizes = [len(real[0]) for real in probe.outputs]
        count = len(variables)
        groups = [range(count), range(count, count + len(probe.sites))]
        found = hutchinson(recorded, probe.batches, sizes, TRACE_SAMPLES, seed, groups)
        if not np.isfinite(found).all():
            raise ValueError("Expected a loss with finite second derivatives on the data. Received: NaN or infinity")
        self._traces = {id(v): t / np.prod(v.shape) for v, t in zip(variables, found, strict=False)}
        self._of_sites = found[count:]

    def of_weights(self, path: str, tried: Sequence[int], line: ProgressLine) -> GroupSensitivity:
        """Minus the expected rise of the loss at each width."""
        kernels = [(keras.ops.convert_to_numpy(v), axes, self._traces[id(v)]) for v, axes in self._kernels[path]]
        values = []
        for bits in tried:
            errors = [t * np.square(w - rounded_weight(w, bits, a), dtype=np.float64).sum() for w, a, t in kernels]
            values.append(-0.5 * float(sum(errors)))
            line.advance()
        return GroupSensitivity(path, (path,), sum(weight.size for weight, _, _ in kernels), tuple(values))

    def of_points(self, root: str, tried: Sequence[int], line: ProgressLine) -> GroupSensitivity:
        """The same of a layer's activations: trace and squared error are those of a sample."""
        mine = [n for n, site in enumerate(self.probe.sites) if site.root == root]
        values = []
        for bits in tried:
            errors = self.probe.squared_errors(self.probe.grids({root: bits}))
            values.append(-0.5 * float(sum(errors[n] * self._of_sites[n] for n in mine)))
            line.advance()
        return GroupSensitivity(root, (root,), len(mine), tuple(values))


def _points_of(probe: BitProbe, root: str) -> int:
    return sum(site.root == root for site in probe.sites)
