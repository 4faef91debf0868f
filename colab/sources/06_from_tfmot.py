# %% [markdown]
# # Coming from tfmot
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/06_from_tfmot.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# The tasks of tfmot's guides (tensorflow-model-optimization), each with the old call as text and the new one run. Names are mostly
# the same; what is gone is callbacks, scopes, schemes and the stripping between steps.
#
# 1. **Prune**, load and save, strip.
# 2. **Cluster**.
# 3. **Quantize** while training, and convert.
# 4. **PQAT, CQAT, PCQAT**: all of it on one weight.
# 5. **Traps**: literal ports that run and give wrong results.
# 6. **Models that tfmot trained**: `kc.from_tfmot`.
#
# The old lines are not run: importing tfmot turns `tf.keras` into Keras 2 for the whole process. Everything runs offline, in about a
# minute on two CPU cores; `FAST=1` in the environment takes fewer epochs, and of the last three only PCQAT.

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

import contextlib
import importlib.util
import io
import subprocess
import tempfile
import warnings

import keras
import numpy as np
from keras import layers

from keras_compress.demo import datasets
from keras_compress.report import plots

keras.utils.set_random_seed(0)

# %% [markdown]
# The guides' network, for images of 8 by 8 pixels. `keras` stands where the guides have `tf.keras`; `compile`, `fit`, `evaluate` and
# `save` are the same calls as there.

# %%
data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(model, epochs, learning_rate=2e-3):
    model.compile(keras.optimizers.Adam(learning_rate), loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)  # in front of `fit`, which traces its first step twice otherwise
    model.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=0)
    return model


def accuracy(model):
    return float(np.mean(np.argmax(np.asarray(model(data.x_test)), axis=-1) == data.y_test))


model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(12, 3, activation="relu", name="conv"),
        layers.Flatten(),
        layers.Dense(10, name="dense"),
    ]
)
train(model, epochs=10 if FAST else 20, learning_rate=5e-3)
print(f"test accuracy {accuracy(model):.2%}")

# %% [markdown]
# ## 1. Prune
#
# ```python
# import tensorflow_model_optimization as tfmot
#
# schedule = tfmot.sparsity.keras.PolynomialDecay(0.5, 0.8, begin_step=0, end_step=end_step)
# pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
# pruned.compile(...)
# pruned.fit(..., callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
# ```
#
# The same names, and no callback: the layers count their steps themselves, in a custom training loop too.

# %%
epochs = 3 if FAST else 6
steps_per_epoch = int(np.ceil(len(data.x_train) / 64))
schedule = kc.PolynomialDecay(0.5, 0.8, begin_step=0, end_step=(epochs - 1) * steps_per_epoch, frequency=10)
pruned = train(kc.prune_low_magnitude(model, pruning_schedule=schedule), epochs)
overview = kc.summary(pruned)
print(f"{overview.sparsity:.1%} zeros, test accuracy {accuracy(pruned):.2%}")

# %% [markdown]
# One layer only, in the guide by a `clone_function` that wraps `layers.Dense` alone:

# %%
overview = kc.summary(kc.prune_low_magnitude(model, schedule, filters="class:Dense"))

# %% [markdown]
# **Save and load.** tfmot needs a scope, without which loading fails:
#
# ```python
# with tfmot.sparsity.keras.prune_scope():
#     loaded = tf.keras.models.load_model("pruned.h5")
# ```

# %%
pruned.save("pruned.keras")
loaded = keras.models.load_model("pruned.keras")
assert np.array_equal(loaded.predict(data.x_test, verbose=0), pruned.predict(data.x_test, verbose=0))

# %% [markdown]
# **Strip and convert.** `tfmot.sparsity.keras.strip_pruning(pruned)` stands before everything that follows there. Here it is called
# where a plain Keras model is wanted, and at no other place: `kc.convert` takes the model as it is.
#
# ```python
# converter = tf.lite.TFLiteConverter.from_keras_model(tfmot.sparsity.keras.strip_pruning(pruned))
# open("pruned.tflite", "wb").write(converter.convert())
# ```

