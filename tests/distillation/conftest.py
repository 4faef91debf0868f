"""Small nets and data that the tests of this folder share."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests_distillation import dense

# Keras's distiller, which ours is one of, is not in Keras 3.11.
collect_ignore = [] if hasattr(keras, "distillation") else ["test_distill.py", "test_trainings.py", "test_seams.py"]

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(32, 6)).astype(np.float32)
Y = _RNG.integers(0, 3, 32)


@pytest.fixture
def x() -> np.ndarray:
    return X.copy()


@pytest.fixture
def y() -> np.ndarray:
    return Y.copy()


@pytest.fixture
def teacher() -> keras.Model:
    return dense(16, "teacher", norm=True)


@pytest.fixture
def student() -> keras.Model:
    return dense(4, "student")
