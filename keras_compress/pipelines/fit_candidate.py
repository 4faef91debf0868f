"""A setting of `fit_to` made into a model and a file, with training between the steps or without any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.clustering.centroids import cluster_weights
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.convert import convert
from keras_compress.core.quiet import ignored_warnings
from keras_compress.factorization.factorize import factorize
from keras_compress.graph.model import strip
from keras_compress.pipelines.fit_space import Setting
from keras_compress.pipelines.mixed_precision import mixed_precision
from keras_compress.post_training.quantize import quantize_post_training
from keras_compress.pruning.one_shot import prune_one_shot
from keras_compress.quantizers.model import quantize_model
from keras_compress.structured.prune import prune_channels

# `train(model, kind, name) -> model`, kinds as those of Deep Compression.
Train = Callable[[keras.Model, str, str], keras.Model]
MIXED_BITS = 6.0


def untrained(model: keras.Model, kind: str, name: str) -> keras.Model:
    """In place of training: for sizes, which do not depend on it."""
    del kind, name
    return model


@dataclass(frozen=True)
class Maker:
    """Makes candidates of one model.

    Attributes:
        model: The model given, without transforms.
        examples: Inputs that ranges are found with.
        target: What files are made for.
        max_arena_bytes: Most that the arena may be: layers whose weights are decoded are split until they fit.
    """

    model: keras.Model
    examples: Any
    target: str
    max_arena_bytes: int | None

    def make(self, setting: Setting, train: Train) -> tuple[keras.Model, Artifact]:
        """The model that a setting leads to, and its file.

        Args:
            setting: What to do.
            train: Trains between the steps; `untrained` gives a file of the same size of other numbers.

        Raises:
            ValueError: Where the model does not allow it: all of its channels are frozen, say.
        """
        model = self._smaller(setting, train)
        model = self._few_values(model, setting, train)
        model = self._quantized(model, setting, train)
        return model, self._file(model, setting)

    def _smaller(self, setting: Setting, train: Train) -> keras.Model:
        model = self.model
        if setting.channels:
            model = train(prune_channels(model, ratio=setting.channels), "channels", "channels")
        if setting.params < 1:
            model = train(factorize(model, target={"params": setting.params}), "channels", "low_rank")
        return model

    def _few_values(self, model: keras.Model, setting: Setting, train: Train) -> keras.Model:
        if setting.sparsity:
            model = train(prune_one_shot(model, setting.sparsity), "prune", "sparsity")
        if setting.clusters:
            model = train(cluster_weights(model, setting.clusters), "cluster", "clusters")
        return model

    def _quantized(self, model: keras.Model, setting: Setting, train: Train) -> keras.Model:
        if setting.bits == "4 or 8":
            found = mixed_precision(
                strip(model), self.examples, {"average_bits": MIXED_BITS}, weights=(4, 8), target=self.target
            ).model
        elif (
            setting.training == "ptq" and setting.storage == "plain" and setting.bits == "8" and train is not untrained
        ):
            found = quantize_post_training(model, self.examples, 2, report=False)
        else:
            # Learned rounding to 4 bits takes as long as training with them does, and integers beyond 7.
            found = quantize_model(model, weights=f"int{setting.bits}")
        return train(found, "quantize", "quantize") if setting.training == "qat" else found

    def _file(self, model: keras.Model, setting: Setting) -> Artifact:
        encoded = setting.storage == "encoded"
        storage = "auto" if encoded else None if setting.bits == "8" else "int4"
        limit = self.max_arena_bytes if encoded and self.target == "tflm" else None
        # Ranges that no training set are calibrated: that is what post-training quantization is.
        with ignored_warnings("(?s).*no training set"):
            return convert(
                model,
                self.target,
                representative_dataset=self.examples,
                weights_storage=storage,
                max_arena_bytes=limit,
            )
