# %% [markdown]
# # To Android with LiteRT
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/07_android.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# What an app needs of a model: one file, what is known of it, how its integers are read, and how fast it is on the phone.
#
# 1. **Train** a small network on 1,437 images of handwritten digits.
# 2. **Convert** it to integers, with labels and what the app has to do before the model, and **verify** the file.
# 3. **Read** the file as an app does: signature, metadata, the formula of its integers.
# 4. **Gradle and Kotlin** that load and run it.
# 5. **Measure** it on LiteRT here, and with the `adb` commands on a phone.
#
# The Gradle and Kotlin lines and the `adb` commands are text here: no Android SDK and no phone is at hand. All else is run, offline, in
# less than a minute on two CPU cores; `FAST=1` in the environment takes fewer epochs.

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
import zipfile

import keras
import matplotlib.pyplot as plt
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_compress.demo import datasets
from keras_compress.report import plots
from keras_compress.runtime.adb import adb_lines

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# The names of inputs and outputs are what the app will see. The images of this data set have values from 0 to 16, and the network is
# trained on `image / 16`.

# %%
data = datasets.load("digits")
model = keras.Sequential(
    [
        keras.Input((8, 8, 1), name="image"),
        layers.Conv2D(16, 3, activation="relu", name="edges"),
        layers.Conv2D(32, 3, activation="relu", name="shapes"),
        layers.Flatten(),
        layers.Dense(10, activation="softmax", name="digit"),
    ]
)
training = kc.Training("sparse_categorical_crossentropy", epochs=5 if FAST else 20, learning_rate=3e-3, batch_size=64)
training.on(data.x_train, data.y_train)(model)
print(f"test accuracy {np.mean(np.argmax(np.asarray(model(data.x_test)), axis=-1) == data.y_test):.2%}")

# %% [markdown]
# ## 2. Convert
#
# `io="uint8"` makes inputs and outputs bytes, as a camera has them. `metadata` goes into the file: labels, and `mean` and `std` of what the
# app does before it calls the model, `(x - mean) / std`. Android Studio's model view, MediaPipe and the Task Library read it. A model
# with a `Rescaling` layer needs no `mean` and `std`.

# %%
metadata = kc.Metadata(
    name="digits",
    description="Which of ten digits an image of 8 by 8 shows",
    license="Apache-2.0",
    color="GRAYSCALE",
    mean=0.0,
    std=16.0,
    labels=[str(digit) for digit in range(10)],
)
samples = data.x_train[:200]
files = {
    "float32": kc.convert(model, mode="float32"),
    "int8": kc.convert(model, representative_dataset=samples),
    "int8, bytes in and out": kc.convert(model, representative_dataset=samples, io="uint8", metadata=metadata),
}
artifact = files["int8, bytes in and out"]
artifact.save("digits.tflite")
check = kc.verify(artifact, model, data.x_test)
print(artifact)
print(f"verified: {check.ok}")

# %% [markdown]
# ## 3. What the app reads
#
# Every file has the signature `serving_default`, with the names of the Keras model. An app runs the model by these names; the order of
# tensors inside the file is nobody's business.

# %%
interpreter = Interpreter("digits.tflite")
signatures = interpreter.get_signature_list()
print(json.dumps(signatures))
((input_name,), (output_name,)) = signatures["serving_default"].values()
runner = interpreter.get_signature_runner("serving_default")
grids = {}
for name, tensor in {**runner.get_input_details(), **runner.get_output_details()}.items():
    grids[name] = tensor["quantization"]
    print(
        f"{name}: {tensor['dtype'].__name__}, shape {tensor['shape']}, scale {grids[name][0]:.6f}, zero point {grids[name][1]}"
    )

# %% [markdown]
# Labels lie in a ZIP archive behind the model, so that any tool reads them; `unzip -p digits.tflite labels.txt` does on a command line. The
# model computes the same with and without. Add metadata last: tools that write the file anew lose the archive.

# %%
labels = zipfile.ZipFile("digits.tflite").read("labels.txt").decode().split()
print(labels)

# %% [markdown]
# **Integers in and out.** `real = scale * (integer - zero_point)`. To the app that is two functions, here as they are in Kotlin below
# (its `Math.round` rounds halves up; NumPy's `round` would take them to even).


# %%
def quantize(real, scale, zero_point):
    return np.clip(np.floor(real / scale + 0.5) + zero_point, 0, 255).astype(np.uint8)


def dequantize(integer, scale, zero_point):
    return scale * (integer.astype(np.float32) - zero_point)


def app(pixels):
    """What the app does with an image of 8 by 8 values from 0 to 16: the scores of the ten digits."""
    normalized = (pixels - metadata.mean) / metadata.std
    scores = runner(**{input_name: quantize(normalized, *grids[input_name])})[output_name]
    return dequantize(scores, *grids[output_name])[0]


pixels = np.round(16 * data.x_test)  # as the data set has them
scores = np.stack([app(image[None]) for image in pixels])
print(
    f"the first image: {labels[int(np.argmax(scores[0]))]!r} with a score of {scores[0].max():.2f}; it is {data.y_test[0]}"
)
print(f"accuracy of the app's way {np.mean(np.argmax(scores, axis=1) == data.y_test):.2%}")

