"""Products with constant weights as Dense layers, products of two tensors as batched matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.expand.activations import with_activation
from keras_compress.convert.expand.arithmetic import as_array, is_constant
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.weights import arranged, default_integers, scaled
from keras_compress.core.transform import IntegerWeight

Tensor = Any


def integers_of(emit: Emitter, value: Any, channel_axes: tuple[int, ...] = (-1,)) -> IntegerWeight:
    """Integers of a constant argument: of the slot it belongs to, or 8 bits."""
    if isinstance(value, keras.Variable):
        return emit.weight(value, channel_axes)
    return default_integers(as_array(value), channel_axes)


def reshaped(emit: Emitter, tensor: Tensor, shape: Sequence[int], name: str = "reshaped") -> Tensor:
    """A tensor in another shape (without the batch); itself where it has that shape."""
    if tuple(tensor.shape[1:]) == tuple(shape):
        return tensor
    return emit.new(keras.layers.Reshape(tuple(shape), name=name), tensor)


def permuted(emit: Emitter, tensor: Tensor, order: Sequence[int], name: str = "permuted") -> Tensor:
    """A tensor with its axes in another order, the batch first; itself where nothing moves."""
    if list(order) == list(range(len(order))):
        return tensor
    return emit.new(keras.layers.Permute(tuple(order[1:]), name=name), tensor)


class Equation:
    """An einsum of a tensor with a constant weight, as a Dense layer between two permutations.

    Args:
        equation: `"abc,cd->abd"`, or with an ellipsis in the input and the output.
        rank: Rank of the input.

    Raises:
        ValueError: For a label that stands in the input, the weight and the output: a product for each index of it,
            which is no Dense layer.
    """

    def __init__(self, equation: str, rank: int) -> None:
        left, self.output = equation.replace(" ", "").split("->")
        self.input, self.weight = left.split(",")
        if "..." in equation:
            spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
            extra = "".join(spare[: rank - len(self.input) + 3])
            self.input, self.output = self.input.replace("...", extra), self.output.replace("...", extra)
        shared = set(self.input) & set(self.weight) & set(self.output)
        if shared:
            raise ValueError(
                f"Expected an einsum whose weight shares only summed axes with its input. Received: {equation!r}, "
                f"which keeps {sorted(shared)}"
            )
        self.summed = [c for c in self.input if c in self.weight]
        self.kept = [c for c in self.input if c not in self.weight]
        self.new = [c for c in self.output if c in self.weight]

    def channel_axes(self) -> tuple[int, ...]:
        """Axes of the weight that are output channels."""
        return tuple(self.weight.index(c) for c in self.new)

    def apply(
        self, emit: Emitter, tensor: Tensor, weight: IntegerWeight, bias: NDArray[Any] | None, name: str = "dense"
    ) -> Tensor:
        """The einsum of a tensor; `bias` broadcasts against the new axes of the output, in the output's order."""
        sizes = {
            **dict(zip(self.input, tensor.shape, strict=True)),
            **dict(zip(self.weight, weight.integers.shape, strict=True)),
        }
        summed, units = _product(sizes, self.summed), _product(sizes, self.new)
        kernel = arranged(
            weight,
            lambda w: np.transpose(w, [self.weight.index(c) for c in (*self.summed, *self.new)]).reshape(summed, units),
        )
        tensor = permuted(emit, tensor, [self.input.index(c) for c in (*self.kept, *self.summed)], f"{name}.order")
        tensor = reshaped(emit, tensor, [*[sizes[c] for c in self.kept[1:]], summed], f"{name}.rows")
        tensor = emit.dense(tensor, kernel, bias, name=name)
        tensor = reshaped(emit, tensor, [sizes[c] for c in (*self.kept[1:], *self.new)], f"{name}.axes")
        made = [*self.kept, *self.new]
        return permuted(emit, tensor, [made.index(c) for c in self.output], f"{name}.restored")


def _product(sizes: dict[str, int], labels: Sequence[str]) -> int:
    return int(np.prod([sizes[c] for c in labels], dtype=np.int64))


def einsum_dense(emit: Emitter, layer: keras.layers.EinsumDense, inputs: Tensor, factor: float = 1.0) -> Tensor:
    """An EinsumDense layer, times a positive number, without its activation."""
    equation = Equation(layer.equation, len(inputs.shape))
    weight = emit.weight(layer.kernel, equation.channel_axes())
    bias = None
    if layer.bias is not None:
        new = [weight.integers.shape[a] for a in equation.channel_axes()]
        bias = np.broadcast_to(_bias_over(equation, as_array(layer.bias)), new).reshape(-1) * np.float32(factor)
    return equation.apply(emit, inputs, scaled(weight, factor), bias)


