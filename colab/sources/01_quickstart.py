# %% [markdown]
# # Quickstart: a small, fast model that you can trust
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/01_quickstart.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# This notebook takes a trained Keras 3 model, makes it small in three ways that add up, converts it to `.tflite`, proves that
# the file computes what was simulated, and measures it on the runtimes that devices use.
#
# 1. **Train** a small network on 1,437 images of handwritten digits (8x8 pixels).
# 2. **Prune** it: most weights become zero.
# 3. **Cluster** it: the weights that are left share 16 values.
# 4. **Quantize** it: weights and activations become 8-bit integers, and training gets used to that.
# 5. **Convert**, **verify** and **measure**.
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
from pathlib import Path

import keras
import numpy as np
import rich

from keras_compress.demo import datasets, models
from keras_compress.report import plots
from keras_compress.report.tables import measurement_table

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. Train
#
# The data set comes with scikit-learn. The network has what small vision models have: a convolution with batch normalization, a
# depthwise and a 1x1 convolution, a residual connection, pooling and dense layers. Its outputs are logits.

# %%
data = datasets.load("digits")


loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def accuracy(model):
    return float(np.mean(np.argmax(np.asarray(model(data.x_test)), axis=-1) == data.y_test))


def train(model, epochs, learning_rate):
    # Compiling by XLA takes longer than training a network as small as this one.
    model.compile(keras.optimizers.Adam(learning_rate), loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)  # in front of `fit`, which traces its first step twice otherwise
    model.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=0)
    print(f"test accuracy {accuracy(model):.2%}")
    return model


float_model = train(models.digits_cnn(), epochs=10 if FAST else 15, learning_rate=2e-3)

# %% [markdown]
# ## 2. Prune
#
# `prune_low_magnitude` returns a **new** model; the old one is left alone. The new model is an ordinary Keras model: compile it
# and fit it. No callback is needed.
#
# A *schedule* says how many weights are zero at which step (a step is one batch). This one begins at 30 % and ends at 75 %. The
# depthwise convolution and the last layer hold 688 of 22,480 weights: there is little to win, so a *rule* leaves them out.

# %%
steps_per_epoch = int(np.ceil(len(data.x_train) / 64))
schedule = kc.PolynomialDecay(
    0.3, 0.75, begin_step=0, end_step=3 if FAST else 6, frequency=10, steps_per_epoch=steps_per_epoch
)
pruned = kc.prune_low_magnitude(
    float_model, schedule, rules=[{"layers": ["class:DepthwiseConv2D", "last"], "skip": True}]
)
pruned = train(pruned, epochs=5 if FAST else 8, learning_rate=2e-3)

# %% [markdown]
# ## 3. Cluster
#
# Each weight is replaced by the nearest of 16 *centroids*, and training moves the centroids. Zeros stay zeros and count as one of
# the 16. The calls stack: the model is pruned *and* clustered now.

# %%
clustered = train(kc.cluster_weights(pruned, number_of_clusters=16), epochs=2 if FAST else 3, learning_rate=5e-4)

# %% [markdown]
# ## 4. Quantize
#
# From here on the model computes with the numbers the device will have: 8-bit weights, and 8-bit activations whose ranges are
# taken from the training batches. A few epochs let the weights get used to it. Zeros and clusters survive.

# %%
quantized = train(kc.quantize_model(clustered), epochs=2 if FAST else 4, learning_rate=5e-4)

# %% [markdown]
# `summary` shows what is compressed where, and says so if a schedule was cut short.

# %%
overview = kc.summary(quantized)


# %% [markdown]
# This is what happened to the weights. On the left are the float weights, on the right what the layers compute with now: a few
# values, most of them zero.


# %%
def weights_of(name):
    before = float_model.get_layer(name).kernel
    after = quantized.get_layer(name).weight("kernel")
    return keras.ops.convert_to_numpy(before), keras.ops.convert_to_numpy(after)


