"""LiteRT, the runtime of phones and desktops (formerly TensorFlow Lite)."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from keras_compress.core.registry import register
from keras_compress.core.suggest import did_you_mean
from keras_compress.native import NAMES, library_path
from keras_compress.runtime.child import RequestError
from keras_compress.runtime.process_target import ProcessTarget
from keras_compress.runtime.target import Array
from keras_compress.tflite.bit_format import of_bits
from keras_compress.tflite.encoding.known import DECODE

_DELEGATES = {
    "xnnpack": "none (built-in kernels)",
    "builtin": "none (built-in kernels)",
    "reference": "none (reference kernels)",
}


@register("target", "litert")
class LiteRT(ProcessTarget):
    """LiteRT on this machine's CPU, in a child process.

    Args:
        kernels: "xnnpack" (what apps get by default), "builtin" (LiteRT's own optimised kernels) or
            "reference" (its plain kernels, which agree with TFLite-Micro's).
        threads: at least 1.
        delegate: "kc_binary" takes the binary layers of a file (docs/native.md), of what is left `kernels` has the
            rest; it gives the integers of XNNPACK, so `kernels` must be "xnnpack".
        delegate_options: {"path": "avx512", "avx2", "neon" or "portable"} in place of the processor's best.
        time_limit_s: the longest time without progress, in seconds.
        memory_limit_bytes: see `ProcessTarget`.

    `memory` gives `peak_memory_bytes`: the peak of a fresh process that loads the model and runs it once,
    over its state before; the file's own bytes are not counted, some 10 MB of the library's own pages are.
    """

    name = "litert"
    title = "LiteRT"
    package = "ai_edge_litert"

    def __init__(
        self,
        kernels: str = "xnnpack",
        threads: int = 1,
        *,
        delegate: str | None = None,
        delegate_options: Mapping[str, str] | None = None,
        time_limit_s: float = 120.0,
        memory_limit_bytes: int | None = None,
    ) -> None:
        if kernels not in _DELEGATES:
            raise ValueError(f"Expected kernels out of {', '.join(_DELEGATES)}. Received: kernels={kernels!r}")
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"Expected at least 1 thread. Received: threads={threads!r}")
        if delegate is not None:
            check_delegate(delegate, kernels)
        elif delegate_options:
            raise ValueError(f"Expected a delegate. Received: delegate_options={delegate_options!r} without a delegate")
        super().__init__({"kernels": kernels, "threads": threads}, time_limit_s, memory_limit_bytes)
        if delegate is not None and delegate_options:
            self._options["delegate_options"] = dict(delegate_options)
        self.delegate = delegate
        self.kernels = kernels
        self.threads = threads

    def available(self) -> str | None:
        """None where the runtime, and the delegate if one is asked for, can be used, else the reason why not."""
        reason = super().available()
        if reason is None and self.delegate is not None:
            try:
                self._options["delegate"] = str(library_path())
            except RuntimeError as error:
                return str(error)
        return reason

    def tensors(
        self, content: bytes, inputs: Sequence[Array], names: Sequence[str], label: str = ""
    ) -> dict[str, Array]:
        """Values of the named tensors; see `ProcessTarget.tensors`. A delegate keeps them to itself."""
        if self.kernels == "xnnpack":
            raise ValueError(
                "Expected kernels='reference' or 'builtin' to read intermediate tensors. Received: kernels='xnnpack'"
            )
        return super().tensors(content, inputs, names, label)

    def _refuse(self, error: RequestError, label: str, contents: Sequence[bytes]) -> NoReturn:
        # What LiteRT says of such a file is about the first tensor or operator that it stumbles over.
        if error.kind == "model" and any(DECODE.encode() in content for content in contents):
            raise ValueError(
                f"Expected a file that LiteRT can run. Received: {label}, whose weights are encoded for TFLite-Micro "
                "(target tflm); kc.expand, or `keras-compress expand`, gives the plain file"
            ) from None
        if error.kind == "model" and any(of_bits(content) for content in contents):
            raise ValueError(
                f"Expected delegate='kc_binary', of the version of the file. Received: {label}, whose weights are "
                "stored as bits (weights_storage='bits'), which no stock kernel reads; kc.expand gives the stock file. "
                f"LiteRT says: {error}"
            ) from None
        super()._refuse(error, label, contents)

    def _delegate(self, name: str) -> str:
        return _DELEGATES[self.kernels] if name == "none" else name


def check_delegate(delegate: str, kernels: str = "xnnpack") -> None:
    """Raises ValueError for the name of no delegate, or kernels that it does not agree with."""
    if delegate not in NAMES:
        meant = did_you_mean(delegate, NAMES)
        raise ValueError(f"Expected a delegate out of {', '.join(NAMES)}. Received: delegate={delegate!r}{meant}")
    if kernels != "xnnpack":
        raise ValueError(f"Expected kernels='xnnpack' beside delegate={delegate!r}. Received: kernels={kernels!r}")
