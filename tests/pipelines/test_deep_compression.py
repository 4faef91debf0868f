"""The Deep Compression pipeline: rounds within a budget, and a run that is killed and called again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.demo.datasets import Dataset
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.training import Judge, Trainer
from keras_compress.recipes.recipe import Stage

pytestmark = pytest.mark.filterwarnings("ignore:.*does not apply to tf.data functions:UserWarning")
EPOCHS = {"channels": 1, "prune": 1, "cluster": 1, "quantize": 1}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Compiling each model's programs would take ten times as long as running these small ones."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def model(digits: Dataset) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    made = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(32, activation="relu", name="second"),
            layers.Dense(10, name="logits"),
        ]
    )
    made.compile("adam", LOSS)
    tf.config.run_functions_eagerly(False)  # hundreds of steps
    made.fit(digits.x_train, digits.y_train, epochs=6, verbose=0)
    tf.config.run_functions_eagerly(True)
    return made


def compressed(model: keras.Model, digits: Dataset, **arguments: object) -> kc.DeepCompression:
    settings = {
        "training": kc.Training(epochs=EPOCHS, batch_size=96),
        "pruning": kc.Pruning((0.4, 0.7)),
        "max_drop": 0.1,
        **arguments,
    }
    held_out = (digits.x_test, digits.y_test)
    few = slice(0, 480)
    return kc.deep_compression(model, digits.x_train[few], digits.y_train[few], validation_data=held_out, **settings)


def test_a_file_within_the_budget_that_holds_all_three_promises(model: keras.Model, digits: Dataset) -> None:
    before = [np.array(weight) for weight in model.get_weights()]
    found = compressed(model, digits)
    assert found.met
    assert found.sparsity == 0.7
    assert found.metric >= found.baseline - 0.1
    assert [step.name for step in found.steps] == ["prune_0.4", "prune_0.7", "prune_0.7_quantize"]
    stats = kc.inspect_tflite(found.artifact.content)
    assert stats.sparsity == pytest.approx(0.7, abs=0.02)
    assert stats.distinct_values <= 16
    assert {weight.storage for weight in stats.weights} & {"huffman", "bitmap"}
    # The layer that minds most has the fewest zeros.
    zeros = {weight.name: weight.sparsity for weight in stats.weights}
    assert zeros["logits/kernel"] < zeros["hidden/kernel"]
    assert found.report()["raw_bytes"] == len(found.artifact.content) == found.steps[-1].raw_bytes
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_a_budget_that_no_round_meets_is_said(model: keras.Model, digits: Dataset) -> None:
    # Centroids that the model has already are taken off.
    clustered = kc.cluster_weights(model, 32)
    training = kc.Training(LOSS, EPOCHS, batch_size=96)
    with pytest.warns(UserWarning, match="No round is within the budget: the file has"):
        found = compressed(clustered, digits, pruning=kc.Pruning((0.97,)), max_drop=0.0, training=training)
    assert not found.met
    assert [step.within_budget for step in found.steps] == [False, False]


def test_a_round_beyond_the_budget_ends_the_rounds(model: keras.Model, digits: Dataset) -> None:
    found = compressed(model, digits, pruning=kc.Pruning((0.5, 0.97, 0.98), channels=0.25))
    assert found.model.get_layer("hidden").layer.units == 48
    assert [step.name for step in found.steps] == ["prune_0.5", "prune_0.97", "prune_0.5_quantize"]
    assert found.sparsity == 0.5


class Killed(BaseException):
    """What a test stops a run with."""


def test_a_killed_run_goes_on_to_the_same_file(model: keras.Model, digits: Dataset, tmp_path: Path) -> None:
    trained: list[str] = []

    def fit(tried: keras.Model, stage: Stage) -> None:
        if len(trained) == 1:
            trained.append("killed")
            raise Killed
        trained.append(stage.name)
        tried.compile("adam", LOSS)
        tried.fit(digits.x_train[:160], digits.y_train[:160], epochs=1, verbose=0)

    few = {"pruning": kc.Pruning((0.5,)), "max_drop": None, "training": kc.Training(fit=fit)}
    with pytest.raises(Killed):
        compressed(model, digits, folder=tmp_path, **few)
    resumed = compressed(model, digits, folder=tmp_path, **few)
    names = ["prune_0.5", "prune_0.5_cluster", "prune_0.5_quantize"]
    assert [name for name in trained if name != "killed"] == names
    trained[:] = ["killed"] * 9
    whole = compressed(model, digits, **few)
    assert whole.artifact.content == resumed.artifact.content


def test_bad_input(model: keras.Model, digits: Dataset, tmp_path: Path) -> None:
    for arguments, message in (
        ({"max_drop": -0.1}, "Expected `max_drop` >= 0"),
        ({"training": kc.Training(epochs={"tune": 1})}, "Expected `epochs` > 0 for stages out of"),
    ):
        with pytest.raises(ValueError, match=message):
            compressed(model, digits, **arguments)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'sparsity' \(did you mean 'sparsities'\?\)"):
        compressed(model, digits, sparsity=0.5)
    with pytest.raises(ValueError, match="Expected `loss`, `fit`, or a compiled model"):
        compressed(keras.Model(model.inputs, model.outputs), digits)
    new = Trainer(kc.Training(LOSS, callbacks=[keras.callbacks.TerminateOnNaN()], decay=False), None, None, model)
    kept = Trainer(kc.Training(LOSS), None, None, model).decisive()
    # What folders were told apart by before there were such arguments.
    assert kept.keys() == {"epochs", "learning_rates", "loss", "batch_size", "seed", "fit"}
    Checkpoints(tmp_path / "training", kept)
    with pytest.raises(ValueError, match=r"Expected a new folder, .*other work: callbacks, decay$"):
        Checkpoints(tmp_path / "training", new.decisive())
    folder = tmp_path / "other"
    Checkpoints(folder, {"model": 1, "loss": 2}).step("first", lambda: (None, {}))
    with pytest.raises(
        ValueError, match=r"Expected a new folder, or the one of the same model.*other work: loss, seed$"
    ):
        Checkpoints(folder, {"model": 1, "loss": 3, "seed": 0})
    (folder / "steps.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="Expected the steps of an earlier run"):
        Checkpoints(folder, {"model": 1, "loss": 2})
    (folder / "steps.json").write_text('{"work": "0123", "steps": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds other work: that of an earlier version"):
        Checkpoints(folder, {"model": 1})
    (folder / "steps.json").unlink()
    (folder / "prune_0.5.keras").write_bytes(b"trained for a week")
    with pytest.raises(ValueError, match=r"with models that are not its steps: prune_0\.5\.keras"):
        Checkpoints(folder, {"model": 1})
    assert (folder / "prune_0.5.keras").read_bytes() == b"trained for a week"


def test_steps_of_a_model_with_a_loss_and_a_metric_of_the_users_own(tmp_path: Path) -> None:
    def loss(y_true: object, y_pred: object) -> object:
        return keras.losses.mean_squared_error(y_true, y_pred)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", loss, metrics=[loss])
    with Checkpoints(tmp_path / "steps", {}) as kept:
        kept.step("first", lambda: (model, {}))
        for found, weight in zip(kept.model("first").get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kc.Pruning(()), "Expected `sparsities` in"),
        (lambda: kc.Pruning((0.99,)), "Expected `sparsities` in"),
        (lambda: kc.Pruning(channels=1.0), "Expected `channels` in"),
        (lambda: kc.Clustering(1), "Expected `number_of_clusters` to be an integer from 2"),
        (lambda: kc.Conversion(io="int3"), "Expected `io` out of"),
        (lambda: kc.Conversion("litert", "huffman"), "Expected target='tflm'"),
        (lambda: kc.Training(batch_size=0), "Expected `batch_size` > 0"),
        (lambda: kc.Training(epochs={"prune": 0}), "Expected `epochs` > 0"),
    ],
)
def test_a_part_is_checked_when_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_names_of_the_last_release_do_the_same_and_say_the_new_one(model: keras.Model, digits: Dataset) -> None:
    with pytest.warns(DeprecationWarning, match="now") as told:
        earlier = compressed(
            model,
            digits,
            pruning=kc.Pruning(),
            training=kc.Training(),
            sparsities=(0.6,),
            channels=0.25,
            seed=3,
            epochs=EPOCHS,
            learning_rates={"prune": 2e-3},
            batch_size=96,
            number_of_clusters=8,
            io="int8",
            loss=LOSS,
        )
    assert {str(each.message).split(" now.")[0] for each in told} >= {
        "deep_compression(sparsities=...) is pruning=kc.Pruning(sparsities=...)",
        "deep_compression(learning_rates=...) is training=kc.Training(learning_rate=...)",
        "deep_compression(io=...) is conversion=kc.Conversion(io=...)",
    }
    now = compressed(
        model,
        digits,
        pruning=kc.Pruning((0.6,), channels=0.25),
        clustering=kc.Clustering(8),
        training=kc.Training(LOSS, EPOCHS, {"prune": 2e-3}, batch_size=96, seed=3),
        conversion=kc.Conversion(io="int8"),
    )
    assert now.artifact.content == earlier.artifact.content


def test_a_folder_of_other_rounds_or_another_metric_is_refused(
    model: keras.Model, digits: Dataset, tmp_path: Path
) -> None:
    def fit(tried: keras.Model, stage: Stage) -> None:
        raise Killed

    few = {"pruning": kc.Pruning((0.5,)), "training": kc.Training(fit=fit), "folder": tmp_path}
    with pytest.raises(Killed):
        compressed(model, digits, **few)
    with pytest.raises(Killed):
        compressed(model, digits, **few | {"max_drop": None, "conversion": kc.Conversion(io="int8")})
    other_loss = keras.models.clone_model(model)
    other_loss.set_weights(model.get_weights())
    other_loss.compile("adam", "mse")
    for other, name in (
        ({"pruning": kc.Pruning((0.3, 0.5))}, "sparsities"),
        ({"metric": lambda outputs, y: -1.0}, "metric"),
        ({"training": kc.Training(epochs={"prune": 2}, fit=fit)}, "epochs"),
        ({"training": kc.Training(fit=lambda tried, stage: None)}, "fit"),
        ({"model": other_loss}, "loss"),
    ):
        with pytest.raises(ValueError, match=f"which holds other work: {name}$"):
            compressed(other.pop("model", model), digits, **few | other)


def test_a_training_that_ends_in_nan_is_an_error() -> None:
    def fit(trained: keras.Model, stage: Stage) -> None:
        trained.layers[-1].kernel.assign(np.full(trained.layers[-1].kernel.shape, np.inf))

    spoilt = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    train = Trainer(kc.Training(fit=fit), np.zeros((2, 2)), np.zeros((2, 1)), spoilt)
    with pytest.raises(ValueError, match=r"NaN or infinity after stage 'prune_0.5', at \['out'\]"):
        train(spoilt, "prune", "prune_0.5")


class Subtracting(keras.Model):
    """A model of the user's own, whose inputs are a dict."""

    def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        return inputs["b"] - inputs["a"]


def test_the_judge_gives_each_input_its_own_data() -> None:
    """By name where data are named, as `predict` does, in whatever order the model has its inputs."""
    b, a = keras.Input((1,), name="b"), keras.Input((1,), name="a")
    in_order = keras.Model([b, a], keras.layers.Subtract()([b, a]))
    ones, threes = np.ones((5, 1), np.float32), np.full((5, 1), 3, np.float32)
    named = {"a": ones, "b": threes}
    own = Subtracting()
    own(named)
    for model, x in ((in_order, named), (in_order, [threes, ones]), (own, named)):
        judge = Judge(x, None, lambda outputs, _: float(outputs[0].mean()), None)
        assert judge.of_model(model) == model.predict(x, verbose=0).mean() == 2.0
    with pytest.raises(ValueError, match=r"Expected data for the inputs \['b', 'a'\]. Received: \['a', 'c'\]"):
        Judge({"a": ones, "c": ones}, None, lambda outputs, _: 0.0, None).of_model(in_order)
