"""Nothing of a program's own state is changed by what this library does in it, however that ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import keras
import numpy as np

from keras_compress.core import keras_private
from keras_compress.core.deep import deep_graphs
from keras_compress.core.quiet import loggers_kept

# Scopes that Keras keeps open by name. One that cannot be entered (a name that TensorFlow refuses) is never left.
_SCOPES = ("name_scope_stack", "remat_scope_stack", "stateless_scope", "symbolic_scope", "autocast_scope")
_CALLS = ("current_call_ctx", "custom_objects_scope_dict", "safe_mode_saving")
_SEEDS = ("global_random_seed", "global_seed_generator")


@contextmanager
def global_state_kept() -> Iterator[None]:
    """Random states, seeds, Keras's open scopes and log handlers are afterwards as they were before; also a decorator.

    New layers draw their seeds from Python's `random`: without this, a program's own numbers would depend on whether
    it compressed a model before.
    """
    with ExitStack() as stack:
        stack.enter_context(loggers_kept())
        stack.enter_context(deep_graphs())
        for kept in (_keras_attributes, _random_states, _tensorflow_state):
            stack.callback(kept())
        yield


def _keras_attributes() -> Callable[[], None]:
    names = (*_SCOPES, *_CALLS, *_SEEDS)
    values = {name: keras_private.global_attribute(name) for name in names}
    contents = {name: value.copy() for name, value in values.items() if isinstance(value, (list, dict))}

    def restore() -> None:
        for name, value in values.items():
            if value is None and keras_private.global_attribute(name) is None:
                continue
            # The contents are put into a copy: who holds the list that was left behind keeps it as it is.
            keras_private.set_global_attribute(name, contents.get(name, value))

    return restore


def _random_states() -> Callable[[], None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is kept for who uses it)

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002

    return restore


def _tensorflow_state() -> Callable[[], None]:
    return keras_private.TensorflowState().restore


def set_seeds(seed: int, model: keras.Model) -> None:
    """Start all randomness of a training anew: `keras.utils.set_random_seed`, and Dropout and its like in the model.

    Their generators draw a seed when they are made, and no file keeps it: a model that was loaded twice would be
    trained in two ways. Those with a seed of their own begin with it again.
    """
    keras.utils.set_random_seed(seed)
    numbers = random.Random(seed)
    for layer in keras_private.flattened(model):
        for generator, own in keras_private.seed_generators(layer):
            drawn = numbers.randint(1, 10**9)
            generator.state.assign([drawn if own is None else own, 0])
