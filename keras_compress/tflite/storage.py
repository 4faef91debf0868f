"""In how many bits each weight is stored: what was asked, what the integers need, and what the runtime takes.

Found by loading and timing files of one operator with int8 activations, the packed and the int8 file in turns
(ai-edge-litert 2.3.0 on x86-64 with AVX-512 VNNI, tflite-micro 0.dev20261023182759 on the same host). Packed weights
compute what the same integers as int8 compute on the same kernel. Times are those of the packed file over the int8 one.

- LiteRT FULLY_CONNECTED: INT4 0.83 (512 to 256 features), 0.57 (1024 to 1024), 1.0 (64 to 64). XNNPACK leaves an odd
  number of inputs to the built-in kernel: 9. INT2 1.1 to 1.6; 11 with one scale for the tensor.
- LiteRT CONV_2D, DEPTHWISE_CONV_2D: XNNPACK leaves INT4 to the built-in kernels: 2.7 to 6.2.
- TFLite-Micro CONV_2D, DEPTHWISE_CONV_2D: INT4 1.00 to 1.04, 1.42 where the image is one position. The kernel unpacks
  the weights into the arena at every run: an arena of 17,632 bytes became one of 26,848, by the 9,216 weights. On
  FULLY_CONNECTED (one scale only) 1.57. Encoded weights cost the same RAM and take fewer bytes: `"auto"` there.
- TRANSPOSE_CONV: no INT4 anywhere. INT2: FULLY_CONNECTED of LiteRT only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keras_compress.core.warn import warn
from keras_compress.tflite.grids import ConstantGrid
from keras_compress.tflite.packing import bits_needed, spare_bits

# What TFLite-Micro decodes while it runs.
ENCODINGS = ("lut", "bitmap", "huffman", "vectors")
# For kc_binary, or TFLite-Micro with its operators: layers of few bits, a bit or two for each weight.
BITS = "bits"
STORAGES = ("auto", "int8", "int4", "int2", *ENCODINGS, BITS)
# Old name -> name; old names work for one release.
EARLIER = {"prune": "bitmap"}
_DEFAULTS = {"litert": "auto"}
_RUNTIMES = {"litert": "LiteRT", "tflm": "TFLite-Micro"}
_BUILT_IN = "LiteRT computes it with slow built-in kernels"
_UNPACKED = "TFLite-Micro unpacks it into the arena at every run"


@dataclass(frozen=True)
class _Kernel:
    """A kernel that takes packed weights.

    Attributes:
        slow: Why `"auto"` does not use it; `None` where it costs nothing.
        odd: The same for an odd number of inputs.
    """

    slow: str | None = None
    odd: str | None = None


# (target, operator, bits) -> kernel; what is not in it is refused.
_KERNELS: dict[tuple[str, str, int], _Kernel] = {
    ("litert", "CONV_2D", 4): _Kernel(slow=_BUILT_IN),
    ("litert", "DEPTHWISE_CONV_2D", 4): _Kernel(slow=_BUILT_IN),
    ("litert", "FULLY_CONNECTED", 4): _Kernel(odd=_BUILT_IN),
    ("litert", "FULLY_CONNECTED", 2): _Kernel(slow="LiteRT computes it more slowly"),
    ("tflm", "CONV_2D", 4): _Kernel(slow=_UNPACKED),
    ("tflm", "DEPTHWISE_CONV_2D", 4): _Kernel(slow=_UNPACKED),
    ("tflm", "FULLY_CONNECTED", 4): _Kernel(slow=_UNPACKED),
}


def default_storage(target: str) -> str:
    """What costs neither time nor memory: INT4 dense layers on LiteRT, nothing elsewhere."""
    return _DEFAULTS.get(target, "int8")


def current_storage(wanted: str) -> str:
    """The name that a storage has now; an earlier one is warned of."""
    # What is no string is refused with the unknown ones.
    current = EARLIER.get(wanted, wanted) if isinstance(wanted, str) else wanted
    if current != wanted:
        warn(f"weights_storage={wanted!r} is weights_storage={current!r} now.", DeprecationWarning)
    return current


def runs_as_convolution(target: str, operator: str, bits: int, scales: int) -> bool:
    """Whether a runtime takes packed weights only where the operator is written as a 1x1 convolution."""
    return target == "tflm" and operator == "FULLY_CONNECTED" and bits < 8 and scales > 1


def takes_packed(target: str, operator: str, bits: int, scales: int) -> bool:
    """Whether a runtime has a kernel for packed weights of an operator as it is."""
    return (target, operator, bits) in _KERNELS and not runs_as_convolution(target, operator, bits, scales)


@dataclass(frozen=True)
class Storage:
    """What was asked of the weights, and of which runtime.

    Attributes:
        wanted: One of `STORAGES`.
        target: `"litert"` or `"tflm"`.
    """

    wanted: str = "int8"
    target: str = "litert"

    @property
    def asked(self) -> bool:
        """Whether the user asked for packed weights, so that one that is not packed must be said."""
        return self.wanted in ("int4", "int2")

    @property
    def bits(self) -> int:
        """Width that packed weights have."""
        if self.encodes:
            return 8
        return {"auto": 4, "int4": 4, "int2": 2}.get(self.wanted, 8)

    @property
    def encodes(self) -> bool:
        """Whether weights are stored in a form that the runtime decodes while it runs."""
        return self.target == "tflm" and self.wanted in ("auto", *ENCODINGS)

    def of(self, operator: str, grid: ConstantGrid) -> tuple[int, str | None]:
        """Bits that a weight is stored in, and why not in fewer.

        Args:
            operator: What the layer becomes, such as `"CONV_2D"`.
            grid: The weight's integers and scales.

        Returns:
            `(bits, reason)`; the reason is `None` where there is nothing to say: packed, not asked for, or too wide for
            `"auto"`.
        """
        if self.bits == 8:
            return 8, None
        needed = bits_needed(grid.values)
        smallest = needed - spare_bits(grid.values)
        if smallest > self.bits:
            return 8, f"its integers need {smallest} bits" if self.asked else None
        kernel = _KERNELS.get((self.target, operator, self.bits))
        if kernel is None:
            return 8, f"{_RUNTIMES[self.target]} has no {operator} with INT{self.bits} weights"
        slow = kernel.odd if kernel.odd and grid.values.shape[-1] % 2 else kernel.slow
        if slow and not self.asked:
            return 8, slow
        if needed > self.bits:
            return 8, "its integers are shifted up, and its bias with them"
        return self.bits, None


INT8 = Storage()


def as_notes(unpacked: Mapping[str, str], storage: Storage) -> tuple[str, ...]:
    """A line for each reason, with the weights that it keeps in int8."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in unpacked.items():
        by_reason.setdefault(reason, []).append(name)
    width = f"int{storage.bits}"
    return tuple(f"int8, not {width}, for {', '.join(names)}: {reason}" for reason, names in by_reason.items())
