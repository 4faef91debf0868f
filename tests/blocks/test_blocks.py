"""Compact blocks: the papers' counts, cut beside masked, exact in int8 files, and what they refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tests_structured import half, shake

import keras_compress as kc
from keras_compress import blocks
from keras_compress.blocks import models
from keras_compress.structured import surgery
from keras_compress.structured.dependency import channel_graph

Put = Callable[[Any, str], Any]
# Name -> blocks one behind the other, on 8x8 images of 16 channels.
CHAINS: dict[str, list[Put]] = {
    "shuffles": [
        lambda x, n: blocks.shuffle_unit(x, 32, groups=2, strides=2, name=n),
        lambda x, n: blocks.shuffle_unit(x, 32, groups=2, name=n),
        lambda x, n: blocks.channel_split_unit(x, 32, name=n),
        lambda x, n: blocks.channel_split_unit(x, 48, strides=2, name=n),
    ],
    "ghosts": [
        lambda x, n: blocks.ghost_bottleneck(x, 16, expanded=32, squeeze=8, name=n),
        lambda x, n: blocks.ghost_bottleneck(x, 24, expanded=32, strides=2, ratio=2, name=n),
    ],
    "shifts": [
        lambda x, n: blocks.shift_block(x, 16, name=n),
        lambda x, n: blocks.shift_block(x, 24, strides=2, name=n),
        lambda x, n: blocks.sspq_block(x, 24, name=n),
    ],
    "mobile": [
        lambda x, n: blocks.separable(x, 24, name=n),
        lambda x, n: blocks.inverted_residual(x, 24, expansion=2, squeeze=8, activation="hard_silu", name=n),
        lambda x, n: blocks.mb_conv(x, 24, expansion=2, name=n),
        lambda x, n: blocks.fused_mb_conv(x, 32, squeeze_ratio=0.25, name=n),
    ],
    "dense": [
        lambda x, n: blocks.dense_block(x, 8, count=2, name=n),
        lambda x, n: blocks.transition(x, 16, name=n),
        lambda x, n: blocks.dilated(x, 16, rates=(1, 2), name=n),
        lambda x, n: blocks.aspp(x, 16, rates=(2,), name=n),
    ],
    "residual": [
        lambda x, n: blocks.basic_residual(x, 16, name=n),
        lambda x, n: blocks.bottleneck(x, 32, inside=16, groups=4, strides=2, name=n),
    ],
    "sequences": [
        lambda x, n: blocks.light_conv(x, 16, heads=4, name=n),
        lambda x, n: blocks.light_conv(x, 16, kernel_size=5, heads=2, causal=True, name=n),
    ],
}
ON_TFLM = ("ghosts", "residual", "shuffles")


def chain(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    images = name != "sequences"
    inputs = keras.Input((8, 8, 8) if images else (12, 6))
    x = layers.Conv2D(16, 1, name="stem")(inputs) if images else layers.Dense(16, name="stem")(inputs)
    for number, put in enumerate(CHAINS[name]):
        x = put(x, f"block{number}")
    x = layers.GlobalAveragePooling2D()(x) if images else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


@pytest.mark.parametrize("name", CHAINS)
def test_masked_is_cut_and_files_are_exact(name: str) -> None:
    model = chain(name)
    x = np.random.default_rng(1).normal(size=(24, *model.input_shape[1:])).astype("float32")
    # Each on one runtime: these are operators that both are tested with elsewhere.
    artifact = kc.convert(model, "tflm" if name in ON_TFLM else "litert", representative_dataset=x)
    assert not artifact.float_ops
    assert kc.verify(artifact, model, x[:8]).ok
    shake(model)
    graph = channel_graph(model)
    assert {group.name for group in graph.frozen} == {"logits"}
    removed = half(graph)
    cut = surgery.cut(graph, removed)
    assert graph.params(removed) == cut.count_params() < 0.6 * model.count_params()
    assert surgery.largest_difference(surgery.mask(graph, removed, ("out", "through", "in")), cut, x) <= 1e-5
    assert surgery.largest_difference(model, cut, x) > 1e-3


def counted(block: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[int, int]:
    """MACs, and weights without those of normalizations and biases."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, block(inputs))
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    return channel_graph(model).macs(), sum(int(np.prod(v.shape)) for v in kernels)


