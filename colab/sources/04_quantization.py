# %% [markdown]
# # Quantization: from after training to PACT and DoReFa
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/04_quantization.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# A trained network becomes 8-bit or 4-bit integers here without a label: in one step from its own statistics, in another from a
# few hundred inputs, and in a third with a short training that learns from the network itself. For 2 bits it is trained on with the
# rounding in place.
#
# 1. **Train** a small network on 1,437 images of handwritten digits, the model that is given.
# 2. **Level 1**: no data at all.
# 3. **Level 2**: inputs, no labels. Then with 4-bit weights, whose rounding is learned.
# 4. **Level 3**: the same inputs, and the float model as teacher.
# 5. **Convert**, **verify** and compare the files.
# 6. **Mixed precision**: bits layer by layer, under a budget.
# 7. **Training with 2 bits**: LSQ, and PACT with DoReFa's weights; what their files give, and their levels.
#
# Everything runs offline, in one to two minutes on two CPU cores; `FAST=1` in the environment takes a tenth of the steps.

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

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

from keras_compress.demo import datasets, models

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# Everything below takes it as it is: labels are read again only to tell accuracies.

# %%
data = datasets.load("digits")
model = models.digits_cnn()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss, jit_compile=False)
model.optimizer.build(model.trainable_variables)  # in front of `fit`, which traces its first step twice otherwise
model.fit(data.x_train, data.y_train, batch_size=64, epochs=15, verbose=0)


def accuracy(each):
    return float(np.mean(np.argmax(np.asarray(each(data.x_test)), axis=-1) == data.y_test))


print(f"test accuracy {accuracy(model):.2%}")

# %% [markdown]
# ## 2. Level 1: without data
#
# BatchNormalizations know the mean and the deviation of each channel in training. That tells ranges of activations and what
# rounding does to the mean of each channel. The inputs' own range is said here; of other tensors without statistics, inputs are
# made that fit those of the BatchNormalizations.
#
# `summary` shows what each pass did and left, and how far weights and outputs are from the float model's after each, in dB.

# %%
ends = (float(data.x_train.min()), float(data.x_train.max()))
without_data = kc.quantize_post_training(model, input_range=ends)
overview = kc.summary(without_data)

# %% [markdown]
# ## 3. Level 2: with inputs
#
# 200 images, without labels. Ranges are chosen so that what reads a tensor changes the least, and the mean error of each channel
# goes into its bias.

# %%
inputs = data.x_train[:200]
with_data = kc.quantize_post_training(model, inputs)
overview.passes, kc.summary(with_data, print_fn=lambda text: None).passes

# %% [markdown]
# With 4 bits, rounding to the nearest loses more. By default it is learned then, block by block, whether each weight goes up or
# down. Next to it is the same without.

# %%
steps = 100 if FAST else 1000
nearest = kc.quantize_post_training(model, inputs, weights="int4", passes=["fold_batch_norms", "with_ranges"])
learned = kc.quantize_post_training(model, inputs, weights="int4", options={"brecq": {"steps": steps}})
for name, each in {"nearest": nearest, "learned": learned}.items():
    stage = kc.summary(each, print_fn=lambda text: None).passes.stages[-1]
    print(f"4 bits, {name}: {stage.output_sqnr_db:.1f} dB, accuracy {accuracy(each):.2%}")

# %% [markdown]
# ## 4. Level 3: a short training, without labels
#
# With 4 bits for activations too, more is lost. What level 2 made is trained for a few hundred steps to give what the float model
# gives. A fifth of the images is held out: were the model worse on them, level 2's would be given, and the note would say so. Decibels are what it trains for; on 360
# test images the accuracy may still lose one or two.
#
# Before that, `spiq` puts the channels that each layer reads on one range, as 4 bits have few steps for small ones.

