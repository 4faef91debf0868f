"""What every distillation loss must do. A new one is covered by being registered."""

from __future__ import annotations

import pytest

from keras_compress.testing.distillation import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_distillation_loss(distillation, check) -> None:
    check(distillation)
