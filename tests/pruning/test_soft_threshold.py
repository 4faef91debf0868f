from __future__ import annotations

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc


def test_soft_threshold_by_hand() -> None:
    """g(-1) = 0.268941, g'(-1) = 0.196612."""
    pruner = kc.StrPruner(0.5, initial_s=-1.0)
    wrapper = t.wrapped([[1.0, -0.5], [0.2, -0.3]], pruner)
    weight, of_weight, of_s = t.seen(wrapper, [[1.0, 2.0], [5.0, 4.0]], [pruner.trained])
    np.testing.assert_allclose(weight, [[0.731059, -0.231059], [0.0, -0.031059]], rtol=1e-4)
    assert of_weight.tolist() == [[1.0, 2.0], [0.0, 4.0]]
    # -g' (1 - 2 - 4)
    assert float(of_s) == pytest.approx(0.98306, rel=1e-4)
    loss, gradient = t.penalty(wrapper, [pruner.trained])
    assert (loss, float(gradient)) == (0.25, -0.5)
    assert pruner.summary_values() == {"threshold": pytest.approx(0.268941, rel=1e-5)}


def test_a_layer_in_two_places_is_penalised_once() -> None:
    import keras

    inner = t.wrapped(np.eye(2), kc.StrPruner(0.5, initial_s=-1.0))
    inputs = keras.Input((2,))
    model = keras.Model(inputs, inner(inner(inputs)))
    model(np.ones((1, 2), np.float32), training=True)
    assert [float(loss) for loss in model.losses] == [0.25]
    model(np.ones((1, 2), np.float32))
    assert model.losses == []
