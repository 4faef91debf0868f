"""What is said when a model of this library is written by TensorFlow's exporters, which know no integers."""

from __future__ import annotations

from typing import Any

from keras_compress.core.keras_private import InSavedModel
from keras_compress.core.warn import warn


class ExportNotice:
    """A warning that is given once: for each model that was made, or once in all for models that were loaded."""

    def __init__(self) -> None:
        self._given = False

    def give(self) -> None:
        """Warn, the first time."""
        if self._given:
            return
        self._given = True
        warn(
            "This SavedModel or TFLite file computes in float32, with float weights: what was quantized, pruned or "
            "clustered is only simulated in it. For a file with integers call `kc.convert(model)`; for a plain float "
            "model export `kc.strip(model)`."
        )


class TellsOfExport(InSavedModel):
    """A layer of this library: it notices when it goes into a SavedModel, which the TFLite converter reads too."""

    export_notice = ExportNotice()

    def goes_into_saved_model(self) -> None:
        self.export_notice.give()


def share_notice(layers: Any) -> None:
    """One notice for the layers of one model."""
    notice = ExportNotice()
    for layer in layers:
        if isinstance(layer, TellsOfExport):
            layer.export_notice = notice
