"""The one place that writes to Keras's record of sub-layers: what this version of Keras must go on doing."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.graph.parts import get_part, owner_of, put_part, sub_layers
from keras_compress.graph.tracker import replace_tracked


class Holder(layers.Layer):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(2)
        self.listed = [layers.Dense(2), (layers.Dense(2), {"key": layers.Dense(2), 3: layers.Dense(2)})]

    def call(self, x):
        for _, layer in sub_layers(self):
            x = layer(x)
        return x


def built_dense() -> layers.Dense:
    layer = layers.Dense(2)
    layer.build((None, 2))
    return layer


def built_holder() -> Holder:
    holder = Holder()
    holder(np.ones((1, 2), np.float32))
    return holder


REFERENCES = [("first",), ("listed", 0), ("listed", 1, 0), ("listed", 1, 1, "key"), ("listed", 1, 1, 3)]


def test_keras_refuses_a_new_sub_layer_of_a_built_layer() -> None:
    """If this fails, Keras has changed its rule, and `replace_tracked` may be simpler."""
    with pytest.raises(ValueError, match="You cannot add new elements of state"):
        built_holder().first = built_dense()


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_sub_layer_is_replaced_in_its_place(reference) -> None:
    holder = built_holder()
    assert [found for found, _ in sub_layers(holder)] == REFERENCES
    position = REFERENCES.index(reference)
    old, new = get_part(holder, reference), built_dense()
    put_part(holder, reference, new)
    assert get_part(holder, reference) is new
    assert [layer is new for layer in holder._flatten_layers(include_self=False)] == [i == position for i in range(5)]
    assert holder.variables[2 * position] is new.kernel
    assert not any(variable is old.kernel for variable in holder.variables)
    with pytest.raises(ValueError, match="You cannot add new elements of state"):
        holder.more = built_dense()


def test_two_places_of_one_layer() -> None:
    holder = built_holder()
    new = built_dense()
    put_part(holder, ("first",), new)
    put_part(holder, ("listed", 0), new)
    assert [layer is new for layer in holder._flatten_layers(include_self=False)].count(True) == 1
    assert len(holder.variables) == 8


def test_references_go_through_layers() -> None:
    class Around(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inside = [Holder()]

    around = Around()
    assert owner_of(around, ("inside", 0, "listed", 1, 0)) == (around.inside[0], ("listed", 1, 0))
    assert get_part(around, ("inside", 0, "first")) is around.inside[0].first
    for missing in (("other",), ("inside", 1), ("inside", 0, "listed", 1, 1, "none"), ("inside",)):
        with pytest.raises(LookupError, match="/".join(map(str, missing))):
            get_part(around, missing)


def test_another_record_of_keras_is_refused() -> None:
    holder = built_holder()
    holder._tracker.config = {}
    with pytest.raises(RuntimeError, match=r"Expected a Keras version .* Received: Keras \d"):
        replace_tracked(holder, holder.first, built_dense())


def test_what_is_not_tracked_is_left_alone() -> None:
    holder = built_holder()
    replace_tracked(holder, built_dense(), built_dense())
    assert len(holder.variables) == 10
    assert isinstance(holder, keras.layers.Layer)
