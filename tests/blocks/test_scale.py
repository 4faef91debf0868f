"""Compound scaling: the paper's numbers, budgets kept, the best one found."""

from __future__ import annotations

import keras
import pytest

import keras_compress as kc
from keras_compress.blocks import models, scale


def test_the_papers_constants() -> None:
    paper = scale.Compound()
    assert paper.growth == pytest.approx(1.2 * 1.21 * 1.3225)
    assert paper.at(2.0) == pytest.approx({"depth": 1.44, "width": 1.21, "resolution": 1.3225})
    # 20 pixels become 23; the blocks of each stage go from (1, 2, 2, 2) to (2, 3, 3, 3).
    larger = paper.model(models.efficientnet, 1.0, (20, 20, 1), stem_strides=2)
    assert larger.input_shape == (None, 23, 23, 1)
    assert sum(layer.name.endswith("_depthwise") for layer in larger.layers) == 11


def build(input_shape: tuple[int, int, int], width: float, depth: float) -> keras.Model:
    """One convolution a block: MACs are 9 c c h w for each but the first."""
    x = image = keras.Input(input_shape)
    for _ in range(models.round_repeats(4, depth)):
        x = keras.layers.Conv2D(models.round_channels(10, width, 1), 3, padding="same")(x)
    return keras.Model(image, x)


def test_a_search_keeps_to_the_budget_and_takes_the_best() -> None:
    seen = []

    def score(model: keras.Model) -> float:
        seen.append(kc.Macs().of(model))
        return -abs(model.input_shape[1] - 12)  # the best one has 12 pixels

    # At 1 the network has 100 places of (9 * 10) + 3 * (9 * 100) multiplications: 279,000.
    found = scale.search(build, score, kc.Budget(macs=580_000), input_shape=(10, 10, 1))
    assert found.best == scale.Compound(1.0, 1.2, 1.2)
    assert found.score == 0
    assert len(found.tried) == len(seen)
    assert max(seen) <= 580_000
    assert {c.alpha for c in found.over} | {c.alpha for c, _ in found.tried} == {1.0, 1.4, 2.0}
    assert found.over
    assert "evaluated" in repr(found)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="Expected `beta` >= 1. Received: beta=0.9"):
        scale.Compound(beta=0.9)
    with pytest.raises(ValueError, match="Expected a grid with a point near 2"):
        scale.candidates(0.75, 0.0)
    with pytest.raises(ValueError, match="Expected a budget in figures"):
        scale.search(build, lambda _: 0.0, {"macs": 0.5})
    with pytest.raises(ValueError, match="Expected a budget that one of 6 networks keeps to. Received: 2 MACs"):
        scale.search(build, lambda _: 0.0, {"macs": 2})
    with pytest.raises(ValueError, match="leaves one channel of 10"):
        scale.Compound(1.0, 1.4, 1.0).model(build, -8.0, (28, 28, 1))
    with pytest.raises(ValueError, match="leaves one pixel"):
        scale.Compound(1.0, 1.0, 1.4).model(build, -20.0, (28, 28, 1))
