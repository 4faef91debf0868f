from __future__ import annotations

import keras
import pytest

from keras_compress.core.selection import select, settings_by_path

NAMES = ["stem", "encoder/conv1", "encoder/conv2", "logits"]


@pytest.fixture
def candidates() -> list[tuple[str, keras.layers.Layer]]:
    made = [keras.layers.Conv2D(4, 3, name=n.split("/")[-1]) for n in NAMES[:-1]]
    made.append(keras.layers.Dense(2, name="logits"))
    return list(zip(NAMES, made))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("stem", {"stem"}),
        ("conv1", {"encoder/conv1"}),
        ("encoder/conv1", {"encoder/conv1"}),
        ("re:conv[12]$", {"encoder/conv1", "encoder/conv2"}),
        ("re:^encoder/", {"encoder/conv1", "encoder/conv2"}),
        ("class:Dense", {"logits"}),
        ("class:BaseConv", {"stem", "encoder/conv1", "encoder/conv2"}),
        (keras.layers.Dense, {"logits"}),
        ("first", {"stem"}),
        ("last", {"logits"}),
        (lambda layer: getattr(layer, "filters", 0) == 4, {"stem", "encoder/conv1", "encoder/conv2"}),
        (["first", "last"], {"stem", "logits"}),
    ],
)
def test_select(selector, expected: set[str], candidates) -> None:
    assert select(selector, candidates) == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("con", r"Received: 'con', which matches none of \['stem'"),
        ("re:^conv", "matches none"),
        ("class:Dens", "matches none"),
        (keras.layers.LSTM, "matches none"),
        (lambda layer: False, "matches none"),
        ([], "matches none"),
        (["first", "nothing"], "Received: 'nothing'"),
        ("re:(", "Expected a regular expression after 're:'"),
        (7, "Received: 7 of type int"),
    ],
)
def test_select_refuses(selector, message: str, candidates) -> None:
    with pytest.raises(ValueError, match=message):
        select(selector, candidates)


def test_an_optional_rule_may_match_nothing(candidates) -> None:
    none, some = ({"layers": layers, "bits": 2, "optional": True} for layers in ("re:nowhere", ["nowhere", "conv1"]))
    found = settings_by_path(candidates, {"bits": 8}, None, [none, some])
    assert [found[name]["bits"] for name in NAMES] == [8, 2, 8, 8]
    for rule in ({**none, "optional": False}, {"layers": "re:nowhere", "bits": 2}):
        with pytest.raises(ValueError, match="Expected a rule that matches.*Received: 're:nowhere'"):
            settings_by_path(candidates, {"bits": 8}, None, [rule])


def test_rules_override_in_order(candidates) -> None:
    rules = [
        {"layers": "re:conv", "bits": 4},
        {"layers": "encoder/conv2", "bits": 2},
        {"layers": "first", "skip": True},
    ]
    assert settings_by_path(candidates, {"bits": 8, "mode": "a"}, None, rules) == {
        "encoder/conv1": {"bits": 4, "mode": "a"},
        "encoder/conv2": {"bits": 2, "mode": "a"},
        "logits": {"bits": 8, "mode": "a"},
    }


def test_filters_and_rules_together(candidates) -> None:
    chosen = settings_by_path(candidates, {"bits": 8}, "re:encoder", [{"layers": "conv1", "bits": 3}])
    assert chosen == {"encoder/conv1": {"bits": 3}, "encoder/conv2": {"bits": 8}}


@pytest.mark.parametrize("rule", [{"bits": 4}, {"layers": "first", "bitz": 4}, {"layers": "nothing", "bits": 4}])
def test_bad_rules(rule: dict, candidates) -> None:
    with pytest.raises(ValueError, match="Expected a rule"):
        settings_by_path(candidates, {"bits": 8}, None, [rule])
