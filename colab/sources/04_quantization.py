# %% [markdown]
# # Quantization without labels
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/04_quantization.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# A trained network becomes 8-bit or 4-bit integers here without a label: in one step from its own statistics, in another from a
# few hundred inputs, and in a third with a short training that learns from the network itself.
#
# 1. **Train** a small network on 1,437 images of handwritten digits, the model that is given.
# 2. **Level 1**: no data at all.
# 3. **Level 2**: inputs, no labels. Then with 4-bit weights, whose rounding is learned.
# 4. **Level 3**: the same inputs, and the float model as teacher.
# 5. **Convert**, **verify** and compare the files.
# 6. **Mixed precision**: bits layer by layer, under a budget.
#
# Everything runs offline, in about two minutes on two CPU cores; `FAST = True` takes a fifth of the steps.

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

from keras_compress.demo import datasets, models

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# Everything below takes it as it is: labels are read again only to tell accuracies.

# %%
data = datasets.load("digits")
model = models.digits_cnn()
model.compile(
    keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
)
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
with_data = kc.quantize_post_training(model, data.x_train[:200])
overview.passes, kc.summary(with_data, print_fn=lambda text: None).passes

# %% [markdown]
# With 4 bits, rounding to the nearest loses more. By default it is learned then, block by block, whether each weight goes up or
# down. Next to it is the same without.

# %%
steps = 200 if FAST else 1000
inputs = data.x_train[:200]
nearest = kc.quantize_post_training(model, inputs, weights="int4", passes=["fold_batch_norms", "with_ranges"])
learned = kc.quantize_post_training(model, inputs, weights="int4", options={"brecq": {"steps": steps}})
for name, each in {"nearest": nearest, "learned": learned}.items():
    stage = kc.summary(each, print_fn=lambda text: None).passes.stages[-1]
    print(f"4 bits, {name}: {stage.output_sqnr_db:.1f} dB, accuracy {accuracy(each):.2%}")

# %% [markdown]
# ## 4. Level 3: a short training, without labels
#
# With 4 bits for activations too, more is lost. What level 2 made is trained for a few hundred steps to give what the float model
# gives. A fifth of the images is held out: were the model worse on them, level 2's would be given, and the note would say so.
#
# Before that, `spiq` puts the channels that each layer reads on one range, as 4 bits have few steps for small ones.

# %%
passes = ["fold_batch_norms", "with_ranges", "clip_weights", "gptq"]
settings = {"weights": "int4", "activations": "int4"}
second = kc.quantize_post_training(model, inputs, passes=passes, **settings)
spread = kc.quantize_post_training(model, inputs, passes=["spiq", *passes], **settings)
options = {"fine_tune": {"steps": 100 if FAST else 500}}
trained = kc.quantize_post_training(
    model, inputs, level=3, passes=["spiq", *passes, "fine_tune"], options=options, **settings
)
few_bits = {"level 2": second, "with SPIQ": spread, "level 3": trained}
for name, each in few_bits.items():
    stage = kc.summary(each, print_fn=lambda text: None).passes.stages[-1]
    print(f"4 bits for both, {name}: {stage.output_sqnr_db:.1f} dB, accuracy {accuracy(each):.2%}")
print(kc.summary(trained, print_fn=lambda text: None).history[-1])

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
# program then gives each layer the bits that a budget allows, here 4 for a weight on the average. `refine` measures once more
# around the choice, where the other layers are rounded, too.

# %%
budget = kc.Budget(average_bits=4)
few = data.x_train[: 64 if FAST else 200]
mixed = kc.mixed_precision(model, few, budget, refine=0 if FAST else 1)
print(mixed)

# %%
mixed.sensitivity.plot()

# %% [markdown]
# The file holds the bits that were chosen, packed two in a byte where LiteRT has a kernel for it. Beside it is the file whose weights
# have 4 bits throughout, rounded to the nearest as well.

# %% tags=["bits"]
uniform = kc.mixed_precision(model, few, budget, sensitivity=mixed.sensitivity, solver="uniform")
bits = {}
for name, each in {"uniform": uniform, "mixed": mixed}.items():
    file = kc.convert(each.model, **each.convert_options)
    bits[name] = {"accuracy": accuracy(each.model), "bytes": file.stats.raw_bytes, **each.costs}
    bits[name]["verified"] = kc.verify(file, each.model, data.x_test[:64]).ok
print(json.dumps(bits, indent=2))

# %% [markdown]
# ## What next
#
# - `docs/post_training.md` tells which level to take when, and lists the passes with their papers.
# - Where level 3 loses too much, train on with all data: each of these models is compiled and fitted like any other.
# - `keras-compress quantize --help` does this for a `.keras` file.
# - `docs/mixed_precision.md`: limits of bytes, latency and arena, 16 bits beside 8, and measured tables.
