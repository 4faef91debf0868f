"""`(x, y)` where only inputs are wanted: it is said, not taken for two batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.data.batches import first_samples
from keras_compress.data.samples import InputSpec, batches_of, samples

ONE = [InputSpec(("image",), (2,))]
TWO = [InputSpec(("u",), (2,)), InputSpec(("v",), (3,))]
A, B = np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32)


@pytest.mark.parametrize("take", [samples, lambda data, inputs: list(batches_of(data, inputs))])
@pytest.mark.parametrize(
    ("handed", "inputs"),
    [
        ((A, np.zeros(4)), ONE),
        ((A, np.zeros((4, 1)), np.ones(4)), ONE),
        # One-hot labels of as many classes as there are features would fit as a batch.
        ((A, np.zeros((4, 2))), ONE),
        (({"image": A}, np.zeros(4)), ONE),
        (([A, B], np.zeros(4)), TWO),
    ],
)
def test_labels_are_refused(take, handed, inputs) -> None:
    with pytest.raises(ValueError, match=r"Expected inputs without labels for \[.*\]: `x`, not `\(x, y\)`; batches go"):
        take(handed, inputs)


@pytest.mark.parametrize(
    ("handed", "inputs"), [((A, B), TWO), ([A, A], ONE), ((A,), ONE), (iter([(A, np.zeros(4))]), ONE)]
)
def test_what_is_no_labels_stays_as_it_was(handed, inputs) -> None:
    assert [len(batch) for batch in batches_of(handed, inputs)] == [len(inputs)] * (
        2 if isinstance(handed, list) else 1
    )


def test_post_training_quantization_says_so() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"Expected inputs without labels .*Received: a tuple of 2"):
        kc.quantize_post_training(model, (A, np.zeros(4)))


def test_first_samples_of_an_iterator_read_no_further_than_needed() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    # Batches of up to 64 are put together out of smaller ones, one of which is read ahead.
    batches = iter([np.full((40, 2), n, np.float32) for n in range(5)])
    (taken,) = first_samples(batches, model, 50)
    assert taken[:, 0].tolist() == [0.0] * 40 + [1.0] * 10
    assert len(list(batches)) == 2
