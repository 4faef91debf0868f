# %% [markdown]
# # Distillation: a small student, and one of few bits
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/09_distillation.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# A large network teaches a small one here: beside the labels, the student learns the probabilities that the teacher gives, and what
# its layers look at. Then the float student teaches its own 4-bit self.
#
# 1. **Train** a teacher on 1,437 images of handwritten digits.
# 2. **Teach** a student of a tenth of its size, by soft targets and by hints.
# 3. **Quantize** it to 4 bits, taught by the float model.
# 4. **Convert** and **verify** the file.
#
# Everything runs offline, in about a minute on two CPU cores; `FAST=1` in the environment takes a third of the epochs.

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

from keras_compress.demo import datasets

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The teacher
#
# A small convolutional network, and a student of the same form with a tenth of the weights.

# %%
data = datasets.load("digits")


def net(width, name):
    inputs = keras.Input(data.x_train.shape[1:])
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="map")(inputs)
    x = layers.Conv2D(2 * width, 3, strides=2, activation="relu", name="deep")(x)
    outputs = layers.Dense(10, "softmax", name="classes")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, outputs, name=name)


def accuracy(each):
    return float(np.mean(np.argmax(np.asarray(each(data.x_test)), axis=-1) == data.y_test))


loss, epochs = "sparse_categorical_crossentropy", 10 if FAST else 30
training = kc.Training(loss, epochs=epochs, learning_rate=5e-3, batch_size=64)
teacher, alone = net(32, "teacher"), net(8, "alone")
for model in (teacher, alone):
    training.on(data.x_train, data.y_train)(model)
print(f"teacher: {teacher.count_params():,} parameters, accuracy {accuracy(teacher):.2%}")
print(f"student alone: {alone.count_params():,} parameters, accuracy {accuracy(alone):.2%}")

# %% [markdown]
# ## 2. A student that is taught
#
# `kc.distill` gives a model to compile and fit like any other; what it trains is `student`. Soft targets are the teacher's
# probabilities at a temperature; attention transfer compares where two maps are active, and they need not have as many channels.

# %%
taught = net(8, "taught")
methods = ["soft_targets", "attention_transfer"]
distiller = kc.distill(taught, teacher, methods, temperature=4.0, hints=["map"], weights=[1.0, 5.0])
distiller.compile(keras.optimizers.Adam(5e-3), loss, jit_compile=False)
distiller.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=0)
print(f"student taught: accuracy {accuracy(taught):.2%}")

# %% [markdown]
# The teacher's outputs can be computed once, and any training takes a teacher. Without labels, `alpha=1` is enough.

# %%
outputs = kc.teacher_outputs(teacher, data.x_train, "outputs")
unlabelled = net(8, "unlabelled")
kc.Training(
    loss, epochs=epochs, learning_rate=5e-3, batch_size=64, teacher=kc.Teacher(outputs, "logit_matching", alpha=1.0)
).on(data.x_train, data.y_train)(unlabelled)
print(f"student without labels: accuracy {accuracy(unlabelled):.2%}")

# %% [markdown]
# ## 3. Few bits, taught by the float model
#
# The recipe `qat_taught` trains 4-bit weights with the model that is compressed for a teacher. `summary` tells of it.

# %%
few_bits = kc.compress(taught, "qat_taught", fit=kc.Training(loss, batch_size=64).on(data.x_train, data.y_train))
overview = kc.summary(few_bits)

# %% [markdown]
# ## 4. The file

# %% tags=["figures"]
artifact = kc.convert(few_bits)
check = kc.verify(artifact, few_bits, data.x_test[:64])
figures = {
    "teacher_accuracy": accuracy(teacher),
    "alone_accuracy": accuracy(alone),
    "taught_accuracy": accuracy(taught),
    "unlabelled_accuracy": accuracy(unlabelled),
    "four_bit_accuracy": accuracy(few_bits),
    "lessons": list(overview.history),
    "bytes": artifact.stats.raw_bytes,
    "verified": check.ok,
}
print(json.dumps(figures, indent=2))

# %% [markdown]
# ## What next
#
# - `docs/distillation.md` lists the methods with their papers, and what they gained where it was measured.
# - `kc.two_stages`, `kc.born_again`, `kc.teach_down` and `kc.mutual_learning` are whole ways of teaching.
# - `keras-compress compress --recipe=qat_taught --teacher=big.keras` does it for files.
