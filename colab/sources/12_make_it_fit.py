# %% [markdown]
# # Make it fit
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/12_make_it_fit.ipynb)
# opens your copy on GitHub: its name goes in place of `OWNER/REPOSITORY`, here and in the first cell.
#
# A microcontroller has so much flash and so much RAM. Does the model fit, what would an inference take in time and energy, and if it does
# not fit, what is to be done about it?
#
# 1. **Train** a small network on handwritten digits, the model that is given.
# 2. **Check** its int8 file against boards, and a budget that is too small for it.
# 3. **Estimate** what an inference takes, by models of the hardware.
# 4. **Make it fit**: a search of what to cut and how to train, by Optuna.
#
# Everything runs offline, in about five minutes on two CPU cores; `FAST=1` in the environment takes fewer epochs and trials.

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

try:
    import optuna
except ImportError:
    # %pip install -q "optuna>=5.0"
    import optuna
print("optuna", optuna.__version__)

keras.utils.set_random_seed(0)

# %% [markdown]
# ## 1. The trained model
#
# A sixth of the training images is kept for choices: neither trained on, nor what is told in the end.

# %%
data = datasets.load("digits")
chosen_by = np.arange(len(data.x_train)) % 6 == 5
x, y = data.x_train[~chosen_by], data.y_train[~chosen_by]
validation = (data.x_train[chosen_by], data.y_train[chosen_by])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model = models.digits_cnn()
meter = kc.EnergyMeter(watts=65, grams_per_kwh=380)  # what you think that this computer takes, and your supplier's mix
training = kc.Training(loss, epochs=8 if FAST else 20, learning_rate=2e-3, batch_size=64, callbacks=[meter])
training.on(x, y)(model)
meter.energy

# %% [markdown]
# ## 2. Does it fit?
#
# `kc.check` measures the smallest arena in which TFLite-Micro starts the file. It needs TFLite-Micro, which has wheels for Linux on x86-64.

# %%
file = kc.convert(model, "tflm", mode="int8", representative_dataset=x[:200])
print(kc.check(file, "nrf52840"))
budget = {"flash": "32kB", "arena": "8kB"}
too_large = kc.check(file, **budget)
print(too_large)

# %% [markdown]
# ## 3. Time and energy, by models
#
# None of it is measured. `cortex_m` multiplies published cycles and powers, and is good for a factor of two; `energy` is what an accelerator
# in 45 nm would take at the least, and good for comparing files.

# %%
on_board = kc.estimate(file, "cortex_m", core="m4", clock_mhz=64)
print(f"{on_board.time_ms:.1f} ms, {on_board.figures['energy_uj']:,.0f} uJ on a Cortex-M4")
for mode in ("float32", "int8"):
    each = kc.convert(model, "tflm", mode=mode, representative_dataset=x[:200] if mode == "int8" else None)
    figures = kc.estimate(each, "energy").figures
    print(f"{mode}: {figures['energy_uj']:.3g} uJ, {figures['bops']:,} bit operations")

# %% [markdown]
# ## 4. Make it fit
#
# The model given teaches each candidate. Files that are too large are known before anything is trained. Called again with the same folder it
# goes on; started by several processes it is shared.

# %%
fitting = kc.Training(loss, epochs=2 if FAST else 12, learning_rate=2e-3, batch_size=64).on(x, y)
found = kc.fit_to(
    model,
    fitting,
    kc.Budget(bytes=16_000, arena=8_000),  # 32 kB of flash, of which the runtime takes 16
    validation_data=validation,
    test_data=(data.x_test, data.y_test),
    max_drop=0.3 if FAST else 0.02,
    methods=("channels", "training"),
    trials=3 if FAST else 8,
    folder="fitted",
)
print(found)
print(found.table())

# %% tags=["figures"]
best = found.best
print(
    json.dumps(
        {
            "met": found.met,
            "too_large": list(too_large.reasons),
            "fits": kc.check(best.path, **budget).fits,
            "bytes": best.figures["bytes"],
            "test": best.test,
            "trials": len(found.candidates) + len(found.stopped),
        }
    )
)

# %% [markdown]
# ## What next
#
# - `docs/fit_to.md`: methods, limits, several processes, what is done where nothing fits.
# - `keras-compress fit --model=model.keras --data=data.npz --board=nrf52840` does this for a `.keras` file, with a report page.
# - `docs/estimates.md`: the tables behind time and energy, and how far to trust them.