@pytest.mark.parametrize(
    ("block", "shape", "macs", "weights"),
    [
        # MobileNet v1: 9 * 32 + 32 * 64 a position, 1/64 + 1/9 of 9 * 32 * 64.
        (lambda x: blocks.separable(x, 64), (10, 10, 32), 100 * 2336, 2336),
        # MobileNet v2, section 3: h w d' t (d' + k^2 + d'') = 100 * 24 * 6 * (24 + 9 + 24).
        (lambda x: blocks.inverted_residual(x, 24), (10, 10, 24), 820_800, 8_208),
        # Stride 2: the first convolution at 100 places, 144 * 9 and 144 * 32 at 25.
        (lambda x: blocks.inverted_residual(x, 32, strides=2), (10, 10, 24), 345_600 + 32_400 + 115_200, 9_360),
        # ShuffleNet, section 3.2: h w (2 c m / g + 9 m), c = 64, m = 16, g = 4.
        (lambda x: blocks.shuffle_unit(x, 64, groups=4), (10, 10, 64), 100 * (512 + 144), 656),
        # ResNet's and ResNeXt's units of the same section: h w (2 c m + 9 m^2) and h w (2 c m + 9 m^2 / g).
        (lambda x: blocks.bottleneck(x, 64, inside=16), (10, 10, 64), 100 * (2048 + 2304), 4352),
        (lambda x: blocks.bottleneck(x, 64, inside=16, groups=4), (10, 10, 64), 100 * (2048 + 576), 2624),
        # ShuffleNet v2: two 1x1 convolutions of 32 channels to 32 and 9 * 32.
        (lambda x: blocks.channel_split_unit(x, 64), (10, 10, 64), 100 * (2048 + 288), 2336),
        # Ghost, equation 4: n/s c k^2 + (s - 1) n/s d^2 = 32 * 16 * 9 + 32 * 9; n c k^2 = 9216 is 1.88 times that.
        (lambda x: blocks.ghost_module(x, 64, kernel_size=3), (10, 10, 16), 100 * 4896, 4896),
        # With s = 4: 16 * 16 * 9 + 3 * 16 * 9 = 2736, 3.37 times fewer.
        (lambda x: blocks.ghost_module(x, 64, kernel_size=3, ratio=4), (10, 10, 16), 100 * 2736, 2736),
        # Shift: two 1x1 convolutions, 16 to 32 to 16; the shift itself is free.
        (lambda x: blocks.shift_block(x, 16, expansion=2), (10, 10, 16), 100 * 1024, 1024),
        (lambda x: blocks.sspq_block(x, 16, expansion=2), (10, 10, 16), 100 * 1024, 1024),
        # DenseNet-BC, growth 8: (16 * 32 + 9 * 32 * 8) + (24 * 32 + 9 * 32 * 8).
        (lambda x: blocks.dense_block(x, 8, count=2), (10, 10, 16), 100 * 5888, 5888),
        (lambda x: blocks.basic_residual(x, 16), (10, 10, 16), 100 * 4608, 4608),
        # Squeeze-and-excitation: two products of 32 and 8 for each image.
        (lambda x: blocks.squeeze_excitation(x, 8), (10, 10, 32), 512, 512),
        # MBConv, 16 to 16 by 4: 64 * (16 + 9 + 16) a position, 2 * 64 * 4 of squeeze-and-excitation.
        (lambda x: blocks.mb_conv(x, 16, expansion=4), (10, 10, 16), 100 * 2624 + 512, 2624 + 512),
        # Fused: 9 * 16 * 64 + 64 * 16.
        (lambda x: blocks.fused_mb_conv(x, 16), (10, 10, 16), 100 * 10_240, 10_240),
        # LightConv: three Dense layers of 16 to 16, then 3 taps for each channel, which 4 heads share.
        (lambda x: blocks.light_conv(x, 16), (12, 16), 12 * (768 + 48), 768 + 12),
    ],
)  # fmt: skip
def test_counts_are_the_papers(block: Any, shape: tuple[int, ...], macs: int, weights: int) -> None:
    assert counted(block, shape) == (macs, weights)


def test_ratios_of_the_papers() -> None:
    plain = 9 * 32 * 64
    assert counted(lambda x: blocks.separable(x, 64), (4, 4, 32))[1] / plain == pytest.approx(1 / 64 + 1 / 9)
    # Equation 4's exact form: s c k^2 / (c k^2 + (s - 1) d^2), with c = 16, k = d = 3, s = 2.
    ghost = counted(lambda x: blocks.ghost_module(x, 64, kernel_size=3), (4, 4, 16))[1]
    assert 9 * 16 * 64 / ghost == pytest.approx(2 * 144 / (144 + 9))


