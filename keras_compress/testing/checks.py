"""Which checks there are for which kind of method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.schedule import Schedule
from keras_compress.core.transform import WeightTransform
from keras_compress.distillation.loss import DistillationLoss
from keras_compress.pruning.criteria.saliency import Saliency
from keras_compress.quantizers.activation import ActivationQuantizer
from keras_compress.structured.criteria.criterion import Criterion
from keras_compress.structured.prune import prune_channels
from keras_compress.testing import (
    activation_quantizers,
    criteria,
    distillation,
    saliencies,
    schedules,
    weight_transforms,
)
from keras_compress.testing.sample import Sample, samples_of

# NumPy 2 says it of each array that is made from a Keras variable: Keras's own `__array__` takes no `copy`.
_OF_KERAS = "__array__ implementation doesn't accept a copy keyword"

CHECKS: dict[type, tuple[Callable[[Sample], None], ...]] = {
    WeightTransform: weight_transforms.CHECKS,
    ActivationQuantizer: activation_quantizers.CHECKS,
    Schedule: schedules.CHECKS,
    Criterion: criteria.CHECKS,
    Saliency: saliencies.CHECKS,
    DistillationLoss: distillation.CHECKS,
}


def checks_of(cls: type) -> tuple[Callable[[Sample], None], ...]:
    """The checks for a class of methods.

    Raises:
        TypeError: For a class of another kind.
    """
    found = [checks for base, checks in CHECKS.items() if isinstance(cls, type) and issubclass(cls, base)]
    if not found:
        known = ", ".join(base.__name__ for base in CHECKS)
        raise TypeError(f"Expected a subclass of {known}. Received: {cls!r}")
    return found[0]


@ignored_warnings(_OF_KERAS)
def check(cls: type, **arguments: Any) -> None:
    """Run everything that a method must do: configuration, saving, training that goes on, gradients, its promises.

    Args:
        cls: A weight transform (pruner, clusterer, weight quantizer), activation quantizer, schedule,
            criterion of channels or of weights, or distillation loss.
        **arguments: Arguments of the constructor; by default those of its classmethod `samples()`, one after the other.

    Raises:
        AssertionError: Naming the class, the arguments and what does not hold.
        TypeError: For a class of another kind.
    """
    checks = checks_of(cls)
    known = keras.saving.get_registered_object(keras.saving.get_registered_name(cls))
    assert known is cls, f"Expected {cls.__name__} to be registered: put `@kc.register(kind)` in front of it"
    for sample in [Sample(cls, arguments)] if arguments else samples_of(cls):
        for each in checks:
            keras.utils.clear_session(free_memory=False)
            each(sample)


@ignored_warnings(_OF_KERAS)
def check_channel_rule(layer: keras.layers.Layer, input_shape: tuple[int, ...], *, removed: int = 3) -> None:
    """Check that channels can be removed in front of a layer, and that the layer says all that depends on them.

    Some channels in front of the layer get weights of zero; the model without them must give the same outputs. So
    the layer has to map channels that are zero to ones that are zero, or to read them.

    Args:
        layer: The layer, not built.
        input_shape: Shape of its input without the batch, channels last, at least 4 of them: `(8,)`, `(6, 6, 8)`.
        removed: How many channels are taken out.

    Raises:
        AssertionError: Where no channel is removed, or outputs differ by more than 1e-5 of their largest.
    """
    channels = input_shape[-1]
    inputs = keras.Input((*input_shape[:-1], 5))
    x = layers.Dense(channels, use_bias=False, name="front")(inputs)
    outputs = layers.Dense(3, name="behind")(layers.Flatten(name="flat")(layer(x)))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    front = rng.normal(size=(5, channels))
    gone = rng.permutation(channels)[:removed]
    front[:, gone] = 0
    model.get_layer("front").kernel.assign(front)
    pruned = prune_channels(model, removed / channels, round_to=1, filters="front")
    kept = np.delete(front, gone, axis=1).astype(np.float32)
    found = np.array(pruned.get_layer("front").kernel)
    assert found.shape[1] < channels, f"{type(layer).__name__}: no channel in front of it is removed"
    np.testing.assert_array_equal(found, kept, err_msg=f"{type(layer).__name__}: another channel was removed")
    x = rng.normal(size=(4, *inputs.shape[1:])).astype(np.float32)
    before, after = np.array(model(x)), np.array(pruned(x))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * float(np.abs(before).max()))
