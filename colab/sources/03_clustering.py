# %% [markdown]
# # Clustering, and Deep Compression on a microcontroller
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/03_clustering.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# Weights that share a few values can be stored as short codes. TFLite-Micro decodes such codes while the model runs: what is small
# here is the file as the device holds it, not a zipped copy of it.
#
# 1. **Train** LeNet-300-100, the network of the Deep Compression paper, on 1,437 images of handwritten digits.
# 2. **Cluster** its weights to 16 values each.
# 3. **Deep Compression**: prune, cluster and quantize within a budget of accuracy.
# 4. **Store** the weights as they are, by look-up table, as bitmap and in Huffman's code.
# 5. **Measure** file, memory and time on TFLite-Micro, and **verify** the file there.
# 6. **Export** it as C++ sources for a device.
# 7. **Vectors** of weights in place of single ones: about a bit and a half each, without any zeros.
#
# Everything runs offline, in about a minute and a half on two CPU cores; `FAST=1` in the environment takes fewer
# rounds and epochs. TFLite-Micro's package is
# there for Linux on x86-64, as Colab has it; elsewhere step 3 says so and ends.

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

import re
import shutil
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_compress.demo import datasets, models

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# Three dense layers. A sixth of the training images is kept for the budget of step 3; the test images judge what comes out in the
# end.

# %%
data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
x_train, y_train = data.x_train[:1200], data.y_train[:1200]
held_out = (data.x_train[1200:], data.y_train[1200:])


def train(model, epochs, learning_rate):
    kc.Training(loss, epochs=epochs, learning_rate=learning_rate, batch_size=64).on(x_train, y_train)(model)
    return model


def accuracy(model):
    return float(np.mean(np.argmax(np.asarray(model(data.x_test)), axis=-1) == data.y_test))


model = train(models.lenet300(data.input_shape), 6 if FAST else 20, 2e-3)
print(f"{model.count_params():,} parameters, test accuracy {accuracy(model):.2%}")

# %% [markdown]
# ## 2. Clustering
#
# `cluster_weights` gives a new model, in which each weight takes the nearest of a few *centroids*. They begin where the squared error
# is the least, which is found exactly; other beginnings are there to compare with. Nothing is trained yet.


# %%
def latent(model, name):
    """The weights that are trained, behind the centroids."""
    return np.asarray(model.get_layer(name).layer.kernel)


def used(model, name):
    """The weights that the layer computes with."""
    return np.asarray(model.get_layer(name).weight("kernel"))


LAYERS = ["hidden1", "hidden2", "logits"]
errors = {}
for beginning in ("optimal", "kmeans++", "density_based", "linear", "random"):
    clustered = kc.cluster_weights(model, number_of_clusters=16, cluster_centroids_init=beginning)
    errors[beginning] = sum(np.sum((latent(clustered, name) - used(clustered, name)) ** 2) for name in LAYERS)
    print(f"{beginning:13} squared error {errors[beginning]:6.2f}, test accuracy {accuracy(clustered):.2%}")

# %% [markdown]
# Training moves the centroids: the gradient of a centroid is the sum of those of its weights. Weights may change to another one.

# %%
clustered = kc.cluster_weights(model, number_of_clusters=16)
first = {name: np.unique(used(clustered, name)) for name in LAYERS}
train(clustered, 1 if FAST else 6, 1e-3)
trained = {name: np.unique(used(clustered, name)) for name in LAYERS}
print(f"test accuracy {accuracy(clustered):.2%}")

figure, axes = plt.subplots(2, 2, figsize=(10, 5.6), layout="constrained")
for (before, after), name in zip(axes, LAYERS):
    weights = np.asarray(model.get_layer(name).kernel).ravel()
    before.hist(weights, 100, weights=np.full(weights.size, 100 / weights.size), color="#9ecae1", label="weights")
    before.vlines(first[name], 0, 1, color="#888888", ls=":", transform=before.get_xaxis_transform(), label="at first")
    before.vlines(trained[name], 0, 1, color="#d62728", lw=1, transform=before.get_xaxis_transform(), label="trained")
    values, counts = np.unique(used(clustered, name), return_counts=True)
    after.vlines(values, 0, 100 * counts / counts.sum(), color="#d62728", lw=3)
    limit = 1.05 * np.abs(weights).max()
    for axis, what in ((before, "float weights, with the centroids"), (after, "what the layer computes with")):
        axis.set(xlabel="weight", ylabel="share of the weights, %", title=f"{name}: {what}", xlim=(-limit, limit))
    after.set_ylim(0, None)