def test_a_shuffle_is_the_papers() -> None:
    inputs = keras.Input((1, 2, 6))
    shuffle = keras.Model(inputs, blocks.channel_shuffle(inputs, 2))
    x = np.arange(12, dtype="float32").reshape(1, 1, 2, 6)
    assert np.array(shuffle(x)).tolist() == [[[[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]]]]
    assert blocks.channel_shuffle(inputs, 6) is inputs


def test_models_of_every_family_have_the_weights_that_the_page_tells() -> None:
    page = Path(__file__).parents[2] / "docs" / "compact_blocks.md"
    if not page.is_file():
        pytest.skip("no checkout around these tests")
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \| [\d.]+ \|$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert told.keys() == models.MODELS.keys()
    for name, build in models.MODELS.items():
        model = build()
        assert (model.name, model.output_shape) == (name, (None, 10))
        assert f"{model.count_params():,}" == told[name], name


def test_models_narrow_and_take_other_images() -> None:
    model = models.shufflenet_v1((8, 12, 3), 4, width=0.5, groups=2, stem_strides=2)
    assert (model.input_shape, model.output_shape) == ((None, 8, 12, 3), (None, 4))
    # Widths of 0.5 halve both sides of a 1x1 convolution.
    whole, narrow = (channel_graph(models.mobilenet_v1(width=width)).macs() for width in (1.0, 0.5))
    assert whole == 4_150_208
    assert 0.25 < narrow / whole < 0.4


def test_widths_are_rounded_as_mobilenets_are() -> None:
    # 0.75 * 24 = 18: 16 is less than 90 % of it. 0.1 * 24 = 2.4: the least there is.
    assert [models.round_channels(24, w) for w in (1.0, 0.75, 0.1)] == [24, 24, 8]
    assert models.round_repeats(2, 1.2**2) == 3


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (lambda x: blocks.shuffle_unit(x, 16, groups=3, name="u"), "Expected channels that 3 divides at 'u'. Rec.*16"),
        (lambda x: blocks.shuffle_unit(x, 24), "Expected as many `filters` as channels, 16. Received: filters=24"),
        (lambda x: blocks.shuffle_unit(x, 16, strides=2), "Expected more `filters` than channels, 16"),
        (lambda x: blocks.channel_split_unit(x, 15), "Expected `filters` that 2 divides. Received: 15"),
        (lambda x: blocks.channel_split_unit(x, 16, strides=3), "Expected `strides` of 1 or 2. Received: strides=3"),
        (lambda x: blocks.channel_shuffle(x, 5), "Expected channels that 5 divides. Received: 16"),
        (lambda x: blocks.ghost_module(x, 9, name="g"), "Expected `filters` that 2 divides at 'g'. Received: 9"),
        (lambda x: blocks.ghost_module(x, 8, ratio=1), "Expected `ratio` as a whole number >= 2. Received: ratio=1"),
        (lambda x: blocks.bottleneck(x, 16, inside=6, groups=4), "Expected `inside` that 4 divides. Received: 6"),
        (lambda x: blocks.separable(x, 0), "Expected `filters` as a whole number >= 1. Received: filters=0"),
        (lambda x: blocks.inverted_residual(x, 8, expansion=0.5), "Expected `expansion` >= 1. Received: expansion=0.5"),
        (lambda x: blocks.mb_conv(x, 8, squeeze_ratio=2), r"Expected `squeeze_ratio` in \[0, 1\]. Received: .*=2"),
        (lambda x: blocks.dilated(x, 8, rates=()), r"Expected at least one rate. Received: rates=\(\)"),
        (lambda x: blocks.separable(layers.Flatten()(x), 8), r"Expected images, \(batch, height, width, channels\)"),
        (lambda x: blocks.shift_block(x, 8, kernel_size=4), "Expected `kernel_size` as an odd number >= 1"),
        (lambda x: blocks.light_conv(layers.Reshape((64, 16))(x), 10), "Expected `units` that 4 divides. Received: 10"),
        (lambda x: blocks.light_conv(x, 8), r"Expected sequences, \(batch, steps, channels\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(block: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block(keras.Input((8, 8, 16)))


def test_models_refuse_what_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="Expected a width that leaves one channel of 16 at least. Received"):
        models.mobilenet_v1(width=0.01)
    with pytest.raises(ValueError, match="Expected input_shape=.*height and width >= 8"):
        models.resnet((4, 4, 1))
    with pytest.raises(ValueError, match="Expected `depth` > 0"):
        models.efficientnet(depth=math.inf)
