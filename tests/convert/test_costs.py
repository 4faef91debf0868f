"""Notes where an integer file is expected to be larger or slower than the float file."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert.costs import weights_of


def converted(shape, build, target="litert", **kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    return model, kc.convert(model, target, representative_dataset=x, **kwargs)


def test_unrolled_steps_make_a_file_larger_than_the_float_one():
    model, artifact = converted((24, 4), lambda x: layers.Dense(2)(layers.SimpleRNN(8, name="memory")(x)), "tflm")
    (note,) = [n for n in artifact.notes if "likely more" in n]
    assert note.startswith(f"{len(artifact.content):,} B are likely more than the float32 file's")
    assert "'memory'" in note
    # The reckoning stands the test: the file of TensorFlow's converter is between a half and twice of it.
    reckoned = int(note.split("about ")[1].split(" B")[0].replace(",", ""))
    of_float = len(kc.convert(model, mode="float32").content)
    assert of_float < len(artifact.content)
    assert of_float / 2 < reckoned < 2 * of_float


def test_what_training_needs_besides_is_not_counted_as_weights():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.BatchNormalization()])
    trained = kc.prune_low_magnitude(model, pruning_schedule=kc.ConstantSparsity(0.5, begin_step=0))
    assert trained.count_params() > 72
    assert weights_of(model) == weights_of(trained) == 4 * 8 + 8 + 4 * 8


def test_one_step_is_no_reason():
    notes = converted((1, 4), lambda x: layers.Dense(64)(layers.SimpleRNN(64)(x)))[1].notes
    assert not any("float32" in note for note in notes)


def test_tables_and_batched_products_are_said_where_they_are_many():
    note = converted((12, 12, 1), lambda x: layers.Conv2D(8, 3, activation="elu")(x))[1].notes
    assert len(note) == 1
    assert "1 GATHER" in note[0]
    note = converted((16, 8), lambda x: layers.MultiHeadAttention(2, 4)(x, x))[1].notes
    assert "2 BATCH_MATMUL, 1 SOFTMAX" in note[-1]


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (lambda x: layers.Dense(10, activation="softmax")(layers.Flatten()(layers.Conv2D(8, 3)(x))), {}),
        (lambda x: layers.Conv2D(8, 3, activation="elu")(x), {"target": "tflm"}),
        (lambda x: layers.Conv2D(8, 3, activation="elu")(x), {"mode": "16x8"}),
    ],
    ids=["ten values", "TFLite-Micro", "16 bits"],
)
def test_nothing_is_said_of(build, settings):
    notes = converted((12, 12, 1), build, **settings)[1].notes
    assert not [n for n in notes if "XNNPACK" in n]
