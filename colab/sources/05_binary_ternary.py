# %% [markdown]
# # Binary and ternary nets
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/05_binary_ternary.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# Weights of one value and its negative, or of these and zero: a bit for each weight, or little more. This notebook trains such nets by
# five papers' methods, and looks at what is left of the promise in a file and on a clock.
#
# 1. **Train** a small network on 1,437 images of handwritten digits.
# 2. **The methods**: what each makes of a weight.
# 3. **Train with them**: BinaryConnect, BWN, XNOR-Net, TWN and TTQ.
# 4. **Deploy**: the accuracy of the file, and what is in it.
# 5. **Weigh**: two bits on LiteRT, and shorter codes on TFLite-Micro.
# 6. **Time**: what runs on stock kernels, and what would on others.
# 7. **Accuracy back**: trained scales and thresholds, sums of signs, and a teacher.
# 8. **Vote**: three nets of signs in one file, and the bits that their sums need.
#
# Everything runs offline, in about a minute on two CPU cores; `FAST=1` in the environment takes three of the
# methods and fewer epochs.

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

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

from keras_compress.demo import datasets

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# A batch normalization stands in front of each activation: where that becomes a sign, it sets the threshold.

# %%
data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    inputs = keras.Input(data.input_shape)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2D(64, 3, 2, padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(32, use_bias=False, name="hidden")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def train(model, epochs, learning_rate=2e-3):
    training = kc.Training(loss, epochs=epochs, learning_rate=learning_rate, batch_size=64)
    training.on(data.x_train, data.y_train)(model)
    return model


def accuracy(model):
    return float(np.mean(np.argmax(np.asarray(model(data.x_test)), axis=-1) == data.y_test))


model = train(net(), 5 if FAST else 15)
print(f"{model.count_params():,} parameters, test accuracy {accuracy(model):.2%}")

# %% [markdown]
# ## 2. The methods
#
# `quantize_model` takes them by name or as objects. The first and the last layer keep 8 bits, as in every paper. The others have float
# *latent* weights to train, and compute with what the method makes of them: here, of one filter of the second convolution, before any
# training.
#
# BinaryConnect draws signs at random while it trains, weights near 0 like coins. That is for nets trained from scratch, whose weights
# fill -1 to 1; a trained net has small weights, and takes the paper's other form.

# %%
EIGHT_BITS = [{"layers": ["first", "last"], "weights": "int8"}]
METHODS = {"BinaryConnect": kc.BinaryConnect(stochastic=False), "BWN": "bwn", "TWN": "twn", "TTQ": "ttq"}
# Weights alone, to begin with.
rounded = {
    name: kc.quantize_model(model, weights, activations=None, rules=EIGHT_BITS) for name, weights in METHODS.items()
}


def latent(each, layer):
    return np.asarray(each.get_layer(layer).layer.kernel)


def used(each, layer):
    """The weights that the layer computes with."""
    return np.asarray(each.get_layer(layer).weight("kernel"))


figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for axis, (name, each) in zip(axes, rounded.items()):
    before, after = latent(each, "conv")[..., 0].ravel(), used(each, "conv")[..., 0].ravel()
    axis.plot(before, before, color="#bbbbbb", lw=1, label="float")
    axis.plot(before, after, ".", ms=4, color="#4c78a8", label="used")
    axis.set(xlabel="latent weight", title=f"{name}: {len(np.unique(after))} values")
axes[0].set_ylabel("weight in use")
axes[0].legend(frameon=False)
figure.suptitle("One filter of `conv`, 288 weights")
plt.show()

# %% [markdown]
# The papers' formulas, in NumPy, for each output channel:

# %%
w = np.asarray(model.get_layer("conv").kernel, np.float64).reshape(-1, 64)
size = np.abs(w)
alpha = size.mean(axis=0)
above = size > 0.7 * alpha  # TWN's threshold
level = (size * above).sum(axis=0) / above.sum(axis=0)
formulas = {
    "BinaryConnect": np.where(w >= 0, 1, -1),
    "BWN": np.where(w >= 0, alpha, -alpha),  # the mean magnitude is the best scale of a sign
    "TWN": np.sign(w) * above * level,
}
for name, expected in formulas.items():
    np.testing.assert_allclose(used(rounded[name], "conv").reshape(-1, 64), expected, atol=1e-6)
# TTQ trains two levels of its own for each channel: at first, the means of what is beyond 5 % of the largest weight.
assert all(len(np.unique(column)) <= 3 for column in used(rounded["TTQ"], "conv").reshape(-1, 64).T)
lost = {name: float(np.sum((used(rounded[name], "conv").reshape(-1, 64) - w) ** 2)) for name in METHODS}
print({name: f"squared error {error:.1f}" for name, error in lost.items()})
# Three values are nearer than two. BinaryConnect has no scale: the batch normalization behind it takes care of that.
assert lost["TWN"] < lost["BWN"] < lost["BinaryConnect"]

# %% [markdown]
# ## 3. Training
#
# Rounded at once, a net loses some of what it knows, a large one nearly all. It has to be trained with the weights in use; the gradient
# goes to the latent ones. Activations have 8 bits, but for XNOR-Net: that is BWN's weights with signs in the place of ReLUs.

# %%
chosen = ["BWN", "TWN"] if FAST else list(METHODS)
settings = {name: {"weights": METHODS[name], "rules": EIGHT_BITS} for name in chosen}
settings["XNOR-Net"] = {
    "weights": "bwn",
    "activations": "approx_sign",
    "rules": [*EIGHT_BITS, {"layers": "last", "activations": "int8"}],
}
trained = {}
for name, arguments in settings.items():
    trained[name] = train(kc.quantize_model(model, **arguments), 3 if FAST else 20)
    at_once = f"at once {accuracy(rounded[name]):7.2%}, " if name in rounded else ""
    print(f"{name:14} {at_once:18}trained {accuracy(trained[name]):7.2%}")

# %% [markdown]
# ## 4. The file
#
# Each is converted like any other model. Beside them are the float model, and the same quantized to 8 bits after training.
# `measure_all` runs the files on LiteRT, in turns: their accuracy is the device's.

# %%
files = {
    "float": kc.convert(model, mode="float32"),
    "int8": kc.convert(model, representative_dataset=data.x_train[:200]),
}
files |= {name: kc.convert(each) for name, each in trained.items()}
measured = kc.measure_all(files, data.x_test, data.y_test, runs=200)
weights = {name: {weight.name: weight for weight in file.stats.weights} for name, file in files.items()}
simulated = {name: accuracy(files[name].frozen) for name in trained}
for name, each in trained.items():
    values = [weights[name][f"{layer}/kernel"].distinct_values for layer in ("stem", "conv", "hidden", "logits")]
    print(
        f"{name:14} trained {accuracy(each):7.2%}, simulated {simulated[name]:7.2%}, on LiteRT "
        f"{measured[name].accuracy:7.2%}; values of each weight {values}"
    )

# %% [markdown]
# `verify` runs each operator on the integers of the simulation, on LiteRT's fast kernels and its reference ones.

# %%
check = kc.verify(files["XNOR-Net"], trained["XNOR-Net"], data.x_test)
print(check)

# %%
assert check.ok
for name in trained:
    count = 3 if name in ("TWN", "TTQ") else 2
    assert weights[name]["conv/kernel"].distinct_values == weights[name]["hidden/kernel"].distinct_values == count
for name, value in simulated.items():
    assert abs(measured[name].accuracy - value) <= 2 / len(data.y_test) + 1e-9
for name in chosen:
    assert measured[name].accuracy > measured["int8"].accuracy - 0.06
assert measured["BWN"].accuracy > accuracy(rounded["BWN"]) - 0.01
assert measured["XNOR-Net"].accuracy > 0.8

# %% [markdown]
# ## 5. Bytes
#
# In an int8 tensor a weight of two values takes a byte like any other. What packs it depends on the runtime:
#
# - LiteRT: `int4` for dense layers and convolutions, `int2` for dense layers alone, as it has no convolution with 2-bit weights. The
#   default, `"auto"`, packs in `int4` where that costs nothing.
# - TFLite-Micro decodes while the model runs: `lut` has 1 bit for two values and 2 for three, `huffman` less than that for three, as
#   zeros are frequent.
#
# Whatever a runtime does not take stays in int8, and the file's `notes` say why.

# %%
STORAGES = {
    "int8": {"weights_storage": "int8"},
    "int4, LiteRT": {"weights_storage": "int4"},
    "int2, LiteRT": {"weights_storage": "int2"},
    "lut, TFLM": {"target": "tflm", "weights_storage": "lut"},
    "huffman, TFLM": {"target": "tflm", "weights_storage": "huffman"},
}
NETS = ["BWN", "TWN"]
# All of one net from the same frozen model, with the integers -1, 0 and 1.
frozen = {name: kc.convert(trained[name], weights_storage="int4").frozen for name in NETS}
stored = {name: {storage: kc.convert(frozen[name], **how) for storage, how in STORAGES.items()} for name in NETS}


def bits(file, layer):
    return next(weight.bits_per_weight for weight in file.stats.weights if weight.name == f"{layer}/kernel")


print(f"{'':14}{'storage':15}{'file B':>9}{'conv':>12}{'hidden':>10}")
for name in NETS:
    for storage, file in stored[name].items():
        found = f"{bits(file, 'conv'):7.2f} bits{bits(file, 'hidden'):5.2f} bits"
        print(f"{name:14}{storage:15}{file.stats.raw_bytes:9,}{found}")
print(*stored["BWN"]["int2, LiteRT"].notes, sep="\n")

# %%
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
places = np.arange(len(STORAGES))
for number, (name, colour) in enumerate(zip(NETS, ("#4c78a8", "#9ecae1"))):
    sizes = [file.stats.raw_bytes / 1000 for file in stored[name].values()]
    axis.bar_label(axis.bar(places + 0.4 * (number - 0.5), sizes, 0.38, label=name, color=colour), fmt="%.1f")
float_size = files["float"].stats.raw_bytes / 1000
axis.set_xticks(places, STORAGES)
axis.set(xlabel="storage", ylabel="kB (1,000 bytes)", title=f"The file as it runs (float32: {float_size:.0f} kB)")
axis.margins(y=0.12)
axis.legend(frameon=False)
plt.show()

# %%
binary, ternary = stored["BWN"], stored["TWN"]
for each in (binary, ternary):
    assert bits(each["int8"], "hidden") == 8
    assert bits(each["int4, LiteRT"], "hidden") == bits(each["int4, LiteRT"], "conv") == 4
    assert bits(each["int2, LiteRT"], "hidden") == 2
    assert bits(each["int2, LiteRT"], "conv") == 8
assert any("no CONV_2D with INT2 weights" in note for note in binary["int2, LiteRT"].notes)
assert 1 <= bits(binary["lut, TFLM"], "hidden") < 1.05
assert 2 <= bits(ternary["lut, TFLM"], "hidden") < 2.05
assert bits(ternary["huffman, TFLM"], "hidden") < 1.7
assert binary["lut, TFLM"].stats.raw_bytes < 0.06 * files["float"].stats.raw_bytes

# %% [markdown]
# ## 6. Time
#
# What does LiteRT execute? The operators of the int8 file: multiplications by 1 and -1, in int8. Nothing is faster for it; where signs
# replace ReLUs, one operator may come on top. XNOR-Net's 58 times are those of kernels that stock runtimes do not have.

# %%
for name in ("int8", "BWN", "XNOR-Net"):
    found = measured[name].latency
    print(f"{name:10} {files[name].stats.operators}")
    print(f"{'':10} {1000 * found.median_ms:.2f} us ({1000 * found.p10_ms:.2f}-{1000 * found.p90_ms:.2f})")
print(f"{found.threads} thread, {found.delegate}, {found.cpu}")

medians = np.array([1000 * each.latency.median_ms for each in measured.values()])
ends = np.array([[1000 * each.latency.p10_ms, 1000 * each.latency.p90_ms] for each in measured.values()]).T
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
colours = ["#bbbbbb", "#bbbbbb", *["#4c78a8"] * len(trained)]
left.bar_label(
    left.barh(list(measured), [100 * each.accuracy for each in measured.values()], color=colours), fmt="%.1f", padding=3
)
left.set(xlabel="test accuracy of the file, %", ylabel="method", title="Accuracy on LiteRT")
bars = right.barh(list(measured), medians, xerr=np.abs(ends - medians), color=colours, ecolor="#666666")
right.bar_label(bars, fmt="%.1f", padding=8)
right.set(xlabel="microseconds for one image: median, 10 % to 90 %", title="Latency on LiteRT")
for axis in (left, right):
    axis.margins(x=0.15)
left.invert_yaxis()
plt.show()

# %% [markdown]
# What such a kernel would do is seen in NumPy. Signs are bits; a product of signs is -1 where the bits differ. Of `n` products, the sum
# is `n - 2 * popcount(a xor b)`: one instruction for 64 of them. Here for the dense layer, on what it reads in the trained net.

# %%
xnor = trained["XNOR-Net"]
before_hidden = keras.Model(xnor.input, xnor.get_layer("flat").output)
activations = np.asarray(before_hidden(data.x_test))
kernel = used(xnor, "hidden")
assert set(np.unique(activations)) == {-1.0, 1.0}

POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)])
packed_inputs = np.packbits(activations > 0, axis=1)
packed_kernel = np.packbits(kernel.T > 0, axis=1)
differing = POPCOUNT[packed_inputs[:, None, :] ^ packed_kernel[None, :, :]].sum(axis=-1)
by_bits = len(kernel) - 2 * differing
print(f"kernel: {kernel.size:,} weights, {packed_kernel.nbytes:,} bytes as bits")

