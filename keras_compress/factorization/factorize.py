"""`factorize`: layers with large weights become plain layers with small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.factorization.choice import Choice
from keras_compress.factorization.work import LOW_RANK, Family, Work, places_of
from keras_compress.graph.finite import check_finite
from keras_compress.graph.model import check_model
from keras_compress.structured.hashing import refuse_transforms
from keras_compress.structured.opened import opened


@register("entry_point")
@global_state_kept()
@rules_take("method", "rank")
def factorize(
    model: keras.Model,
    method: str = "auto",
    rank: int | float | str | Sequence[int] | None = None,
    *,
    target: Budget | Mapping[Any, float] | None = None,
    data: Any = None,
    multiple: int = 8,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """Replace layers by two or three plain layers in a row, of low rank, that compute nearly the same.

    Args:
        model: Functional, Sequential or subclassed model without transforms in training.
        method: `"svd"`, `"spatial"`, `"tucker"`, `"cp"`, `"tensor_train"`, or `"auto"`: of the first three what loses
            the least at each layer.
        rank: The rank of every layer (a number >= 1, or one for each side in Tucker-2), the share of the energy to keep
            (in (0, 1)), or `"evbmf"`, what is more than noise in each weight. In place of a target.
        target: What the model may cost, a `kc.Budget` or mapping; `{"macs": 0.5}` where layers have no rank either.
            Each layer gives up what costs it least.
        data: Representative inputs, see `kc.convert`: errors are then those of the layers' outputs on them, where
            `"svd"` is used; without data those of the weights.
        multiple: Ranks are multiples of it, as kernels like them; of layers with less room, any. Not of ranks given.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"method"` or `"rank"`.

    Returns:
        A new model, not compiled: train it on, quantize it, convert it. The last layer of each row has the name, bias
        and activation of the layer that it stands for; the others are called after it. `kc.summary` says what was done.
        Prune channels before, weights after. Of an LSTM, GRU or SimpleRNN, in a Bidirectional too, the input kernel is
        factorized by `"svd"`; the recurrent one stays.

    Raises:
        ValueError: For an unknown method, a rank below 1 or above the full one, both a rank and a target, a target that
            cannot be kept, data that do not fit, or a model without a layer that can be factorized.

    **Reference**: see each method's class in `keras_compress.factorization`.
    """
    check_model(model)
    refuse_transforms(model)
    return replaced(opened(model), LOW_RANK, method, rank, target, data, multiple, filters, rules)


def replaced(
    model: keras.Model,
    family: Family,
    method: str,
    rank: Any,
    target: Budget | Mapping[Any, float] | None,
    data: Any,
    multiple: int,
    filters: Selector | None,
    rules: Sequence[Mapping[str, Any]] | None,
) -> keras.Model:
    """The model of given ranks, or of those that keep a target; arguments as in `factorize`.

    Args:
        model: Model with a graph, without transforms.
        family: The ways to choose from.
    """
    check_finite(model)
    if rank is not None and target is not None:
        raise ValueError(f"Expected a `rank` or a `target`. Received: both, rank={rank}, target={target}")
    if not isinstance(multiple, int) or isinstance(multiple, bool) or multiple < 1:
        raise ValueError(f"Expected `multiple` >= 1. Received: multiple={multiple!r}")
    places = places_of(model)
    listed = [(path, place.layer) for path, place in places.items()]
    settings = settings_by_path(listed, {"method": method, "rank": rank}, filters, rules)
    work = Work.of(model, {path: places[path] for path in places if path in settings}, settings, data, family)
    own = {path: each["rank"] for path, each in settings.items() if each["rank"] is not None}
    if rank is None and target is None and not own.keys() >= work.factors.keys():
        target = {"macs": 0.5}
    if target is None:
        return work.built(work.at(own, multiple))
    fixed = work.at(own, multiple)
    menus = {path: [fixed[path]] if path in own else work.menu(path, multiple) for path in work.factors}
    return work.built(Choice(model, Budget.of(target), menus, work.rebuilt, family.what).found())
