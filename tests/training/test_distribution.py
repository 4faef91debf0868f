"""`MirroredStrategy` on two virtual CPU devices, which take a process of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests_shared import made_once
from tests_training import run_python


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    return json.loads((made_once(tmp_path_factory, "two_devices", train_on_two) / "found.json").read_text())


def train_on_two(folder: Path) -> None:
    script = os.path.join(os.path.dirname(__file__), "two_devices.py")
    run = run_python(
        "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')", script, folder, timeout=600
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("net", ["pruned_and_clustered", "quantized", "sparse_from_the_start"])
def test_masks_centroids_ranges_and_slots_are_equal_on_both_replicas(found: dict, net: str) -> None:
    assert found[net]["replicas"] == [2]
    assert found[net]["variables"] > 10
    assert found[net]["replicas_differ"] == []
    assert found[net]["steps"][0] == [8]


def test_two_devices_equal_one_with_the_same_global_batch(found: dict) -> None:
    """But for rounding: what a weight is depends on the sum of gradients only."""
    result = found["pruned_and_clustered"]
    assert result["masks_differ"] == 0
    assert sum(result["kept"]) == round(0.4 * (24 * 24 + 24 * 6))
    assert result["largest_difference"] < 1e-5
    assert result["loss"][0] == pytest.approx(result["loss"][1], rel=1e-4)


def test_exchanges_follow_the_gradient_of_the_whole_batch(found: dict) -> None:
    result = found["sparse_from_the_start"]
    assert result["masks_differ"] == 0
    assert sum(result["kept"]) == round(0.4 * (24 * 24 + 24 * 6))
    assert result["largest_difference"] < 1e-5


def test_two_devices_are_near_one_with_batch_norm_and_ranges(found: dict) -> None:
    """Each replica normalizes with its half of the batch, and ranges are the mean of the halves' extremes."""
    result = found["quantized"]
    assert result["steps"] == [[8], [8]]
    assert result["masks_differ"] <= 0.02 * (216 + 72 + 32)
    assert result["largest_difference"] < 0.5
    assert result["loss"][0] == pytest.approx(result["loss"][1], rel=0.05)


def test_a_loop_of_ones_own_under_the_strategy_equals_fit(found: dict) -> None:
    assert found["own_loop"] < 1e-5


def test_a_model_trained_on_two_devices_is_saved_and_loaded_on_one(found: dict) -> None:
    assert found["saved"]["difference"] < 1e-5
    assert found["saved"]["steps"] == [[8], []]


def test_losses_that_layers_add_count_as_in_the_plain_model(found: dict) -> None:
    plain, wrapped = found["losses"]
    assert wrapped == pytest.approx(plain, rel=1e-5)
    assert plain[1] < plain[0]


@pytest.mark.parametrize("way", ["several_at_once", "xla"])
def test_what_keras_cannot_do_under_the_strategy_fails_alike_with_and_without_wrappers(found: dict, way: str) -> None:
    """`steps_per_execution` and XLA (with a variable that is averaged) fail in TensorFlow 2.21 for any model."""
    plain, ours = found[way]
    assert ours == plain


def test_a_student_learns_the_same_on_two_devices(found: dict) -> None:
    if "taught" not in found:
        pytest.skip("Keras 3.11 has no distiller")
    result = found["taught"]
    assert result["steps"] == [8]
    assert result["largest_difference"] < 1e-5
    for key in ("loss", "distillation_loss"):
        assert result[key][0] == pytest.approx(result[key][1], rel=1e-4)
