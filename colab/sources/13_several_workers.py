# %% [markdown]
# # Training on several workers
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/13_several_workers.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# Workers that train one model together each take a share of every batch, compute gradients for it, and apply the mean of all. Nothing
# is lost by that but time on the network: in every step each worker sends as many bytes as the model has. A *codec* writes gradients in
# fewer bytes.
#
# One machine can show what is sent and what it does to the accuracy. It cannot show that training becomes faster: its workers share the
# same processor, and between them is no slow network.
#
# 1. **Four shards** of each batch, in one process: float32, then several codecs. Bytes and accuracy.
# 2. **A pruned model** is trained in the same way.
# 3. **Two processes** on this machine, as they would be on two.
#
# Everything runs offline, in about two minutes on two CPU cores; `FAST=1` in the environment takes fewer epochs and one process.

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
import socket
import subprocess

import keras

from keras_compress.demo import datasets

data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EPOCHS = 2 if FAST else 6


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(256, activation="relu", name="hidden")(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(x))


# %% [markdown]
# ## 1. Four workers, one process
#
# `workers=4` cuts each batch into four shards. Their gradients are computed one after the other, and each becomes a message, as between
# processes. `history["bytes_per_step"]` is the length of the messages; nothing is estimated.
#
# Deep Gradient Compression has a momentum of its own and is used with plain SGD; signs are steps of one length, so the rate is small.

# %% tags=["codecs"]
trainings = {
    "float32": (None, keras.optimizers.Adam(2e-3)),
    "float16": (kc.Float16Codec(), keras.optimizers.Adam(2e-3)),
    "QSGD, 4 bits": (kc.QSGD(bits=4), keras.optimizers.Adam(2e-3)),
    "TernGrad": (kc.TernGrad(), keras.optimizers.Adam(2e-3)),
    "1-bit SGD": (kc.OneBitSGD(), keras.optimizers.Adam(2e-3)),
    "signSGD": (kc.SignSGD(), keras.optimizers.SGD(1e-3)),
    "SketchML": (kc.SketchML(), keras.optimizers.Adam(2e-3)),
    "DGC, 1 %": (kc.DeepGradientCompression(0.99, momentum=0.9), keras.optimizers.SGD(0.1)),
}
found = {}
for name, (codec, optimizer) in trainings.items():
    model = network()
    model.compile(optimizer, loss, metrics=["accuracy"])
    trainer = kc.DistributedTrainer(model, codec, workers=4)
    history = trainer.fit(
        data.x_train, data.y_train, batch_size=64, epochs=EPOCHS, validation_data=(data.x_test, data.y_test)
    ).history
    found[name] = {"bytes": history["bytes_per_step"][-1], "accuracy": history["val_accuracy"][-1]}
print(json.dumps(found))

# %%
for name, row in found.items():
    fewer = found["float32"]["bytes"] / row["bytes"]
    print(f"{name:14} {row['bytes']:9,.0f} bytes a step, {fewer:5.1f} times fewer, test accuracy {row['accuracy']:.2%}")

assert found["float16"]["bytes"] < 0.51 * found["float32"]["bytes"]
assert found["1-bit SGD"]["bytes"] < 0.06 * found["float32"]["bytes"]
assert found["DGC, 1 %"]["bytes"] < 0.02 * found["float32"]["bytes"]

# %% [markdown]
# SketchML gains little here: it is made for sparse gradients, of a large embedding say, and has to write the place of each value. In
# this network nearly all values are other than zero.
#
# ## 2. A pruned model
#
# Masks follow the schedule, and are the same on all workers, as they depend on weights that are the same.

# %%
model = kc.prune_low_magnitude(network(), kc.PolynomialDecay(0.2, 0.8, begin_step=0, end_step=40, frequency=10))
model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
trainer = kc.DistributedTrainer(model, kc.QSGD(bits=4), workers=4)
trainer.fit(data.x_train, data.y_train, batch_size=64, epochs=EPOCHS)
kernel = keras.ops.convert_to_numpy(kc.strip(model).get_layer("hidden").kernel)
kc.summary(model)
assert abs((kernel == 0).mean() - 0.8) < 0.01

# %% [markdown]
# ## 3. Two processes
#
# Each process runs the same program. `TF_CONFIG` tells it where all are, and which it is; it has to be there before TensorFlow starts,
# and the strategy has to be made before anything else of TensorFlow. On two machines the program is the same, with their addresses.
#
# The checksums of the weights are printed by both: they are equal.

# %%
PROGRAM = """
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import zlib
import keras
import keras_compress as kc
from keras_compress.demo import datasets

data = datasets.load("digits")
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
trainer = kc.DistributedTrainer(model, kc.QSGD(bits=4), strategy=strategy, timeout_seconds=120)
history = trainer.fit(data.x_train, data.y_train, batch_size=64, epochs=2).history
checksum = zlib.crc32(b"".join(np.asarray(v.value).tobytes() for v in model.variables))
print("first" if trainer.is_first else "second", f"{checksum:08x}", history["accuracy"][-1])
"""


def two_processes():
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    running = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        command = [sys.executable, "-c", PROGRAM]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [process.communicate(timeout=300)[0].split() for process in running]


if not FAST:
    first, second = two_processes()
    print(first, second)
    assert first[1:] == second[1:]

# %% [markdown]
# ## What next
#
# - `docs/gradient_compression.md`: what holds, each codec and its paper, measured tables, killed workers and checkpoints.
# - `docs/training.md`: what else trains compressed models, and how it is tested.