# %%
passes = ["fold_batch_norms", "with_ranges", "clip_weights", "gptq"]
settings = {"weights": "int4", "activations": "int4"}
second = kc.quantize_post_training(model, inputs, passes=passes, **settings)
options = {"fine_tune": {"steps": 50 if FAST else 500}}
trained = kc.quantize_post_training(
    model, inputs, level=3, passes=["spiq", *passes, "fine_tune"], options=options, **settings
)
for name, each in {"level 2": second, "level 3": trained}.items():
    stage = kc.summary(each, print_fn=lambda text: None).passes.stages[-1]
    print(f"4 bits for both, {name}: {stage.output_sqnr_db:.1f} dB, accuracy {accuracy(each):.2%}")
told = kc.summary(trained, print_fn=lambda text: None)
print(told.passes)
print(told.history[-1])

# %% [markdown]
# ## 5. Files
#
# Each is an ordinary model of keras_compress: it is converted, verified, saved or trained further like any other.

# %% tags=["figures"]
stages = []
for name, each in {"level 1": without_data, "level 2": with_data, "4 bits": learned, "level 3": trained}.items():
    file = kc.convert(each)
    check = kc.verify(file, each, data.x_test[:64])
    stages.append({"name": name, "accuracy": accuracy(each), "bytes": file.stats.raw_bytes, "verified": check.ok})
figures = {
    "float_accuracy": accuracy(model),
    "output_sqnr_db": [
        kc.summary(each, print_fn=lambda text: None).passes.stages[-1].output_sqnr_db for each in (nearest, learned)
    ],
    "stages": stages,
}
print(json.dumps(figures, indent=2))

# %% [markdown]
# ## 6. Bits layer by layer
#
# Some layers mind few bits, others do not. Each is measured alone at each width, on the same inputs and without labels; an integer
# program then gives each layer the bits that a budget allows, here 4.25 for a weight on the average: 4 for most, and a little to spare.
# `refine` measures once more around the choice, where the other layers are rounded, too.

# %%
budget = kc.Budget(average_bits=4.25)
mixed = kc.mixed_precision(model, inputs, budget, refine=0 if FAST else 1)
print(mixed)

# %%
mixed.sensitivity.plot()

# %% [markdown]
# The file holds the bits that were chosen, packed two in a byte where LiteRT has a kernel for it. Beside it is the file whose weights
# have 4 bits throughout, rounded to the nearest as well, and how far the outputs of both are from the float model's on the test images.

# %% tags=["bits"]
uniform = kc.mixed_precision(model, inputs, budget, sensitivity=mixed.sensitivity, solver="uniform")
expected = np.asarray(model(data.x_test))
bits = {}
for name, each in {"uniform": uniform, "mixed": mixed}.items():
    file = kc.convert(each.model, **each.convert_options)
    bits[name] = {"accuracy": accuracy(each.model), "bytes": file.stats.raw_bytes, **each.costs}
    noise = np.asarray(each.model(data.x_test)) - expected
    bits[name]["output_sqnr_db"] = float(10 * np.log10(np.sum(expected**2) / np.sum(noise**2)))
    bits[name]["verified"] = kc.verify(file, each.model, data.x_test[:64]).ok
print(json.dumps(bits, indent=2))

# %% [markdown]
# ## 7. Training with 2 bits
#
# Two bits are four levels for a weight, and no choice of ranges makes up for that: the network has to be trained with them in place. A
# smaller one shows it better, as `digits_cnn` has weights to spare.

# %%
small = keras.Sequential(
    [
        keras.Input(data.x_train.shape[1:]),
        layers.Conv2D(8, 3, strides=2, activation="relu", name="edges"),
        layers.Flatten(),
        layers.Dense(32, activation="relu", name="hidden"),
        layers.Dense(10, name="logits"),
    ]
)


def train(each, epochs, learning_rate):
    kc.Training(loss, epochs=epochs, learning_rate=learning_rate, batch_size=64).on(data.x_train, data.y_train)(each)
    return each


train(small, epochs=15, learning_rate=5e-3)
print(f"test accuracy {accuracy(small):.2%}")