# %%
np.testing.assert_array_equal(by_bits, np.rint(activations @ np.sign(kernel)))
np.testing.assert_allclose(by_bits * np.abs(kernel).mean(axis=0), activations @ kernel, rtol=1e-3, atol=1e-3)
standard = {"QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "RESHAPE", "DEQUANTIZE"}
assert all(set(files[name].stats.operators) <= standard for name in trained)
assert files["BWN"].stats.operators == files["int8"].stats.operators
for name in trained:
    assert measured[name].latency.median_ms > 0.7 * measured["int8"].latency.median_ms

# %% [markdown]
# ## 7. Accuracy back
#
# Later papers win back some of what signs on both sides lose. XNOR-Net++ trains the scale of each channel and ReActNet the threshold of each
# sign, and it learns from the float model's outputs alone. ABC-Net takes sums of signs: with three of them four values on either side.

# %%
SIGNS = {"rules": settings["XNOR-Net"]["rules"]}
back = {
    "XNOR-Net++": {"weights": "xnor_plus_plus", "activations": "rsign", **SIGNS},
    "ABC-Net": {"weights": kc.ABCNet(3, per_channel=True), "activations": kc.ABCNetActivation(3), **SIGNS},
}
teacher = kc.Teacher(model, "soft_targets", temperature=1.0, alpha=1.0)
epochs = 3 if FAST else 20
for name, arguments in back.items():
    training = kc.Training(loss, epochs=epochs, learning_rate=2e-3, batch_size=64, teacher=teacher)
    trained[name] = kc.quantize_model(model, **arguments)
    training.on(data.x_train, data.y_train)(trained[name])
    files[name] = kc.convert(trained[name])
again = kc.measure_all({name: files[name] for name in ("XNOR-Net", *back)}, data.x_test, data.y_test, runs=50)
for name, each in again.items():
    print(f"{name:12} on LiteRT {each.accuracy:7.2%}, {files[name].stats.operators}")

# %% [markdown]
# Scales and thresholds cost nothing: they are in the scale of the weights and in the bias before a sign, and the operators are those of
# XNOR-Net. Sums of signs are int8 weights of four values, and a table for the activations.

# %%
assert files["XNOR-Net++"].stats.operators == files["XNOR-Net"].stats.operators
assert next(w for w in files["ABC-Net"].stats.weights if w.name == "hidden/kernel").distinct_values <= 4 * 32
for name in back:
    assert abs(again[name].accuracy - accuracy(files[name].frozen)) <= 2 / len(data.y_test) + 1e-9
    assert again[name].accuracy > 0.8

# %% [markdown]
# ## 8. Three that vote
#
# Nets of signs that were trained alike make different mistakes. Bagging trains each on samples drawn with replacement; the average of their
# outputs is right more often than one of them. The ensemble is one Keras model, and one file.

# %%
start = kc.quantize_model(model, **settings["XNOR-Net"])
training = kc.Training(loss, epochs=2 if FAST else 20, learning_rate=2e-3, batch_size=64)
found = kc.train_ensemble(
    start, training.on(data.x_train, data.y_train), members=3, validation_data=(data.x_test, data.y_test)
)
print(found)
voting = kc.convert(found.model)
print(f"{voting.stats.raw_bytes:,} bytes, one net has {files['XNOR-Net'].stats.raw_bytes:,}")
print(kc.verify(voting, found.model, data.x_test[:100]))

# %% [markdown]
# How wide are the sums of such a layer? `accumulator_bits` reads it from the file's integers: at the worst, and on images.

# %%
sums = kc.accumulator_bits(files["XNOR-Net"], data.x_test)
for row in sums.rows:
    print(f"{row.layer[:40]:42}{row.terms:6} products, {row.bits:3} bits hold any sum, {row.observed_bits:3} these")

# %%
own = [each.metric for each in found.members]
assert found.members[-1].together > np.mean(own) - 0.01
assert not voting.float_ops
assert kc.verify(voting, found.model, data.x_test[:100]).ok
hidden = next(row for row in sums.rows if row.terms == 1024)
# 1,024 signs need 11 bits and a sign; the threshold is in the bias.
assert hidden.input_high == 1
assert hidden.observed_bits <= hidden.bits <= 14

# %% [markdown]
# ## What next
#
# - `docs/binary_ternary.md`: which to take when; `docs/quantizers.md`: each method with its gradient, and accuracies on Fashion-MNIST.
# - Ready layers for nets that are written for signs: `kc.BinaryConv2D`, `kc.TernaryDense` and `kc.QuantConv2D`, with
#   `input_quantizer="ste_sign"` and `kernel_constraint="weight_clip"`; `kc.XnorScale(constant=True)` is XNOR-Net's scale of the inputs.
# - `kc.RPReLU`, `kc.XnorPlusPlusScale` and `kc.RSign` for nets with shortcuts: "Winning accuracy back" in `docs/binary_ternary.md`.
# - `keras-compress compress --recipe=twn` (or `ttq`, `bwn`, `xnor`, `wrpn`, `react_net`) does it for a `.keras` file.
