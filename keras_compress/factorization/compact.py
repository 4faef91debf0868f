"""`compact`: convolutions of a trained model become compact ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras

from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.history import kept
from keras_compress.core.registry import lookup, register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.factorization.factorize import replaced
from keras_compress.factorization.forms import KIND
from keras_compress.factorization.record import FactorizationRecord, FactorizedLayer, shown
from keras_compress.factorization.similar import with_similar_channels_together
from keras_compress.factorization.work import Family
from keras_compress.graph.model import check_model
from keras_compress.structured.hashing import refuse_transforms
from keras_compress.structured.opened import opened


class CompactRecord(FactorizationRecord):
    """What `compact` did to a model, kept with it until it is saved.

    Attributes:
        layers: Those that were replaced.
        left: `(path, reason)` of those that were not.
    """

    title: ClassVar[str] = "Compact"

    @staticmethod
    def told(scheme: str, rank: Sequence[int]) -> str:
        return f"{scheme}, {shown(rank)} {lookup(KIND, scheme).counted}"

    def line(self, layer: FactorizedLayer) -> str:
        before, after = layer.macs
        how = self.told(layer.scheme, layer.rank)
        return f"{layer.path}: {how}, {layer.error:.2%} of the energy lost, {before:,} -> {after:,} MACs"


COMPACT = Family(KIND, CompactRecord, "compact", "compact forms")


@register("entry_point")
@global_state_kept()
@rules_take("method", "rank")
def compact(
    model: keras.Model,
    method: str = "auto",
    rank: int | float | None = None,
    *,
    target: Budget | Mapping[Any, float] | None = None,
    reorder: bool = True,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """Replace convolutions of several taps by compact forms that compute nearly the same; then train on.

    Args:
        model: Functional, Sequential or subclassed model without transforms in training.
        method: `"separable"`, `"grouped"`, `"ghost"`, `"shift"`, or `"auto"`: at each layer what loses the least.
        rank: With a method, in place of a target: of `"separable"` the spatial kernels for each input channel, of
            `"grouped"` the number of groups, of `"ghost"` the channels that are made of each; or, in (0, 1), the share
            of the energy to keep.
        target: What the model may cost, a `kc.Budget` or mapping; `{"macs": 0.5}` where layers have no rank either.
            Each layer gives up what costs it least.
        reorder: Whether channels that are alike come to lie next to each other first, which changes nothing else:
            `"ghost"` and `"auto"` by the weights that make them, `"grouped"` by those that read them.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"method"` or `"rank"`.

    Returns:
        A new model, not compiled. The last layer in the place of another has its name, bias and activation. Forms lose
        more than low rank does, and training wins it back, best with the original as a teacher:
        `kc.distill(compact, model)`. `kc.summary` tells each layer's form, the share of its weights' energy that is
        lost, its MACs, and why others were left.

    Raises:
        ValueError: For an unknown method, a rank that a layer cannot have, a rank with `"auto"`, both a rank and a
            target, a target that cannot be kept, or a model without a convolution that can be replaced.

    **Reference**: see each form's class in `keras_compress.factorization`.
    """
    check_model(model)
    refuse_transforms(model)
    if rank is not None and method == "auto":
        raise ValueError(f"Expected a method by its name for `rank`. Received: method='auto', rank={rank!r}")
    model = opened(model)
    if reorder and method in ("auto", "ghost", "grouped"):
        model = with_similar_channels_together(model, "in" if method == "grouped" else "out")
    return replaced(model, COMPACT, method, rank, target, None, 1, filters, rules)


def compact_of(model: keras.Model) -> CompactRecord | None:
    """What `compact` did to a model; `None` where it did nothing, or the model was saved and loaded since."""
    return kept(model, CompactRecord)
