# %% [markdown]
# # Compact nets
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/11_compact_nets.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# Networks that are made for small devices replace the 3x3 convolution, which multiplies most, by blocks that multiply less.
# `keras_compress.blocks` has them as functions on Keras tensors, and `kc.compact` puts such forms into a network that is trained already.
#
# 1. **Build** one network of plain convolutions and others of blocks, and count their multiplications.
# 2. **Train** them on 1,437 images of handwritten digits.
# 3. **Compact** the trained plain one to half of its multiplications, with itself as the teacher.
# 4. **Convert** to int8, **verify**, and see how a shift is written.
#
# Everything runs offline, in about three minutes on two CPU cores; `FAST=1` in the environment takes fewer epochs.

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
import json

import keras
import numpy as np
from keras import layers

from keras_compress import blocks
from keras_compress.demo import datasets

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. One network, several blocks
#
# A stem, two stages, a mean and a Dense layer. What differs is the block: two 3x3 convolutions with a sum in the plain one.


# %%
def network(name, block):
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(24, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(momentum=0.9, name="stem_norm")(x))
    for number, strides in enumerate((1, 2), 1):
        x = block(x, 24 * number, strides, f"block{number}")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name=name)


BLOCKS = {
    "plain": lambda x, filters, strides, name: blocks.basic_residual(x, filters, strides=strides, name=name),
    "separable": lambda x, filters, strides, name: blocks.separable(x, filters, strides=strides, name=name),
    "ghost": lambda x, filters, strides, name: blocks.ghost_bottleneck(
        x, filters, expanded=2 * filters, strides=strides, name=name
    ),
    "shift": lambda x, filters, strides, name: blocks.shift_block(x, filters, strides=strides, name=name),
}
networks = {name: network(name, block) for name, block in BLOCKS.items()}
macs = {name: kc.Macs().of(model) for name, model in networks.items()}
for name, model in networks.items():
    print(f"{name:<10} {macs[name] / 1e3:>7.0f} k multiplications, {model.count_params():>7,} parameters")

# %% [markdown]
# ## 2. Training

# %%
data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(model, epochs, rate, teacher=None):
    training = kc.Training(loss, epochs=epochs, learning_rate=rate, batch_size=64, teacher=teacher)
    training.on(data.x_train, data.y_train)(model)


def accuracy(each):
    return float(np.mean(np.argmax(np.asarray(each(data.x_test)), axis=-1) == data.y_test))


for model in networks.values():
    train(model, 6 if FAST else 15, 4e-3)
accuracies = {name: accuracy(model) for name, model in networks.items()}
for name, found in accuracies.items():
    print(f"{name:<10} test accuracy {found:.2%}")

# %% [markdown]
# ## 3. Compact forms of a trained network
#
# `kc.compact` approximates each trained kernel: by spatial kernels for each channel and a 1x1 convolution, in groups, by a few filters of
# which others are multiples, or by shifts. The record tells what each layer lost; training with the original as teacher wins it back.

# %%
plain = networks["plain"]
small = kc.compact(plain, target={"macs": 0.5})
for line in kc.compact_of(small).lines():
    print(line)
before = accuracy(small)
train(small, 3 if FAST else 6, 1e-3, teacher=plain)
print(f"test accuracy {before:.2%} at once, {accuracy(small):.2%} trained on; the original {accuracies['plain']:.2%}")

# %% [markdown]
# ## 4. On the device
#
# A shift multiplies nothing, and its integers stay as they are: for LiteRT it is written as a depthwise convolution with a single 1 for
# each channel, for TFLite-Micro as slices of the padded image, whichever is quicker there.

# %% tags=["figures"]
files, figures = {}, {}
for name, each in {**networks, "compact": small}.items():
    files[name] = kc.convert(each, representative_dataset=data.x_train[:200])
    check = kc.verify(files[name], each, data.x_test[:64])
    figures[name] = {"accuracy": accuracy(each), "macs": kc.Macs().of(each), "verified": check.ok}
    figures[name]["bytes"] = files[name].stats.raw_bytes
print(json.dumps({"files": figures, "before_training": before}))

# %% [markdown]
# ## What next
#
# - `docs/compact_blocks.md`: all blocks with their papers and formulas, networks of each family, measured tables.
# - `blocks.models.mobilenet_v2((28, 28, 1), width=0.5)` and its like; `blocks.scale` for compound scaling.
# - `keras-compress compact --help` does section 3 for a `.keras` file; the recipe `compact` trains and quantizes, too.
