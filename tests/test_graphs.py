"""Random graphs: each is converted as well as TensorFlow's own quantization does it, or refused by name."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tests_graph_kinds import KINDS
from tests_graph_known import known
from tests_graph_oracle import _verdict, sorted_out
from tests_graph_strategies import PROFILE, graph, graphs, shape_of
from tests_graph_trials import TRIALS
from tests_graphs import Built, Description, build, code, data, names_of, smaller, smallest

GRAPHS, CHAINS = 40, 3
# Graphs with channels that can go.
SURGERIES = (5, 8, 14, 16, 17, 19)
# One in so many is compared with TensorFlow's files at once; of the others those that the rounded Keras model beats.
COMPARED = 4
pytestmark = pytest.mark.filterwarnings("ignore")


def _holds(description: Description, trial: str, **options: Any) -> None:
    finding = TRIALS[trial](description, **options)
    reason = known(finding.kind, description)
    if not finding.sound and not reason:
        pytest.fail(f"{finding.kind}\n{finding.detail}\n{finding.db}\n\n{code(description)}", pytrace=False)


@pytest.mark.parametrize("number", range(GRAPHS))
def test_a_graph_converts_as_well_as_with_tensorflow_or_is_refused_by_name(number: int) -> None:
    _holds(graph(number), "convert", compare=number % COMPARED == 0)


@pytest.mark.parametrize("number", range(CHAINS))
def test_a_graph_goes_through_pruning_clustering_quantization_and_a_file(number: int) -> None:
    _holds(graph(number), "chain")


@pytest.mark.parametrize("number", SURGERIES)
def test_masked_channels_can_be_cut(number: int) -> None:
    _holds(graph(number), "surgery")


@hypothesis.settings(PROFILE, max_examples=30)
@hypothesis.given(graphs())
def test_what_is_drawn_can_be_built(description: Description) -> None:
    model, x = build(description), data(description, 2)
    assert [tensor.name for tensor in model.inputs] == list(x)
    assert not {"seed"} & {key for node in description[1:] for key in node}


@hypothesis.settings(PROFILE, max_examples=3)
@hypothesis.given(st.data())
def test_every_kind_can_be_built(choices: st.DataObject) -> None:
    shapes = {1: (6,), 2: (5, 4), 3: (6, 5, 4), 4: (3, 4, 4, 2)}
    for kind in KINDS:
        for rank in kind.ranks:
            node = kind.settings(choices.draw, shapes[rank])
            of = [0] if kind.partner is None else [0, 0]
            description = [{"input": shapes[rank]}, {**node, "of": of}]
            found = shape_of(description[1], [shapes[rank] for _ in of])
            assert Built(description).tensors[-1].shape == (None, *found), node


def test_a_seed_gives_one_graph_with_one_set_of_weights() -> None:
    first, second = (build(graph(3)) for _ in range(2))
    assert graph(3) == graph(3) != graph(4)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_description_is_code() -> None:
    found: dict[str, Any] = {}
    exec(code(graph(3)), found)
    assert found["graph"] == graph(3)
    assert found["model"].count_params() == build(graph(3)).count_params()


def test_the_smallest_graph_still_fails_and_has_nothing_to_leave_out() -> None:
    description: Description = [
        {"input": (6, 4), "scale": 10.0, "seed": 5},
        {"layer": "Dense", "with": {"units": 4, "activation": "relu"}, "of": [0]},
        {"layer": "Softmax", "with": {}, "of": [1]},
        {"layer": "Add", "with": {}, "of": [2, 1]},
        {"layer": "Flatten", "with": {}, "of": [3]},
    ]
    found = smallest(description, lambda graph: "Softmax" in names_of(graph))
    assert found == [{"input": (6, 4), "seed": 5}, {"layer": "Softmax", "with": {}, "of": [0]}]
    assert all(graph == found or "Softmax" not in names_of(graph) for graph in smaller(found))


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"ours": 29.1, "rounded": 40.0, "tensorflow": 30.0}, "ok"),
        ({"ours": 28.9, "rounded": 40.0, "tensorflow": 30.0}, "loss"),
        ({"ours": 28.9, "rounded": 29.8, "tensorflow": 30.0}, "ill"),
        ({"ours": 2.0, "rounded": 40.0, "tensorflow": 9.0}, "ill"),
        ({"ours": 46.0, "rounded": 60.0, "tensorflow": 60.0}, "ok"),
        ({"ours": 28.0, "rounded": 35.0, "mixed": 60.0}, "ok"),
        ({"ours": 26.0, "rounded": 35.0, "mixed": 60.0}, "loss"),
        ({"ours": 26.0, "rounded": 35.0, "mixed": 26.5}, "ok"),
        ({"ours": 26.0, "rounded": 35.0}, "loss"),
        ({"ours": 40.0, "rounded": 35.0, "float": 20.0}, "float"),
    ],
)
def test_the_verdict_on_one_output(row: dict[str, float], verdict: str) -> None:
    assert _verdict(row) == verdict


def test_a_known_fault_hides_no_other() -> None:
    saturated = "verify: VerificationError: at most N step and N%. Received: N steps, N, first at <gru> on reference"
    wide: Description = [{"input": (7, 2), "scale": 10.0}, {"layer": "GRU", "with": {"units": 3}, "of": [0]}]
    narrow: Description = [{"input": (7, 2)}, {"layer": "GRU", "with": {"units": 3}, "of": [0]}]
    other: Description = [{"input": (7, 2), "scale": 10.0}, {"layer": "Dense", "with": {"units": 3}, "of": [0]}]
    assert known(saturated, wide)
    assert not known(saturated, narrow)
    assert not known(saturated, other)
    assert not known(saturated.replace("<gru>", "<dense>"), wide)
    assert not known("loss: GRU", wide)


def test_only_refusals_that_name_a_layer_are_refusals() -> None:
    description: Description = [{"input": (4,)}, {"layer": "Dense", "with": {"units": 2}, "of": [0]}]
    messages = {
        "Expected a layer that can be lowered. Received: 'dense_at_1'": "refused",
        "Expected a layer that can be lowered. Received: another": "internal",
        "Expected all weights in the file. Received: none for ['dense_at_1']": "internal",
        "operands of 'dense_at_1' could not be broadcast": "internal",
    }
    for message, status in messages.items():
        assert sorted_out(ValueError(message), description).status == status
    assert sorted_out(KeyError("Expected 'dense_at_1'. Received: 3"), description).status == "internal"
