"""300 broken files: no call crashes, hangs, or fails with an error that is not ours. 2,000 in benchmarks/fuzz.py."""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from robustness.bed import Bed, Verdict, judge
from robustness.mutations import endless_loop, has_header

import keras_compress as kc
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout, ask
from keras_compress.runtime.target import target

SEED = 20


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return Bed(tmp_path_factory.mktemp("bed"), time_limit_s=2.0, verify_each=16)


def outcomes(bed: Bed, kind: str, count: int) -> tuple[Counter[tuple[str, str]], int]:
    """How the calls ended, all of them as they should; and how many files reach a runtime."""
    found: Counter[tuple[str, str]] = Counter()
    faults, reached = [], 0
    for number in range(count):
        case = bed.case(kind, SEED, number)
        reached += case.reaches_runtime
        for verdict in bed.run(case, number):
            found[verdict.call.split()[0], verdict.outcome] += 1
            if verdict.fault:
                faults.append((number, case.what, verdict.call, verdict.fault))
    assert faults == []
    return found, reached


def test_broken_tflite_files(bed: Bed) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, reached = outcomes(bed, "tflite", 180)
    assert reached > 150
    # Neither all refused at the door nor all harmless.
    assert found["measure", "ok"] > 20
    assert found["measure", "ValueError"] > 60
    assert found["inspect", "ValueError"] > 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


# What a recipe with another number does may be worth a warning; it is no fault.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_recipes(bed: Bed) -> None:
    found, _ = outcomes(bed, "recipe", 80)
    assert found["load", "ok"] > 5
    assert found["load", "ValueError"] > 30
    assert found["compress", "refused"] == 80


def test_broken_keras_files(bed: Bed) -> None:
    found, _ = outcomes(bed, "keras", 40)
    assert found["inspect", "ok"] > 2
    assert found["inspect", "refused"] > 15
    assert not list(bed.folder.rglob("slipped")) + list(bed.folder.parent.glob("slipped"))


def test_the_same_number_is_the_same_file(bed: Bed) -> None:
    first, again = (bed.case("tflite", SEED, 7) for _ in range(2))
    assert first == again
    assert bed.case("tflite", SEED + 1, 7).content != first.content


def test_faults_are_seen(tmp_path: Path) -> None:
    def foreign() -> None:
        {}["missing"]

    def numpys_own() -> None:
        np.zeros(4).reshape(3)

    def faults(*calls: object, limit_s: float = 60.0) -> list[Verdict]:
        return [judge("call", call, "file", limit_s) for call in calls]  # type: ignore[arg-type]

    assert [verdict.outcome for verdict in faults(foreign, numpys_own)] == ["KeyError", "ValueError"]
    assert all(verdict.fault for verdict in faults(foreign, numpys_own))
    assert faults(lambda: kc.inspect_tflite(b"nothing"))[0].fault is None
    slow = faults(lambda: time.sleep(0.05), limit_s=0.01)[0]
    assert slow.fault is not None
    assert "took" in slow.fault


def test_a_shape_of_100_gigabytes_dies_alone(bed: Bed) -> None:
    """The child refuses or dies; this process neither grows nor loses its runtime for the next file."""
    intact = bed.artifact.content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(intact))
    for tensor in model.subgraphs[0].tensors:
        if len(tensor.shape) == 4 and model.buffers[tensor.buffer].data is None:
            tensor.shape = [1, 50_000, 50_000, 40]
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert has_header(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("litert", "tflm"):
        with pytest.raises((ValueError, RuntimeCrash), match="huge"):
            target(name, time_limit_s=20.0).run(content, [np.zeros((1, 50_000, 1, 1), np.float32)], label="huge")
        assert len(target(name).run(intact, [bed.x], label="intact")[0]) == len(bed.x)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_an_endless_loop_ends_at_the_limit(bed: Bed) -> None:
    # A seed that makes the WHILE with a condition of its own, which is always true.
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(bed.files[1]))
    endless_loop(model, np.random.default_rng(1))
    assert len(model.subgraphs) == 3
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    began = time.monotonic()
    with pytest.raises(RuntimeTimeout, match="litert gave no sign of life for 1 s on endless"):
        target("litert", kernels="reference", time_limit_s=1.0).run(content, [bed.x], label="endless")
    assert time.monotonic() - began < 10


def test_progress_without_end_ends_too(bed: Bed) -> None:
    options, header = {"kernels": "reference", "threads": 1}, {"op": "latency", "runs": 10**7, "warmup": 0}
    with pytest.raises(RuntimeTimeout, match="litert was not done in time on many"):
        ask("litert", options, header, [bed.files[1]], seconds=20.0, total_seconds=1.5, label="many")
