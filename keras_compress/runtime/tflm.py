"""TFLite-Micro, the runtime of microcontrollers, in its host build."""

import functools
from collections.abc import Sequence
from typing import NoReturn

from keras_compress.core.registry import register
from keras_compress.runtime.c_source import resolver_methods
from keras_compress.runtime.child import RequestError
from keras_compress.runtime.frames import Header
from keras_compress.runtime.process_target import ProcessTarget
from keras_compress.runtime.target import Array
from keras_compress.tflite.arena_plan import alternate_memory_bytes
from keras_compress.tflite.flatbuffer import read_model
from keras_compress.tflite.inspection import check_dense
from keras_compress.tflite.unfit import unfit_for_tflm

_alternate_memory_bytes = functools.lru_cache(8)(alternate_memory_bytes)


@register("target", "tflm")
class TFLM(ProcessTarget):
    """TFLite-Micro's reference kernels on this machine, in a child process.

    Its numbers are those of the device, bit for bit; its latency is the host's and says nothing about a
    microcontroller. `memory` gives

    - `flash_bytes`: the model file;
    - `arena_bytes`: the arena in use after a run, as TFLM counts it (less on a 32-bit device, where
      pointers are half as long), `arena_head_bytes` of it activations and scratch, `arena_tail_bytes`
      persistent;
    - `arena_minimum_bytes`: the smallest arena, to 16 bytes, in which the model starts here; preparing the
      kernels takes temporary space;
    - `alt_decompression_bytes`, with that memory: what decoded constants take of it.

    Args:
        time_limit_s: the longest time without progress, in seconds.
        memory_limit_bytes: see `ProcessTarget`.
        alt_decompression_memory_bytes: memory beside the arena that constants are decoded to. 0 decodes them to the
            arena. The runtime itself takes the arena for what does not fit, without a word: that is refused here.

    Raises:
        ValueError: for a size below 0; when a file is given, for one too small for its decoded constants.
    """

    name = "tflm"
    title = "tflite-micro"
    package = "tflite_micro"

    def __init__(
        self,
        *,
        time_limit_s: float = 120.0,
        memory_limit_bytes: int | None = None,
        alt_decompression_memory_bytes: int = 0,
    ) -> None:
        alternate = alt_decompression_memory_bytes
        if isinstance(alternate, bool) or not isinstance(alternate, int) or alternate < 0:
            raise ValueError(
                "Expected alt_decompression_memory_bytes as an integer >= 0. "
                f"Received: alt_decompression_memory_bytes={alternate!r}"
            )
        options = {"alt_decompression_memory_bytes": alternate} if alternate else {}
        super().__init__(options, time_limit_s, memory_limit_bytes)
        self._alternate_bytes = alternate

    def memory(self, content: bytes, label: str = "") -> dict[str, int]:
        """Arena and flash, in bytes; see the class."""
        # What TFLM counts does not depend on what its process did before, so that no new one is needed.
        answer, _ = self._request({"op": "memory"}, [content], [], label)
        found = {**answer["memory"], "flash_bytes": len(content)}
        if self._alternate_bytes:
            found["alt_decompression_bytes"] = _alternate_memory_bytes(content)
        return {str(key): int(value) for key, value in found.items()}

    def _request(
        self, header: Header, contents: list[bytes], arrays: list[Array], label: str, fresh: bool = False
    ) -> tuple[Header, list[Array]]:
        if self._alternate_bytes:
            for content in contents:
                self._check_alternate_memory(content, label)
        return super()._request(header, contents, arrays, label, fresh)

    def _check(self, contents: Sequence[bytes], label: str) -> None:
        super()._check(contents, label)
        for content in contents:
            check_dense(content, label)

    def _refuse(self, error: RequestError, label: str, contents: Sequence[bytes]) -> NoReturn:
        # What a kernel says of such a file is a line of its own source.
        reason = None if error.kind != "model" else next(filter(None, map(_unfit, contents)), None)
        if reason is not None:
            raise ValueError(
                f"Expected a file that TFLite-Micro runs. Received: {label}, not for TFLite-Micro: {reason}"
            ) from None
        super()._refuse(error, label, contents)

    def _check_alternate_memory(self, content: bytes, label: str) -> None:
        needed = _alternate_memory_bytes(content)
        if needed > self._alternate_bytes:
            raise ValueError(
                f"Expected alt_decompression_memory_bytes >= {needed}, or 0 to decode to the arena, for "
                f"{label or f'a model of {len(content):,} bytes'}. "
                f"Received: alt_decompression_memory_bytes={self._alternate_bytes}"
            )

    def _delegate(self, name: str) -> str:
        return "TFLM reference kernels, host"


def _unfit(content: bytes) -> str | None:
    """Why TFLite-Micro refuses a file, where that is known."""
    try:
        reason = unfit_for_tflm(content)
        if reason is None:
            resolver_methods(read_model(content))
    except ValueError as error:
        return str(error).partition("Received: ")[2] if "TFLite-Micro has" in str(error) else None
    return reason