plots.weight_histogram({name: weights_of(name) for name in ("pointwise", "hidden")}, ("trained", "compressed"))

# %% [markdown]
# ## 5. Convert
#
# `convert` gives the bytes of a `.tflite` file and what is known of them. Two more files are made to compare with: the float model,
# and the same model quantized *after* training, from a few images that show the ranges.

# %%
compressed_file = kc.convert(quantized)
files = {
    "float32": kc.convert(float_model, mode="float32"),
    "int8 after training": kc.convert(float_model, representative_dataset=data.x_train[:200]),
    "pruned + clustered + int8": compressed_file,
}
compressed_file.save("digits_int8.tflite")
print(f"{Path('digits_int8.tflite').stat().st_size:,} bytes on disk")

# %% [markdown]
# Sizes and sparsity are read back from the file itself, not from the Keras model:

# %%
for weight in compressed_file.stats.weights:
    print(
        f"{weight.op:18} {weight.elements:6,} weights, {weight.sparsity:6.1%} zeros, {weight.distinct_values:3} values"
    )

# %% [markdown]
# ## 6. Verify
#
# Does the file compute what the simulation computed? `freeze` gives the simulation in full: a Keras model with batch normalization
# folded in and every number on the device's grid. `verify` runs each operator of the file on the same integers and compares. More
# than one step of difference, or more than 1 % of the values, and it raises an error that names the operator.

# %%
simulation = kc.freeze(quantized)
check = kc.verify(compressed_file, simulation, data.x_test)
for row in check.rows:
    print(
        f"{row.kernel:10} {row.name:28} at most {row.max_lsb} step, {row.fraction_differing:.3%} of the values differ"
    )

# %% [markdown]
# ## 7. Measure
#
# The runtimes run in a child process. The models take turns, so that a busy machine slows all of them alike. LiteRT runs on phones
# and computers; TFLite-Micro runs on microcontrollers, and its *arena* is the RAM that the model needs there.

# %%
phone = kc.measure_all(files, data.x_test, data.y_test, target="litert")
try:
    microcontroller = kc.measure_all(files, target="tflm")
except RuntimeError as reason:
    print(reason)
    microcontroller = {}

stages = []
for name, found in phone.items():
    latency = {"median": found.latency.median_ms, "p10": found.latency.p10_ms, "p90": found.latency.p90_ms}
    stage = {"name": name, "accuracy": found.accuracy, "litert_latency_ms": latency, "sparsity": found.sparsity}
    stage |= {key: getattr(found, key) for key in ("raw_bytes", "gzip_bytes", "weight_payload_bytes")}
    stage["distinct_values"] = max(found.distinct_values.values())
    stage["tflm_arena_bytes"] = microcontroller[name].memory["arena_bytes"] if microcontroller else None
    stages.append(stage)

rich.print(measurement_table(stages))

# %%
plots.size_bars(stages)

# %% [markdown]
# How to read this:
#
# - **int8 alone** makes the weights four times smaller. The file shrinks about three times: in a network as small as this one,
#   names, scales and the graph itself count too.
# - **Pruning and clustering** do not make the file itself smaller. They make it *compressible*: look at the gzip bars, which stand
#   for a download, an app package or a firmware update.
# - **Latency** is that of this computer. Whether int8 is faster depends on the processor; measure on yours.
#
# The same figures for a script:

# %% tags=["figures"]
print(json.dumps({"simulated_accuracy": accuracy(simulation), "verified": check.ok, "stages": stages}, indent=2))

# %% [markdown]
# ## What next
#
# - `model.save("model.keras")` works at every point, and training goes on where it stopped.
# - `kc.TensorBoardSummaries("logs")` is a callback that draws sparsity, ranges and distinct values while a model trains.
# - `kc.strip(model)` gives a plain Keras model with the same outputs.
# - `keras-compress --help` does all of this for a `.keras` file, without a line of Python.
