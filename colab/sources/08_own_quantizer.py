# %% [markdown]
# # Your own quantizer in one file
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/08_own_quantizer.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# A method is one class in one file of yours. What it registers is found by training, saving, converting, recipes and the command
# line, without a change to the package.
#
# 1. **Write** a weight quantizer: integers and a scale, in 20 lines that compute.
# 2. **Check** it: against its own formula, and with the checks that the methods of this package pass.
# 3. **Train** with it, **convert**, **verify**.
# 4. **A recipe** that names it, run by the command line with `--import`.
#
# Everything runs offline, in about a minute on two CPU cores; `FAST=1` in the environment takes fewer epochs.

# %%
import os
import sys
from importlib.metadata import version

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Your copy on GitHub. It is read only where keras_compress is missing and this notebook is alone, as on Colab.
REPOSITORY = "OWNER/REPOSITORY"
try:
    import keras_compress as kc
except ImportError:
    here = os.path.exists("../setup.cfg")
    package = "..[report]" if here else f"keras-compress[report] @ git+https://github.com/{REPOSITORY}"
    # %pip install -q "{package}"
    import keras_compress as kc

FAST = os.environ.get("FAST", "") == "1"  # a few samples and steps, to see that it runs
print(f"keras_compress {kc.__version__}, Python {sys.version.split()[0]}")
print(*(f"{name} {version(name)}" for name in ("keras", "tensorflow", "ai-edge-litert", "numpy")), sep=", ")

# %%
# %matplotlib inline

import json
import subprocess

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

from keras_compress import testing
from keras_compress.demo import datasets

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The file
#
# With few bits a scale that reaches the largest weight wastes its levels: most weights are small. This quantizer tries 16 scales for each
# channel and takes the one with the least squared error.
#
# - `to_integers` is the method: a pure function of TensorFlow from a weight to integers and their scale. Training and conversion both
#   run it, so the file has the integers that were trained. `self.reduced_axes` are the axes that share a scale.
# - `@kc.register` makes it known by its name. The constructor's arguments come back from `get_config()`, which the base class does for
#   `bits` and `per_channel`; `samples()` lists arguments for the checks.

# %%
# %%writefile least_error.py
import functools

import tensorflow as tf

import keras_compress as kc

SHARES = [1.0 - step / 20 for step in range(16)]  # of the largest weight: 1, 0.95, .., 0.25


@functools.cache
def _grid(bits: int, axes: tuple[int, ...]) -> kc.IntegerGrid:
    highest = 2.0 ** (bits - 1) - 1.0
    steps = [share / highest for share in SHARES]

    def rounded(weight, scale):
        return tf.clip_by_value(tf.round(weight / scale), -highest, highest)

    def to_integers(weight):
        largest = tf.maximum(tf.reduce_max(tf.abs(weight), axis=axes, keepdims=True), 1e-20)
        # All candidates at once, along one more axis.
        weights, scales = weight[..., None], largest[..., None] * steps
        errors = tf.reduce_sum(tf.square(rounded(weights, scales) * scales - weights), axis=axes, keepdims=True)
        scale = largest * tf.gather(steps, tf.argmin(errors, axis=-1))
        return rounded(weight, scale), scale

    return kc.IntegerGrid(to_integers)


@kc.register("weight_transform")
class LeastError(kc.WeightQuantizer):
    """Evenly spaced levels with the scale, out of 16, whose squared error is the least.

    **Forward** `y = s * clip(round(w / s), -n, n)`, `n = 2^(bits - 1) - 1`, and `s` is the one of
    `max|w| * (1, 0.95, .., 0.25) / n` with the least sum of `(y - w)^2`, for each output channel.
    **Gradient** `dy/dw = 1` (straight through).
    """

    allowed_bits = (2, 3, 4, 8)

    def __init__(self, bits=3, *, per_channel=True, **kwargs):
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls):
        return [{}, {"bits": 4, "per_channel": False}]

    def grid(self):
        return _grid(self.bits, self.reduced_axes), ()


# %%
sys.path.insert(0, os.getcwd())
from least_error import SHARES, LeastError

# %% [markdown]
# ## 2. Does it do what it says?
#
# First its own formula, written anew in NumPy, on the layers of a trained network. The network is small, so that 2 bits hurt.

# %%
data = datasets.load("digits")
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, strides=2, activation="relu", name="edges"),
        layers.Flatten(),
        layers.Dense(32, activation="relu", name="hidden"),
        layers.Dense(10, name="logits"),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(each, epochs, learning_rate):
    kc.Training(loss, epochs=epochs, learning_rate=learning_rate, batch_size=64).on(data.x_train, data.y_train)(each)
    return each


def accuracy(each):
    return float(np.mean(np.argmax(np.asarray(each(data.x_test)), axis=-1) == data.y_test))


train(model, epochs=15, learning_rate=5e-3)
print(f"test accuracy {accuracy(model):.2%}")

# %% [markdown]
# `weights` takes the object, or its name in a recipe. `activations=None` leaves activations in float.

# %%
BITS = 2
highest = 2 ** (BITS - 1) - 1
rounded = {
    "largest weight": kc.quantize_model(model, weights=kc.UniformQuantizer(BITS), activations=None),
    "least error": kc.quantize_model(model, weights=LeastError(BITS), activations=None),
}
kernel = np.asarray(model.get_layer("hidden").kernel)


