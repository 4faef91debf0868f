"""What a way to factorize a layer has to do. One file for each way; the registry finds them by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.factorization.cells import cells_of, input_kernel
from keras_compress.graph.as_matrix import as_matrix
from keras_compress.graph.configuration import configuration

Array = NDArray[Any]
Rank = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """A layer in its model.

    Attributes:
        layer: A plain layer with one kernel, or a recurrent one.
        inputs: Shape of what it reads, the batch included; `None` for sizes that are not known.
        outputs: Shape of what it makes.
        calls: How often a sample runs it.
        others: Shapes of what it reads in other calls, where they differ from `inputs`.
    """

    layer: Any
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    calls: int = 1
    others: tuple[tuple[int | None, ...], ...] = ()

    @property
    def kernel(self) -> Array:
        """Its weight, float64; of a recurrent layer what it reads inputs with."""
        cells = cells_of(self.layer)
        kernel: Array = input_kernel(cells) if cells else keras.ops.convert_to_numpy(self.layer.kernel)
        return kernel.astype(np.float64)

    @property
    def size(self) -> int:
        """How many numbers that weight has."""
        return sum(int(np.prod(each.kernel.shape)) for each in cells_of(self.layer) or [self.layer])

    @property
    def input_positions(self) -> int:
        """Places of the input, without channels."""
        return self.calls * _known(self.inputs[1:-1])

    @property
    def output_positions(self) -> int:
        """Places of the output, without channels."""
        return self.calls * _known(self.outputs[1:-1])

    @property
    def products(self) -> int:
        """How often each weight is multiplied in a sample."""
        if cells_of(self.layer):
            return self.input_positions
        if not isinstance(self.layer, keras.layers.EinsumDense):
            return self.output_positions
        form = as_matrix(self.layer)
        inputs = 1 if form is None else int(form.to_matrix(self.kernel).shape[1])
        return max(1, self.calls * _known(self.inputs[1:]) // inputs)


def _known(sizes: Sequence[int | None]) -> int:
    # Sizes that only data tell count once: what is compared has them in common.
    return math.prod(size or 1 for size in sizes)


@dataclass(frozen=True)
class Option:
    """A layer factorized in one way, or left as it is.

    Attributes:
        scheme: Name of the way; `""` for the layer as it is.
        rank: Its ranks.
        error: Share of the energy that is lost: of the weight, or with data of the layer's outputs, in [0, 1].
        macs: Multiply-accumulates of a sample.
        params: Number of weights, biases not counted.
    """

    scheme: str
    rank: Rank
    error: float
    macs: int
    params: int


class Factors:
    """One layer, factorized in one way at any rank. A subclass implements the methods below.

    Args:
        place: The layer.

    Attributes:
        full: Largest rank, or ranks.

    Class attributes:
        last_takes_arguments: Whether the last layer is called with all that the layer was called with.
    """

    full: Rank
    last_takes_arguments: bool = False

    def __init__(self, place: Place) -> None:
        self._place = place

    def option(self, rank: Rank) -> Option:
        """What a rank costs and loses."""
        raise NotImplementedError(f"{type(self).__name__} must implement `option(rank)`.")

    def arrays(self, rank: Rank) -> list[Array]:
        """The weights of the layers, in Keras's layout, without the bias."""
        raise NotImplementedError(f"{type(self).__name__} must implement `arrays(rank)`.")

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        """The layers, not built yet; the last one with a kernel has the bias, if there is one."""
        raise NotImplementedError(f"{type(self).__name__} must implement `layers(rank)`.")

    def fill(self, layers: Sequence[Any], rank: Rank) -> None:
        """Give the layers, which are built by now, their weights, and the last one the bias."""
        weighted = [layer for layer in layers if getattr(layer, "kernel", None) is not None]
        for layer, array in zip(weighted, self.arrays(rank), strict=True):
            layer.kernel.assign(array.reshape(layer.kernel.shape))
        if getattr(self._place.layer, "bias", None) is not None:
            bias = weighted[-1].bias
            bias.assign(keras.ops.reshape(self._place.layer.bias, bias.shape))

    def merged(self, rank: Rank) -> Array:
        """The weight of the layer as it was, from the factors: what the layers compute together."""
        raise NotImplementedError(f"{type(self).__name__} must implement `merged(rank)`.")

    def ranks(self, multiple: int) -> Iterator[Rank]:
        """Ranks to choose from: multiples, where the layer has room for one."""
        (most,) = self.full
        yield from ((rank,) for rank in multiples(most, multiple))

    def error(self, rank: Rank) -> float:
        """The error of a rank, where an option has a bound of it, that takes longer."""
        return self.option(rank).error

    def of_energy(self, kept: float, multiple: int = 1) -> Rank:
        """The smallest rank that keeps this share of the energy."""
        ranks = list(self.ranks(multiple))
        enough = (rank for rank in ranks if self.option(rank).error <= 1.0 - kept + 1e-12)
        return next(enough, self.full)

    def of_evidence(self) -> Rank:
        """The rank of what is more than noise, at least 1."""
        raise ValueError(f"Expected a method with singular values for rank='evbmf'. Received: {type(self).__name__}")