# %%
plain = kc.strip(pruned)
assert np.allclose(plain.predict(data.x_test, verbose=0), pruned.predict(data.x_test, verbose=0), atol=1e-5)
print([type(layer).__name__ for layer in pruned.layers], "->", [type(layer).__name__ for layer in plain.layers])

files = {"float32": kc.convert(model, mode="float32"), "pruned": kc.convert(pruned, mode="float32")}
files["pruned"].save("pruned.tflite")

# %% [markdown]
# ## 2. Cluster
#
# ```python
# init = tfmot.clustering.keras.CentroidInitialization.LINEAR
# clustered = tfmot.clustering.keras.cluster_weights(model, number_of_clusters=16, cluster_centroids_init=init)
# clustered.fit(...)
# final = tfmot.clustering.keras.strip_clustering(clustered)
# ```

# %%
clustered = train(kc.cluster_weights(model, number_of_clusters=16, cluster_centroids_init="linear"), epochs, 5e-4)
files["clustered"] = kc.convert(clustered, mode="float32")
for weight in files["clustered"].stats.weights:
    print(f"{weight.op:16} {weight.elements:6,} weights, {weight.distinct_values} values in the file")

# %% [markdown]
# ## 3. Quantize while training
#
# ```python
# q_aware = tfmot.quantization.keras.quantize_model(model)
# q_aware.fit(...)
# converter = tf.lite.TFLiteConverter.from_keras_model(q_aware)
# converter.optimizations = [tf.lite.Optimize.DEFAULT]
# open("qat.tflite", "wb").write(converter.convert())
# ```
#
# `quantize_annotate_layer` in a `clone_function`, then `quantize_apply`, for some layers only, is a rule:
# `kc.quantize_model(model, rules=[{"layers": "conv", "skip": True}])`.

# %%
quantized = train(kc.quantize_model(model), epochs, 5e-4)
files["QAT"] = kc.convert(quantized)

# %% [markdown]
# The guide then feeds test images to an interpreter, one by one. `kc.measure` does it, and `kc.verify` compares each operator of the file
# with what was trained, which no guide does.

# %%
found = kc.measure(files["QAT"], data.x_test, data.y_test)
check = kc.verify(files["QAT"], quantized, data.x_test)
print(f"the file: {found.accuracy:.2%}, the model in Keras: {accuracy(quantized):.2%}; verified: {check.ok}")

# %% [markdown]
# ## 4. Sparsity-preserving clustering, PQAT, CQAT, PCQAT
#
# ```python
# stripped = tfmot.sparsity.keras.strip_pruning(pruned)
# clustered = cluster.cluster_weights(stripped, number_of_clusters=8, preserve_sparsity=True, ...)  # module "experimental"
# clustered.fit(...)
# stripped = tfmot.clustering.keras.strip_clustering(clustered)
# annotated = tfmot.quantization.keras.quantize_annotate_model(stripped)
# scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
# pcqat = tfmot.quantization.keras.quantize_apply(annotated, scheme)
# pcqat.fit(...)
# ```
#
# Calls add up here, so each of the three is the call for the last step: on the pruned model (PQAT), on the clustered one (CQAT), on
# the pruned and clustered one (PCQAT).

# %%
sparse_clustered = train(kc.cluster_weights(pruned, number_of_clusters=8), epochs, 5e-4)
before = {"PQAT": pruned, "CQAT": clustered, "PCQAT": sparse_clustered}
if FAST:
    before = {"PCQAT": sparse_clustered}
trained = {name: train(kc.quantize_model(each), epochs, 5e-4) for name, each in before.items()}
files |= {name: kc.convert(each) for name, each in trained.items()}
assert all(kc.verify(files[name], each, data.x_test).ok for name, each in trained.items())

