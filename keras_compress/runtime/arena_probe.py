"""Whether a file runs and the arena that it needs, measured for `convert`, which knows no runtimes."""

from __future__ import annotations

from keras_compress.core.registry import register
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.tflm import TFLM


@register("probe")
def tflm_arena(content: bytes) -> int:
    """The smallest arena, in bytes, in which TFLite-Micro starts a file here.

    Raises:
        RuntimeError: Where TFLite-Micro is not available.
    """
    runner = TFLM()
    reason = runner.available()
    if reason is not None:
        raise RuntimeError(f"The arena of a file for TFLite-Micro cannot be measured here: {reason}")
    return runner.memory(content)["arena_minimum_bytes"]


@register("probe")
def tflm_refusal(content: bytes) -> str | None:
    """What TFLite-Micro says of a file that it does not load; `None` for one that it does, or where it is not here."""
    runner = TFLM()
    if runner.available() is not None:
        return None
    try:
        runner.describe(content, "the file with encoded weights")
    except (ValueError, RuntimeCrash, RuntimeTimeout) as error:
        return str(error)
    return None
