"""Cortex-M: multiplications by hand, costs from the published throughputs, and what is said to be left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls
from tests_int8_nets import Int8Net, depthwise_net, with_decode

from keras_compress.runtime.cortex_m import estimate_cortex_m
from keras_compress.runtime.cortex_m_costs import CONVOLUTION, CORES, DENSE, DEPTHWISE, NETWORKS, PUBLISHED
from keras_compress.runtime.target import target
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

KINDS = (CONVOLUTION, DEPTHWISE, DENSE)
COST_OF = {"CONV_2D": CONVOLUTION, "DEPTHWISE_CONV_2D": DEPTHWISE, "FULLY_CONNECTED": DENSE}


def visual_wake_words() -> bytes:
    """MobileNetV1 0.25 of 96x96, random weights."""
    net = Int8Net((1, 96, 96, 3)).convolution(8, 3, 2)
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for filters, stride in blocks:
        net.depthwise(3, stride).convolution(filters, 1)
    return net.mean().dense(2).content()


def autoencoder() -> bytes:
    net = Int8Net((1, 640))
    for units in (*[128] * 4, 8, *[128] * 4, 640):
        net.dense(units)
    return net.content()


def solved(name: str) -> np.ndarray:
    """Cycles per multiplication of each kind from what a submitter published."""
    found = PUBLISHED[name]
    cycles = np.array([found.clock_mhz * 1e6 / found.per_second[network] for network in NETWORKS])
    return nnls(np.array(list(NETWORKS.values())) / cycles[:, None], np.ones(len(cycles)))[0]


def test_multiplications_by_hand() -> None:
    found = estimate_cortex_m(depthwise_net(), measure_ram=False)
    assert [(row["operator"], row["macs"]) for row in found.layers] == [
        ("DEPTHWISE_CONV_2D", 18_432),  # 16 x 16 x 8 outputs of 3 x 3
        ("CONV_2D", 65_536),  # 16 x 16 x 32 of 8
        ("CONV_2D", 1_179_648),  # 8 x 8 x 64 of 3 x 3 x 32
        ("AVERAGE_POOL_2D", 0),
        ("FULLY_CONNECTED", 640),
    ]
    assert [row["elements"] for row in found.layers] == [2048, 8192, 4096, 64, 10]
    assert found.macs == 1_264_256
    assert found.cycles == round(18_432 * 12.2) + round(65_536 * 3.74) + round(1_179_648 * 3.74) + round(640 * 3.91)
    # Each of 4 x 4 x 3 inputs meets 2 x 2 x 5 weights.
    assert estimate_cortex_m(Int8Net((1, 4, 4, 3)).transposed(5, 2, 2).content(), measure_ram=False).macs == 960


@pytest.mark.parametrize(("content", "name"), [(visual_wake_words(), "vww"), (autoencoder(), "ad")], ids=["vww", "ad"])
def test_networks_of_mlperf_tiny(content: bytes, name: str) -> None:
    rows = estimate_cortex_m(content, measure_ram=False).layers
    macs = [sum(row["macs"] for row in rows if COST_OF.get(row["operator"]) == kind) for kind in KINDS]
    assert tuple(macs) == NETWORKS[name]
    # What is published for the very file: within what the documentation says.
    for core, clock_mhz, per_second in (
        ("m4", 120, {"vww": 3.320, "ad": 116.212}),
        ("m33", 200, {"vww": 6.159, "ad": 216.772}),
        ("m0+", 64, {"vww": 0.707, "ad": 24.454}),
    ):
        found = estimate_cortex_m(content, core=core, clock_mhz=clock_mhz, measure_ram=False)
        assert found.inferences_per_second == pytest.approx(per_second[name], rel=0.08)


def test_costs_follow_from_what_was_published() -> None:
    table = {core: np.array([found.cycles[kind] for kind in KINDS]) for core, found in CORES.items()}
    for core, name in (("m4", "m4"), ("m33", "m33"), ("m0+", "m0+ hale")):
        np.testing.assert_allclose(table[core], solved(name), rtol=5e-3)
    np.testing.assert_allclose(table["m7"], solved("m4") * solved("m7 hale") / solved("m4 hale"), rtol=5e-3)
    np.testing.assert_allclose(table["m3"], table["m0+"] * 4 / 6, rtol=5e-3)
    np.testing.assert_allclose(table["m55"][:2], [56_040_015 / 54_591_488, 39_322_262 / 10_386_432], rtol=5e-3)


def test_faster_cores_take_fewer_cycles() -> None:
    content = depthwise_net()
    cycles = [
        estimate_cortex_m(content, core=core, measure_ram=False).cycles for core in ("m0+", "m3", "m4", "m7", "m55")
    ]
    assert cycles == sorted(cycles, reverse=True)
    assert len(set(cycles)) == 5


def test_ram_is_the_arena_of_the_host_build() -> None:
    content = depthwise_net()
    found = estimate_cortex_m(content)
    assert found.flash_bytes == len(content)
    if target("tflm").available() is not None:
        assert found.ram_bytes is None
        assert any(note.startswith("RAM not known") for note in found.notes)
    else:
        # The largest two tensors that live at once: 8,192 bytes into 4,096.
        assert found.ram_bytes == target("tflm").memory(content)["arena_bytes"] > 8192 + 4096


def test_what_is_not_in_the_figures_is_said() -> None:
    plain = estimate_cortex_m(depthwise_net(), measure_ram=False)
    assert not any("Not included" in note or "no published figure" in note for note in plain.notes)
    decoded = estimate_cortex_m(with_decode(depthwise_net()), measure_ram=False)
    assert "Not included: 1 TFLM_DECODE, which decode 72 values at each run (no published figure)" in decoded.notes
    assert decoded.macs == plain.macs
    wide = estimate_cortex_m(depthwise_net(activations="int16"), measure_ram=False)
    assert any(note.startswith("4 operators with int16 activations") for note in wide.notes)
    graph = Graph(read_model(depthwise_net(levels=range(-7, 8))))
    graph.pack_constant(graph.operators[1].inputs[1], 4)
    packed = estimate_cortex_m(write_model(graph.model), measure_ram=False)
    assert any(note.startswith("1 operators with packed weights") for note in packed.notes)
    assert packed.macs == plain.macs


def test_refusals() -> None:
    with pytest.raises(ValueError, match="core out of m0.*Received: core='m5'"):
        estimate_cortex_m(depthwise_net(), core="m5")
    with pytest.raises(ValueError, match="clock_mhz=0"):
        estimate_cortex_m(depthwise_net(), clock_mhz=0)
    with pytest.raises(ValueError, match="mode='int8'.*Received: toy, with DEPTHWISE_CONV_2D .* in float32"):
        estimate_cortex_m(depthwise_net(activations="float32"), "toy")
    graph = Graph(read_model(depthwise_net()))
    graph.operators[0].inputs = []
    with pytest.raises(ValueError, match="Expected operators with all their operands"):
        estimate_cortex_m(write_model(graph.model), measure_ram=False)
