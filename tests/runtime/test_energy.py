"""Energy: Horowitz's figures by hand, memory traffic by hand, boards against what MLPerf Tiny's runs published."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests_int8_nets import Int8Net, depthwise_net, with_decode

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.runtime.cortex_m import estimate_cortex_m
from keras_compress.runtime.cortex_m_costs import CONVOLUTION, CORES, DENSE, DEPTHWISE, NETWORKS
from keras_compress.runtime.energy import estimate_energy
from keras_compress.runtime.energy_tables import BOARD_POWER, integer_add, integer_multiply, sram_access
from keras_compress.runtime.multiplications import MULTIPLYING
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

# Median energy of an inference on the same NUCLEO-L4R5ZI with another engine: mlcommons/tiny_results_v1.1,
# closed/Krai/results/README.md, X-CUBE-AI 8.0.0. Nothing here was fitted to it.
OTHER_ENGINE_M4 = {"ad": 528.881, "ic": 17_315.114, "kws": 5_481.633, "vww": 16_573.080}


def board_uj(core: str, network: str) -> float:
    kinds = zip((CONVOLUTION, DEPTHWISE, DENSE), NETWORKS[network], strict=True)
    cycles = sum(CORES[core].cycles[kind] * macs for kind, macs in kinds)
    return BOARD_POWER[core].microjoules(round(cycles))


def test_figures_of_the_table() -> None:
    assert [integer_multiply(b, b) for b in (8, 32)] == pytest.approx([0.2, 3.1])
    assert [integer_add(b) for b in (8, 32)] == pytest.approx([0.03, 0.1])
    # 8 by 4: a = (3.1/32 - 0.2/8) / 24 = 0.00299479, b = 0.2/8 - 8 a = 0.00104167; 32 a + 6 b.
    assert integer_multiply(8, 4) == pytest.approx(0.1020833, rel=1e-5)
    # Halfway between 32 kB (20 pJ) and 1 MB (100 pJ) on both logarithms: 2^17.5 bytes take sqrt(2000) pJ.
    assert sram_access(185_364) == pytest.approx(44.7214, rel=1e-4)
    with pytest.raises(ValueError, match="at most 1,048,576 bytes of SRAM"):
        sram_access(2_000_000)


def test_a_dense_layer_by_hand() -> None:
    content = Int8Net((1, 640)).dense(128).content()
    found = estimate_energy(content, sram_bytes=32 * 1024)
    (row,) = found.layers
    # 640 x 128 int8 weights and 128 biases of four bytes; 640 values in, 128 out.
    assert (row["macs"], row["weight_bytes"], row["activation_bytes"]) == (81_920, 82_432, 768)
    assert row["compute_uj"] == pytest.approx(81_920 * (0.2 + 0.1) * 1e-6)
    assert row["weights_uj"] == pytest.approx(82_432 / 8 * 1300e-6)
    assert row["activations_uj"] == pytest.approx(768 / 8 * 20e-6)
    assert found.figures["energy_uj"] == pytest.approx(0.024576 + 13.3952 + 0.00192)
    assert found.figures["most_uj"] == pytest.approx(0.024576 + 2 * 13.3952 + 0.00192)
    assert found.figures["bops"] == 81_920 * 64
    assert found.figures["macs_by_bits"] == {"8x8": 81_920}


def test_arithmetic_follows_the_file() -> None:
    macs = 1_264_256
    each = {
        "float32": 3.7 + 0.9,
        "int16": integer_multiply(16, 8) + integer_add(64),
        "int8": 0.3,
    }
    for activations, picojoules in each.items():
        levels = {"levels": range(-7, 8)} if activations == "int8" else {}
        content = depthwise_net(activations=activations, **levels)
        if activations == "float32":
            graph = Graph(read_model(content))
            for op in graph.operators:
                for tensor in op.inputs[1:]:
                    values = graph.constant(tensor).astype(np.float32)
                    graph.free_constant(tensor)
                    graph.set_type(tensor, "float32")
                    graph.set_constant(tensor, values)
            content = write_model(graph.model)
        found = estimate_energy(content).figures
        assert found["compute_uj"] == pytest.approx(macs * picojoules * 1e-6)
    graph = Graph(read_model(depthwise_net(levels=range(-7, 8))))
    graph.pack_constant(graph.operators[2].inputs[1], 4)
    packed = estimate_energy(write_model(graph.model)).figures
    assert packed["macs_by_bits"] == {"8x8": macs - 1_179_648, "8x4": 1_179_648}
    assert packed["weights_uj"] < found["weights_uj"] - 64 * 3 * 3 * 32 / 2 / 8 * 1300e-6 * 0.99


def test_an_embedding_reads_the_rows_of_its_indices() -> None:
    tokens = keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, keras.layers.Embedding(1000, 12)(tokens))
    rows = estimate_energy(kc.convert(model, mode="float32").content).layers
    (row,) = [each for each in rows if each["operator"] == "GATHER"]
    # Five rows of twelve floats; beside them five indices and the output.
    assert row["weight_bytes"] == 5 * 12 * 4
    assert row["activation_bytes"] == 5 * 4 + 5 * 12 * 4


@pytest.mark.parametrize(
    ("left", "right", "output", "macs"),
    [
        ((3, 4), (7, 4, 5), (7, 3, 5), 7 * 3 * 4 * 5),  # the left one is the same for all seven
        ((7, 3, 4), (7, 4, 5), (7, 3, 5), 7 * 3 * 4 * 5),
        ((7, 4, 3), (7, 4, 5), (7, 3, 5), 7 * 3 * 4 * 5),  # transposed
        ((7, 3, 4), (4, 5), (7, 3, 5), 7 * 3 * 4 * 5),
        ((2, 1, 3, 4), (6, 4, 5), (2, 6, 3, 5), 12 * 3 * 4 * 5),
    ],
)
def test_products_of_matrices(left, right, output, macs: int) -> None:
    assert MULTIPLYING["BATCH_MATMUL"].macs(left, right, output) == macs


def test_encoded_weights_are_read_as_stored_and_decoded_to_memory() -> None:
    plain, decoded = (estimate_energy(each) for each in (depthwise_net(), with_decode(depthwise_net())))
    decode, reader = decoded.layers[:2]
    assert decode["operator"] == "TFLM_DECODE"
    assert decode["activation_bytes"] == 72  # 3 x 3 x 8 weights are written,
    assert reader["activation_bytes"] == plain.layers[0]["activation_bytes"] + 72  # and read by the layer.


@pytest.mark.parametrize("core", ["m4", "m33"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_boards_give_what_their_own_runs_published(core: str, network: str) -> None:
    assert board_uj(core, network) == pytest.approx(BOARD_POWER[core].microjoules_published[network], rel=0.1)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_within_a_factor_of_two_of_another_engine_and_another_chip(network: str) -> None:
    assert 0.5 < board_uj("m4", network) / OTHER_ENGINE_M4[network] < 2
    # Cycles of the M7 were scaled from an M4, power is of a third board.
    assert 0.5 < board_uj("m7", network) / BOARD_POWER["m7"].microjoules_published[network] < 2


def test_cortex_m_has_the_energy_where_a_power_was_published() -> None:
    content = depthwise_net()
    found = estimate_cortex_m(content, core="m4", measure_ram=False)
    assert found.figures["energy_uj"] == pytest.approx(found.cycles * 432.7e-6, rel=1e-3)
    assert any("NUCLEO-L4R5ZI" in note and "pJ" in note for note in found.notes)
    without = estimate_cortex_m(content, core="m55", measure_ram=False)
    assert "energy_uj" not in without.figures
    assert any(note.startswith("No energy") for note in without.notes)


def test_a_budget_of_energy() -> None:
    model = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(n, bias_initializer="ones") for n in (32, 10))])
    (limit,) = kc.Budget(energy_uj=0.5)
    assert not limit.is_fraction
    cost = limit.cost.of(model)
    # 64 x 32 + 32 x 10 products of float32; weights and biases of four bytes from DRAM.
    weights = 4 * (64 * 32 + 32 + 32 * 10 + 10)
    assert cost == pytest.approx(
        (2368 * 4.6 + weights / 8 * 1300) * 1e-6 + 4 * (64 + 32 + 32 + 10) / 8 * 1e-4, rel=1e-6
    )
    with pytest.raises(ValueError, match="published power, out of m4, m7, m33.*Received: core='m0\\+'"):
        kc.Energy("m0+")


def test_refusals() -> None:
    content = depthwise_net()
    for options, message in (
        ({"weights": "tape"}, "`weights` out of dram, sram, flash"),
        ({"activations": "flash"}, "`activations` out of dram, sram"),
        ({"weights": "flash"}, "`flash_pj` with weights='flash'"),
        ({"flash_pj": 3.0}, "`flash_pj` with weights='flash'"),
        ({"weights": "flash", "flash_pj": -1.0}, "`flash_pj` > 0"),
        ({"sram_bytes": 0}, "`sram_bytes` as a number of bytes >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            kc.estimate(content, "energy", **options)
    flash = kc.estimate(content, "energy", weights="flash", flash_pj=650.0).figures
    assert flash["weights_uj"] == pytest.approx(estimate_energy(content).figures["weights_uj"] / 2)
    assert flash["most_uj"] == flash["energy_uj"]


def test_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(depthwise_net())
    assert cli.main(["keras-compress", "estimate", f"--model={path}", "--target=energy", "--weights=sram"]) == 0
    said = capsys.readouterr().out
    assert "not a measurement" in said
    assert "energy_uj" in said
    assert "cycles" not in said.split("energy_uj")[0]