# %% [markdown]
# `quantize_model` puts the rounding into the layers; methods are given by name, or as objects with arguments. Each has a formula for
# the levels and one for the gradient, which rounding itself doesn't have:
#
# - **LSQ** trains the distance between levels, of weights and of activations, together with the weights.
# - **PACT** trains `alpha`, where a ReLU's output is cut off; between 0 and `alpha` are 16 levels with 4 bits. **DoReFa** gives it
#   weights: `tanh(w)`, brought into [-1, 1] and rounded to `-1, -1/3, 1/3, 1`. None of them is zero.
#
# PACT stands behind ReLUs only; inputs and outputs of the network get 8 bits.

# %%
epochs = 6 if FAST else 20
lsq = train(kc.quantize_model(small, weights=kc.LSQ(2), activations=kc.LSQActivation(4)), epochs, 2e-3)
pact = train(kc.quantize_model(small, weights=kc.DoReFa(2), activations=kc.Pact(4)), epochs, 2e-3)
rounded = kc.quantize_post_training(
    small, inputs, weights="int2", activations="int4", passes=["fold_batch_norms", "with_ranges"]
)
for name in ("edges_quantized", "hidden_quantized"):
    print(f"{name}: alpha {float(pact.get_layer(name).quantizer.alpha):.2f}")

# %% [markdown]
# The accuracy is that of the *file*, as LiteRT runs it. `levels` are the distinct integers of each layer's weights, read back from it.

# %%
two_bits = {"float32": small, "rounded after training": rounded, "LSQ": lsq, "PACT, DoReFa": pact}
rows = {}
for name, each in two_bits.items():
    file = kc.convert(each, mode="float32") if each is small else kc.convert(each)
    found = kc.measure(file, data.x_test, data.y_test)
    levels = None if each is small else [weight.distinct_values for weight in file.stats.weights]
    rows[name] = {"accuracy": found.accuracy, "gzip_bytes": found.gzip_bytes, "levels": levels}
    if each is not small:
        rows[name]["verified"] = kc.verify(file, each, data.x_test[:64]).ok
    print(f"{name:22} accuracy {found.accuracy:.2%}, {found.gzip_bytes:6,} bytes zipped, levels {levels}")

# %% [markdown]
# The weights of one layer: as they were trained in float, and the levels that the three networks compute with. Rounding to the nearest
# of `-s, 0, s`, with an `s` for each channel, sends most weights to zero. LSQ moved its step inwards and uses the fourth level; DoReFa's levels lie where the paper says.

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3), sharex=True, layout="constrained")
for axis, (name, each) in zip(axes, two_bits.items(), strict=True):
    layer = each.get_layer("hidden")
    weight = keras.ops.convert_to_numpy(layer.kernel if each is small else layer.weight("kernel")).reshape(-1)
    values, counts = np.unique(weight, return_counts=True)
    if each is small:
        axis.hist(weight, bins=60)
        axis.set_ylabel("weights")
    else:
        axis.vlines(values, 0, counts, linewidth=3)
        axis.set_ylabel("weights on the level")
    axis.set(title=name, xlabel="weight of `hidden`")

# %% [markdown]
# What this notebook says of training, checked:

# %%
best_rounded, floating = rows["rounded after training"]["accuracy"], rows["float32"]["accuracy"]
for name in ("LSQ", "PACT, DoReFa"):
    row = rows[name]
    assert row["verified"]
    assert max(row["levels"]) <= 4
    assert row["accuracy"] > best_rounded + 0.1
    assert row["accuracy"] > floating - 0.06
    assert row["gzip_bytes"] < 0.5 * rows["float32"]["gzip_bytes"]
assert np.allclose(np.unique(pact.get_layer("hidden").weight("kernel")), [-1, -1 / 3, 1 / 3, 1])

# %% [markdown]
# ## What next
#
# - `docs/post_training.md` tells which level to take when, and lists the passes with their papers.
# - Where level 3 loses too much, train on with all data: each of these models is compiled and fitted like any other.
# - `docs/quantizers.md` lists every quantizer with its levels, its gradient, its paper, and accuracies of a larger network at 4 and 2 bits.
# - One bit, and levels of -1, 0 and 1, are in `colab/05_binary_ternary.ipynb`.
# - `keras-compress quantize --help` does this for a `.keras` file.
# - `docs/mixed_precision.md`: limits of bytes, latency and arena, 16 bits beside 8, and measured tables.