axes[0][0].legend(loc="lower center", ncols=3, framealpha=1, fontsize=8)
plt.show()

# %% [markdown]
# Each of the weights is one of 16 values. The `.tflite` file does not care: it stores each in four bytes, as before. gzip does.

# %%
float_file, clustered_file = (kc.convert(each, mode="float32") for each in (model, clustered))
for name, file in {"float": float_file, "16 values": clustered_file}.items():
    print(f"{name:10} {file.stats.raw_bytes:8,} bytes, {file.stats.gzip_bytes:8,} after gzip")

# %%
assert min(errors, key=errors.get) == "optimal"
for name in LAYERS:
    assert len(trained[name]) <= 16
    nearest = np.abs(latent(clustered, name)[..., None] - trained[name]).min(axis=-1)
    np.testing.assert_allclose(np.abs(latent(clustered, name) - used(clustered, name)), nearest, atol=1e-6)
assert clustered_file.stats.distinct_values <= 16
assert clustered_file.stats.raw_bytes == float_file.stats.raw_bytes
assert clustered_file.stats.gzip_bytes < 0.3 * float_file.stats.gzip_bytes
assert accuracy(clustered) > accuracy(model) - 0.04

# %% [markdown]
# ## 3. Deep Compression
#
# `kc.deep_compression` prunes in rounds, trains between them, and gives each layer the zeros that it can bear. Of the rounds within
# the budget it takes the sparsest, clusters and quantizes it, and converts it to a file whose accuracy *on its runtime* is within the
# budget as well. The budget counts on images that were not trained on.

# %%
found = kc.deep_compression(
    model,
    x_train,
    y_train,
    validation_data=held_out,
    max_drop=0.03,
    pruning=kc.Pruning(sparsities=(0.7,) if FAST else (0.6, 0.7, 0.8, 0.85, 0.9)),
    clustering=kc.Clustering(number_of_clusters=16),
    training=kc.Training(
        loss,
        epochs={"prune": 2, "cluster": 1, "quantize": 1} if FAST else {"prune": 8, "cluster": 4, "quantize": 6},
        batch_size=64,
    ),
    conversion=kc.Conversion(target="tflm", io="int8"),
)
for step in found.steps:
    size = "" if step.raw_bytes is None else f", {step.raw_bytes:,} bytes"
    print(f"{step.name:20} {step.metric:.2%}{size}{'' if step.within_budget else ', beyond the budget'}")
found

# %% [markdown]
# ## 4. Ways to store a weight
#
# - *raw*: a byte for each weight;
# - *lut*: an index of 4 bits for each weight, and a table of the 16 values;
# - *bitmap*: a bit for each weight, zero or not, and the values that are not;
# - *huffman*: a short code for frequent values and a long one for rare ones. A code cannot be shorter than the *entropy*, and a
#   code of whole words not shorter than a bit a weight.
#
# What each would take is read from the file.

# %%
plain = kc.convert(found.model, target="tflm", io="int8")
weights = kc.inspect_tflite(plain.content, alternatives=True).weights
storages = ["raw", "lut", "bitmap", "huffman"]
bits = {s: [8 * weight.alternatives[s] / weight.elements for weight in weights] for s in storages}
entropies = [weight.entropy_bits for weight in weights]

figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
places = np.arange(len(weights))
for number, (storage, colour) in enumerate(zip(storages, ("#bbbbbb", "#9ecae1", "#4c78a8", "#08306b"))):
    bars = axis.bar(places + 0.2 * (number - 1.5), bits[storage], 0.18, label=storage, color=colour)
    axis.bar_label(bars, fmt="%.2g", fontsize=8)
