"""Post-training quantization without data, on a depthwise net whose channels have ranges far apart: Fashion-MNIST.

python benchmarks/post_training.py [--quick] [--seeds=0,1,2]

Channels of a trained net are scaled by 2^u and its readers by 2^-u: the same function, but one scale for a tensor then
fits no channel. This is the failure that Nagel et al. (2019) cure in MobileNets, made on purpose.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from keras import layers
from numpy.typing import NDArray

from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training import passes as every_pass
from keras_compress.post_training.channel_walk import SCALED, ChannelWalk
from keras_compress.post_training.quantize import quantize_post_training

Array = NDArray[Any]
EPOCHS, TRAINED, LARGEST_EXPONENT = 3, 20_000, 4.0
# Rows: name, passes, whether weights have a scale for each channel.
RANGES = ("fold_batch_norms", "ranges_from_statistics", "synthetic_data")
ROWS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("per tensor", RANGES, False),
    ("+ equalization", (*RANGES, "equalize"), False),
    ("+ absorbing bias", (*RANGES, "equalize", "absorb_bias"), False),
    ("+ bias correction", (*RANGES, "equalize", "absorb_bias", "bias_from_statistics"), False),
    ("+ splitting channels", (*RANGES, "equalize", "absorb_bias", "bias_from_statistics", "split_channels"), False),
    ("per channel", RANGES, True),
    ("per channel, all passes", (*RANGES, "equalize", "absorb_bias", "bias_from_statistics"), True),
)
# Of ReLU6 that is kept, no channel can be scaled.
KEPT_ROWS = (ROWS[0], ("+ bias correction alone", (*RANGES, "bias_from_statistics"), False), ROWS[-2])
# Of a net that needs nothing: `None` lets the entry choose.
HEALTHY_ROWS = (*ROWS[-2:], ("per channel, as chosen", None, True))
RELU6_ROWS = ("+ equalization", "+ bias correction", "per channel, all passes")
KEPT = ("keep", "clip", "replace")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, one epoch; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Networks to train.")
_KEEP = flags.DEFINE_string("keep", "/tmp/post_training", "Folder for networks, and for rows: remove it to begin anew.")
# Synthetic data are the same for all rows of a net: they are made once, not two dozen times.
every_pass.synthetic_data = cache(every_pass.synthetic_data)


def depthwise_net(ceiling: float | None) -> keras.Model:
    """Depthwise and pointwise convolutions with norms, one residual sum; outputs are logits."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = _normed(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x), ceiling)
    for number, filters in enumerate((32, 32, 64, 64)):
        before = x
        x = layers.DepthwiseConv2D(3, strides=2 if number == 2 else 1, padding="same", use_bias=False)(x)
        x = _normed(x, ceiling)
        x = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(x))
        x = layers.Add()([x, before]) if x.shape == before.shape else x
        x = layers.ReLU(ceiling)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="depthwise_net")


def _normed(x: Any, ceiling: float | None) -> Any:
    return layers.ReLU(ceiling)(layers.BatchNormalization()(x))