def _bias_over(equation: Equation, bias: NDArray[Any]) -> NDArray[Any]:
    """A bias that broadcasts against the output, without the axes that the weight does not make."""
    labels = equation.output[len(equation.output) - bias.ndim :]
    kept = tuple(i for i, c in enumerate(labels) if c not in equation.new)
    if any(bias.shape[i] != 1 for i in kept):
        raise ValueError(f"Expected a bias over output channels. Received: shape {bias.shape} for {equation.output!r}")
    return bias.reshape([n for i, n in enumerate(bias.shape) if i not in kept])


class EinsumDense(Expansion):
    """A Dense layer between reshapes."""

    handles: ClassVar[tuple[str, ...]] = ("EinsumDense",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = einsum_dense(emit, operation, args[0])
        return with_activation(emit, operation.activation, outputs)


class Matmul(Expansion):
    """`matmul(x, w)` of a user's layer."""

    # Dot, which is also a layer, is in `keras_compress.convert.expand.merges`.
    handles = ("Matmul",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return len(args) == 2 and any(is_constant(a) for a in args)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        tensor, value = args
        if is_constant(tensor) or len(value.shape) != 2:
            raise ValueError(
                "Expected a tensor times a constant matrix. Received: a constant of shape "
                f"{tuple(getattr(value if is_constant(value) else tensor, 'shape', ()))} in {emit.name('matmul')!r}"
            )
        return emit.dense(tensor, integers_of(emit, value), name="dense")


class Einsum(Expansion):
    """`einsum` with a constant weight, or of two tensors."""

    handles = ("Einsum",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 2:
            raise ValueError(f"Expected an einsum of two tensors. Received: {operation.subscripts!r}")
        first, second = args
        if is_constant(second):
            equation = Equation(operation.subscripts, len(first.shape))
            return equation.apply(emit, first, integers_of(emit, second, equation.channel_axes()), None)
        if is_constant(first):
            left, output = operation.subscripts.split("->")
            swapped = f"{left.split(',')[1]},{left.split(',')[0]}->{output}"
            equation = Equation(swapped, len(second.shape))
            return equation.apply(emit, second, integers_of(emit, first, equation.channel_axes()), None)
        return batched_product(emit, operation.subscripts, first, second)


def batched_product(emit: Emitter, subscripts: str, first: Tensor, second: Tensor, name: str = "product") -> Tensor:
    """An einsum of two tensors as one batched matrix product between permutations.

    Args:
        subscripts: Such as `"btnh,bsnh->bnts"`; the batch is the first label of all three.
    """
    left, output = subscripts.replace(" ", "").split("->")
    one, two = left.split(",")
    sizes = {**dict(zip(one, first.shape, strict=True)), **dict(zip(two, second.shape, strict=True))}
    batch = [c for c in one if c in two and c in output]
    summed = [c for c in one if c in two and c not in output]
    rows, columns = [c for c in one if c not in two], [c for c in two if c not in one]
    if not batch or one[0] != batch[0] or two[0] != batch[0] or output[0] != batch[0]:
        raise ValueError(f"Expected an einsum over samples. Received: {subscripts!r}")
    first = permuted(emit, first, [one.index(c) for c in (*batch, *rows, *summed)], f"{name}.first")
    second = permuted(emit, second, [two.index(c) for c in (*batch, *summed, *columns)], f"{name}.second")
    outer = [sizes[c] for c in batch[1:]]
    first = reshaped(emit, first, [*outer, _product(sizes, rows), _product(sizes, summed)], f"{name}.first_matrix")
    second = reshaped(
        emit, second, [*outer, _product(sizes, summed), _product(sizes, columns)], f"{name}.second_matrix"
    )
    made = emit.new(BatchedMatmul(name=name), [first, second])
    made = reshaped(emit, made, [*outer, *[sizes[c] for c in (*rows, *columns)]], f"{name}.axes")
    order = [*batch, *rows, *columns]
    return permuted(emit, made, [order.index(c) for c in output], f"{name}.restored")


@keras.saving.register_keras_serializable(package="keras_compress")
class BatchedMatmul(keras.layers.Layer):
    """`matmul` of two tensors of one rank: BATCH_MATMUL on the device."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        return ops.matmul(inputs[0], inputs[1])
