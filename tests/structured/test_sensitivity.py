from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.structured.accuracy import right_ones
from keras_compress.structured.sensitivity import GroupSensitivity

FOUND = kc.Sensitivity(
    "L1",
    0.90,
    (0.25, 0.5, 0.75),
    (
        GroupSensitivity("stem", ("stem", "proj"), 16, (0.89, 0.80, 0.10)),
        GroupSensitivity("block/conv", ("block/conv",), 32, (0.905, 0.88, 0.885)),
        GroupSensitivity("head", ("head",), 8, (0.85, 0.70, 0.20)),
    ),
)


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="a", activation="sigmoid")(inputs)  # not 0 where its channel is
    x = layers.BatchNormalization()(layers.Conv2D(8, 1, name="b", activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4, name="c")(layers.Flatten()(x)))


def data(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(100, 6, 6, 2)).astype(np.float32)
    return x, model.predict(x, verbose=0).argmax(-1)


def test_a_point_is_the_accuracy_of_the_model_cut_there() -> None:
    model = net()
    before = [np.array(v) for v in model.variables]
    x, y = data(model)
    found = kc.sensitivity(model, data=(x, y), ratios=(0.5, 0.25))
    assert [(group.name, group.width) for group in found.groups] == [("a", 8), ("b", 8)]
    assert (found.unpruned, found.tried, found.criterion) == (1.0, (0.25, 0.5), "L1")
    for group, other in zip(found.groups, "ba"):
        for ratio, value in zip(found.tried, group.values):
            pruned = kc.prune_channels(model, ratio, rules=[{"layers": other, "skip": True}])
            assert value == pytest.approx((pruned.predict(x, verbose=0).argmax(-1) == y).mean())
    assert len({value for group in found.groups for value in group.values}) > 1
    for old, variable in zip(before, model.variables):
        np.testing.assert_array_equal(old, np.array(variable))


def test_each_point_is_one_evaluation_of_the_same_model_and_weights_come_back() -> None:
    seen: list[tuple[int, float, float]] = []

    def evaluate(model: keras.Model) -> float:
        a, b = (float(np.abs(np.array(model.get_layer(name).kernel)).sum()) for name in "ab")
        seen.append((id(model), a, b))
        return len(seen)

    # 8 channels: 0.01 removes none, 0.25 and 0.26 both remove two.
    found = kc.sensitivity(net(), evaluate, ratios=(0.01, 0.25, 0.26, 0.5))
    assert found.unpruned == 1
    assert [group.values for group in found.groups] == [(1, 2, 2, 3), (1, 4, 4, 5)]
    assert len({model for model, *_ in seen}) == 1
    whole = seen[0]
    assert [a < whole[1] for _, a, _ in seen] == [False, True, True, False, False]
    # Channels of `a` are read by the kernel of `b`, which is masked with them.
    assert [b < whole[2] for *_, b in seen] == [False, True, True, True, True]
    assert seen[1][1] > seen[2][1]


def test_rules_take_the_largest_ratio_within_the_drop_and_prune() -> None:
    assert FOUND.ratios(max_drop=0.01) == [
        {"layers": "stem", "ratio": 0.25},
        {"layers": "block/conv", "ratio": 0.25},
        {"layers": "head", "skip": True},
    ]
    assert [rule.get("ratio") for rule in FOUND.ratios(0.06)] == [0.25, 0.75, 0.25]
    with pytest.raises(ValueError, match="Expected `max_drop` >= 0"):
        FOUND.ratios(-0.1)
    model = net()
    found = kc.sensitivity(model, lambda model: np.mean(np.array(model.get_layer("b").kernel) != 0), ratios=(0.25, 0.5))
    pruned = kc.prune_channels(model, 0.75, rules=found.ratios(max_drop=0.3))
    # Half of either makes half of the kernel of `b` zero, a quarter a quarter.
    assert [pruned.get_layer(name).kernel.shape[-1] for name in "ab"] == [6, 6]


def test_a_rule_is_about_one_group_where_names_allow() -> None:
    def rules(*groups: tuple[str, ...]) -> list[dict[str, Any]]:
        # The later, the worse.
        found = [GroupSensitivity("+".join(paths), paths, 8, (0.9, 1.0 - i)) for i, paths in enumerate(groups)]
        return kc.Sensitivity("L1", 0.9, (0.25, 0.5), tuple(found)).ratios()

    # `a` makes some channels with `b`, and others alone: what is said of `a` holds for both.
    assert rules(("a", "b"), ("a",)) == [{"layers": "b", "ratio": 0.5}, {"layers": "a", "ratio": 0.25}]
    assert rules(("a", "b"), ("a",), ("b",)) == [{"layers": "a", "ratio": 0.25}, {"layers": "b", "ratio": 0.25}]
    assert [rule["layers"] for rule in rules(("c",), ("in/c",))] == ["re:^c$", "in/c"]


