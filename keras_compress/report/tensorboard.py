"""TensorBoard curves of what compression does while a model trains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation


class TensorBoardSummaries(keras.callbacks.Callback):
    """Writes sparsity, distinct values, activation ranges and the transforms' own figures as scalars.

    Tags: `weights/LAYER/SLOT/sparsity` and `.../distinct_values` of each transformed weight,
    `weights/LAYER/SLOT/TRANSFORM/NAME` for each entry of a transform's `summary_values()`, and
    `activations/POINT/NAME`, such as `activations/conv_quantized/maximum`, once the range is known.

    Training needs no callback of this library; this one only looks. Nothing has to be installed beside TensorFlow to
    write; `pip install tensorboard` shows the curves.

    Args:
        log_dir: Folder of the event files. `keras.callbacks.TensorBoard` may write to the same one.
        update_freq: `"epoch"`, with the epoch as the step, or every so many batches, with the optimizer's iterations.

    Raises:
        ValueError: For another `update_freq`, or, once training begins, a model without transforms.
    """

    def __init__(self, log_dir: str | os.PathLike[str], update_freq: str | int = "epoch") -> None:
        super().__init__()
        batches = isinstance(update_freq, int) and not isinstance(update_freq, bool) and update_freq >= 1
        if update_freq != "epoch" and not batches:
            raise ValueError(
                f"Expected `update_freq` as 'epoch' or a number of batches >= 1. Received: update_freq={update_freq!r}"
            )
        self.log_dir = Path(log_dir)
        self.update_freq = update_freq
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        if not any(isinstance(layer, (Compressed, QuantizeActivation)) for _, layer in graph.walk(self.model)):
            raise ValueError(
                "Expected a model that this library made, such as `prune_low_magnitude(model)`. "
                f"Received: {self.model.name!r}, which has nothing to report"
            )
        self._writer = tf.summary.create_file_writer(os.fspath(self.log_dir))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.update_freq == "epoch":
            return
        # The optimizer's count goes on where a saved model stopped, a callback's own would not.
        step = int(self.model.optimizer.iterations)
        if step % int(self.update_freq) == 0:
            self._write(step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.update_freq == "epoch":
            self._write(epoch)
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()

    def _write(self, step: int) -> None:
        with self._writer.as_default():
            for tag, value in scalars(self.model):
                tf.summary.write(tag, tf.constant(value, tf.float32), step=step, metadata=_scalar_metadata())


def _scalar_metadata() -> Any:
    """What makes TensorBoard draw a curve. `tf.summary.scalar` says the same, but needs the tensorboard package."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    metadata.data_class = 1
    return metadata


def scalars(model: keras.Model) -> Iterator[tuple[str, float]]:
    """`(tag, value)` of everything `TensorBoardSummaries` writes, from the model as it is now."""
    for path, layer in graph.walk(model):
        if isinstance(layer, Compressed):
            yield from _of_wrapper(path, layer)
        elif isinstance(layer, QuantizeActivation) and layer.quantizer.trained():
            for name, value in layer.quantizer.summary_values().items():
                yield f"activations/{path}/{name}", value


def _of_wrapper(path: str, wrapper: Compressed) -> Iterator[tuple[str, float]]:
    for slot, transforms in wrapper.items():
        weight = ops.convert_to_numpy(wrapper.weight(slot.name))
        tag = f"weights/{path}/{slot.name}"
        yield f"{tag}/sparsity", float(np.mean(weight == 0))
        yield f"{tag}/distinct_values", float(len(np.unique(weight)))
        for transform in transforms:
            for name, value in transform.summary_values().items():
                yield f"{tag}/{type(transform).__name__}/{name}", value