# %% [markdown]
# The largest score needs no conversion: `argmax` of the bytes is the same. An image of bytes for a model that takes 0 to 1 needs none
# either, where the scale is 1/255 and the zero point 0, as here.
#
# ## 4. Gradle and Kotlin
#
# ```kotlin
# android {
#     androidResources { noCompress += "tflite" }  // a compressed asset cannot be mapped into memory
# }
# dependencies {
#     implementation("com.google.ai.edge.litert:litert:2.+")
# }
# ```
#
# ```kotlin
# val model = CompiledModel.create(context.assets, "digits.tflite", CompiledModel.Options(Accelerator.CPU))
# val inputs = model.createInputBuffers()
# val outputs = model.createOutputBuffers()
#
# inputs[0].writeInt8(pixels)       // writeFloat where the file was converted with io="float32", the default
# model.run(inputs, outputs)
# val scores = outputs[0].readInt8()
#
# fun quantize(real: Float, scale: Float, zeroPoint: Int): Byte =
#     (Math.round(real / scale) + zeroPoint).coerceIn(0, 255).toByte()      // uint8; -128..127 for int8
#
# fun dequantize(integer: Byte, scale: Float, zeroPoint: Int): Float =
#     scale * ((integer.toInt() and 0xFF) - zeroPoint)                      // uint8; integer - zeroPoint for int8
# ```
#
# With `noCompress` the file takes its raw size in the APK and is mapped, not copied; Play compresses the download. Of the two sizes below,
# gzip is what users download, and the other what their phone holds.
#
# ## 5. How fast it is
#
# On LiteRT here, each file in turns with the others, one thread. The scale of a network as small as this one is microseconds, where the
# call itself counts as much as the multiplications; what is faster on a phone, only the phone knows.

# %%
found = kc.measure_all(files, data.x_test, data.y_test)
stages = []
for name, each in found.items():
    stages.append({"name": name, "accuracy": each.accuracy, "raw_bytes": each.raw_bytes, "gzip_bytes": each.gzip_bytes})
    spread = f"{1000 * each.latency.p10_ms:.1f} to {1000 * each.latency.p90_ms:.1f}"
    print(
        f"{name:23} {each.accuracy:.2%}, {each.raw_bytes:6,} bytes, {1000 * each.latency.median_ms:.1f} microseconds ({spread})"
    )
plots.size_bars(stages)

# %%
medians = np.array([1000 * each.latency.median_ms for each in found.values()])
ends = np.array([[1000 * each.latency.p10_ms, 1000 * each.latency.p90_ms] for each in found.values()]).T
figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
axis.barh(list(found), medians, xerr=np.abs(ends - medians), capsize=4)
axis.invert_yaxis()
_ = axis.set(
    title="Latency on LiteRT, here", xlabel="microseconds, median with 10th and 90th percentile", ylabel="file"
)

# %% [markdown]
# **On a phone** that is plugged in, with TensorFlow's `benchmark_model` in `/data/local/tmp`:

# %%
print("\n".join(adb_lines("digits.tflite")))

# %% [markdown]
# `kc.measure_on_device` and `keras-compress measure --model=digits.tflite --device=adb` run these and read the tool's answer. They say what is
# missing where they cannot. Compare files in turns: a warm phone is slower, and its small cores are several times slower than its large ones.

# %%
try:
    print(kc.measure_on_device("digits.tflite"))
except RuntimeError as reason:
    print(reason)

# %% [markdown]
# What this notebook says, checked:

# %%
assert check.ok
assert (list(signatures), input_name) == (["serving_default"], "image")
assert labels == metadata.labels
bare = Interpreter(model_content=kc.convert(model, representative_dataset=samples, io="uint8").content)
bare_runner = bare.get_signature_runner("serving_default")
image = quantize(data.x_test[:1], *grids[input_name])
assert np.array_equal(bare_runner(**{input_name: image})[output_name], runner(**{input_name: image})[output_name])
assert np.isclose(grids[input_name][0], 1 / 255)
assert grids[input_name][1] == 0
assert np.array_equal(quantize(np.arange(256) / 255, *grids[input_name]), np.arange(256))
accuracies = {stage["name"]: stage["accuracy"] for stage in stages}
# The app's way is the same file: as measured, but for images whose halves are rounded to the other side.
assert abs(np.mean(np.argmax(scores, axis=1) == data.y_test) - accuracies["int8, bytes in and out"]) <= 2 / 360
assert accuracies["int8, bytes in and out"] > accuracies["float32"] - 0.02
expected = np.asarray(model(data.x_test))
assert np.mean(np.abs(scores - expected)) < 0.02
raw = {stage["name"]: stage["raw_bytes"] for stage in stages}
assert raw["float32"] > 2.5 * raw["int8"]

# %% [markdown]
# ## What next
#
# - `docs/android.md` has the same as a page, and LiteRT.js in a browser.
# - `keras-compress convert --model=m.keras --data=data.npz --metadata=metadata.json --out=m.tflite` is the command line's way.
# - Smaller and faster files: `colab/01_quickstart.ipynb`, `colab/04_quantization.ipynb`.
