"""The arena that a file needs, measured for `convert`, which knows no runtimes."""

from __future__ import annotations

from keras_compress.core.registry import register
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
