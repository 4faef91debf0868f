"""Each pruner by its name in a recipe, all in one model: trained, saved, stripped, and read back from the file."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc

NAMES = [
    "AcDcPruner",
    "ContinuousSparsificationPruner",
    "L0Pruner",
    "MovementPruner",
    "PdpPruner",
    "RegularizedPruner",
    "RigLPruner",
    "SetPruner",
    "StrPruner",
    "ThresholdPruner",
    "VariationalDropoutPruner",
]


def as_json(name: str) -> dict:
    """The first sample of a class as a recipe has it."""
    config = dict(getattr(kc, name).samples()[0])
    if "schedule" in config:
        schedule = config["schedule"]
        config["schedule"] = {"class_name": type(schedule).__name__, "config": schedule.get_config()}
    return json.loads(json.dumps({"class_name": name, "config": config}))


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    branches = [layers.Dense(8, use_bias=False, name=name)(inputs) for name in NAMES]
    model = keras.Model(inputs, layers.Dense(3, name="last")(layers.Concatenate()(branches)))
    for layer in model.layers:
        if layer.name in NAMES:
            layer.kernel.assign(np.random.default_rng(len(layer.name)).normal(size=(8, 8)))
    rules = [{"layers": name, "pruner": as_json(name)} for name in NAMES] + [{"layers": "last", "skip": True}]
    stage = {"name": "prune", "method": "prune", "config": {}, "rules": rules, "epochs": 4, "learning_rate": 0.01}
    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)

    def fit(made: keras.Model, stage) -> None:
        made.compile(keras.optimizers.Adam(stage.learning_rate), "mse", run_eagerly=True)
        made.fit(x, x[:, :3], batch_size=8, epochs=stage.epochs, verbose=0)

    return kc.compress(model, {"version": 1, "name": "all", "stages": [stage]}, steps_per_epoch=2, fit=fit)


def test_the_model_has_each_pruner_and_its_zeros(trained: keras.Model) -> None:
    for name in NAMES:
        layer = trained.get_layer(name)
        assert type(layer.transform_list[0]).__name__ == name
        assert (np.array(layer.weight("kernel")) == 0).any(), name
        assert all(np.isfinite(value) for value in layer.transform_list[0].summary_values().values())
    rows = {row.path: row for row in kc.summary(trained).rows}
    for name in NAMES:
        assert rows[name].sparsity == np.mean(np.array(trained.get_layer(name).weight("kernel")) == 0)


def test_the_file_has_the_zeros(trained: keras.Model, tmp_path) -> None:
    trained.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    plain = kc.strip(loaded)
    expected = {name: np.array(plain.get_layer(name).kernel) for name in NAMES}
    artifact = kc.convert(loaded, mode="float32")
    found = {row.name: row.sparsity for row in artifact.stats.weights}
    for name, kernel in expected.items():
        (share,) = [value for key, value in found.items() if name in key]
        assert share == pytest.approx(np.mean(kernel == 0)), name


@pytest.mark.parametrize("name", ["L0Pruner", "RigLPruner", "VariationalDropoutPruner"])
def test_tables_that_are_looked_up_in(name: str) -> None:
    """Their gradient comes as the rows that were read."""
    keras.utils.set_random_seed(0)
    plain = keras.Sequential([keras.Input((3,)), layers.Embedding(12, 6), layers.Flatten(), layers.Dense(2)])
    model = kc.prune(plain, as_json(name))
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.array([[0, 1, 1], [2, 3, 0]])
    model.fit(x, np.ones((2, 2), np.float32), epochs=2, verbose=0)
    assert np.isfinite(np.array(model(x))).all()
    if name == "RigLPruner":
        rows = np.abs(np.array(model.layers[0].transform_list[0].gradient)).sum(axis=1) > 0
        assert rows.tolist() == [True] * 4 + [False] * 8
