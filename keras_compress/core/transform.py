"""`WeightTransform`: the one thing that pruners, clusterers and weight quantizers are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import keras_private, kernels

Tensor = Any
# Stands for the latent weight in what `update` returns.
LATENT: Any = object()


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers: `real = scale * integers`.

    Attributes:
        integers: int8 array in the layer's own layout; int32 where `bits` is more than 8.
        scale: float32 array that broadcasts against `integers` (length 1 on the axes that share a scale).
        bits: Width that the integers fit in.
    """

    integers: NDArray[Any]
    scale: NDArray[np.float32]
    bits: int

    def floats(self) -> NDArray[np.float32]:
        """The real weights, float32."""
        floats: NDArray[np.float32] = np.multiply(self.integers, self.scale, dtype=np.float32, casting="unsafe")
        return floats


class WeightTransform(keras_private.MadeWithoutBuild, keras.layers.Layer):
    """A serialisable, differentiable map from the latent weight to the weight that the layer sees.

    A subclass implements `kernel`, or else `call(weight, training)`, and, where it has state, `create_variables`,
    `initialize` and `update`. It is a Keras layer, so that its variables are trained, saved and distributed like any
    others, and `add_loss` works (inside `call`). It always computes in float32, under mixed precision too.

    Class attributes:
        promises: What holds for its output: `"zeros"` (what it made zero is zero), `"codebook"` or `"channel_codebook"`
            (few distinct values in the tensor, or in each channel), `"grid"` (values on an integer grid), `"channels"`
            (whole channels are zero, in all weights that make them).
        preserves: Promises of transforms before it that its output keeps.
        idempotent: Whether a transformed weight, transformed again, stays as it is.
        trains: Whether training changes the weight behind it; not that of a frozen model.
        draws: Whether training sees weights drawn around those of inference, or softened ones: their gradients differ.
        may_close: Whether training may make zeros of all of a weight, so that the layer depends on its inputs no more.
        ended_by: Call that has to end this transform's phase of the training before anything else is done to the
            model, such as `"kc.cut_masked(model)"`; `None` where there is no such phase.
    """

    promises: frozenset[str] = frozenset()
    preserves: frozenset[str] = frozenset()
    idempotent: bool = True
    trains: bool = True
    draws: bool = False
    may_close: bool = False
    ended_by: str | None = None

    def __init__(self, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable, dtype="float32", autocast=False)
        self._build_arguments: dict[str, Any] | None = None

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples: what the conformance tests try."""
        return [{}]

    @classmethod
    def refuses(cls, shape: Sequence[int]) -> str | None:
        """Why a weight of this shape cannot be given to it, in words, or `None`."""
        return None

    def prepare(self, shape: Sequence[int], channel_axes: Sequence[int], made: Iterable[str] = ()) -> None:
        """Make the variables for one weight.

        Args:
            shape: Shape of the weight.
            channel_axes: Its output-channel axes.
            made: Promises of the transforms before this one in the list.
        """
        if self._build_arguments is not None:
            return
        self._build_arguments = {
            "shape": [int(n) for n in shape],
            "channel_axes": [int(a) for a in channel_axes],
            "made": sorted(made),
        }
        self.create_variables()
        self.built = True

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight this transform was built for."""
        return tuple(self._built_with("shape"))

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Output-channel axes of the weight, non-negative."""
        return tuple(a % len(self.weight_shape) for a in self._built_with("channel_axes"))

    @property
    def made(self) -> frozenset[str]:
        """Promises of the transforms before this one."""
        return frozenset(self._built_with("made"))

    def _built_with(self, key: str) -> Any:
        if self._build_arguments is None:
            raise ValueError(f"Expected a built transform. Received: {self.name}, which no wrapper has built yet.")
        return self._build_arguments[key]

    def create_variables(self) -> None:
        """Make this transform's variables; `weight_shape`, `channel_axes` and `made` are known. None by default."""

    def initialize(self, weight: Tensor) -> None:
        """Set the variables from the weight as the transforms before this one give it. Nothing by default."""

    def is_as_created(self) -> bool:
        """Whether `initialize` has work to do, and all variables still hold nothing but zeros, or nothing but ones."""
        if type(self).initialize is WeightTransform.initialize:
            return False
        values = [np.asarray(variable) for variable in self.variables]
        return all((value == 0).all() or (value == 1).all() for value in values)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        """New values of what gradients do not move, computed once for each training batch, before the forward pass.

        Args:
            weight: The weight as the transforms before this one give it.

        Returns:
            `(variable, new value)` pairs. The wrapper assigns them, once each and outside any condition. The variable
            `LATENT` stands for the latent weight, where the transform is the first of its list; elsewhere that pair is
            left out.
        """
        return []

    def kernel(self) -> kernels.Bound | None:
        """The transform as a pure function and its state, for the wrapper to compile together with its neighbours.

        `None`, the default, for a transform that implements `call` itself.
        """
        return None

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        """The transformed weight, of the same shape."""
        bound = self.kernel()
        if bound is None:
            raise NotImplementedError(f"{type(self).__name__} must implement `kernel()` or `call(weight, training)`.")
        return kernels.run([bound], weight)

    def integer_weight(self, weight: Tensor) -> IntegerWeight | None:
        """The transformed weight as integers and scale, `None` where this transform has no integer grid."""
        return None

    def summary_values(self) -> dict[str, float]:
        """Figures worth a curve in TensorBoard, by name. None by default."""
        return {}

    def pending(self) -> str | None:
        """Why training has not finished this transform's work, in words, or `None`."""
        return None

    def get_build_config(self) -> dict[str, Any] | None:
        if self._build_arguments is None:
            return None
        return {key: list(value) for key, value in self._build_arguments.items()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.prepare(config["shape"], config["channel_axes"], config["made"])

    def build(self, input_shape: Any = None) -> None:
        self._built_with("shape")

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable}