class Scheme:
    """A way to factorize layers, entered by `@register("factorization", name)`.

    Class attributes:
        chosen_by_itself: Whether `method="auto"` tries it.
        data_aware: Whether it can weigh errors by what the layer reads.
    """

    name: str = ""
    chosen_by_itself: bool = False
    data_aware: bool = False

    def refusal(self, layer: Any) -> str | None:
        """Why a layer cannot be factorized so; `None` where it can."""
        raise NotImplementedError(f"{type(self).__name__} must implement `refusal(layer)`.")

    def refusal_at(self, place: Place) -> str | None:
        """The same of a layer in its place, where what it reads matters too."""
        return self.refusal(place.layer)

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        """The factors of a layer that was not refused.

        Args:
            place: The layer.
            gram: `X^T X` of the rows that its weight is multiplied with, `(groups, inputs, inputs)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `factors(place, gram)`.")


def first_of(layer: Any, suffix: str, **settings: Any) -> Any:
    """A layer of the same class without bias, activation and regularizers, to stand in front."""
    plain: Mapping[str, Any] = {
        "name": f"{layer.name}_{suffix}",
        "use_bias": False,
        "activation": "linear",
        "kernel_regularizer": None,
        "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": None,
        "bias_constraint": None,
    }
    with configuration(layer) as config:
        return type(layer).from_config({**config, **plain, **settings})


def last_of(layer: Any, **settings: Any) -> Any:
    """The layer itself with other settings, and its name, bias and activation."""
    with configuration(layer) as config:
        return type(layer).from_config({**config, **settings})


def is_a(layer: Any, *classes: Any) -> bool:
    """Whether a layer is exactly of one of some classes: a subclass may compute something else."""
    return type(layer) in classes and not getattr(layer, "lora_enabled", False)


def no_taps(layer: Any) -> str | None:
    """Why a layer is no convolution of several taps over all channels; `None` where it is one."""
    if not is_a(layer, keras.layers.Conv2D) or layer.groups != 1 or np.prod(layer.kernel_size) < 2:
        return f"{type(layer).__name__} has no kernel of several taps over all channels"
    return None


def multiples(most: int, multiple: int) -> range:
    """Ranks up to the full one: multiples, where there is room for one, else all.

    >>> list(multiples(20, 8)), list(multiples(3, 8))
    ([8, 16], [1, 2, 3])
    """
    step = multiple if most > multiple else 1
    return range(step, most + 1, step)


def share_lost(merged: Array, kernel: Array) -> float:
    """Share of a weight's energy that is in the difference to what its factors give, at most 1."""
    error = float(np.square(merged - kernel).sum()) / (float(np.square(kernel).sum()) or 1.0)
    return min(error, 1.0)


def singular_values(matrices: Array) -> Array:
    """Descending, of matrices `(..., rows, columns)`.

    From the smaller Gram matrix: many times sooner than a decomposition, and what it blurs, values below 1e-8 of the
    largest, has no energy to speak of.

    >>> singular_values(np.diag([3.0, 4.0])).tolist()
    [4.0, 3.0]
    """
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else np.swapaxes(matrices, -1, -2)
    found: Array = np.sqrt(np.maximum(np.linalg.eigvalsh(wide @ np.swapaxes(wide, -1, -2))[..., ::-1], 0.0))
    return found


def lost(values: Array) -> Array:
    """Share of the energy that is lost at each rank from 0 on, of singular values `(groups, number of them)`."""
    squares = np.square(values).sum(axis=0)
    total = float(squares.sum()) or 1.0
    rest: Array = np.concatenate([np.cumsum(squares[::-1])[::-1], [0.0]]) / total
    return rest
