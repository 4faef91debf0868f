"""`benchmarks/golden.py`: equal code gives equal records, and what differs between two files is seen and named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_golden_work import work

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

FOLDER = Path(__file__).parent.parent / "benchmarks"
DENSE, REFUSED = "layers: Dense: tflm int8", "layers: LSTM, stateful: litert int8"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks() -> Any:
    if not (FOLDER / "golden.py").is_file():
        pytest.skip("no checkout around these tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


@pytest.fixture(scope="module")
def recorded(_benchmarks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from golden import record

    folder = tmp_path_factory.mktemp("golden")
    record([DENSE, REFUSED], folder, 0)
    return folder


def test_the_same_code_is_identical_and_a_planted_difference_is_seen(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    import golden_models
    from golden import compare, summary

    found = compare([DENSE, REFUSED], recorded, tmp_path, 0, False)
    assert [judged.status for _, judged in found] == ["identical", "identical"]
    assert "refused as before" in found[1][1].text
    table = [line.split() for line in summary(found).splitlines()]
    assert ["all", "2", "0", "0", "0", "0", "0"] in table

    case = golden_models.CASES[DENSE]

    def biased() -> Any:
        model, *data = case.make()
        model.layers[-1].bias.assign([0.0, 0.25, 0.0, 0.0])
        return model, *data

    monkeypatch.setitem(golden_models.CASES, DENSE, replace(case, make=biased))
    ((_, judged),) = compare([DENSE], recorded, tmp_path, 0, True)
    assert judged.status == "different"
    assert "xnnpack: " in judged.text
    assert "reference: " in judged.text
    assert "tflm: " in judged.text
    assert "constants: " in judged.text


def _record(recorded: Path) -> Any:
    from golden_records import Record

    return Record.read(recorded, DENSE)


def _edited(record: Any, edit: Any) -> Any:
    """The record with its file edited."""
    model = read_model(record.content)
    edit(Graph(model))
    made = copy.deepcopy(record)
    made.content = write_model(model)
    return made


def _dense(graph: Graph) -> Any:
    (op,) = (op for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED")
    return op


def _bias_one_off(graph: Graph) -> None:
    bias = graph.constant(_dense(graph).inputs[2])
    graph.set_constant(_dense(graph).inputs[2], bias + np.array([0, 0, 1, 0], np.int32))


def _weight_scale(graph: Graph) -> None:
    weight = _dense(graph).inputs[1]
    scales, _ = graph.quantization(weight)
    graph.set_quantization(weight, scales * np.float32(1.5), 0, 0)


def _output_zero_point(graph: Graph) -> None:
    tensor = _dense(graph).outputs[0]
    scales, zero_point = graph.quantization(tensor)
    graph.set_quantization(tensor, scales, zero_point + 1)


def _signature(graph: Graph) -> None:
    graph.model.signatureDefs[0].outputs[0].name = b"other"


def _tensor_name(graph: Graph) -> None:
    graph.rename(graph.inputs[0], "q" * len(graph.name(graph.inputs[0])))


@pytest.mark.parametrize(
    ("edit", "status", "expected"),
    [
        (_bias_one_off, "different", "bias of 4 int32 in FULLY_CONNECTED: 1 of 4 values by up to 1"),
        (_weight_scale, "different", "by up to 0.5 of theirs"),
        (_output_zero_point, "different", "new grid: ('int8', "),
        (_signature, "different", "signature: "),
        (_tensor_name, "equal", "input tensor: "),
    ],
)
def test_what_differs_between_files_is_named(recorded: Path, edit: Any, status: str, expected: str) -> None:
    from golden_verdicts import verdict

    old = _record(recorded)
    judged = verdict(old, _edited(old, edit))
    assert judged.status == status
    assert any(expected in line for line in judged.details), judged.details


def test_outputs_notes_and_points_count(recorded: Path) -> None:
    from golden_files import anatomy
    from golden_verdicts import verdict

    old, new = _record(recorded), _record(recorded)
    assert set(old.outputs) == {"xnnpack", "reference", "tflm"}
    assert all(len(np.unique(found)) > 8 for (found,) in old.outputs.values())
    (step,) = anatomy(old.content).steps
    new.outputs["tflm"][0][3, 1] += 2 * step
    judged = verdict(old, new)
    assert (judged.status, judged.text) == ("different", "tflm: 2 steps")
    assert judged.details == ["tflm, output 0: 1 of 80 values differ by up to 2 steps"]

    new = _record(recorded)
    new.notes.append("more")
    assert (verdict(old, new).status, verdict(old, new).told) == ("identical", ["notes"])
    new.points.popitem()
    assert verdict(old, new).status == "different"


def test_fewer_operators_are_better_and_failures_are_errors(recorded: Path) -> None:
    from golden_files import Constant, constants, operators
    from golden_records import Record
    from golden_verdicts import verdict

    assert operators(["QUANTIZE", "MUL", "ADD"], ["QUANTIZE", "ADD"]).state == "better"
    assert operators(["ADD"], ["ADD", "RESHAPE"]).state == "changed"
    assert operators(["ADD", "MUL"], ["MUL", "ADD"]).state == "told"
    one = Constant("MUL", "weight", np.array([1, 2], np.int8), ("int8", (0.5,), (0,)))
    other = Constant("MUL", "weight", np.array([1, 3], np.int8), ("int8", (0.5,), (0,)))
    assert constants([one], [], True).state == "better"
    assert constants([one], [], False).state == "changed"
    assert constants([one], [other], True).details == ["weight of 2 int8 in MUL: 1 of 2 values by up to 1"]

    fine, refused, failed = _record(recorded), Record(DENSE, "refused", "no"), Record(DENSE, "failed", "KeyError")
    assert verdict(refused, fine).status == "better"
    assert verdict(fine, refused).status == "error"
    assert verdict(failed, refused).status == "better"
    assert verdict(refused, failed).status == "error"


def test_what_hangs_or_dies_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import golden_workers
    from golden_records import Record

    monkeypatch.setattr(golden_workers, "_work", work)
    monkeypatch.setattr(golden_workers, "MOST_SECONDS", 2.0)
    assert list(golden_workers.run(["a", "hangs", "aborts", "b"], tmp_path, 1)) == ["a", "hangs", "aborts", "b"]
    assert Record.read(tmp_path, "hangs").message == "the process hung for 2 s"
    assert Record.read(tmp_path, "aborts").message == "the process ended with exit code -6"
