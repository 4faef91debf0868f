"""The kernels that a file is verified on, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.compressed import expand_content
from keras_compress.core import progress
from keras_compress.native import NAMES
from keras_compress.runtime import deployed
from keras_compress.runtime.operators import VerificationError
from keras_compress.runtime.target import Target, target
from keras_compress.tflite.inspection import has_sparse_weights
from keras_compress.tflite.storage import BITS

Array = NDArray[Any]
KERNELS = {"litert": ("xnnpack", "reference"), "tflm": ("tflm",)}


def runner_of(kernel: str, **limits: Any) -> Target:
    """The runtime behind a kernel's name, with limits as in `ProcessTarget`.

    Raises:
        ValueError: For another name.
    """
    if kernel == "tflm":
        return target("tflm", **limits)
    if kernel in NAMES:
        return target("litert", delegate=kernel, **limits)
    if kernel not in KERNELS["litert"] and kernel != "builtin":
        raise ValueError(
            f"Expected kernels out of 'xnnpack', 'builtin', 'reference', 'tflm', 'kc_binary'. Received: {kernel!r}"
        )
    return target("litert", kernels=kernel, **limits)


@dataclass(frozen=True)
class Kernels:
    """Runtimes that have loaded a file.

    Attributes:
        contents: Kernel -> the file it runs: LiteRT's decode no weights.
        runners: Kernel -> its runtime.
        skipped: Kernel -> why there is none here.
    """

    contents: dict[str, bytes]
    runners: dict[str, Target]
    skipped: dict[str, str]

    @classmethod
    def loaded(cls, artifact: Artifact, names: Sequence[str] | None = None, **limits: Any) -> Kernels:
        """Load a file, at once: one that cannot be is refused before the work that takes long.

        Args:
            artifact: The file.
            names: Kernels; by default those of the artifact's target.
            **limits: As in `ProcessTarget`.

        Raises:
            RuntimeError: For a delegate that is not to be had here; of a runtime that is not there, `skipped` tells.
        """
        names = names or KERNELS[artifact.runtime]
        of_bits = artifact.storage.wanted == BITS
        # Who decodes weights, or reads bits, gets the file as it is.
        takes = NAMES if of_bits else ("tflm",)
        plain = artifact.content if set(names) <= set(takes) else expand_content(artifact.content)
        contents = {kernel: artifact.content if kernel in takes else plain for kernel in names}
        runners, skipped = {}, {}
        for kernel, content in contents.items():
            runner = runner_of(kernel, **limits)
            reason = runner.available()
            if reason is not None and kernel in NAMES:
                raise RuntimeError(f"Kernels {kernel!r} cannot be used here: {reason}")
            if reason is None:
                runner.describe(content, "the converted model")
                runners[kernel] = runner
            else:
                skipped[kernel] = reason
        return cls(contents, runners, skipped)

    def outputs(self, kernel: str, inputs: list[Array]) -> list[Array]:
        """Real outputs of the whole file on one kernel."""
        return deployed.run(self.runners[kernel], self.contents[kernel], inputs, kernel)

    def check_compressed(self, artifact: Artifact, inputs: list[Array]) -> None:
        """A file whose dead units went, or whose weights are encoded or sparse, must give the plain file's integers.

        Sparse weights run on LiteRT's built-in kernels, which round a few values otherwise than XNNPACK's and the
        reference ones: such a file is compared with the plain one on these.

        Raises:
            VerificationError: If one output differs.
        """
        if artifact.lowered is None:
            return
        runners = {"builtin": runner_of("builtin")} if has_sparse_weights(artifact.content) else self.runners
        for kernel, runner in runners.items():
            progress.step(f"comparing the compressed file with the plain one on {kernel}")
            files = (self.contents.get(kernel, artifact.content), artifact.plain)
            got, wanted = (deployed.run(runner, content, inputs, artifact.mode) for content in files)
            differing = sum(int(np.count_nonzero(a != b)) for a, b in zip(got, wanted, strict=True))
            if differing:
                raise VerificationError(
                    "Expected the compressed file to give the outputs of the plain one, bit for bit. "
                    f"Received: {differing:,} other values on {kernel}"
                )
