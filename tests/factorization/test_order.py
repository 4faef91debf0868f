"""Channels cut, layers factorized, weights pruned, all quantized: each step is still there in the file."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import keras_compress as kc
from keras_compress.tflite.inspection import inspect_tflite


def test_channels_ranks_weights_bits() -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="one")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="two")(x)
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="mean")(x)))
    rng = np.random.default_rng(0)
    x_train, y_train = rng.normal(size=(64, 12, 12, 3)).astype("float32"), rng.integers(0, 4, 64)

    cut = kc.prune_channels(model, ratio=0.25, filters="re:one|two")
    thin = kc.factorize(cut, target={"macs": 0.5}, multiple=4, data=x_train)
    record = kc.factorization_of(thin)
    assert record is not None
    assert "two" in {each.path for each in record.layers}
    assert kc.Macs().of(thin) <= 0.5 * kc.Macs().of(cut) < 0.5 * kc.Macs().of(model)
    factors = [each for each in thin.layers if each.name.startswith("two")]
    assert factors[-1].filters == 24

    sparse = kc.prune_low_magnitude(thin, pruning_schedule=kc.ConstantSparsity(0.5, begin_step=0), filters="re:two")
    quantized = kc.quantize_model(sparse)
    quantized.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    quantized.fit(x_train, y_train, batch_size=32, epochs=1, verbose=0)
    artifact = kc.convert(quantized)
    assert not artifact.float_ops
    assert kc.verify(artifact, quantized, x_train[:16]).ok
    # Each factor has lost half of its weights, and the file has as many zeros at least.
    shares = {t.name: (t.sparsity, t.shape) for t in inspect_tflite(artifact.content).weights}
    of_factors = [share for name, (share, _) in shares.items() if "two" in name]
    assert len(of_factors) == len(factors)
    assert min(of_factors) >= 0.5
    assert max(shape[0] for _, shape in shares.values()) == 24