def errors_of(channel):
    """Squared error of one channel with each of the scales."""
    scales = np.abs(channel).max() * np.array(SHARES) / highest
    levels = np.clip(np.round(channel[:, None] / scales), -highest, highest)
    return np.sum((levels * scales - channel[:, None]) ** 2, axis=0)


errors = np.stack([errors_of(channel) for channel in kernel.T])
for name, each in rounded.items():
    error = np.sum((np.asarray(each.get_layer("hidden").kernel) - kernel) ** 2)
    print(f"{name:15} squared error {error:6.2f}, test accuracy without training {accuracy(each):.2%}")
print(f"the least that NumPy finds: {errors.min(axis=1).sum():.2f}")

# %%
figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
axis.plot(SHARES, errors[:8].T, color="grey", linewidth=1)
best = errors[:8].argmin(axis=1)
axis.plot(np.array(SHARES)[best], errors[:8].min(axis=1), "o", label="the scale it takes")
axis.set(
    title="Eight channels of `hidden`, 2 bits",
    xlabel="largest level, as a share of the largest weight",
    ylabel="squared error of the channel",
)
_ = axis.legend(frameon=False)

# %% [markdown]
# Then the checks of `keras_compress.testing`, for each of the `samples()`: that the configuration gives the arguments back, that a saved
# and loaded model is trained to the same bits, that integers are the weight that training saw, that gradients pass, that zeros and
# clusters are kept where the class says so, and that `kc.strip` leaves the outputs.

# %%
testing.check(LeastError)
print("all checks pass")


# %% [markdown]
# A mistake that is easily made: an argument that `get_config` doesn't give back. Saved models would be loaded with its default.


# %%
@kc.register("weight_transform")
class Forgetful(LeastError):
    def __init__(self, bits=3, *, margin=1.0, **kwargs):
        super().__init__(bits, **kwargs)
        self.margin = margin

    @classmethod
    def samples(cls):
        return [{"margin": 2.0}]


try:
    testing.check(Forgetful)
    found = ""
except AssertionError as error:
    found = str(error)
print(found)

# %% [markdown]
# ## 3. Train, convert, verify
#
# An ordinary model, with 8-bit activations this time. The file holds the integers of `to_integers`.

# %%
quantized = train(kc.quantize_model(model, weights=LeastError(BITS)), epochs=4 if FAST else 15, learning_rate=2e-3)
artifact = kc.convert(quantized)
check = kc.verify(artifact, quantized, data.x_test)
measured = kc.measure(artifact, data.x_test, data.y_test)
print(f"float {accuracy(model):.2%}, trained with 2 bits {accuracy(quantized):.2%}, its file {measured.accuracy:.2%}")
for weight in artifact.stats.weights:
    print(f"{weight.op:16} {weight.elements:6,} weights, {weight.distinct_values} values in the file")
print(f"verified: {check.ok}")

# %% [markdown]
# ## 4. A recipe, by name
#
# A recipe names the class; `--import` tells the command line which module registers it. (An installed package needs no flag: an entry
# point in the group `keras_compress.methods` names the module.)

# %%
recipe = {
    "version": 1,
    "name": "two_bits",
    "description": "Two bits, the scale with the least error.",
    "stages": [
        {
            "name": "quantize",
            "method": "quantize_model",
            "config": {"weights": {"class_name": "LeastError", "config": {"bits": BITS}}},
            "epochs": 1 if FAST else 10,
            "learning_rate": 0.002,
        }
    ],
}
with open("two_bits.json", "w") as file:
    json.dump(recipe, file, indent=2)
model.save("model.keras")
np.savez("data.npz", x_train=data.x_train, y_train=data.y_train, x_test=data.x_test, y_test=data.y_test)

# %%
command = "compress --import=least_error --model=model.keras --data=data.npz --recipe=two_bits.json --out=out"
print(f"keras-compress {command}")
done = subprocess.run([sys.executable, "-m", "keras_compress", *command.split()], capture_output=True, text=True)
print(done.stdout if done.returncode == 0 else done.stderr)

# %% [markdown]
# What this notebook says, checked:

# %%
kernels = {name: np.asarray(each.get_layer("hidden").kernel) for name, each in rounded.items()}
assert np.isclose(np.sum((kernels["least error"] - kernel) ** 2), errors.min(axis=1).sum(), rtol=1e-4)
assert np.sum((kernels["least error"] - kernel) ** 2) < 0.8 * np.sum((kernels["largest weight"] - kernel) ** 2)
assert accuracy(rounded["least error"]) > accuracy(rounded["largest weight"])
assert "margin" in found
assert check.ok
assert all(weight.distinct_values <= 3 for weight in artifact.stats.weights)
assert measured.accuracy > accuracy(model) - 0.07
assert done.returncode == 0
by_command = kc.inspect_tflite("out/model_compressed.tflite")
assert all(weight.distinct_values <= 3 for weight in by_command.weights)

# %% [markdown]
# ## What next
#
# - `docs/extending.md`: activation quantizers, pruners, schedules, criteria for channels, costs and rules for layers, each as one file.
# - A gradient of your own is the second argument of `kc.IntegerGrid`; a learned state, such as LSQ's step, is made in `create_variables`.
# - `testing.check` in a test of your package is all that a method needs beside a test of its formula.
