"""Graphs of more layers in a row than Python's usual limit of nested calls."""

import sys
import threading

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.core.deep import deep_graphs
from keras_compress.core.global_state import global_state_kept


def chain(length: int) -> keras.Model:
    inputs = tensor = keras.Input((2,))
    for _ in range(length):
        tensor = keras.ops.negative(tensor)
    return keras.Model(inputs, tensor)


def test_entry_points_have_room_for_thousands_of_layers():
    with pytest.raises(RecursionError):
        chain(1500)
    before = sys.getrecursionlimit()
    with global_state_kept():
        model = chain(1500)
    assert sys.getrecursionlimit() == before
    assert model.count_params() == 0
    assert kc.strip(model)(np.ones((1, 2))).numpy().tolist() == [[1.0, 1.0]]


def test_the_limit_is_back_when_the_last_thread_is_done():
    before, inside, finish = sys.getrecursionlimit(), threading.Event(), threading.Event()

    def work() -> None:
        with deep_graphs():
            inside.set()
            finish.wait(10)

    thread = threading.Thread(target=work)
    with deep_graphs():
        thread.start()
        inside.wait(10)
    assert sys.getrecursionlimit() > before  # the thread still needs it
    finish.set()
    thread.join()
    assert sys.getrecursionlimit() == before