def trained(seed: int, ceiling: float | None, data: Any, quick: bool) -> keras.Model:
    """The net after a little training; kept, as many rows need it."""
    path = Path(_KEEP.value) / f"{seed}_{ceiling}{'_quick' if quick else ''}.keras"
    if path.is_file():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    model = depthwise_net(ceiling)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    x, y = data.x_train[:TRAINED], data.y_train[:TRAINED]
    model.fit(x, y, batch_size=64, epochs=1 if quick else EPOCHS, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def spoilt(model: keras.Model, seed: int, ceiling: float | None) -> keras.Model:
    """The same function with channels on scales 2^u apart, u uniform between -4 and 4; under a ReLU6, between -8 and 0.

    BatchNormalizations stay, their gamma and beta on the new scale; readers have the inverse. Under a ReLU6 the
    function is the same but for values that it would have clipped.
    """
    walk = ChannelWalk(SCALED, lambda operation: True, clips=True, norms=True).run(model)
    random = np.random.default_rng(seed)
    exponents = random.uniform(-LARGEST_EXPONENT, LARGEST_EXPONENT, len(walk.free))
    exponents -= 0.0 if ceiling is None else LARGEST_EXPONENT
    free = walk.free
    for side in walk.found.values():
        if side.ranged and not side.reads:
            # What a normalization reads has the statistics that it remembers.
            free[walk.units[side.ids]] = False
    factors = np.where(free, 2.0**exponents, 1.0)
    made = keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    new = {id(old): each for old, each in zip(model.variables, made.variables, strict=True)}
    for side in walk.found.values():
        variable = new[id(side.variable)]
        scale = side.broadcast(1.0 / factors if side.reads else factors, walk.units)
        variable.assign(np.asarray(variable, np.float64) * scale)
    return made


def accuracy(outputs: Array, data: Any) -> float:
    """Percent of right classes."""
    return 100.0 * float((outputs.argmax(-1) == data.y_test).mean())


def row(model: keras.Model, name: str, passes: Any, expected: Array, data: Any, **settings: Any) -> dict[str, Any]:
    """A quantized model on the test images: simulated accuracy, and signal to noise of its outputs."""
    made = quantize_post_training(model, level=1, passes=passes, input_range=(0.0, 1.0), report=False, **settings)
    received = made.predict(data.x_test, verbose=0, batch_size=500)
    return {
        "name": name,
        "accuracy": accuracy(received, data),
        "output_sqnr_db": round(sqnr_db(expected, received), 2),
    }


def rows_of(model: keras.Model, seed: int, rows: Any, bits: int, relu6: str, data: Any) -> list[dict[str, Any]]:
    """Rows of a net."""
    found = []
    expected = model.predict(data.x_test, verbose=0, batch_size=500)
    for name, passes, per_channel in rows:
        options = {"equalize": {"relu6": relu6}, "synthetic_data": {"steps": 100}}
        settings = {"weights": f"int{bits}", "per_channel": per_channel, "options": options, "seed": seed}
        found.append(
            {"seed": seed, "bits": bits, "relu6": relu6, **row(model, name, passes, expected, data, **settings)}
        )
        print(found[-1], flush=True)
    return found


def rows_of_seed(seed: int, data: Any, quick: bool) -> list[dict[str, Any]]:
    """Rows of the nets of a seed: ReLU with 8, 6 and 4 bits, then ReLU6 kept, clipped for each channel, replaced."""
    found = []
    for ceiling in (None, 6.0):
        plain = trained(seed, ceiling, data, quick)
        model = spoilt(plain, seed, ceiling)
        kind = "ReLU" if ceiling is None else "ReLU6"
        x = data.x_test
        outputs = [each.predict(x, verbose=0, batch_size=500) for each in (plain, model)]
        difference = float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
        for name, each in zip(("float", "float, channels scaled"), outputs, strict=True):
            found.append({"seed": seed, "net": kind, "name": name, "accuracy": accuracy(each, data)})
        found[-1]["largest_difference"] = difference
        print(found[-2:], flush=True)
        nets = [(bits, "auto") for bits in (8, 6, 4)] if ceiling is None else [(8, each) for each in KEPT]
        for bits, relu6 in nets:
            some = [each for each in ROWS if each[0] in RELU6_ROWS]
            rows = ROWS if ceiling is None else KEPT_ROWS if relu6 == "keep" else some
            found += [{"net": kind, **each} for each in rows_of(model, seed, rows, bits, relu6, data)]
        # What the passes do to a net that needs none.
        found += [{"net": f"{kind}, not scaled", **e} for e in rows_of(plain, seed, HEALTHY_ROWS, 8, "auto", data)]
    return found


def goals_of(rows: list[dict[str, Any]]) -> list[Goal]:
    """Without data: per-tensor int8 collapses, and comes back within 1 point of float, per channel within 0.5."""
    goals = []
    for seed in sorted({each["seed"] for each in rows}):
        own = [each for each in rows if each["seed"] == seed and each["net"] == "ReLU"]
        exact = next(each["accuracy"] for each in own if each["name"] == "float")
        int8 = {each["name"]: each["accuracy"] for each in own if each.get("bits") == 8}
        loss = {name: exact - each for name, each in int8.items()}
        goals += [
            at_least(f"seed {seed}: points lost per tensor without passes", loss["per tensor"], 20.0),
            at_most(f"seed {seed}: points lost per tensor with all passes", loss["+ bias correction"], 1.0),
            at_most(f"seed {seed}: points lost per channel with all passes", loss["per channel, all passes"], 0.5),
        ]
    return goals


def main(arguments: Any) -> None:
    quick = _QUICK.value
    data, rows = fashion_mnist(quick), []
    seeds = [int(each) for each in _SEEDS.value[: 1 if quick else None]]
    for seed in seeds:
        kept = Path(_KEEP.value) / f"rows_{seed}{'_quick' if quick else ''}.json"
        rows += once(kept, lambda seed=seed: {"rows": rows_of_seed(seed, data, quick)})["rows"]
    goals = goals_of(rows)
    if not quick:
        settings = {"epochs": EPOCHS, "trained": TRAINED, "largest_exponent": LARGEST_EXPONENT}
        print(write_results("post_training", rows, goals, seeds=seeds, settings=settings))
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
