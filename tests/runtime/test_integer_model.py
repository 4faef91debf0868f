"""The NumPy model of the kernels, against the kernels and against literal numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.runtime import integer_model
from keras_compress.runtime.kernels import runner_of
from keras_compress.tflite import multiplier
from keras_compress.tflite.segments import Segments


def pieces(artifact: kc.Artifact) -> dict[str, bytes]:
    """The operators between points as files, by the name of their point."""
    file, tensors = Segments(artifact.content), set(artifact.points.values())
    found = {}
    for point, tensor in artifact.points.items():
        names = file.inputs_of(tensor, tensors)
        if len(names) == 1 and names != [tensor] and names[0] in tensors:
            found[point], _ = file.extract(names, [tensor])
    return found


def small_net(activation: str = "relu") -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((9, 8, 5)),
            layers.Conv2D(7, 3, strides=2, padding="same", activation=activation, name="conv"),
            layers.DepthwiseConv2D((3, 2), padding="same", depth_multiplier=2, name="depthwise"),
            layers.Conv2D(6, 2, dilation_rate=2, activation="relu6", name="dilated"),
            layers.Flatten(name="flat"),
            layers.Dense(11, name="dense"),
        ]
    )


@pytest.fixture(scope="module")
def artifact() -> kc.Artifact:
    x = np.random.default_rng(0).normal(size=(50, 9, 8, 5)).astype(np.float32)
    return kc.convert(small_net(), "tflm", representative_dataset=x)


@pytest.mark.parametrize("kernel", ["tflm", "reference"])
def test_it_is_what_the_kernels_compute(artifact, kernel: str) -> None:
    tried = []
    for point, content in pieces(artifact).items():
        runner = runner_of(kernel)
        spec = runner.describe(content, point).inputs[0]
        integers = np.random.default_rng(1).integers(-128, 128, (300, *spec.sample_shape)).astype(np.int8)
        got = runner.run(content, [integers], point)[0]
        once = kernel == "reference" and point.startswith("dense")
        rounding = multiplier.round_once if once else multiplier.round_twice
        expected = integer_model.run(content, integers, rounding)
        assert len(np.unique(expected)) > 50
        np.testing.assert_array_equal(got, expected, err_msg=point)
        tried.append(point.split("_")[0])
    assert sorted(tried) == ["conv", "dense", "depthwise", "dilated"]


def test_the_two_roundings_differ_on_ties() -> None:
    sums, quarter = np.array([-6, -2, 2, 6]), np.full(4, 0.25)
    assert multiplier.round_twice(sums, quarter).tolist() == [-2, -1, 1, 2]
    assert multiplier.round_once(sums, quarter).tolist() == [-1, 0, 1, 2]


def test_factors_above_one_and_at_powers_of_two() -> None:
    for rounding in (multiplier.round_twice, multiplier.round_once):
        assert rounding(np.array([-7, 5]), np.array([4.0, 1.0])).tolist() == [-28, 5]


def test_another_operator_is_refused(artifact) -> None:
    with pytest.raises(ValueError, match="Expected one operator out of .* Received: 4"):
        integer_model.run(artifact.content, np.zeros((1, 9, 8, 5), np.int8))
