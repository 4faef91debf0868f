# %% [markdown]
# # Layers of low rank
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/10_low_rank.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# The weight of a large layer is nearly a product of two small ones. `kc.factorize` puts the small ones in its place, so that the model
# multiplies less; training wins back what the approximation lost.
#
# 1. **Train** a small network on 1,437 images of handwritten digits, the model that is given.
# 2. **Factorize** it to half of its multiplications, and see what each layer lost.
# 3. **Train on**, for a few epochs.
# 4. **Convert** both to int8, **verify** and compare the files.
#
# Everything runs offline, in about two minutes on two CPU cores; `FAST=1` in the environment takes fewer epochs.

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

# %%
data = datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model = models.digits_cnn()
training = kc.Training(loss, epochs=6 if FAST else 15, learning_rate=2e-3, batch_size=64)
training.on(data.x_train, data.y_train)(model)


def accuracy(each):
    return float(np.mean(np.argmax(np.asarray(each(data.x_test)), axis=-1) == data.y_test))


print(f"test accuracy {accuracy(model):.2%}")

# %% [markdown]
# ## 2. Half of the multiplications
#
# Each layer gives up what costs it least: with `data=`, errors are those of the layers' outputs on these images. The summary says which
# method and rank each layer got, what share of the energy is lost, and why the others stayed as they are.

# %%
smaller = kc.factorize(model, target={"macs": 0.5}, data=data.x_train[:200], multiple=4)
for line in kc.factorization_of(smaller).lines():
    print(line)
before = accuracy(smaller)
print(f"test accuracy {before:.2%}")

# %% [markdown]
# ## 3. Training on
#
# The factors are plain Keras layers: they are trained like any others.

# %%
on = kc.Training(loss, epochs=3 if FAST else 6, learning_rate=1e-3, batch_size=64)
on.on(data.x_train, data.y_train)(smaller)
print(f"test accuracy {accuracy(smaller):.2%}, before {before:.2%}")

# %% [markdown]
# ## 4. On the device

# %% tags=["figures"]
files = {}
for name, each in {"whole": model, "low rank": smaller}.items():
    file = kc.convert(each, representative_dataset=data.x_train[:200])
    check = kc.verify(file, each, data.x_test[:64])
    files[name] = {
        "accuracy": accuracy(each),
        "macs": kc.Macs().of(each),
        "bytes": file.stats.raw_bytes,
        "verified": check.ok,
    }
print(json.dumps({"files": files, "before_training": before}))

# %% [markdown]
# ## What next
#
# - `docs/low_rank.md`: the methods, their papers, how ranks are chosen, and measured tables.
# - `keras-compress factorize --help` does this for a `.keras` file; the recipe `low_rank` trains and quantizes, too.
