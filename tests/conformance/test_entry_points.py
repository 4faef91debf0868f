"""What every entry point must do: a model goes in, a new one comes out."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.core import registry

ENTRY_POINTS = registry.entries("entry_point")


@pytest.fixture(params=ENTRY_POINTS)
def entry(request):
    function = ENTRY_POINTS[request.param]
    required = [
        p.name
        for p in list(inspect.signature(function).parameters.values())[1:]
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if required:
        pytest.fail(f"{request.param} needs {required}: give its arguments defaults, so that it is covered here")
    return function


def model_for(entry, bench) -> keras.Model:
    """What an entry point may need; where that is a convolution, with the features as an image."""
    if entry is not kc.compact:
        return bench.normalized()
    made = [
        keras.layers.Reshape((3, 2, 1), name="image"),
        keras.layers.Conv2D(8, 3, padding="same", name="d"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(name="relu"),
        keras.layers.GlobalAveragePooling2D(name="mean"),
        keras.layers.Dense(3, name="e"),
    ]
    return keras.Sequential([keras.Input((6,)), *made])


def test_the_original_stays_and_the_new_model_trains_saves_and_strips(entry, bench, tmp_path, recwarn) -> None:
    plain = model_for(entry, bench)
    before = [np.array(v) for v in plain.variables]
    made = entry(plain)
    assert made is not plain
    bench.fit(made)
    for old, variable in zip(before, plain.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))
    assert not {id(v) for v in plain.variables} & {id(v) for v in made.variables}
    # Those that post-training quantization folds are gone.
    folded = entry is kc.quantize_post_training
    kept = {e.name for e in plain.layers if not (folded and isinstance(e, keras.layers.BatchNormalization))}
    assert kept <= {layer.name for layer in made.layers}
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    outputs = np.array(made(bench.x))
    np.testing.assert_array_equal(outputs, np.array(again(bench.x)))
    np.testing.assert_array_equal(outputs, np.array(kc.strip(made)(bench.x)))
    assert np.abs(outputs).max() > 0
    recwarn.clear()


@pytest.mark.parametrize("bad", ["filters", "rules"])
def test_a_rule_that_matches_nothing_is_an_error(entry, bench, bad: str) -> None:
    value = "re:^nothing$" if bad == "filters" else [{"layers": "nothing", "skip": True}]
    with pytest.raises(ValueError, match="matches none of"):
        entry(bench.normalized(), **{bad: value})


def test_a_rule_with_an_unknown_key_is_an_error(entry, bench) -> None:
    with pytest.raises(ValueError, match=r"Expected a rule with `layers` and any of.*'bitz': 4"):
        entry(bench.normalized(), rules=[{"layers": "first", "bitz": 4}])


def test_something_that_is_no_model_is_an_error(entry) -> None:
    with pytest.raises(TypeError, match="Expected a keras.Model"):
        entry([1, 2, 3])
