"""The one file that runs where tf_keras and tfmot are: in a process of its own, started by its path.

Importing tfmot turns `tf.keras` into Keras 2 for the whole process, so nothing of this package imports this file for
more than `parts_of`, and this file imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import numpy as np


def parts_of(model: Any) -> dict[str, Any]:
    """Configuration and values of a tf_keras model, as arrays of one `.npz` file.

    Returns:
        `"config"`, the configuration as JSON text; `"names"`, a JSON list of `[layer, [names of its values]]`; and the
        values, `"0/0"` the first one of the first layer.
    """
    values: dict[str, Any] = {"config": np.array(model.to_json())}
    names = []
    for index, layer in enumerate(model.layers):
        # The order of .h5 files.
        held = layer.trainable_weights + layer.non_trainable_weights
        names.append([layer.name, [weight.name for weight in held]])
        values.update({f"{index}/{place}": weight.numpy() for place, weight in enumerate(held)})
    return {**values, "names": np.array(json.dumps(names))}


def main(source: str, target: str) -> None:
    """Write `parts_of` a saved model to a `.npz` file."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_model_optimization as tfmot
    import tf_keras

    with contextlib.ExitStack() as scopes:
        for scope in (
            tfmot.sparsity.keras.prune_scope,
            tfmot.clustering.keras.cluster_scope,
            tfmot.quantization.keras.quantize_scope,
        ):
            scopes.enter_context(scope())
        model = tf_keras.models.load_model(source, compile=False)
    np.savez(target, **parts_of(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
