"""TFLite-Micro, the runtime of microcontrollers, in its host build."""

from keras_compress.runtime.process_target import ProcessTarget
from keras_compress.runtime.target import register_target


class TFLM(ProcessTarget):
    """TFLite-Micro's reference kernels on this machine, in a child process.

    Its numbers are those of the device, bit for bit; its latency is the host's and says nothing about a
    microcontroller. `memory` gives

    - `flash_bytes`: the model file;
    - `arena_bytes`: the arena in use after a run, as TFLM counts it (less on a 32-bit device, where
      pointers are half as long), `arena_head_bytes` of it activations and scratch, `arena_tail_bytes`
      persistent;
    - `arena_minimum_bytes`: the smallest arena, to 16 bytes, in which the model starts here; preparing the
      kernels takes temporary space.

    Args:
        time_limit_s: the longest time without progress, in seconds.
        memory_limit_bytes: see `ProcessTarget`.
    """

    name = "tflm"
    title = "tflite-micro"
    package = "tflite_micro"

    def __init__(self, *, time_limit_s: float = 120.0, memory_limit_bytes: int | None = None) -> None:
        super().__init__({}, time_limit_s, memory_limit_bytes)

    def memory(self, content: bytes, label: str = "") -> dict[str, int]:
        """Arena and flash, in bytes; see the class."""
        return {**super().memory(content, label), "flash_bytes": len(content)}

    def _delegate(self, name: str) -> str:
        return "TFLM reference kernels, host"


register_target("tflm", TFLM)
