"""How much a model minds what a method takes away, part by part."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras

# They enter their scans into the registry.
from keras_compress.core.registry import lookup
from keras_compress.pipelines import bit_sensitivity as of_bits  # noqa: F401
from keras_compress.pipelines import rank_sensitivity as of_ranks  # noqa: F401
from keras_compress.pipelines import weight_sensitivity as of_weights
from keras_compress.structured.sensitivity import Scan, Sensitivity


def sensitivity(
    model: keras.Model,
    evaluate: Callable[[keras.Model], float] | None = None,
    *,
    of: str = "channels",
    data: Any = None,
    **options: Any,
) -> Scan:
    """How much a model minds the loss of a part: each is taken away alone, by several ratios, or put in few bits.

    Args:
        model: Built model, plain or made by this library; it is not changed.
        evaluate: `evaluate(model)` -> a metric, the higher the better. By default the accuracy on `data`.
        of: What is taken away: `"channels"`, group by group, `"weights"`, the smallest of each layer, or `"bits"`, of
            the weights of each layer and of the activations of each point, or `"ranks"`, of each layer that
            `factorize` can replace.
        data: `(x, y)`, or batches of them that can be gone through more than once: class numbers or one-hot rows. Of
            bits and ranks also `x` alone, which measures the outputs' signal to noise.
        **options: `ratios=` to try, in (0, 1); `filters=`, which layers. Of channels also `criterion=`, which ranks
            them, `loss=` for criteria that need gradients, and `rules=`, exceptions. Of bits `bits=` to try,
            `method=` (`"accuracy"`, `"sqnr"`, `"hessian"`), `loss=` and `seed=` for the last. Of ranks `method=`, how
            layers are factorized.

    Returns:
        The metric at each point: `print(result)`, `result.plot("sensitivity.png")`. Of channels:
        `prune_channels(model, rules=result.ratios(max_drop=0.01))`; of weights: `result.sparsities(0.9)`; of bits:
            `mixed_precision(model, data, sensitivity=result)`; of ranks: `factorize(model, rules=result.ranks(0.01))`.

    Raises:
        ValueError: For another part or option, without a metric, for ratios out of (0, 1), a rule that matches nothing,
            or a model with nothing to take away.

    **Reference**: Li et al., "Pruning filters for efficient ConvNets" (2017), section 3.2; Han et al., "Learning both
    weights and connections for efficient neural networks" (2015), section 3.1; Dong et al., "HAWQ-V2" (2020).
    """
    scan = lookup("sensitivity", of)
    known = list(inspect.signature(scan).parameters)[3:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"Expected options out of {known} for of={of!r}. Received: {', '.join(unknown)}")
    found: Scan = scan(model, evaluate, data=data, **options)
    return found


def weight_sensitivity(
    model: keras.Model, evaluate: Callable[[keras.Model], float] | None = None, **options: Any
) -> Sensitivity:
    """The old name of `sensitivity(model, of="weights")`."""
    warnings.warn(
        "keras_compress.weight_sensitivity(model, ...) is sensitivity(model, ..., of='weights') now.",
        DeprecationWarning,
        stacklevel=2,
    )
    return of_weights.weight_sensitivity(model, evaluate, **options)
