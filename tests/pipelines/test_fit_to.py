"""`fit_to`: a tiny net made to fit, by validation data; a search that goes on; what is said where nothing fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.cli import fit as cli_fit
from keras_compress.cli import main as cli
from keras_compress.cli.data import Data
from keras_compress.pipelines.fit_limits import FileLimit, FileLimits, board_limits
from keras_compress.pipelines.fit_result import Candidate, Fitted, Stopped, pareto
from keras_compress.pipelines.fit_space import Setting
from keras_compress.pipelines.fit_study import storage_of
from keras_compress.pipelines.fit_to import _Search
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.skipif(target("tflm").available() is not None, reason="TFLite-Micro is not here")
METHODS = ("channels", "training")


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """Three clouds of points; each part has its own."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 480)
    centers = random.normal(size=(3, 8))
    points = (centers[labels] + 0.6 * random.normal(size=(480, 8))).astype(np.float32)
    return {"x": points[:320], "y": labels[:320], "vx": points[320:400], "vy": labels[320:400],
            "tx": points[400:], "ty": labels[400:]}  # fmt: skip


@pytest.fixture(scope="module")
def model(data: dict[str, np.ndarray]) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential([keras.Input((8,)), layers.Dense(64, "relu"), layers.Dense(64, "relu"), layers.Dense(3)])
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(data["x"], data["y"], epochs=6, verbose=0)
    return net


def fitted(model: keras.Model, data: dict[str, np.ndarray], **options: Any) -> Fitted:
    def fit(net: keras.Model, stage: Any) -> None:
        # Tracing takes longer than these few steps.
        net.compile(keras.optimizers.Adam(0.005), model.loss, run_eagerly=True)
        net.fit(data["x"], data["y"], batch_size=80, epochs=2, verbose=0)

    training = kc.Training(fit=fit).on(data["x"], data["y"])
    chosen = {"methods": METHODS, "trials": 3, "max_drop": 0.05, "budget": kc.Budget(bytes=9000, arena=4000), **options}
    return kc.fit_to(model, training, validation_data=(data["vx"], data["vy"]), **chosen)


