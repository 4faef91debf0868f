"""Objects that exist before a long call are not searched for garbage, and are afterwards as they were."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from keras_compress.core.garbage import older_objects_apart


@pytest.fixture(autouse=True)
def as_in_other_programs() -> Iterator[None]:
    """None apart at first, as `conftest.py` has it."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_older_objects_are_apart_meanwhile_and_new_garbage_is_found() -> None:
    before = gc.get_freeze_count()
    with older_objects_apart():
        assert gc.get_freeze_count() > 1000
        for _ in range(100):
            made: list = []
            made.append(made)
        del made
        assert gc.collect() >= 100
        with older_objects_apart():
            pass
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == before


def test_an_error_leaves_nothing_apart() -> None:
    with pytest.raises(KeyError), older_objects_apart():
        raise KeyError
    assert gc.get_freeze_count() == 0


def test_what_a_program_has_put_apart_stays_so() -> None:
    gc.freeze()
    try:
        with older_objects_apart():
            pass
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