axis.hlines(entropies, places - 0.4, places + 0.4, color="#d62728", label="entropy")
axis.set_xticks(
    places, [f"{each.name}\n{each.elements:,} weights, {each.sparsity:.0%} zeros" for each in weights], fontsize=9
)
axis.set(xlabel="weight", ylabel="bits for each weight", title="What each storage takes, tables included")
axis.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 0.98))
axis.set_ylim(0, 10.5)
plt.show()

# %%
for position, weight in enumerate(weights):
    assert weight.distinct_values <= 16
    assert entropies[position] <= bits["huffman"][position]
    assert bits["huffman"][position] >= 1
# Of all weights together, Huffman's code is the shortest.
assert sum(w.alternatives["huffman"] for w in weights) == min(sum(w.alternatives[s] for w in weights) for s in storages)

# %% [markdown]
# ## 5. On TFLite-Micro
#
# The same model in each storage, in turns. Decoded weights need memory, of one layer at a time; `max_arena_bytes` splits large layers,
# so that less of them is decoded at a time. And they are decoded each time the model runs: that takes time. What a microcontroller
# takes for it has to be measured there; the times are those of the reference kernels on this machine.

# %%
files = {"raw": plain}
for storage in ("lut", "bitmap", "huffman"):
    files[storage] = kc.convert(found.model, target="tflm", io="int8", weights_storage=storage)
files["auto, 12 kB arena"] = kc.convert(
    found.model, target="tflm", io="int8", weights_storage="auto", max_arena_bytes=12_000
)
measured = kc.measure_all(files, data.x_test, data.y_test, target="tflm", runs=200)

base = measured["raw"]
print(f"{'storage':18}{'file B':>9}{'x less':>8}{'gzip B':>9}{'arena B':>9}{'time':>7}{'accuracy':>10}")
print(f"{'float32':18}{float_file.stats.raw_bytes:9,}{'':8}{float_file.stats.gzip_bytes:9,}")
for name, each in measured.items():
    arena, time = each.memory["arena_minimum_bytes"], each.latency.median_ms / base.latency.median_ms
    times_less = float_file.stats.raw_bytes / each.raw_bytes
    print(
        f"{name:18}{each.raw_bytes:9,}{times_less:8.1f}{each.gzip_bytes:9,}{arena:9,}{time:6.1f}x{each.accuracy:10.2%}"
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), sharey=True, layout="constrained")
shown = {
    "file, kB": [each.raw_bytes / 1000 for each in measured.values()],
    "arena (RAM), kB": [each.memory["arena_minimum_bytes"] / 1000 for each in measured.values()],
    "time over that of the raw file": [each.latency.median_ms / base.latency.median_ms for each in measured.values()],
}
for axis, (label, values), colour in zip(axes, shown.items(), ("#08306b", "#4c78a8", "#9ecae1")):
    axis.bar_label(axis.barh(list(measured), values, color=colour), fmt="%.1f", padding=3)
    axis.set_xlabel(label)
    axis.margins(x=0.18)
axes[0].set_ylabel("storage")
axes[0].invert_yaxis()
figure.suptitle("Flash is paid for with memory and time")
plt.show()

# %% [markdown]
# `verify` runs the file on TFLite-Micro: each operator on the integers of the frozen model, and the encoded file beside the raw one,
# bit for bit.

# %%
check = kc.verify(found.artifact, found.model, data.x_test)
print(check)

# %%
assert found.met
assert check.ok
assert measured["huffman"].raw_bytes < 0.5 * measured["raw"].raw_bytes
assert measured["huffman"].raw_bytes < 0.12 * float_file.stats.raw_bytes
assert len({each.accuracy for each in measured.values()}) == 1
assert measured["auto, 12 kB arena"].memory["arena_minimum_bytes"] <= 12_000
assert measured["huffman"].memory["arena_minimum_bytes"] > measured["raw"].memory["arena_minimum_bytes"]
assert measured["huffman"].latency.median_ms > measured["raw"].latency.median_ms
assert base.accuracy > accuracy(model) - 0.06

# %% [markdown]
# ## 6. To the device
#
# `export_c` writes three C++ files: the model as an array, what is known of it (size of the arena, scales of inputs and outputs), and a
# resolver for exactly the operators used. A compiler, if there is one, has to take them before they are written.

