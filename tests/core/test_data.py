"""What users hand over, in every form, as arrays in the model's order."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.data import batches
from keras_compress.data import samples as data
from keras_compress.data.samples import InputSpec
from keras_compress.post_training.start import with_ranges

ONE = [InputSpec(("image",), (2,))]
TWO = [InputSpec(("u", "left"), (2,)), InputSpec(("v", "right"), (3,))]
A, B = np.arange(8, dtype="float32").reshape(4, 2), np.arange(12, dtype="float32").reshape(4, 3)


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(2 * index, 2 * index + 2)
        return A[part], B[part]


def test_forms_of_one_input_are_equal() -> None:
    forms = (
        A,
        tf.constant(A),
        [A],
        (A,),
        {"image": A},
        [[A[:1]], [A[1:]]],
        lambda: ([row[None]] for row in A),
        ({"image": A[i : i + 2]} for i in (0, 2)),
        ((A[i : i + 2], np.zeros(2)) for i in (0, 2)),
        tf.data.Dataset.from_tensor_slices(A).batch(3),
        tf.data.Dataset.from_tensor_slices((A, np.zeros(4))).batch(3),
        Batches(),
    )
    for form in forms:
        (found,) = data.samples(form, ONE)
        np.testing.assert_array_equal(found, A)


def test_a_list_of_arrays_is_batches_to_calibrate_and_inputs_to_predict() -> None:
    assert [len(batch[0]) for batch in data.batches_of([A[:1], A[1:]], ONE)] == [1, 3]
    with pytest.raises(ValueError, match="Expected 1 inputs.*Received: 2"):
        data.samples([A, A], [InputSpec(("image",))])


def test_forms_of_two_inputs_are_equal() -> None:
    forms = (
        [A, B],
        (A, B),
        {"v": B, "u": A},
        {"right": B, "left": A},
        [[A[:1], B[:1]], [A[1:], B[1:]]],
        lambda: ((a[None], b[None]) for a, b in zip(A, B)),
        tf.data.Dataset.from_tensor_slices(({"u": A, "v": B}, np.zeros(4))).batch(3),
        {"nested": {"a": A, "b": B}},
    )
    for form in forms:
        for found, wanted in zip(data.samples(form, TWO), (A, B), strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("handed", "message"),
    [
        ([A], "Expected 2 inputs"),
        ({"u": A}, r"inputs \['u', 'v'\]. Received: \['u'\]"),
        ({"u": A, "right": B}, "Expected data for the inputs"),
        ([A, B[:, :2]], r"\(batch, 3\). Received: shape \(4, 2\) in input 'v'"),
        ([A, B[:1]], r"as many samples.*\[4, 1\]"),
        ([A[:0], B[:0]], "empty"),
        (7, "Received: int"),
        ("abc", "Received: str"),
        (iter(()), "Received: none"),
    ],
)
def test_what_does_not_fit_is_named(handed, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.samples(handed, TWO)


def test_inputs_of_a_model_are_known_by_key_and_by_name() -> None:
    left, right = keras.Input((2,), name="left"), keras.Input((3,), batch_size=5, dtype="int32", name="right")
    outputs = keras.layers.Concatenate()([left, keras.ops.cast(right, "float32")])
    with pytest.warns(UserWarning, match="keys in the dict"):
        model = keras.Model({"u": left, "v": right}, outputs)
    first, second = data.input_specs(model)
    assert (first.names, first.shape, first.batch) == (("u", "left"), (2,), None)
    assert (second.names, second.dtype, second.batch) == (("v", "right"), "int32", 5)
    assert data.fixed_batch(model) == 5


def test_a_last_batch_is_filled_with_its_last_sample() -> None:
    (found,) = data.filled([A[:3]], 2)
    np.testing.assert_array_equal(found, A[[0, 1, 2, 2]])
    assert data.filled([A], 4)[0] is A


def test_the_first_batch_of_a_generator_is_seen_without_being_used_up() -> None:
    source = data.peekable((A[i : i + 2], np.zeros(2)) for i in (0, 2))
    np.testing.assert_array_equal(data.first_of(source), A[:2])
    np.testing.assert_array_equal(data.samples(source, ONE)[0], A)
    assert data.first_of(data.peekable(iter(()))) is None
    assert data.first_of(iter([A])) is None  # it would be lost


SEQUENCES = [np.full((1, length, 3), length, "float32") for length in (5, 5, 7, 5)]


def _reads_sequences() -> keras.Model:
    inputs = keras.Input((None, 3), name="words")
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


def test_batches_are_put_together_as_long_as_they_have_one_length() -> None:
    found = [batch[0] for batch in batches.batches(SEQUENCES, _reads_sequences())]
    assert [array.shape for array in found] == [(2, 5, 3), (1, 7, 3), (1, 5, 3)]
    np.testing.assert_array_equal(found[1], SEQUENCES[2])


def test_ranges_of_sequences_of_several_lengths_are_those_of_all() -> None:
    model = with_ranges(kc.quantize_model(_reads_sequences()), SEQUENCES)
    point = next(layer for layer in model.layers if isinstance(layer, kc.QuantizeActivation))
    np.testing.assert_allclose(point.quantizer.range(), (5.0, 7.0))


@pytest.mark.parametrize(
    "read",
    [
        lambda model: batches.first_samples(SEQUENCES, model, 4),
        lambda model: data.samples([[array] for array in SEQUENCES], data.input_specs(model)),
    ],
)
def test_sequences_of_several_lengths_are_no_one_array(read) -> None:
    with pytest.raises(ValueError, match=r"one length.*Received: \(5, 3\) and \(7, 3\) in input 'words'"):
        read(_reads_sequences())


def test_as_many_samples_as_are_wanted_may_have_one_length() -> None:
    assert batches.first_samples(SEQUENCES, _reads_sequences(), 2)[0].shape == (2, 5, 3)
