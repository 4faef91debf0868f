# %% [markdown]
# # Pruning: weights set to zero, and channels cut out
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/02_pruning.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# A trained network has more weights than it needs. This notebook takes them away in several ways, and shows on files and clocks what
# each of them brings, and what it does not.
#
# 1. **Train** a small network on 1,437 images of handwritten digits.
# 2. **Prune** single weights by their magnitude, more and more of them while the model trains.
# 3. **Weigh** the files: what zeros are worth as bytes, and after gzip.
# 4. **Patterns**: two zeros in every four inputs, and whole blocks.
# 5. **Channels**: masked while the model trains, then cut out.
# 6. **Time** all of them on LiteRT, in turns.
# 7. **At once**: by more than magnitude, from a few samples.
# 8. **Sparse from the start**: RigL, which moves its few weights to where they are needed.
# 9. **A lottery ticket**: a sparse network that trains from its own early weights, and not from others.
# 10. **Faster for its zeros**: blocks, stored sparse, on LiteRT.
#
# Everything runs offline, in about two minutes on two CPU cores; `FAST=1` in the environment takes a quarter of the epochs.

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
from keras_compress.report.tables import measurement_table

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# Three convolutions with batch normalization. The first and the last layer have 3 % of the weights; as they mind pruning most, they
# are left alone below.

