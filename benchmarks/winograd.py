"""Winograd: whether LiteRT's kernels compute 3x3 convolutions so, and what F(2x2, 3x3) would cost in 8 bits.

python benchmarks/winograd.py [--quick]

Speed: a 3x3 convolution beside one of 1x9, with tensors, weights and multiply-accumulates of the same sizes, and beside
a 1x1 convolution with as many multiply-accumulates, in turns. F(2x2, 3x3) multiplies 2.25 times less, and only suits
the first: a kernel that used it would show up to 2.25 times the rate of the second.
Precision: an int8 convolution in NumPy, directly and with inputs and weights put on grids after their transforms.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import at_most, print_goals, write_results
from numpy.typing import NDArray

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db

Array = NDArray[Any]
# Channels of the 3x3 convolution, and the sides of the image. The 1x1 convolution has three times as many.
SIZES = ((64, 56), (128, 28), (256, 28), (512, 14))
RUNS, CHANNELS, SIDE = 200, 128, 16
# Lavin and Gray (2016), section 4.1.
INPUTS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float64)
WEIGHTS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float64)
_QUICK = flags.DEFINE_bool("quick", False, "One small size; results are not written.")


def convolution(taps: tuple[int, int], channels: int, side: int) -> keras.Model:
    """One convolution of as many channels in as out."""
    keras.utils.set_random_seed(0)
    image = keras.Input((side, side, channels))
    return keras.Model(image, keras.layers.Conv2D(channels, taps, padding="same")(image))


def speed_rows(quick: bool) -> list[dict[str, Any]]:
    """Rates of the kinds of convolution, float32 and int8."""
    rows = []
    for channels, side in SIZES[:1] if quick else SIZES:
        nets = {
            "3x3": convolution((3, 3), channels, side),
            "1x9": convolution((1, 9), channels, side),
            "1x1": convolution((1, 1), 3 * channels, side),
        }
        macs = 9 * channels**2 * side**2
        for mode in ("float32", "int8"):
            files = {}
            for name, net in nets.items():
                x = np.random.default_rng(0).normal(size=(2, *net.input_shape[1:])).astype("float32")
                options = {"mode": mode} if mode == "float32" else {"representative_dataset": x, "io": "int8"}
                files[name] = kc.convert(net, **options)
            found = kc.measure_all(files, runs=RUNS)
            # What other work on the machine takes is in the slower runs.
            times = {name: each.latency.p10_ms for name, each in found.items()}
            rates = {name: 2 * macs / ms / 1e6 for name, ms in times.items()}
            rows.append({
                "mode": mode,
                "channels": channels,
                "side": side,
                "macs": macs,
                "ms": times,
                "gflop_per_s": rates,
                "ratio": rates["3x3"] / rates["1x9"],
                "cpu": found["3x3"].latency.cpu,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def on_grid(values: Array, bits: int, axes: tuple[int, ...]) -> Array:
    """The nearest values of a symmetric grid, whose scale is common along `axes`."""
    most = 2 ** (bits - 1) - 1
    scale = np.abs(values).max(axis=axes, keepdims=True) / most
    return np.round(values / scale) * scale


def direct(x: Array, kernel: Array) -> Array:
    """A 3x3 convolution without padding of an image `(side, side, channels)`."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    return np.einsum("yxchw,hwcf->yxf", windows, kernel, optimize=True)


def winograd(x: Array, kernel: Array, bits: int | None, by_place: bool) -> Array:
    """The same by F(2x2, 3x3).

    Args:
        x: Image with an even side.
        kernel: `(3, 3, channels, filters)`.
        bits: Of transformed inputs and weights; `None` for real numbers.
        by_place: A scale for each of the 16 places of a tile, where else one serves all.
    """
    tiles = np.lib.stride_tricks.sliding_window_view(x, (4, 4), axis=(0, 1))[::2, ::2]
    made = np.einsum("ih,yxchw,jw->yxcij", INPUTS, tiles, INPUTS, optimize=True)
    weights = np.einsum("ih,hwcf,jw->ijcf", WEIGHTS, kernel, WEIGHTS, optimize=True)
    if bits is not None:
        made = on_grid(made, bits, (0, 1, 2) if by_place else (0, 1, 2, 3, 4))
        weights = on_grid(weights, bits, (2,) if by_place else (0, 1, 2))
    products = np.einsum("yxcij,ijcf->yxijf", made, weights, optimize=True)
    found = np.einsum("ai,yxijf,bj->yaxbf", OUTPUTS, products, OUTPUTS, optimize=True)
    rows, _, columns, _, filters = found.shape
    return found.reshape(2 * rows, 2 * columns, filters)


def precision_rows() -> list[dict[str, Any]]:
    """Signal to noise beside the convolution in real numbers; inputs as a ReLU leaves them."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(SIDE, SIDE, CHANNELS)), 0.0)
    kernel = rng.normal(size=(3, 3, CHANNELS, CHANNELS))
    real = direct(x, kernel)
    x8, kernel8 = on_grid(x, 8, (0, 1, 2)), on_grid(kernel, 8, (0, 1, 2))
    ways = {"direct, int8": direct(x8, kernel8), "F(2x2, 3x3), real numbers": winograd(x, kernel, None, False)}
    for bits in (8, 10, 12):
        for by_place in (False, True):
            scales = "16 scales" if by_place else "one scale"
            ways[f"F(2x2, 3x3), {bits} bits, {scales}"] = winograd(x8, kernel8, bits, by_place)
    return [{"way": name, "sqnr_db": round(sqnr_db(real, found), 1)} for name, found in ways.items()]


def main(_: list[str]) -> None:
    speed, precision = speed_rows(_QUICK.value), precision_rows()
    for row in precision:
        print(row)
    most = max(row["ratio"] for row in speed)
    # Half of what the transform saves would be seen.
    goals = [at_most("rate of a 3x3 convolution over that of one of 1x9, at most", most, 1.5)]
    if not _QUICK.value:
        settings = {"runs": RUNS, "channels": CHANNELS, "side": SIDE}
        write_results("winograd", [*speed, *precision], goals, seeds=[0], settings=settings)
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
