"""Pure functions with gradients of their own, compiled with XLA, neighbours together.

A step of a small model spends its time on starting clusters and on passes over memory, not on arithmetic. So the
wrapper compiles what follows one another in a list of transforms into one cluster forward and one backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_compress.core.ste import compiled

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
    """

    forward: Callable[..., Tensor]
    weight_gradient: Callable[..., Tensor] | None = None
    state_gradients: Callable[..., tuple[Tensor | None, ...]] | None = None
    compile_alone: bool = True


# A kernel and the tensors that are its state now.
Bound = tuple[Kernel, tuple[Tensor, ...]]


def run(bound: Sequence[Bound], weight: Tensor) -> Tensor:
    """Pass a weight through kernels, one after the other, in one compiled program.

    >>> double = Kernel(lambda weight, factor: weight * factor)
    >>> run([(double, (tf.constant(2.0),)), (double, (tf.constant(3.0),))], tf.constant([1.0, -1.0])).numpy().tolist()
    [6.0, -6.0]
    """
    if not bound:
        return weight
    kernels = tuple(kernel for kernel, _ in bound)
    forward, backward = _programs(kernels, tuple(len(state) for _, state in bound))

    @tf.custom_gradient
    def apply(inner: Tensor, *state: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        return forward(inner, *state), lambda upstream: _gradients(kernels, bound, backward, upstream, inner, state)

    return apply(weight, *(tensor for _, state in bound for tensor in state))


def _gradients(
    kernels: Sequence[Kernel],
    bound: Sequence[Bound],
    backward: Callable[..., list[Tensor | None]],
    upstream: Tensor,
    weight: Tensor,
    state: Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradient of the weight, then of each tensor of the states, `None` for those that are not trained."""
    masked = any(kernel.weight_gradient for kernel in kernels)
    trained = any(kernel.state_gradients for kernel in kernels)
    computed = list(backward(upstream, weight, *state)) if masked or trained else []
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

    def values(weight: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        found = [weight]
        for i, kernel in enumerate(kernels):
            found.append(kernel.forward(found[-1], *state[starts[i] : starts[i + 1]]))
        return found

    def forward(weight: Tensor, *state: Tensor) -> Tensor:
        return values(weight, state)[-1]

    def backward(upstream: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor | None]:
        inputs = values(weight, state)
        of_states: list[Tensor | None] = []
        for i in reversed(range(len(kernels))):
            kernel, own = kernels[i], state[starts[i] : starts[i + 1]]
            if kernel.state_gradients:
                of_states[:0] = kernel.state_gradients(upstream, inputs[i], *own)
            if kernel.weight_gradient:
                upstream = kernel.weight_gradient(upstream, inputs[i], *own)
        return [upstream, *of_states] if any(kernel.weight_gradient for kernel in kernels) else of_states

    if len(kernels) == 1 and not kernels[0].compile_alone:
        return forward, backward
    return compiled(forward), compiled(backward)