# %%
compiler = "g++" if shutil.which("g++") else None
sources = kc.export_c(files["auto, 12 kB arena"], "src", name="digits", compile_with=compiler)
print(*(f"{path} {path.stat().st_size:,} bytes" for path in sources), f"compiled with {compiler}", sep="\n")
print(*[line for line in Path("src/digits_data.h").read_text().splitlines() if "DIGITS_" in line][2:], sep="\n")
print(*re.findall(r"resolver\.\w+\(\)", Path("src/digits_ops.h").read_text()), sep="\n")

# %%
array = bytes.fromhex("".join(re.findall(r"0x([0-9a-f]{2})\b", Path("src/digits_data.cc").read_text())))
assert array == files["auto, 12 kB arena"].content
assert "resolver.AddDecode()" in Path("src/digits_ops.h").read_text()

# %% [markdown]
# ## 7. Vectors of weights
#
# Product quantization gives a code to eight neighbouring weights at a time: each layer has a codebook of vectors, found by k-means, which
# counts an error by what it changes in the layer's output for real inputs. Only the codewords are trained, taught by the float model.

# %%
vectors = kc.product_quantize(model, bits=1.5, data=x_train)
at_once = accuracy(vectors)
for name in LAYERS:
    clusterer = vectors.get_layer(name).transform_list[0]
    _, number, size = clusterer.codewords.shape
    print(
        f"{name:8} {number:4} vectors of {size} weights, {clusterer.bits_per_weight:.2f} bits a weight with the codebook"
    )


def train_taught(model_, epochs, learning_rate):
    kc.Training(loss, epochs=epochs, learning_rate=learning_rate, batch_size=64, teacher=model).on(x_train, y_train)(
        model_
    )
    return model_


train_taught(vectors, 2 if FAST else 12, 2e-3)
print(f"test accuracy {at_once:.2%} at once, {accuracy(vectors):.2%} trained, {accuracy(model):.2%} of the float model")

# %% [markdown]
# In the file, codes and codebook are tensors of their own. TFLite-Micro looks each weight up with a GATHER in front of its layer: what the
# layer reads are the integers of the plain file. The weight of a layer lies in the arena meanwhile.

# %%
integers = train_taught(kc.quantize_model(vectors), 1 if FAST else 4, 3e-4)
in_vectors = kc.convert(integers, target="tflm", io="int8", weights_storage="vectors")
as_they_are = kc.expand(in_vectors)
both = kc.measure_all({"plain": as_they_are, "vectors": in_vectors}, data.x_test, data.y_test, target="tflm")
for name, each in both.items():
    arena = each.memory["arena_minimum_bytes"]
    print(f"{name:8}{each.raw_bytes:9,} bytes, arena {arena:7,} bytes, accuracy {each.accuracy:.2%}")
for weight in kc.inspect_tflite(in_vectors.content).weights:
    print(f"{weight.name:20} {weight.storage:8} {8 * weight.bytes / weight.elements:.2f} bits a weight")

# %%
assert both["vectors"].raw_bytes < 0.4 * both["plain"].raw_bytes
assert both["vectors"].accuracy == both["plain"].accuracy
assert accuracy(vectors) > at_once
assert both["vectors"].accuracy > accuracy(model) - 0.1
assert all(vectors.get_layer(name).transform_list[0].bits_per_weight <= 1.5 for name in LAYERS)

# %% [markdown]
# ## What next
#
# - `docs/vector_quantization.md`: codebooks, what was tried on which runtime, papers; `kc.cluster_by_entropy`: values for short Huffman codes.
# - `docs/compressed.md`: the three forms, what they cost, and how a file goes back (`kc.expand`); `docs/deep_compression.md`: LeNets
#   on Fashion-MNIST at 40, 60 and 100 times less.
# - `kc.deep_compression(..., folder=...)` goes on where it was stopped; `kc.Pruning(channels=0.3)` cuts channels first.
# - `kc.estimate(file, "cortex_m", core="m4")` estimates cycles of the raw file.
# - `keras-compress compress --recipe=deep_compression --target=tflm` does it for a `.keras` file.
