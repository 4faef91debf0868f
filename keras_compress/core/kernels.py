"""Pure functions with gradients of their own, compiled with XLA where that pays, neighbours together.

A step of a small model spends its time on starting clusters and on passes over memory, not on arithmetic. So the
wrapper compiles what follows one another in a list of transforms into one cluster forward and one backward.

A program takes some 0.2 s to compile, for each shape anew. Of a small weight that is more than hundreds of steps win
by it, and what runs once, outside of any graph, never wins: these are computed by TensorFlow's operators, wherever the
bits are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_compress.core.ste import compiled, shared

Tensor = Any


@dataclass(frozen=True)
class Kernel:
    """A transform of a weight as a pure function, the same object for the same settings: programs are cached by it.

    Attributes:
        forward: `(weight, *state) -> weight`.
        weight_gradient: `(upstream, weight, *state) -> gradient`; `None` is straight through.
        state_gradients: `(upstream, weight, *state) -> gradients`, one for each tensor of the state, `None` for one
            that is not trained; `None` where none is.
        compile_alone: Whether to compile it where it has no neighbour. Not so for what is a single operation, which
            TensorFlow can do in place.
        exact: Whether `forward` gives the same bits in a compiled program and outside one, as comparisons, divisions
            and roundings do, and sums or exponentials do not. Else it is compiled always.
        any_shape: Whether the functions work on tensors of unknown dimensions: then one trace serves all weights that
            are computed by TensorFlow's operators.
        small: Up to so many elements an exact one is computed by TensorFlow's operators. A program for more is won
            back in some 300 steps, one for less in more.
        prepare: `(*state) -> state` as the functions above take it: what is done to a few numbers once for both
            directions, and stays outside of the programs.
    """

    forward: Callable[..., Tensor]
    weight_gradient: Callable[..., Tensor] | None = None
    state_gradients: Callable[..., tuple[Tensor | None, ...]] | None = None
    compile_alone: bool = True
    exact: bool = False
    any_shape: bool = False
    small: int = 16_384
    prepare: Callable[..., tuple[Tensor, ...]] | None = None


# A kernel and the tensors that are its state now.
Bound = tuple[Kernel, tuple[Tensor, ...]]


def worth_compiling(weight: Tensor, small: int = Kernel.small) -> bool:
    """Whether compiling a program for a weight is won back in a training of a few hundred steps."""
    return not tf.executing_eagerly() and (weight.shape.num_elements() or small + 1) > small


def run(bound: Sequence[Bound], weight: Tensor) -> Tensor:
    """Pass a weight through kernels, one after the other, in one compiled program.

    >>> double = Kernel(lambda weight, factor: weight * factor)
    >>> run([(double, (tf.constant(2.0),)), (double, (tf.constant(3.0),))], tf.constant([1.0, -1.0])).numpy().tolist()
    [6.0, -6.0]
    """
    if not bound:
        return weight

    @tf.custom_gradient
    def apply(inner: Tensor, *state: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        prepared, rest = [], list(state)
        for kernel, own in bound:
            mine, rest = rest[: len(own)], rest[len(own) :]
            prepared.append((kernel, kernel.prepare(*mine) if kernel.prepare else tuple(mine)))
        flat = [tensor for _, own in prepared for tensor in own]
        forward, backward = _programs_for(prepared, inner, flat)
        return forward(inner, *flat), lambda upstream: _gradients(bound, backward, upstream, inner, flat)

    return apply(weight, *(tensor for _, state in bound for tensor in state))


def _programs_for(
    bound: Sequence[Bound], weight: Tensor, state: Sequence[Tensor]
) -> tuple[Callable[..., Tensor], Callable[..., Any]]:
    kernels = tuple(kernel for kernel, _ in bound)
    lengths = tuple(len(own) for _, own in bound)
    if len(kernels) == 1 and not kernels[0].compile_alone:
        return _programs(kernels, lengths)
    small = min(kernel.small for kernel in kernels)
    if worth_compiling(weight, small) or not all(kernel.exact for kernel in kernels):
        return _compiled(kernels, lengths)
    if tf.executing_eagerly() or not all(kernel.any_shape for kernel in kernels):
        return _programs(kernels, lengths)
    return _shared(kernels, lengths, tuple((each.dtype, len(each.shape)) for each in (weight, *state)))


@functools.cache
def _compiled(
    kernels: tuple[Kernel, ...], lengths: tuple[int, ...]
) -> tuple[Callable[..., Tensor], Callable[..., list[Tensor | None]]]:
    forward, backward = _programs(kernels, lengths)
    return compiled(forward), compiled(backward)


@functools.cache
def _shared(
    kernels: tuple[Kernel, ...], lengths: tuple[int, ...], tensors: tuple[tuple[Any, int], ...]
) -> tuple[Callable[..., Tensor], Callable[..., list[Tensor | None]]]:
    forward, backward = _programs(kernels, lengths)
    signature = [tf.TensorSpec([None] * rank, dtype) for dtype, rank in tensors]
    of_shape = shared(signature)(forward)

    def forward_of_shape(weight: Tensor, *state: Tensor) -> Tensor:
        found = of_shape(weight, *state)
        found.set_shape(weight.shape)
        return found

    return forward_of_shape, shared([signature[0], *signature])(backward)


def _gradients(
    bound: Sequence[Bound],
    backward: Callable[..., list[Tensor | None]],
    upstream: Tensor,
    weight: Tensor,
    state: Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradient of the weight, then of each tensor of the states, `None` for those that are not trained."""
    masked = any(kernel.weight_gradient for kernel, _ in bound)
    trained = any(kernel.state_gradients for kernel, _ in bound)
    # The gradient of a table that was looked up in has the rows that were read.
    computed = list(backward(tf.convert_to_tensor(upstream), weight, *state)) if masked or trained else []
    gradients: list[Tensor | None] = [computed.pop(0) if masked else upstream]
    for kernel, own in bound:
        gradients.extend(computed.pop(0) if kernel.state_gradients else None for _ in own)
    return gradients


@functools.cache
def _programs(
    kernels: tuple[Kernel, ...], lengths: tuple[int, ...]
) -> tuple[Callable[..., Tensor], Callable[..., list[Tensor | None]]]:
    """Forward and backward program of a chain. The backward one leaves out what needs no computation."""
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    # What is behind the last kernel with a gradient of its own need not be computed again.
    with_gradients = [i for i, kernel in enumerate(kernels) if kernel.weight_gradient or kernel.state_gradients]
    last = with_gradients[-1] if with_gradients else 0

    def values(weight: Tensor, state: Sequence[Tensor], end: int) -> list[Tensor]:
        found = [weight]
        for i, kernel in enumerate(kernels[:end]):
            found.append(kernel.forward(found[-1], *state[starts[i] : starts[i + 1]]))
        return found

    def forward(weight: Tensor, *state: Tensor) -> Tensor:
        return values(weight, state, len(kernels))[-1]

    def backward(upstream: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor | None]:
        inputs = values(weight, state, last)
        of_states: list[Tensor | None] = []
        for i in reversed(range(last + 1)):
            kernel, own = kernels[i], state[starts[i] : starts[i + 1]]
            if kernel.state_gradients:
                of_states[:0] = kernel.state_gradients(upstream, inputs[i], *own)
            if kernel.weight_gradient:
                upstream = kernel.weight_gradient(upstream, inputs[i], *own)
        return [upstream, *of_states] if any(kernel.weight_gradient for kernel in kernels) else of_states

    return forward, backward
