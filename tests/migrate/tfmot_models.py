"""Makes `models.zip`, the models that tests take over: tfmot's, as tf_keras saves them, and what they give.

Run by a Python that has the extra `tfmot`: `python tests/migrate/tfmot_models.py`. Nothing of it is imported before:
importing tfmot turns tf.keras into Keras 2.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_compress.migrate.process import parts_of

SAMPLES, EPOCHS, BATCH = 240, 2, 24


class Maker:
    """tfmot's ways on one small net for the digits."""

    def __init__(self) -> None:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        import tensorflow_model_optimization as tfmot
        import tf_keras
        from sklearn.datasets import load_digits
        from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

        digits = load_digits()
        self.x = (digits.images[:SAMPLES, ..., None] / 16).astype("float32")
        self.y = digits.target[:SAMPLES]
        self.tfmot, self.keras, self.cluster = tfmot, tf_keras, cluster.cluster_weights
        tf_keras.utils.set_random_seed(0)
        self.float = self.trained(self.net())

    def net(self, use_bias: bool = False) -> Any:
        """Convolution with a normalization, depthwise convolution, sum, poolings, dense layers."""
        layers = self.keras.layers
        image = layers.Input((8, 8, 1), name="image")
        first = layers.Conv2D(6, 3, padding="same", use_bias=use_bias, name="conv")(image)
        first = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(first))
        second = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(first)
        pooled = layers.MaxPooling2D(name="pool")(layers.Add(name="sum")([first, second]))
        hidden = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten(name="flat")(pooled))
        return self.keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(hidden))

    def nested(self) -> Any:
        """A model within a model; weights of two dimensions, as tfmot's blocks need."""
        layers = self.keras.layers
        rows = layers.Input((8, 8), name="rows")
        inside = layers.Input((8, 8), name="each")
        encoder = self.keras.Model(inside, layers.Dense(6, activation="tanh", name="row")(inside), name="encoder")
        steps = layers.Dense(5, activation="relu", name="steps")(encoder(rows))
        flat = layers.Flatten(name="flat")(steps)
        return self.keras.Model(rows, layers.Dense(10, activation="softmax", name="digit")(flat))

    def recurrent(self) -> Any:
        """An LSTM over the rows."""
        layers = self.keras.layers
        rows = layers.Input((8, 8), name="rows")
        hidden = layers.LSTM(12, name="lstm")(rows)
        return self.keras.Model(rows, layers.Dense(10, activation="softmax", name="digit")(hidden))

    def trained(self, model: Any, x: Any = None, callbacks: Any = ()) -> Any:
        model.compile(self.keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
        model.fit(self.x if x is None else x, self.y, BATCH, EPOCHS, verbose=0, callbacks=list(callbacks))
        return model

    def pruned(self, model: Any = None, x: Any = None, **settings: Any) -> Any:
        sparsity = self.tfmot.sparsity.keras
        schedule = sparsity.PolynomialDecay(0.3, 0.75, begin_step=0, end_step=12, frequency=4)
        # A copy: the wrapped model has the very layers of the one that was given.
        model = model or self.again(self.float)
        wrapped = sparsity.prune_low_magnitude(model, pruning_schedule=schedule, **settings)
        return self.trained(wrapped, x, [sparsity.UpdatePruningStep()])

    def clustered(self, model: Any, number: int, **settings: Any) -> Any:
        init = self.tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        return self.trained(self.cluster(model, number_of_clusters=number, cluster_centroids_init=init, **settings))

    def applied(self, model: Any, scheme: Any) -> Any:
        quantization = self.tfmot.quantization.keras
        return self.trained(quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme))

    def again(self, model: Any) -> Any:
        """The model as its file has it: tfmot cannot quantize one whose clusters it has just stripped."""
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.h5", include_optimizer=False)
            return self.keras.models.load_model(f"{folder}/model.h5", compile=False)

    def models(self) -> dict[str, Callable[[], Any]]:
        def strip_clusters(model: Any) -> Any:
            return self.again(self.tfmot.clustering.keras.strip_clustering(model))

        strip_pruning, combine = self.tfmot.sparsity.keras.strip_pruning, self.tfmot.experimental.combine
        rows = self.x[..., 0]
        pruned = self.pruned()
        # tfmot's wrappers work in the layers that they are given: each use has a copy.
        sparse = self.again(strip_pruning(pruned))
        clustered = self.clustered(self.again(sparse), 8, preserve_sparsity=True)
        plain_clusters = self.clustered(self.net(), 6)
        preserving = combine.Default8BitClusterPreserveQuantizeScheme
        return {
            "pruned": lambda: pruned,
            "pruned_blocks": lambda: self.pruned(self.nested(), rows, block_size=(1, 2), block_pooling_type="MAX"),
            "clustered": lambda: plain_clusters,
            "clustered_by_channel": lambda: self.clustered(self.net(use_bias=True), 3, cluster_per_channel=True),
            "sparse_clustered": lambda: clustered,
            "qat": lambda: self.trained(self.tfmot.quantization.keras.quantize_model(self.float)),
            "pqat": lambda: self.applied(sparse, combine.Default8BitPrunePreserveQuantizeScheme()),
            "cqat": lambda: self.applied(strip_clusters(plain_clusters), preserving(preserve_sparsity=False)),
            "pcqat": lambda: self.applied(strip_clusters(clustered), preserving(preserve_sparsity=True)),
        }

    def tflite(self, model: Any) -> bytes:
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content: bytes = converter.convert()
        return content


def main() -> None:
    """Write the archive."""
    maker = Maker()
    outputs = {"x": maker.x[:32]}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in maker.models().items():
            model = make()
            x = maker.x[:32, ..., 0] if len(model.input_shape) == 3 else maker.x[:32]
            outputs[name] = model.predict(x, verbose=0)
            model.save(f"{folder}/{name}.h5", include_optimizer=False)
            if name == "qat":
                Path(folder, "qat.tflite").write_bytes(maker.tflite(model))
        # tfmot gives both masks of an LSTM one name, and tf_keras cannot write such an .h5 file: as the process has it.
        model = maker.pruned(maker.recurrent(), maker.x[..., 0])
        outputs["pruned_lstm"] = model.predict(maker.x[:32, ..., 0], verbose=0)
        np.savez_compressed(f"{folder}/pruned_lstm.npz", **parts_of(model))
        np.savez(f"{folder}/outputs.npz", **outputs)
        with zipfile.ZipFile(Path(__file__).with_name("models.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(Path(folder).iterdir()):
                archive.write(path, path.name)


if __name__ == "__main__":
    main()