# %%
stages = []
for name, found in kc.measure_all(files, data.x_test, data.y_test).items():
    stages.append(
        {"name": name, "accuracy": found.accuracy, "raw_bytes": found.raw_bytes, "gzip_bytes": found.gzip_bytes}
    )
    sparsity, values = found.sparsity, max(found.distinct_values.values())
    print(f"{name:9} accuracy {found.accuracy:.2%}, zeros {sparsity:5.1%}, at most {values:5,} values in a weight")
plots.size_bars(stages)

# %% [markdown]
# What was trained into `dense`, before and after all three. Zeros and clusters are still there after the training with 8 bits.

# %%
weights = [keras.ops.convert_to_numpy(model.get_layer("dense").kernel)]
weights.append(keras.ops.convert_to_numpy(trained["PCQAT"].get_layer("dense").kernel))
plots.weight_histogram({"dense": tuple(weights)}, ("trained in float", "PCQAT"))

# %% [markdown]
# ## 5. Literal ports that give wrong results
#
# None of these is an error.
#
# **TensorFlow's converter on a model of this package** gives a file that computes in float: it does not know of integers that were
# trained. A warning says so.

# %%
import tensorflow as tf

with warnings.catch_warnings(record=True) as said, contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("always")
    converter = tf.lite.TFLiteConverter.from_keras_model(trained["PCQAT"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ported_bytes = converter.convert()
print(*(str(each.message) for each in said if "kc.convert" in str(each.message)), sep="\n")
print(f"TFLiteConverter: {len(ported_bytes):,} bytes, kc.convert: {len(files['PCQAT'].content):,}")

# %% [markdown]
# **Counting zeros or clusters in `layer.trainable_weights`** or `get_weights()`, as the guides' helpers do. Of a compressed layer these
# are the float weights that training moves. What the layer computes with is `layer.kernel`, and what `kc.strip` puts in place.

# %%
dense = clustered.get_layer("dense")
counts = {
    "layer.trainable_weights": len(np.unique(dense.trainable_weights[0])),
    "layer.kernel": len(np.unique(dense.kernel)),
    "kc.strip(model)": len(np.unique(kc.strip(clustered).get_layer("dense").kernel)),
}
for name, count in counts.items():
    print(f"{name:24} {count:,} values")

# %% [markdown]
# **Strip, then go on.** In tfmot, `quantize_model` of a stripped model trains its zeros away, and so does any training without one of the
# schemes. Here they are kept with a word of warning; but a stripped model that is trained by itself loses them here as it does there.

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    kept = train(kc.quantize_model(kc.strip(pruned)), epochs=1)
print(*(str(each.message) for each in said if "zero" in str(each.message)), sep="\n")
lost = train(kc.strip(pruned), epochs=1)
zeros = {
    "quantize_model(strip(pruned))": np.mean(np.asarray(kept.get_layer("dense").kernel) == 0),
    "strip(pruned), trained on": np.mean(np.asarray(lost.get_layer("dense").kernel) == 0),
}
for name, share in zeros.items():
    print(f"{name:31} {share:.1%} zeros")

# %% [markdown]
# **The last update of a schedule.** tfmot updates masks at `begin_step` and every `frequency` steps (100 by default) while
# `step <= end_step`. A schedule that ends between two of them never reaches its final sparsity there. Here `end_step` always prunes.

# %%
short = kc.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=150, frequency=100)
last_there = max(range(0, 150 + 1, 100))
print(
    f"last update in tfmot, at step {last_there}: {float(short(last_there)):.1%}; here, at step 150: {float(short(150)):.1%}"
)

# %% [markdown]
# - **`number_of_clusters` of a sparse weight counts zero**, in both: 8 clusters are 0 and 7 others.
# - **tfmot wraps the layers of the model that it is given**, so pruning prunes the original, too. Here the original stays as it is:

# %%
print(f"zeros in the model that was given: {np.mean(np.asarray(model.get_layer('dense').kernel) == 0):.1%}")

# %% [markdown]
# - **gzip's size is not the device's**: a file in flash takes its raw size, zeros and clusters or not. For TFLite-Micro the weights can be
#   stored encoded, and are decoded when they are read:

# %%
encoded = kc.convert(trained["PCQAT"], target="tflm", weights_storage="auto")
for name, file in {"as int8": files["PCQAT"], "encoded": encoded}.items():
    print(f"{name}: {len(file.content):,} bytes in flash")

# %% [markdown]
# A name of tfmot that has no twin says what to write:

# %%
for name in ("strip_pruning", "quantize_apply", "CentroidInitialization"):
    try:
        getattr(kc, name)
    except AttributeError as error:
        print(error)

# %% [markdown]
# ## 6. Models that tfmot trained
#
# `kc.from_tfmot("model.h5")` takes a pruned, clustered or quantized model over, with masks, schedules, centroids and ranges, and the same
# outputs. An .h5 file is read without tfmot. To have one here, a process with tfmot of its own makes it, where the extra is installed
# (`pip install 'keras-compress[tfmot]'`).

# %%
CODE = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tensorflow_model_optimization as tfmot, tf_keras
held = np.load("images.npz")
net = tf_keras.Sequential([
    tf_keras.Input((8, 8, 1)),
    tf_keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
    tf_keras.layers.Flatten(name="flat"),
    tf_keras.layers.Dense(10, name="dense"),
])
schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=0, frequency=5)
pruned = tfmot.sparsity.keras.prune_low_magnitude(net, pruning_schedule=schedule)
pruned.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
pruned.fit(held["x"], held["y"], epochs=2, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
pruned.save("tfmot.h5", include_optimizer=False)
np.save("outputs.npy", pruned.predict(held["x"], verbose=0))
"""
has_tfmot = all(importlib.util.find_spec(name) for name in ("tf_keras", "tensorflow_model_optimization"))
if has_tfmot:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/images.npz", x=data.x_train[:400], y=data.y_train[:400])
        subprocess.run([sys.executable, "-c", CODE], cwd=folder, check=True, capture_output=True)
        taken = kc.from_tfmot(f"{folder}/tfmot.h5")
        outputs = np.load(f"{folder}/outputs.npy")
    difference = float(np.abs(taken.predict(data.x_train[:400], verbose=0) - outputs).max())
    overview = kc.summary(taken)
    print(f"outputs differ by {difference:.1e}, of values up to {np.abs(outputs).max():.1f}")
else:
    print("tfmot is not installed here")

# %% [markdown]
# What this notebook says, checked:

# %%
figures = {stage["name"]: stage for stage in stages}
stats = {name: file.stats.weights for name, file in files.items()}
floating = figures["float32"]["accuracy"]
assert all(stage["accuracy"] > floating - 0.05 for stage in stages)
assert all(weight.sparsity > 0.77 for name in {"pruned", "PQAT", "PCQAT"} & set(stats) for weight in stats[name])
assert all(weight.distinct_values <= 16 for name in {"clustered", "CQAT"} & set(stats) for weight in stats[name])
assert all(weight.distinct_values <= 8 for weight in stats["PCQAT"])
assert figures["PCQAT"]["gzip_bytes"] < 0.6 * figures["QAT"]["gzip_bytes"]
assert len(ported_bytes) > 3 * len(files["PCQAT"].content)
assert counts["layer.trainable_weights"] > 1000 > 16 >= counts["kc.strip(model)"] == counts["layer.kernel"]
assert zeros["quantize_model(strip(pruned))"] > 0.77 > 0.1 > zeros["strip(pruned), trained on"]
assert float(short(last_there)) < 0.78 < float(short(150))
assert not np.any(np.asarray(model.get_layer("dense").kernel) == 0)
assert len(encoded.content) < len(files["PCQAT"].content)
if has_tfmot:
    assert difference < 1e-4

# %% [markdown]
# ## What next
#
# - `docs/from_tfmot.md`: seven guides call by call, and what `kc.from_tfmot` does with each wrapper.
# - `keras-compress from_tfmot --model=model.h5 --out=new.keras` does the last section for a file.
# - `colab/04_quantization.ipynb` goes to fewer bits than tfmot has.
