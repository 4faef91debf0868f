"""What users hand over, in every form, as arrays in the model's order."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.data import samples as data
from keras_compress.data.samples import InputSpec

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
