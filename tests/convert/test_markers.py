"""IDs that survive a conversion."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.convert.markers import Marker, marker_of_scale


def test_symbolically_the_identity():
    x = keras.Input((4, None, 3))
    y = Marker(7)(x)
    assert y.shape == (None, 4, None, 3)
    assert y.dtype == "float32"


def test_traced_a_fake_quantization_whose_step_is_the_id():
    x = np.array([[-400.0, -1.6, 0.0, 4.4, 400.0]], np.float32)
    assert keras.ops.convert_to_numpy(Marker(3)(x)).tolist() == [[-384.0, -3.0, 0.0, 3.0, 381.0]]


def test_round_trip_through_its_config(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, Marker(12, name="m")(x))
    model.save(tmp_path / "marked.keras")
    assert keras.saving.load_model(tmp_path / "marked.keras").get_layer("m").marker_id == 12


@pytest.mark.parametrize("marker_id", [0, -1, 65536, 1.0, True, None])
def test_impossible_ids(marker_id):
    with pytest.raises(ValueError, match="Expected a marker_id in 1..65535"):
        Marker(marker_id)


@pytest.mark.parametrize(
    ("scale", "marker_id"), [(1.0, 1), (4999.9999, 5000), (2.01, None), (0.003, None), (0.0, None)]
)
def test_ids_of_scales(scale, marker_id):
    assert marker_of_scale(scale) == marker_id


def test_large_ids_are_found_again(lab):
    """The step is computed in float32 by the converter: it must still round to the ID."""
    from keras_compress.convert.float_flatbuffer import float_flatbuffer
    from keras_compress.convert.lowering import lower
    from keras_compress.convert.plan import ActivationPoint, LoweringPlan

    ids = (1, 255, 4097, 65535)
    x = y = keras.Input((4,), name="x")
    for number in ids:
        y = Marker(number)(layers.ReLU()(y)) if number > 1 else Marker(number)(y)
    points = {number: ActivationPoint(f"p{number}", 0.5, -3) for number in ids}
    lowered = lower(float_flatbuffer(keras.Model(x, y)), LoweringPlan("int8", "float32", {}, points))
    assert set(lowered.point_tensors) == {"p1", "p255", "p4097", "p65535"}
    assert lab.operators(lowered.content) == ["QUANTIZE", "MUL", "MUL", "MUL", "DEQUANTIZE"]
