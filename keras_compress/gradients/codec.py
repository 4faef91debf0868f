"""What all codecs of gradients have in common: messages that are checked, and what a worker remembers."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.gradients.message import Reader, Writer, mean, seal, tag_of, unseal

Array = NDArray[np.float32]
# Name of a weight -> its gradient, or the shape of it, in the order in which all workers have them.
Gradients = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class WorkerState:
    """What a worker remembers from step to step.

    Attributes:
        worker: Its index.
        workers: How many there are.
        step: Messages it has made.
        arrays: `"kind/name"` -> what it keeps for a gradient, such as the error that it has not sent yet.
    """

    worker: int = 0
    workers: int = 1
    step: int = 0
    arrays: dict[str, Array] = field(default_factory=dict)


class GradientCodec(ABC):
    """A way to write gradients in few bytes. A subclass implements `write` and `read`, for one gradient at a time.

    The constructor's arguments come back from `get_config`. Workers have to agree on them.

    Attributes:
        remembers: Kinds of arrays that a worker keeps for each gradient, of its shape, zeros at first:
            `state.arrays["kind/name"]`.
        corrects_momentum: Whether momentum is the codec's, and the optimizer should have none.
    """

    remembers: tuple[str, ...] = ()
    corrects_momentum = False

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples."""
        return [{}]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({said})"

    @abstractmethod
    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        """Write one gradient.

        Args:
            name: Its name.
            gradient: float32, finite.
            state: The worker's.
            writer: Gets it.
        """

    @abstractmethod
    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        """The gradient that `write` wrote, float32 of that shape."""

    def write_all(self, gradients: Gradients, state: WorkerState, writer: Writer) -> None:
        """Write all gradients; a codec that looks at them together overrides it, and `read_all`."""
        for name, gradient in gradients.items():
            self.write(name, gradient, state, writer)

    def read_all(self, reader: Reader, shapes: Shapes) -> dict[str, Array]:
        """What `write_all` wrote."""
        return {name: self.read(reader, shape) for name, shape in shapes.items()}

    def start(self, shapes: Shapes, worker: int = 0, workers: int = 1) -> WorkerState:
        """What a worker remembers before its first message.

        Args:
            shapes: Of the gradients.
            worker: Its index, 0 to workers - 1.
            workers: How many there are.
        """
        arrays = {
            f"{kind}/{name}": np.zeros(shape, np.float32) for kind in self.remembers for name, shape in shapes.items()
        }
        return WorkerState(worker, workers, 0, arrays)

    def encode(self, gradients: Gradients, state: WorkerState) -> bytes:
        """The message of a step.

        Args:
            gradients: Name -> gradient, floats that are finite.
            state: The worker's, which goes one step on.

        Raises:
            TypeError: For gradients that are no floats.
            ValueError: For NaN or infinity.
        """
        checked = {name: _checked(name, gradient) for name, gradient in gradients.items()}
        writer = Writer()
        self.write_all(checked, state, writer)
        state.step += 1
        return seal(writer.payload(), self._tag({name: each.shape for name, each in checked.items()}))

    def decode(self, message: bytes, shapes: Shapes, whose: str = "a message") -> dict[str, Array]:
        """The gradients of a message.

        Args:
            message: What `encode` gave.
            shapes: Name -> shape, as `encode` had them, in the same order.
            whose: What the message is called in errors.

        Raises:
            ValueError: For a message that is damaged, or of another codec or other weights.
        """
        reader = Reader(unseal(message, self._tag(shapes), whose))
        found = self.read_all(reader, shapes)
        reader.end()
        return found

    def combine(self, decoded: Sequence[Gradients]) -> dict[str, Array]:
        """One gradient from those of all workers: the mean, added in the order of workers."""
        return {name: mean([each[name] for each in decoded]) for name in decoded[0]}

    def _tag(self, shapes: Shapes) -> int:
        # Names are each process's own: Keras numbers layers as they are made.
        layout = [tuple(shape) for shape in shapes.values()]
        return tag_of(type(self).__name__, sorted(self.get_config().items()), layout)


def random_of(seed: int, state: WorkerState, name: str = "") -> np.random.Generator:
    """Random numbers that depend on seed, worker, step and gradient alone: training that goes on draws the same."""
    return np.random.default_rng([seed, state.worker, state.step, tag_of(name)])


def sizes(shapes: Iterable[tuple[int, ...]]) -> int:
    """Values in all tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def float_bytes(shapes: Shapes) -> int:
    """Bytes of the gradients in float32.

    >>> float_bytes({"kernel": (3, 4), "bias": (4,)})
    64
    """
    return 4 * sizes(shapes.values())


def check_integer(name: str, value: Any, least: int, most: int) -> int:
    """An argument that is an integer.

    Raises:
        ValueError: For anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"Expected `{name}` to be an integer from {least} to {most}. Received: {name}={value!r}")
    return value


def check_number(name: str, value: Any, bound: str, holds: bool) -> float:
    """An argument that is a number within bounds, which `bound` says and `holds` found.

    Raises:
        ValueError: Where it does not hold.
    """
    if not holds:
        raise ValueError(f"Expected {bound}. Received: {name}={value!r}")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether something is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _checked(name: str, gradient: Any) -> Array:
    found = np.asarray(gradient)
    # bfloat16 is no float to NumPy, but can be cast.
    if found.dtype.kind != "f" and found.dtype.name != "bfloat16":
        raise TypeError(f"Expected gradients of floats. Received: {found.dtype.name} for {name!r}")
    found = found.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise ValueError(
            f"Expected finite gradients: lower the learning rate, or clip. Received: NaN or infinity for {name!r}"
        )
    return found
