"""A Functional model that keeps the user's names of its outputs through saving and loading."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core import keras_private
from keras_compress.core.registry import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class NamedOutputs(keras_private.Functional):
    """A Functional model whose outputs have other names than the layers that make them.

    Keras names outputs after their layers, also when it loads a model. A point behind an output would give it another
    name, and a model compiled with `loss={"boxes": ..., "classes": ...}` could not be trained after loading.
    """

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output_names": list(self.output_names)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> keras.Model:
        config = dict(config)
        names = config.pop("output_names")
        made = super().from_config(config, custom_objects=custom_objects)
        made.output_names = names
        return made