def test_fits_and_goes_on(model: keras.Model, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    found = fitted(model, data, folder=tmp_path, test_data=(data["tx"], data["ty"]), trials=1)
    assert found.met
    best = found.best
    # What is said of the file is what the file is, on its runtime.
    content = best.path.read_bytes()
    assert best.figures["bytes"] == len(content) <= 9000
    assert best.figures["arena"] == target("tflm").memory(content)["arena_minimum_bytes"] <= 4000
    for x, y, said in (("vx", "vy", best.validation), ("tx", "ty", best.test)):
        (scores,) = deployed.run(target("tflm"), content, data[x])
        assert said == (scores.argmax(-1) == data[y]).mean()
    assert best.validation == max(each.validation for each in found.candidates)
    assert best.validation >= found.baseline - 0.05
    outputs = best.model.predict(data["vx"], verbose=0)
    assert (outputs.argmax(-1) == data["vy"]).mean() == pytest.approx(best.validation, abs=0.03)
    assert "within the budget" in repr(found)
    # Called again it does nothing anew; with more trials it does those that are missing.
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tflite")}
    again = fitted(model, data, folder=tmp_path, trials=3)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [each.setting.training for each in again.candidates] == ["ptq", "qat", "qat"]
    assert again.candidates[0] == found.candidates[0]
    assert again.candidates[2].setting.channels == 0.5
    assert again.candidates[2].figures["bytes"] < 0.6 * best.figures["bytes"]


def test_what_is_too_large_is_not_trained(model: keras.Model, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    trained = []

    def fit(net: keras.Model, stage: Any) -> None:
        trained.append(stage.name)

    training = kc.Training(fit=fit).on(data["x"], data["y"])
    with pytest.warns(UserWarning, match=r"Nothing is within the budget. Nearest is trial \d.*bytes: .* of 1,500"):
        found = kc.fit_to(
            model, training, {"bytes": 1500}, validation_data=(data["vx"], data["vy"]), methods=METHODS, trials=3,
            folder=tmp_path,
        )  # fmt: skip
    assert trained == []
    assert not found.met
    assert found.candidates == ()
    # The nearest is the one with the most channels cut, and its figure is that of a file.
    assert found.nearest.setting.channels == max(each.setting.channels for each in found.stopped)
    assert found.nearest.excess == pytest.approx(found.nearest.figures["bytes"] / 1500 - 1)
    assert "NOTHING within the budget" in repr(found)
    assert found.to_dict()["met"] is False


def test_a_loss_that_is_too_large_is_the_nearest_miss(
    model: keras.Model, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    # A metric that no other arithmetic can reach: how near outputs are to the float model's.
    wanted = model.predict(data["vx"], verbose=0)
    training = kc.Training(epochs=1).on(data["x"], data["y"])
    options: dict[str, Any] = {
        "validation_data": (data["vx"], wanted),
        "metric": lambda outputs, y: 1.0 - float(np.abs(outputs[0] - y).max()),
        "methods": ("training",),
    }
    with pytest.warns(UserWarning, match=r"Trial \d keeps it, but loses 0.\d+ of "):
        found = kc.fit_to(model, training, {"bytes": 0.9}, trials=2, max_drop=0.0, folder=tmp_path, **options)
    assert found.best is None
    assert found.nearest == max(found.candidates, key=lambda each: each.validation)
    # The untrained file and the one epoch of quantizers were reported, the whole of this trial and so as far as the
    # longest one's five epochs; the first was not trained at all.
    journal = optuna.load_study(study_name=None, storage=storage_of(tmp_path / "trials.journal"))
    assert [list(each.intermediate_values) for each in journal.trials] == [[1], [1, 6]]


def test_hyperband_stops_a_trial(
    model: keras.Model, data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: trial.number == 1)
    found = fitted(model, data, methods=("training",), trials=2, budget={"bytes": 0.9})
    assert [each.number for each in found.candidates] == [0]
    assert [(each.number, each.reason) for each in found.stopped] == [
        (1, "others were better after as large a share of their training")
    ]


def test_a_metric_that_is_no_number_stops_the_trial_alone(model: keras.Model, data: dict[str, np.ndarray]) -> None:
    said = r"Trial 0 keeps it, but was stopped: Expected a metric that is a number. Received: nan"
    with pytest.warns(UserWarning, match=said):
        found = fitted(model, data, methods=("training",), trials=1, budget={"bytes": 0.9}, metric=lambda *_: np.nan)
    assert [each.number for each in found.stopped] == [0]
    assert found.nearest == found.stopped[0]


def unsearched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fit_to` give the search that it would do."""
    monkeypatch.setattr(_Search, "result", lambda search, *_: search)


def test_what_decides_results_is_in_the_name(
    model: keras.Model, data: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsearched(monkeypatch)
    training = kc.Training(epochs=1).on(data["x"], data["y"])
    weight = np.ones(len(data["x"]))
    cases: list[tuple[Any, dict[str, Any]]] = [
        (training, {}),
        (training, {"representative_dataset": data["x"][:9]}),
        (training, {"representative_dataset": data["x"][:9] + 1}),
        (replace(training, sample_weight=weight), {}),
        (replace(training, samples=np.arange(9)), {}),
        (training, {"seed": 1}),
        (training, {"sampler": "random"}),
    ]
    names = []
    for how, options in [*cases, *cases]:
        found: Any = kc.fit_to(
            model, how, {"bytes": 9000}, validation_data=(data["vx"], data["vy"]), methods=METHODS, folder=tmp_path,
            **options,
        )  # fmt: skip
        names.append(found.folder.name)
    assert len(set(names)) == len(cases)
    assert names[: len(cases)] == names[len(cases) :]


def test_samples_and_their_weights_are_trained_with(
    model: keras.Model, data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    unsearched(monkeypatch)
    batches = []
    counter = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(batch))
    training = kc.Training(epochs=1, callbacks=[counter]).on(data["x"], data["y"])
    training = replace(training, samples=np.arange(5), sample_weight=np.zeros(len(data["x"])))
    search: Any = kc.fit_to(model, training, {"bytes": 9000}, validation_data=(data["vx"], data["vy"]))
    net = keras.models.clone_model(model)
    before = net.get_weights()
    search._trainer(SimpleNamespace(report_model=lambda candidate: None))(net, "quantize", "quantize")
    assert batches == [0]  # five samples, not 320
    for each, was in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(each, was)  # no sample counts


def test_a_folder_without_the_files_of_the_study_is_refused(
    model: keras.Model, data: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsearched(monkeypatch)
    options: dict[str, Any] = {"study": tmp_path / "shared.journal"}
    first: Any = fitted(model, data, folder=tmp_path / "a", **options)
    for other in (tmp_path / "b", None):
        with pytest.raises(ValueError, match=r"files of this study's trials, .*a\. Received: folder="):
            fitted(model, data, folder=other, **options)
    # The same folder seen at another path is the same.
    (tmp_path / "a").rename(tmp_path / "c")
    moved: Any = fitted(model, data, folder=tmp_path / "c", **options)
    assert moved.folder == tmp_path / "c" / first.folder.name


def test_the_nearest() -> None:
    limits = FileLimits((FileLimit("bytes", len, 100.0),))
    search = _Search(None, None, None, limits, None, None, Path())  # type: ignore[arg-type]

    def stopped(number: int, size: float | None, reason: str) -> Stopped:
        figures = {} if size is None else {"bytes": size}
        return Stopped(number, Setting(), figures, float("inf") if size is None else size / 100 - 1, reason)

    large, larger = stopped(0, 110, "bytes: 110"), stopped(1, 150, "bytes: 150")
    failed, small, smaller = stopped(2, None, "frozen"), stopped(3, 90, "slow"), stopped(4, 10, "slow")
    poor = Candidate(5, Setting(), 0.5, {"bytes": 95.0}, (), Path("f"))
    late = stopped(6, 104, "others were better")
    assert search._nearest([poor], [small, large], 0.75) == (
        poor, "Trial 5 keeps it, but loses 0.25 of 0.75: weights of 8 bits, PTQ"
    )  # fmt: skip
    assert search._nearest([], [larger, smaller, small, large], 0.75) == (
        small, "Trial 3 keeps it, but was stopped: slow: weights of 8 bits, PTQ"
    )  # fmt: skip
    for trials, nearest, reason in (
        ([failed, larger, large], large, "bytes: 110 B of 100"),
        ([larger, late], late, "bytes: 104 B of 100"),
        ([failed], failed, "frozen"),
    ):
        found, said = search._nearest([], trials, 0.75)
        assert found == nearest
        assert said == f"Nearest is trial {nearest.number} (weights of 8 bits, PTQ): {reason}"


def test_choices_of_the_command_are_made_by_validation_data() -> None:
    x, y = np.arange(100.0), np.repeat(np.arange(10), 10)
    (trained, labels), (held, held_labels), said = cli_fit._parts(Data(Path("d"), {}), x, y, 0)
    assert len(held) == 10
    assert sorted([*trained, *held]) == list(x)
    # Pairs stay pairs, and held samples are not at every tenth place.
    np.testing.assert_array_equal(np.floor([*trained, *held]) // 10, [*labels, *held_labels])
    assert len(set(held % 10)) > 3
    assert "was probably trained on" in said[0]
    assert list(held) != list(cli_fit._parts(Data(Path("d"), {}), x, y, 1)[1][0])
    given = Data(Path("d"), {"x_val": x[:4], "y_val": y[:4]})
    (trained, _), (held, _), said = cli_fit._parts(given, x, y, 0)
    assert (len(trained), list(held), said) == (100, [0, 1, 2, 3], [])
    with pytest.raises(ValueError, match="Expected x_val, y_val in d"):
        cli_fit._parts(Data(Path("d"), {"x_val": x}), x, y, 0)


@pytest.mark.parametrize(("given", "most"), [("9kB", 9_000), ("20kB", 10_000)])
def test_of_two_limits_of_bytes_the_smaller_counts(given: str, most: int) -> None:
    values: Any = SimpleNamespace(
        board=None, flash="26kB", arena=None, code=None, target="tflm", bytes=given, latency_ms=None, energy_uj=None
    )
    assert [limit.most for limit in cli_fit._budget(values)] == [most]


def test_the_pareto_set() -> None:
    def candidate(number: int, validation: float, size: float, arena: float) -> Candidate:
        return Candidate(number, Setting(), validation, {"bytes": size, "arena": arena}, (), Path("f"))

    kept = pareto(
        [
            candidate(0, 0.9, 100, 10),
            candidate(1, 0.9, 100, 10),  # the same again
            candidate(2, 0.8, 100, 10),  # worse
            candidate(3, 0.8, 90, 10),  # smaller
            candidate(4, 0.95, 120, 30),  # better
            candidate(5, 0.85, 110, 9),  # less memory
            candidate(6, 0.85, 110, 20),
        ]
    )
    assert [each.number for each in kept] == [4, 0, 5, 3]


def test_limits(model: keras.Model) -> None:
    limits = FileLimits.of(kc.Budget(bytes=0.5, energy_uj=3), model, "tflm")
    whole = len(kc.convert(model, "tflm", mode="float32").content)
    assert limits.to_dict() == {"bytes": whole / 2, "energy_uj": 3.0}
    assert limits.reasons({"bytes": whole, "energy_uj": 2.0}) == [f"bytes: {whole:,.0f} B of {whole / 2:,.0f}"]
    assert FileLimit("bytes", len, 1_032_576).said(1_032_580) == "bytes: 1,032,580 B of 1,032,576"
    assert limits.excess({"bytes": whole, "energy_uj": 1.5}) == {"bytes": 1.0, "energy_uj": -0.5}
    # A time is measured anew when a search goes on: the first measurement counts.
    pinned = limits.pinned({"bytes": 7.0, "energy_uj": 3.0})
    assert pinned.to_dict() == {"bytes": 7.0, "energy_uj": 3.0}
    assert board_limits("rp2040", arena="64kB") == {"bytes": 2048 * 1024 - 16_000, "arena": 64_000}
    with pytest.raises(ValueError, match="`flash` above the runtime's 16,000 bytes of code. Received: 12,000"):
        board_limits(None, "12kB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"budget": {"latency_ms": 1}},
            "costs of a file for 'tflm', out of bytes, arena, energy_uj. Received: latency",
        ),
        ({"budget": {"macs": 0.5}}, "costs of a file for 'tflm'"),
        ({"budget": {"arena": 900}, "target": "litert"}, "costs of a file for 'litert', out of bytes, latency_ms"),
        ({"budget": {"flsh": 900}}, "Expected a cost out of"),
        ({"budget": None}, "`budget` or `board`, one of them"),
        ({"board": "rp2040"}, "`budget` or `board`, one of them"),
        ({"budget": None, "board": "rp2041"}, "did you mean 'rp2040'"),
        ({"target": "ethos_u"}, "a target out of tflm, litert"),
        ({"trials": 0}, "`trials` as a number >= 1"),
        ({"sampler": "grid"}, "`sampler` out of tpe, nsga2, random"),
        ({"max_drop": -1}, "`max_drop` >= 0"),
        ({"methods": ("huffman",)}, "`methods` out of"),
        ({"study": "nothing://here"}, "`study` as a journal file"),
        ({"stale_after_s": 0}, "`stale_after_s` > 0"),
    ],
)
def test_refusals(model: keras.Model, data: dict[str, np.ndarray], options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(model, data, **options)
    with pytest.raises(ValueError, match=r"`training` as kc.Training\(...\).on"):
        kc.fit_to(model, (data["x"], data["y"]), {"bytes": 9000}, validation_data=(data["vx"], data["vy"]))


def test_command(
    model: keras.Model, data: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x_train=data["x"], y_train=data["y"], x_test=data["tx"], y_test=data["ty"])
    common = [f"--model={tmp_path}/m.keras", f"--data={tmp_path}/d.npz", f"--out={tmp_path}/out", "--epochs=1"]
    limits = ["--flash=26kB", "--arena=4kB", "--max_drop=5%", "--methods=training", "--trials=1"]
    assert cli.main(["keras-compress", "fit", *common, *limits, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["limits"] == {"bytes": 10000, "arena": 4000}
    assert found["max_drop"] == 0.05
    assert (tmp_path / "out" / "best.tflite").stat().st_size == found["best"]["figures"]["bytes"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "trial 0 takes" in page
    assert "times less than float32" in page
    assert cli.main(["keras-compress", "check", f"--model={tmp_path}/out/best.tflite", "--flash=26kB"]) == 0
    for wrong, message in (
        (["--bytes=9kB", "--max_drop=some"], "Expected --max_drop as 0.01 or 1%"),
        (["--target=litert", "--flash=9kB"], "Expected --target=tflm"),
        ([], "Expected --board, --flash"),
        (["--bytes=9kB", "--epochs=1,2"], "Expected one number for --epochs, or 4"),
    ):
        assert cli.main(["keras-compress", "fit", *common, *wrong]) == 1
        assert message in capsys.readouterr().err