# %%
data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    inputs = x = keras.Input(data.x_train.shape[1:])
    for number, (channels, strides) in enumerate([(16, 1), (32, 1), (64, 2)], start=1):
        x = layers.Conv2D(channels, 3, strides, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def train(model, epochs, learning_rate=3e-3, **settings):
    training = kc.Training(loss, epochs=epochs, learning_rate=learning_rate, batch_size=64, **settings)
    training.on(data.x_train, data.y_train)(model)
    return model


def accuracy(model):
    return float(np.mean(np.argmax(np.asarray(model(data.x_test)), axis=-1) == data.y_test))


model = train(net(), epochs=4 if FAST else 15)
print(f"{model.count_params():,} parameters, test accuracy {accuracy(model):.2%}")

# %% [markdown]
# ## 2. Single weights, by magnitude
#
# `prune_low_magnitude` gives a new model. While `fit` runs, it sets the smallest weights of each layer to zero, as many as the
# *schedule* says at that step, and the other weights learn to do without them. No callback is needed; the one below only writes down
# how the model does at the end of each epoch.

# %%
epochs = 5 if FAST else 20
steps_per_epoch = -(-len(data.x_train) // 64)
schedule = kc.PolynomialDecay(
    0.2, 0.9, begin_step=0, end_step=0.8 * epochs, frequency=5, steps_per_epoch=steps_per_epoch
)
PRUNED = ["conv2", "conv3"]
pruned = kc.prune_low_magnitude(model, schedule, filters="re:conv[23]")


def kernel(model, name):
    """The weight that the layer computes with."""
    layer = model.get_layer(name)
    return np.asarray(layer.weight("kernel") if isinstance(layer, kc.Compressed) else layer.kernel)


def sparsity(model):
    return float(np.mean(np.concatenate([kernel(model, name).ravel() for name in PRUNED]) == 0))


history = []
note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: history.append((sparsity(pruned), accuracy(pruned))))
train(pruned, epochs, callbacks=[note])
overview = kc.summary(pruned)

# %% [markdown]
# For comparison: the same weights set to zero *at once*, without a step of training. Up to a half of them the net hardly minds;
# beyond that only training keeps its accuracy.


# %%
def pruned_at_once(share):
    result = keras.models.clone_model(model)
    result.set_weights(model.get_weights())
    for name in PRUNED:
        weight = kernel(model, name)
        threshold = np.quantile(np.abs(weight), share)
        result.get_layer(name).kernel.assign(np.where(np.abs(weight) > threshold, weight, 0))
    return result


shares = [0.0, 0.5, 0.9] if FAST else [0.0, 0.25, 0.5, 0.7, 0.8, 0.9]
at_once = {share: pruned_at_once(share) for share in shares}
lost_at_once = {share: accuracy(each) for share, each in at_once.items()}

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
steps = np.arange(epochs * steps_per_epoch)
left.plot(steps, 100 * np.array([float(schedule(min(step, schedule.end_step))) for step in steps]), color="#4c78a8")
left.plot(steps_per_epoch * np.arange(1, epochs + 1), [100 * zeros for zeros, _ in history], "o", color="#4c78a8", ms=4)
left.set(xlabel="step (one batch)", ylabel="zeros, %", title="The schedule, and the zeros found")
for points, style, label in (
    (history, "o-", "while it trains, one point an epoch"),
    (list(lost_at_once.items()), "s--", "at once, not trained"),
):
    right.plot(*(100 * np.array(points).T), style, ms=4, label=label)
right.axhline(100 * accuracy(model), color="#888888", lw=1, label="not pruned")
right.set(xlabel="zeros, %", ylabel="test accuracy, %", title="Accuracy over sparsity")
right.legend(frameon=False)
plt.show()

# %%
assert abs(sparsity(pruned) - 0.9) < 0.005
assert lost_at_once[0.5] > accuracy(model) - 0.15
assert accuracy(pruned) > lost_at_once[0.9] + 0.2
assert accuracy(pruned) > accuracy(model) - 0.05

# %% [markdown]
# ## 3. What zeros are worth as bytes
#
# A `.tflite` file stores each zero like any other number: in float32 in four bytes, in int8 in one. The *file* does not get smaller.
# gzip does, as a download or an app's package may be zipped; in memory the device holds the file as it is. TFLite-Micro alone can run
# weights that stay compressed (`weights_storage="auto"`, see the notebook on clustering).

# %%
calibration = data.x_train[:200]
sizes = {"float32 file": [], "float32, gzip": [], "int8 file": [], "int8, gzip": [], "int8 as TFLite-Micro runs it": []}
for each in at_once.values():
    whole = kc.convert(each, mode="float32").stats
    small = kc.convert(each, representative_dataset=calibration)
    encoded = kc.convert(small.frozen, target="tflm", weights_storage="auto").stats
    found = (whole.raw_bytes, whole.gzip_bytes, small.stats.raw_bytes, small.stats.gzip_bytes, encoded.raw_bytes)
    for line, size in zip(sizes.values(), found):
        line.append(size)

figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
for (label, line), style in zip(sizes.items(), ("o-", "o--", "s-", "s--", "^-")):
    axis.plot([100 * share for share in shares], [size / 1000 for size in line], style, ms=4, label=label)
axis.set(xlabel="zeros, %", ylabel="kB (1,000 bytes)", ylim=(0, None), title="Bytes over sparsity")
axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
assert len(set(sizes["float32 file"])) == 1
for label in ("float32, gzip", "int8, gzip"):
    assert all(after < before for before, after in zip(sizes[label], sizes[label][1:]))
assert sizes["float32, gzip"][-1] < 0.35 * sizes["float32, gzip"][0]
assert sizes["int8 as TFLite-Micro runs it"][-1] < 0.6 * sizes["int8 file"][-1]

# %% [markdown]
# ## 4. Patterns
#
# Hardware that gains from zeros often wants them in a pattern: two in every four consecutive inputs of an output (sparse tensor
# cores), or blocks that live and die together (vector units). Calls add up, so each layer can have a pattern of its own. Inputs are
# counted over kernel height, width and channels.

# %%
half = kc.ConstantSparsity(0.5, begin_step=0, frequency=steps_per_epoch)
patterned = kc.prune_low_magnitude(model, half, sparsity_m_by_n=(2, 4), filters="conv2")
patterned = kc.prune_low_magnitude(patterned, half, block_size=(4, 1), filters="conv3")
train(patterned, epochs=1 if FAST else 6)
print(f"test accuracy {accuracy(patterned):.2%}, {sparsity(patterned):.1%} zeros")


def groups_of_four(weight):
    """Consecutive inputs of one output, four to a row."""
    return (weight.reshape(-1, weight.shape[-1]).T != 0).reshape(-1, 4)


figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
shown = {
    "conv2, 90 % zeros anywhere": kernel(pruned, "conv2"),
    "conv2, two of four": kernel(patterned, "conv2"),
    "conv3, blocks of four": kernel(patterned, "conv3"),
}
for axis, (title, weight) in zip(axes, shown.items()):
    corner = weight.reshape(-1, weight.shape[-1])[:32, :32]
    axis.imshow(corner != 0, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest", extent=(0, 32, 32, 0))
    axis.set(xlabel="output", ylabel="input", title=title, yticks=range(0, 33, 4))
figure.suptitle("Weights that are left (blue), of the first 32 inputs and outputs")
plt.show()

# %%
assert (groups_of_four(kernel(patterned, "conv2")).sum(axis=1) == 2).all()
assert set(groups_of_four(kernel(patterned, "conv3")).sum(axis=1)) == {0, 4}
assert accuracy(patterned) > accuracy(model) - 0.05

# %% [markdown]
# ## 5. Channels
#
# A whole channel that is gone makes everything smaller: weights, activations, multiplications, time. What belongs together has to go
# together: the filter, its part of the batch normalization, and what the next layer reads of it. `channel_graph` finds that out.

# %%
print(kc.channel_graph(model).summary())

# %% [markdown]
# `mask_channels` sets channels to zero while the model trains, as `prune_low_magnitude` does with weights; in the first part of the
# training they may come back. `cut_masked` then takes them out. The smaller model is a plain Keras model, and computes the same.

# %%
rising = kc.PolynomialDecay(
    0.0, 0.5, begin_step=0, end_step=1 if FAST else 8, frequency=10, steps_per_epoch=steps_per_epoch
)
masked = train(kc.mask_channels(model, rising), epochs=3 if FAST else 16)
cut = kc.cut_masked(masked)
difference = float(np.max(np.abs(np.asarray(masked(data.x_test)) - np.asarray(cut(data.x_test)))))
scale = float(np.max(np.abs(np.asarray(cut(data.x_test)))))
print(
    f"test accuracy {accuracy(masked):.2%} masked, {accuracy(cut):.2%} cut; outputs differ by {difference / scale:.1e}"
)

# %% [markdown]
# `prune_channels` does it in one step, down to a budget: multiply-accumulates, parameters, bytes of the file, latency. It is quick, and
# the model is to be trained afterwards: see what is left before that.

# %%
budget = kc.Budget(macs=0.5)
few = (data.x_train[:256], data.y_train[:256])
quick = kc.prune_channels(model, target=budget, criterion="taylor", data=few, loss=loss)
print(f"test accuracy {accuracy(quick):.2%} before training")

macs, widths = kc.Macs(), [f"conv{number}" for number in (1, 2, 3)]
for name, each in {"float": model, "masked and cut": cut, "budget of half the MACs": quick}.items():
    channels = [each.get_layer(layer).filters for layer in widths]
    print(f"{name:25} {macs.of(each):9,.0f} MACs, {each.count_params():7,} parameters, channels {channels}")

# %%
assert difference < 1e-4 * scale
assert [cut.get_layer(layer).filters for layer in widths] == [8, 16, 32]
assert macs.of(cut) < 0.3 * macs.of(model)
assert macs.of(quick) <= 0.5 * macs.of(model)
assert accuracy(cut) > accuracy(model) - 0.1

# %% [markdown]
# ## 6. On LiteRT, in turns
#
# All files run in one child process and take turns, so that a busy machine slows all of them alike. Zeros, wherever they are, change
# nothing: the kernels multiply with them as with any number. Cut channels are not there to multiply with.

# %%
files = {
    "float": kc.convert(model, mode="float32"),
    "90 % zeros": kc.convert(pruned, mode="float32"),
    "patterns": kc.convert(patterned, mode="float32"),
    "channels cut": kc.convert(cut, mode="float32"),
    "channels cut, int8": kc.convert(cut, representative_dataset=calibration),
}
measured = kc.measure_all(files, data.x_test, data.y_test, runs=200)

stages = []
for name, found in measured.items():
    latency = {"median": found.latency.median_ms, "p10": found.latency.p10_ms, "p90": found.latency.p90_ms}
    stage = {"name": name, "accuracy": found.accuracy, "raw_bytes": found.raw_bytes, "gzip_bytes": found.gzip_bytes}
    stages.append({**stage, "sparsity": found.sparsity, "litert_latency_ms": latency})
first = next(iter(measured.values())).latency
measurement_table(stages, title=f"LiteRT, {first.threads} thread, {first.delegate}, {first.cpu}")

# %%
figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
medians = np.array([1000 * found.latency.median_ms for found in measured.values()])
spread = [
    [1000 * abs(getattr(found.latency, end) - found.latency.median_ms) for found in measured.values()]
    for end in ("p10_ms", "p90_ms")
]
bars = axis.barh(list(measured), medians, xerr=spread, color="#4c78a8", ecolor="#888888")
axis.bar_label(bars, [f"{medians[0] / median:.2f}x" for median in medians], padding=18)
axis.invert_yaxis()
axis.margins(x=0.15)
axis.set(xlabel="microseconds for one image: median, 10 % to 90 %", title="How many times faster than the float model")
plt.show()

# %%
times = {name: found.latency.median_ms for name, found in measured.items()}
assert measured["90 % zeros"].raw_bytes == measured["float"].raw_bytes
assert times["90 % zeros"] > 0.7 * times["float"]
assert times["patterns"] > 0.7 * times["float"]
assert times["channels cut"] < 0.8 * times["float"]
assert measured["channels cut"].raw_bytes < 0.35 * measured["float"].raw_bytes

# %% [markdown]
# ## 7. At once, by more than magnitude
#
# Without training, what matters is how well a layer's *outputs* survive. `prune_one_shot` ranks weights by a criterion and holds the mask.
# `"wanda"` multiplies a weight by the size of its input; `"sparse_gpt"` changes the weights that are left, so that they make up for the
# others. Both look at a few samples, without labels.

# %%
samples = data.x_train[:256]
criteria = ("random", "magnitude", "wanda", "sparse_gpt")
one_shot = {
    name: kc.prune_one_shot(
        model, 0.7, criterion=name, data=None if name in criteria[:2] else samples, filters="re:conv[23]"
    )
    for name in criteria
}
kept = {name: accuracy(each) for name, each in one_shot.items()}
print(*(f"{name:12} {value:.2%}" for name, value in kept.items()), sep="\n")

# %%
assert all(abs(sparsity(each) - 0.7) < 0.01 for each in one_shot.values())
assert kept["sparse_gpt"] >= kept["magnitude"] > kept["random"]
assert kept["sparse_gpt"] > accuracy(model) - 0.1

# %% [markdown]
# ## 8. Sparse from the start
#
# A mask that is drawn before training and stays wastes most of its weights. RigL exchanges them while it trains: every few steps the
# smallest go, and those grow whose gradient is largest. The network is never dense, in no step.

# %%
total_steps = (3 if FAST else 15) * steps_per_epoch
exchanges = kc.ConstantSparsity(0.9, begin_step=0, end_step=0.75, frequency=10, total_steps=total_steps)
keras.utils.set_random_seed(1)
moving = kc.train_sparse(net(), exchanges, filters="re:conv[23]")
keras.utils.set_random_seed(1)
still = kc.prune_one_shot(net(), 0.9, criterion="random", filters="re:conv[23]")
first_mask = kernel(moving, "conv3") != 0
for each in (moving, still):
    train(each, epochs=total_steps // steps_per_epoch)
exchanged = float(np.mean(first_mask[kernel(moving, "conv3") != 0] == 0))
print(f"test accuracy {accuracy(moving):.2%} by RigL, {accuracy(still):.2%} with a mask that stays")
print(f"{exchanged:.0%} of the weights of conv3 are others than at the start; {sparsity(moving):.1%} zeros")

# %%
assert abs(sparsity(moving) - 0.9) < 0.01
assert exchanged > 0.3
assert FAST or accuracy(moving) > accuracy(still) - 0.01

# %% [markdown]
# ## 9. A lottery ticket
#
# Train, prune the smallest weights, set the others back to their values of an early step, and again. What is left is a *ticket*: sparse,
# and it trains. The control has the same masks over other initial weights. Each round is a training of its own.

# %%
ticket = kc.find_ticket(
    net,
    kc.Training(loss, epochs=1 if FAST else 4, learning_rate=3e-3, batch_size=64).on(data.x_train, data.y_train),
    0.96,
    rounds=1 if FAST else 5,
    rewind_to="0.5 epochs",
    control="random_reinit",
    validation_data=(data.x_test, data.y_test),
    score_every=None if FAST else 8,
    filters="re:conv[23]",
)
print(ticket)
ticket.plot(title="Tickets for digits")

# %%
assert abs(sparsity(ticket.model) - 0.96) < 0.005
assert [each.steps for each in ticket.rounds[1:]] == [ticket.rounds[0].steps - ticket.rewound_to] * (
    len(ticket.rounds) - 1
)
# The mask is held over the early weights too: from there it can be trained anew.
assert (kernel(ticket.start, "conv3") == 0)[kernel(ticket.model, "conv3") == 0].all()
assert FAST or ticket.metric > ticket.rounds[-1].control

# %% [markdown]
# ## 10. Faster for its zeros
#
# LiteRT has kernels that skip zeros, for weights that are *stored* sparse: `convert(sparsity=...)`. With blocks of four inputs of one
# output they pay in dense layers; `"auto"`, the default, writes a layer so where that is faster. `sparse_ready` tells why a layer is, or is not.

# %%
keras.utils.set_random_seed(0)
wide = keras.Sequential(
    [
        keras.Input(data.x_train.shape[1:]),
        layers.Flatten(),
        layers.Dense(1024, "relu", name="wide1"),
        layers.Dense(1024, "relu", name="wide2"),
        layers.Dense(10, name="logits"),
    ]
)
in_blocks = kc.prune_low_magnitude(
    train(wide, epochs=1 if FAST else 3, learning_rate=1e-3),
    kc.ConstantSparsity(0.9, begin_step=0, frequency=steps_per_epoch),
    block_size=(4, 1),
    filters="wide2",
)
train(in_blocks, epochs=1 if FAST else 3, learning_rate=1e-3)
print(kc.sparse_ready(in_blocks))
stored = {
    "zeros stored": kc.convert(in_blocks, mode="float32", sparsity="none"),
    "blocks stored sparse": kc.convert(in_blocks, mode="float32"),
}
timed = kc.measure_all(stored, data.x_test, data.y_test, runs=200)
for name, found in timed.items():
    print(f"{name:22} {found.raw_bytes:10,} bytes, {found.latency.median_ms:.3f} ms, accuracy {found.accuracy:.2%}")

# %%
before, after = timed.values()
assert after.raw_bytes < 0.4 * before.raw_bytes
assert after.latency.median_ms < 0.8 * before.latency.median_ms
assert abs(after.accuracy - before.accuracy) < 0.005

# %% [markdown]
# ## What next
#
# - `docs/pruning.md`: which method when, measured beside each other; `docs/one_shot_pruning.md`, `docs/sparse_training.md`,
#   `docs/lottery_ticket.md`, `docs/sparsity.md`; one threshold for all layers (`scope="global"`), rules for single layers, schedules of your own;
#   `docs/channels.md`: criteria, budgets and sensitivity; `docs/structured.md`: what they cost, measured.
# - A sparse model is clustered and quantized next, and stays sparse: the notebooks on clustering and quantization.
# - `keras-compress compress --recipe=prune`, or `prune_channels`, does it for a `.keras` file.
