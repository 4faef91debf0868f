"""Trainings that two processes run together, and one process as two shards."""

import time

import keras
import numpy as np
import tests_training as t
import tests_zoo

import keras_compress as kc

EPOCHS, KILLED_IN = 4, 2


def all_three():
    """Pruned, clustered, quantized; the threshold is of all layers."""
    return compiled(t.pcqat(scope="global"))


def learned_ranges():
    """Convolution and BatchNormalization, pruned, with ranges that are trained and ranges that are averaged."""
    model = kc.prune_low_magnitude(tests_zoo.build("conv_bn_relu"), t.schedule())
    return compiled(kc.quantize_model(model, rules=[{"layers": "conv", "activations": kc.LearnedRange(8)}]))


def with_dropout():
    """Dropout, BatchNormalization and Adam; nothing is compressed but the gradients."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(16, activation="relu", name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(0.25, name="dropout"),
        keras.layers.Dense(3, name="last"),
    ]
    return compiled(keras.Sequential([keras.Input((6,)), *layers]), keras.optimizers.Adam(0.01))


def whole_numbers():
    """A net whose sums are exact in float32, for a few steps: small whole numbers, powers of two to multiply with."""
    dense = keras.layers.Dense(2, name="dense", kernel_initializer="ones")
    return compiled(keras.Sequential([keras.Input((6,)), dense]), keras.optimizers.SGD(2.0**-3))


def compiled(model, optimizer=None):
    model.compile(optimizer or t.momentum(), "mse", metrics=["mae"], jit_compile=False)
    return model


# Row -> model, codec.
ROWS = {
    "all three, SketchML": (all_three, "sketch_ml"),
    "ranges, QSGD": (learned_ranges, kc.QSGD(bits=6)),
    "dropout, 1 bit": (with_dropout, "one_bit_sgd"),
    "whole numbers": (whole_numbers, None),
    "fractions": (whole_numbers, None),
}


def data_of(name, model):
    if name not in ("whole numbers", "fractions"):
        return t.data(model)
    draws = np.random.default_rng(0)
    whole = tuple(draws.integers(-3, 4, (t.BATCH, n)).astype(np.float32) for n in (6, 2))
    return whole if name == "whole numbers" else tuple(each / 3 for each in whole)


def train(name, *, workers=1, strategy=None):
    """The model behind two epochs, and the history."""
    make, codec = ROWS[name]
    model = make()
    trainer = kc.DistributedTrainer(model, codec, workers=workers, strategy=strategy)
    history = trainer.fit(*data_of(name, model), batch_size=t.BATCH, epochs=2).history
    return model, history


def train_with_checkpoints(folder, callbacks=(), **how):
    """With what a codec remembers and dropout's seeds, which must go on too."""
    model = with_dropout()
    codec = kc.DeepGradientCompression(0.5, momentum=0.0)
    trainer = kc.DistributedTrainer(model, codec, checkpoints=folder, **how)
    history = trainer.fit(*t.data(model), batch_size=t.BATCH, epochs=EPOCHS, callbacks=list(callbacks)).history
    return model, history


def values(model):
    """Every variable, those of the optimizer too."""
    return [np.asarray(v.value) for v in t.variables(model)]


class Damaged(kc.SignSGD):
    """Changes a bit of its third message; its messages are signSGD's otherwise."""

    def encode(self, gradients, state):
        message = bytearray(super().encode(gradients, state))
        message[-1] ^= state.step == 3
        return bytes(message)


class Slow(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(1.5 if batch == 2 else 0.0)
