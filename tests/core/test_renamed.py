"""Arguments that became a part of a value class."""

from __future__ import annotations

import re

import keras
import pytest

import keras_compress as kc
from keras_compress.core.renamed import with_earlier

PLACES = {"sparsities": ("pruning", "sparsities"), "channels": ("pruning", "channels")}


def test_the_same_by_both_names_is_refused():
    parts = {"pruning": kc.Pruning(sparsities=(0.6,))}
    with pytest.raises(ValueError, match="Expected 'sparsities' either by itself or as `sparsities` of `pruning`"):
        with_earlier("f", parts, {"sparsities": (0.5,)}, PLACES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_name_beside_another_field_of_its_part():
    made = with_earlier("f", {"pruning": kc.Pruning(sparsities=(0.6,))}, {"channels": 0.25}, PLACES)
    assert made == {"pruning": kc.Pruning(sparsities=(0.6,), channels=0.25)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_old_names_of_one_part():
    made = with_earlier("f", {"pruning": kc.Pruning()}, {"channels": 0.25, "sparsities": (0.5,)}, PLACES)
    assert made == {"pruning": kc.Pruning(sparsities=(0.5,), channels=0.25)}


@pytest.mark.parametrize(("name", "given"), [("pruning", kc.Clustering()), ("training", {"epochs": 1})])
def test_parts_of_deep_compression_have_their_classes(name, given):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=re.escape(f"Expected `{name}` as kc.{name.capitalize()}(...). Received: ")):
        kc.deep_compression(model, [[0.0, 0.0]], [0], validation_data=([[0.0, 0.0]], [0]), **{name: given})