def apply_all(
    transforms: Sequence[WeightTransform],
    weight: Tensor,
    training: bool = False,
    visit: Callable[[WeightTransform, Tensor], Tensor] | None = None,
) -> Tensor:
    """Pass a weight through transforms, those with a kernel as one compiled program.

    Args:
        transforms: In order.
        weight: float32 tensor.
        training: For transforms without a kernel.
        visit: Called with each transform that has an `update` and the weight that comes to it, before it acts; gives
            the weight to go on with.
    """
    waiting: list[kernels.Bound] = []
    for transform in transforms:
        if visit is not None and type(transform).update is not WeightTransform.update:
            weight, waiting = kernels.run(waiting, weight), []
            weight = visit(transform, weight)
        # A subclass may override `call` of a class that has a kernel: then that is what it does.
        bound = transform.kernel() if type(transform).call is WeightTransform.call else None
        if bound is None:
            weight, waiting = transform(kernels.run(waiting, weight), training=training), []
        else:
            waiting.append(bound)
    return kernels.run(waiting, weight)


def check_order(transforms: Sequence[WeightTransform]) -> frozenset[str]:
    """Check that no transform breaks a promise made before it; return the promises that hold at the end.

    Raises:
        ValueError: Naming the pair.
    """
    promised: dict[str, WeightTransform] = {}
    for transform in transforms:
        for promise, earlier in promised.items():
            if promise not in transform.preserves:
                cure = f" Call `{earlier.ended_by}` first." if earlier.ended_by else ""
                raise ValueError(
                    f"Expected transforms that keep each other's promises, in the order prune, cluster, quantize. "
                    f"Received: {type(transform).__name__} after {type(earlier).__name__}, whose {promise!r} it would "
                    f"break.{cure}"
                )
        promised.update({promise: transform for promise in transform.promises if promise not in promised})
    return frozenset(promised)
