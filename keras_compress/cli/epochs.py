"""`--epochs`: one number for all trainings, or one for each."""

from __future__ import annotations

from collections.abc import Sequence


def epochs_given(texts: Sequence[str] | None, count: int) -> tuple[int, ...] | None:
    """Epochs of `count` trainings; `None` where the flag was not given.

    Raises:
        ValueError: For other numbers, or as many as there are no trainings.

    >>> epochs_given(["2"], 3), epochs_given(["6", "3"], 2)
    ((2, 2, 2), (6, 3))
    """
    if texts is None:
        return None
    if not count:
        raise ValueError(f"Expected no --epochs: nothing is trained. Received: --epochs={','.join(texts)}")
    if len(texts) not in (1, count) or not all(text.strip().isdecimal() and int(text) > 0 for text in texts):
        received = ",".join(texts)
        raise ValueError(f"Expected --epochs as one or {count} whole numbers >= 1. Received: --epochs={received}")
    found = tuple(int(text) for text in texts)
    return found * count if len(found) == 1 else found