def test_what_is_left_out_is_not_scanned() -> None:
    found = kc.sensitivity(net(), lambda model: 1.0, ratios=[0.5], criterion="random", filters="a")
    assert [group.name for group in found.groups] == ["a"]
    with pytest.raises(ValueError, match="matches none of"):
        kc.sensitivity(net(), lambda model: 1.0, filters="nothing")


def test_saved_and_loaded(tmp_path: Path) -> None:
    FOUND.save(tmp_path / "s.json")
    assert kc.Sensitivity.load(tmp_path / "s.json") == FOUND
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    for text in ("[]", "{}", "no", FOUND.to_json().replace("0.89,", "")):
        with pytest.raises(ValueError, match="Expected JSON that `Sensitivity.to_json` wrote"):
            kc.Sensitivity.from_json(text)


def test_table_and_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "block/conv       32 0.905 0.88 0.885" in str(FOUND)
    figure = FOUND.plot(tmp_path / "s.png", title="Mine")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    (axes,) = figure.get_axes()
    curves = axes.get_lines()[1:]
    assert [list(curve.get_ydata()[:2]) for curve in curves] == [[0.9, 0.89], [0.9, 0.905], [0.9, 0.85]]
    assert [curve.get_label() for curve in curves] == ["stem (16)", "block/conv (32)", "head (8)"]
    assert (axes.get_title(), axes.get_ylabel()) == ("Mine", "metric")
    (tolerated,) = FOUND.plot(max_drop=0.02).get_axes()
    assert [list(line.get_ydata()) for line in tolerated.get_lines()][-1] == pytest.approx([0.88, 0.88])
    assert FOUND.plot(axes) is figure
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="the extra `report`"):
        FOUND.plot()


def test_many_groups_are_a_map() -> None:
    many = kc.Sensitivity(
        "L2", 0.9, (0.5,), tuple(GroupSensitivity(f"g{i}", (f"g{i}",), 8, (i / 100,)) for i in range(40))
    )
    figure = many.plot()
    (axes,) = figure.get_axes()
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"g{i} (8)" for i in range(40)]
    assert [text.get_text() for text in axes.texts][:3] == ["0", "0.01", "0.02"]
    np.testing.assert_allclose(axes.get_images()[0].get_array()[:, 0], 0.9 - np.arange(40) / 100)
    figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Expected `evaluate`, a function `model -> metric`, or `data="),
        ({"evaluate": (1, 2)}, "data go to `data="),
        ({"evaluate": len, "ratios": (0.5, 1.0)}, r"Expected `ratios` in \(0, 1\)"),
        ({"evaluate": len, "ratios": ()}, r"Expected `ratios` in \(0, 1\)"),
        ({"data": np.ones((2, 6, 6, 2), np.float32)}, "Received: no targets"),
        ({"data": []}, "at least one example"),
        ({"evaluate": len, "criterion": "taylor"}, "Taylor needs"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.sensitivity(net(), **arguments)


def test_scores_that_are_not_finite_are_refused() -> None:
    model = net()
    kernel = next(each for each in model.trainable_variables if each.name == "kernel")
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="Expected weights and data that give finite scores. Received: L1 scored"):
        kc.sensitivity(model, lambda each: 1.0)


def test_accuracy_takes_the_usual_forms_of_labels() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]])
    for labels in ([1, 1], [[1], [1]], [[0, 1], [0, 1]]):
        assert right_ones(scores, np.array(labels)).tolist() == [True, False]
    assert right_ones(np.array([[0.7], [0.2]]), np.array([1, 1])).tolist() == [True, False]
    assert right_ones(np.array([[0.7], [0.2]]), np.array([[1], [0]])).tolist() == [True, True]
    # NaN is no class, not even the first.
    assert right_ones(np.array([[np.nan, np.nan], [0.2, 0.7]]), np.array([0, 1])).tolist() == [False, True]
    assert right_ones(np.array([[np.nan], [0.2]]), np.array([0, 0])).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"Received: outputs \(2, 2\), targets \(3,\)"):
        right_ones(scores, np.array([1, 1, 0]))
    with pytest.raises(ValueError, match="Received: 2 outputs"):
        right_ones([scores, scores], np.array([1, 1]))
