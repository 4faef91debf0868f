"""Which weights are pruned as one: blocks of a matrix, and m of every n inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

POOLING = ("AVG", "MAX")


def check_block_size(block_size: Any) -> tuple[int, int]:
    """`(inputs, outputs)` of a block.

    Raises:
        ValueError: For anything but two integers >= 1.
    """
    found = _integers(block_size)
    if len(found) != 2 or min(found) < 1:
        raise ValueError(f"Expected `block_size` as two integers >= 1. Received: block_size={block_size}")
    return found[0], found[1]


def check_pooling(block_pooling_type: Any) -> str:
    """How a block is scored.

    Raises:
        ValueError: For anything but `"AVG"` and `"MAX"`.
    """
    if block_pooling_type not in POOLING:
        raise ValueError(
            f"Expected `block_pooling_type` out of {POOLING}. Received: block_pooling_type={block_pooling_type!r}"
        )
    return str(block_pooling_type)


def check_m_by_n(sparsity_m_by_n: Any) -> tuple[int, int]:
    """`(m, n)`: m zeros in every n inputs.

    Raises:
        ValueError: For anything but two integers, `1 <= m < n`.
    """
    found = _integers(sparsity_m_by_n)
    if len(found) != 2 or not 1 <= found[0] < found[1]:
        raise ValueError(
            f"Expected `sparsity_m_by_n` as (m, n), 1 <= m < n. Received: sparsity_m_by_n={sparsity_m_by_n}"
        )
    return found[0], found[1]


def _integers(values: Any) -> tuple[int, ...]:
    """A list of integers; nothing for anything else, such as True, which counts as 1 elsewhere."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        return ()
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in values)
    return tuple(int(n) for n in values) if whole else ()
