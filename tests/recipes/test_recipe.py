"""Recipes: what is accepted, what is refused and how, and what each packaged one makes of a small model."""

from __future__ import annotations

import copy
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_compress.core.registry import entries, lookup
from keras_compress.graph.finite import finite_training
from keras_compress.graph.model import compressed_layers
from keras_compress.pipelines.mixed_precision import mixed_precision
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.record import record_of
from keras_compress.pruning.pruner import Pruner
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.recipes.recipe import Recipe, Stage, compress

RECIPES = [
    "block_sparse", "bwn", "channels_pcqat", "cluster", "cluster_per_channel", "compact", "cqat", "deep_compression",
    "dorefa_w2a2", "ecsq", "low_rank", "pact_w4a4", "pcqat", "pqat", "product_quantization", "prune", "prune_2_4",
    "prune_block", "prune_channels", "prune_global", "prune_one_shot", "ptq", "ptq_data_free", "ptq_fine_tuned",
    "ptq_mixed", "qat", "qat_taught", "qat_w4a8", "react_net", "rigl", "soft_channels", "str", "ttq", "twn", "wrpn",
    "xnor",
]  # fmt: skip


def small_model(hidden: bool = True) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    if hidden:
        x = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


def valid() -> dict[str, Any]:
    schedule = {
        "class_name": "PolynomialDecay",
        "config": {"initial_sparsity": 0.2, "final_sparsity": 0.6, "begin_step": 0.0, "end_step": 0.5},
    }
    return {
        "version": 1,
        "name": "mine",
        "stages": [
            {
                "name": "prune",
                "method": "prune_low_magnitude",
                "config": {"pruning_schedule": schedule},
                "rules": [{"layers": "last", "skip": True}],
                "epochs": 4,
                "learning_rate": 0.01,
            },
            {"name": "cluster", "method": "cluster_weights", "config": {"number_of_clusters": 4}, "filters": "hidden"},
        ],
    }


def transforms_of(model: keras.Model) -> dict[str, list[str]]:
    return {path: [type(t).__name__ for t in wrapper.transform_list] for path, wrapper in compressed_layers(model)}


def pruners_of(model: keras.Model) -> list[Pruner]:
    return [t for _, w in compressed_layers(model) for t in w.transform_list if isinstance(t, Pruner)]


def test_the_packaged_recipes_are_these() -> None:
    assert Recipe.names() == RECIPES


# What is cut first is compressed as `pcqat` does it, and trained in `tests/structured/test_composition.py`.
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "channels_pcqat"])
def test_packaged_recipe_applies_and_trains(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    original = small_model(hidden=False)
    before = [np.array(v) for v in original.weights]
    rng = np.random.default_rng(0)
    x, y = rng.random((16, 6, 6, 1), "float32"), rng.random((16, 3), "float32")

    def losses(trained: keras.Model, epochs: int) -> list[float]:
        # Eagerly: making a graph of it takes longer than these few steps.
        trained.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        return trained.fit(x[:8], y[:8], batch_size=4, epochs=epochs, verbose=0).history["loss"]  # type: ignore[no-any-return]

    # What is masked while a stage trains is nothing before.
    fit = (lambda trained, stage: losses(trained, stage.epochs)) if name == "soft_channels" else None
    data = x if name in ("ptq_fine_tuned", "ptq_mixed") else None
    # Eight 3x3 kernels are too few for a codebook.
    left = pytest.warns(UserWarning, match="conv: two codewords") if name == "product_quantization" else nullcontext()
    with left:
        model = compress(original, name, steps_per_epoch=2, fit=fit, data=data)
    first, second = losses(model, 2)
    assert first != second
    assert np.isfinite([first, second]).all()
    assert model.get_config() != original.get_config()
    for value, variable in zip(before, original.weights):
        np.testing.assert_array_equal(value, np.array(variable))


def test_stages_and_their_order() -> None:
    model = compress(small_model(), "pcqat", steps_per_epoch=5)
    assert transforms_of(model) == {
        path: ["MagnitudePruner", "CentroidClusterer", "UniformQuantizer"] for path in ("conv", "hidden", "logits")
    }


def test_channels_are_cut_before_the_other_stages() -> None:
    model = compress(small_model(), "channels_pcqat", steps_per_epoch=5)
    assert [model.get_layer(name).layer.kernel.shape[-1] for name in ("conv", "hidden", "logits")] == [4, 8, 3]
    assert transforms_of(model)["hidden"] == ["MagnitudePruner", "CentroidClusterer", "UniformQuantizer"]


def test_first_and_last_layer_keep_8_bits() -> None:
    model = compress(small_model(), "qat_w4a8")
    bits = {path: wrapper.transform_list[0].bits for path, wrapper in compressed_layers(model)}
    assert bits == {"conv": 8, "hidden": 4, "logits": 8}


def test_react_net_gives_shortcuts_two_bits() -> None:
    """Where there are any: signs in the place of ReLUs, binary weights, 8 bits at both ends."""
    x = inputs = keras.Input((6, 6, 1), name="image")
    for name in ("stem", "conv", "more"):
        y = keras.layers.Conv2D(4, 3, padding="same", name=name)(x)
        x = keras.layers.Add()([y, keras.layers.Conv2D(4, 1, name="shortcut")(x)]) if name == "conv" else y
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(x))
    model = compress(keras.Model(inputs, x), "react_net")
    found = {
        path: (type(w.transform_list[0]).__name__, w.transform_list[0].bits) for path, w in compressed_layers(model)
    }
    assert found == {
        "stem": ("UniformQuantizer", 8),
        "conv": ("XnorPlusPlus", 1),
        "shortcut": ("LSQ", 2),
        "more": ("XnorPlusPlus", 1),
        "logits": ("UniformQuantizer", 8),
    }
    points = [type(p.quantizer).__name__ for p in model.layers if isinstance(p, QuantizeActivation)]
    assert points.count("RSign") == 3


def test_bits_are_chosen_layer_by_layer_from_data() -> None:
    """As `mixed_precision` chooses them for the folded model, then rounded by GPTQ."""
    x, model = np.random.default_rng(0).random((32, 6, 6, 1), "float32"), small_model()
    made = compress(model, "ptq_mixed", data=x)
    chosen = mixed_precision(fold_batch_norms(model), x, {"average_bits": 4.0})
    expected = {each.name: each.bits for each in chosen.choices if each.kind == "weights"}
    assert {path: w.transform_list[0].bits for path, w in compressed_layers(made)} == expected
    record = record_of(made)
    assert f"Bits by budget: average_bits {chosen.costs['average_bits']:.10g} of at most 4" in record.notes
    assert {each.layer for each in record.effects if each.method == "gptq"} == set(expected)


def test_fractions_become_steps_of_the_stages_own_training() -> None:
    # 4 epochs of 10 steps: half of 40.
    model = Recipe.load(valid()).stages[0].apply(small_model(), steps_per_epoch=10)
    pruners = pruners_of(model)
    assert [(p.schedule.begin_step, p.schedule.end_step, p.schedule.frequency) for p in pruners] == [(0, 20, 100)] * 2


def test_schedules_with_a_unit_of_their_own_keep_it() -> None:
    """Half an epoch of 10 steps, and 3 epochs; 25 % and all of 40 steps: whatever the training around has."""
    for unit, steps, expected in (
        ({"steps_per_epoch": 10}, (0.5, 3), (5, 30)),
        ({"total_steps": 40}, (0.25, 1.0), (10, 39)),
    ):
        recipe = valid()
        config = recipe["stages"][0]["config"]["pruning_schedule"]["config"]
        config.update(unit, begin_step=steps[0], end_step=steps[1])
        (stage, *_) = Recipe.load(recipe).stages
        for per_epoch in (None, 7):
            found = {
                (p.schedule.begin_step, p.schedule.end_step) for p in pruners_of(stage.apply(small_model(), per_epoch))
            }
            assert found == {expected}


def test_a_fractional_frequency_is_a_share_of_the_training_and_at_least_one_step() -> None:
    recipe = valid()
    config = recipe["stages"][0]["config"]["pruning_schedule"]["config"]
    config["frequency"] = 0.1
    stage = Recipe.load(recipe).stages[0]
    assert {p.schedule.frequency for p in pruners_of(stage.apply(small_model(), 10))} == {4}
    assert {p.schedule.frequency for p in pruners_of(stage.apply(small_model(), 1))} == {1}


def test_whole_steps_stay_steps() -> None:
    recipe = valid()
    config = recipe["stages"][0]["config"]["pruning_schedule"]["config"]
    config.update(begin_step=3, end_step=9)
    stage = Recipe.load(recipe).stages[0]
    schedules = {(p.schedule.begin_step, p.schedule.end_step) for p in pruners_of(stage.apply(small_model()))}
    assert schedules == {(3, 9)}


def test_fractions_in_a_rule_are_resolved_too() -> None:
    recipe = valid()
    schedule = copy.deepcopy(recipe["stages"][0]["config"]["pruning_schedule"])
    schedule["config"]["end_step"] = 0.75
    recipe["stages"][0]["rules"] = [{"layers": "hidden", "pruning_schedule": schedule}]
    pruners = pruners_of(Recipe.load(recipe).stages[0].apply(small_model(), 10))
    assert [p.schedule.end_step for p in pruners] == [20, 30, 20]


def test_fractions_need_steps_per_epoch() -> None:
    with pytest.raises(ValueError, match=r"Expected `steps_per_epoch`.* stage 'prune'.*Received: steps_per_epoch=None"):
        compress(small_model(), valid())


def test_steps_per_epoch_must_be_a_number_of_steps() -> None:
    with pytest.raises(ValueError, match=r"Expected `steps_per_epoch` >= 1. Received: steps_per_epoch=0"):
        compress(small_model(), valid(), steps_per_epoch=0)


def test_fractions_need_a_training() -> None:
    recipe = valid()
    recipe["stages"][0]["epochs"] = 0
    with pytest.raises(ValueError, match=r"Expected `epochs` >= 1 where steps are fractions"):
        compress(small_model(), recipe, steps_per_epoch=10)


def test_fit_is_called_after_each_stage_that_trains() -> None:
    recipe = valid()
    recipe["stages"].append({"name": "quantize", "method": "quantize_model", "epochs": 0})
    seen: list[tuple[str, int]] = []

    def fit(model: keras.Model, stage: Stage) -> None:
        count = sum(len(listed) for listed in transforms_of(model).values())
        seen.append((stage.name, count))
        model.get_layer("logits").bias.assign([7.0, 8.0, 9.0])

    model = compress(small_model(), recipe, steps_per_epoch=1, fit=fit)
    assert seen == [("prune", 2), ("cluster", 3)]
    np.testing.assert_array_equal(np.array(model.get_layer("logits").layer.bias), [7.0, 8.0, 9.0])


def test_load_from_file_mapping_and_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(valid()), encoding="utf-8")
    from_file = Recipe.load(path)
    assert from_file == Recipe.load(str(path)) == Recipe.load(valid()) == Recipe.load(from_file)
    assert from_file.stages[0].epochs == 4
    assert from_file.stages[1] == Stage("cluster", "cluster_weights", {"number_of_clusters": 4}, "hidden")


def test_packaged_recipe_by_name_whatever_the_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pcqat").write_text("not a recipe", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert Recipe.load("pcqat").name == "pcqat"


def test_unknown_name_lists_the_recipes() -> None:
    with pytest.raises(ValueError, match=r"Expected a recipe out of \['block_sparse', .*'xnor'\].*Received: 'pcqatt'"):
        Recipe.load("pcqatt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.json"):
        Recipe.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "Expecting property name"),
        ('{"version": 1, "version": 1}', r"keys given more than once: \['version'\]"),
        ('{"version": NaN}', "NaN is not a number"),
        ("[" * 100_000, "recursion"),
        ("\ufeff\ufeff{}", "BOM|Expecting value"),
    ],
)
def test_bad_json_names_the_file(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"Expected a recipe in JSON. Received: .*bad.json \(.*({cause})"):
        Recipe.load(path)


def edited(path: list[str | int], value: Any) -> dict[str, Any]:
    recipe: Any = valid()
    place = recipe
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return recipe  # type: ignore[no-any-return]


SCHEDULE: list[str | int] = ["stages", 0, "config", "pruning_schedule"]


STAGE: list[str | int] = ["stages", 1]
CONFIG = [*STAGE, "config"]
# Place, value put there (`None`: taken away), and two pieces of the message.
MISTAKES: list[tuple[list[str | int], Any, str, str]] = [
    (
        ["epoch"],
        3,
        "keys out of ['description', 'gives', 'goal', 'name', 'stages', 'version'] at the top of recipe 'mine'",
        "['epoch']",
    ),
    (["version"], 2, "Expected 1 at `version`", "2"),
    (["stages"], [], "at `stages`", "[]"),
    (["name"], None, "the keys ['version', 'name', 'stages'] at the top", "['stages', 'version']"),
    ([*STAGE, "epoch"], 3, "'config', 'epochs', 'filters', ", "['epoch']"),
    ([*STAGE, "epochs"], "6", "a value of type integer at `stages[1].epochs`", "'6'"),
    ([*STAGE, "epochs"], -1, "a number >= 0 at `stages[1].epochs`", "-1"),
    ([*STAGE, "learning_rate"], 0, "a number > 0 at `stages[1].learning_rate`", "0"),
    ([*STAGE, "method"], "os.system", "a method out of ['add_slimming', 'cluster_by_entropy', ", "'os.system'"),
    ([*STAGE, "filters"], 3, "a selector of layers (text, or a list of texts) at `stages[1].filters`", "3"),
    ([*STAGE, "rules"], [{"skip": True}], "the keys ['layers'] at `stages[1].rules[0]`", "['skip']"),
    (
        [*STAGE, "rules"],
        [{"layers": "hidden", "number_of_cluster": 8}],
        "keys out of ['layers', 'number_of_clusters', 'optional', 'skip'] at `stages[1].rules[0]`",
        "['number_of_cluster'] (did you mean 'number_of_clusters'?)",
    ),
    ([*STAGE, "rules"], [{"layers": "hidden", "pruner": 8}], "at `stages[1].rules[0]`", "['pruner']"),
    (
        [*STAGE, "rules"],
        [{"layers": "a", "skip": True}, {"layers": "hidden", "number_of_clusters": "8"}],
        "of type int at `stages[1].rules[1].number_of_clusters`",
        "'8'",
    ),
    ([*STAGE, "name"], "prune", "a different `name` for each stage", "['prune', 'prune']"),
    ([*CONFIG, "clusters"], 3, "'number_of_clusters', ", "['clusters']"),
    ([*CONFIG, "filters"], "conv", "at `stages[1].config`", "['filters']"),
    ([*CONFIG, "model"], "m", "at `stages[1].config`", "['model']"),
    ([*CONFIG, "number_of_clusters"], "16", "of type int at `stages[1].config.number_of_clusters`", "'16'"),
    ([*CONFIG, "number_of_clusters"], True, "of type int at `stages[1].config.number_of_clusters`", "True"),
    ([*SCHEDULE, "config", "end_steps"], 3, "at `stages[0].config.pruning_schedule.config`", "['end_steps']"),
    ([*SCHEDULE, "config", "end_step"], None, "Expected the keys ['end_step'] too", "['begin_step', "),
    ([*SCHEDULE, "config", "power"], "3", "of type float at `stages[0].config.pruning_schedule.config.power`", "'3'"),
    ([*SCHEDULE, "config"], 5, "an object {...} at `stages[0].config.pruning_schedule.config`", "5"),
    ([*SCHEDULE, "class_name"], "Polynomial", "'PolynomialDecay'", "'Polynomial'"),
    ([*SCHEDULE, "module"], "os", "keys out of ['class_name', 'config'] at ", "['module']"),
]


@pytest.mark.parametrize(("path", "value", "expected", "received"), MISTAKES)
def test_mistakes_are_named_with_their_place(path: list[str | int], value: Any, expected: str, received: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected .* of recipe ('mine'|given as a mapping). Received: ") as caught:
        Recipe.load(edited(path, value))
    assert expected in str(caught.value)
    assert str(caught.value).split("Received: ")[1].startswith(received)


@pytest.mark.parametrize("name", entries("entry_point"))
def test_what_recipes_let_rules_set_is_what_the_method_lets_them_set(name: str) -> None:
    method = lookup("entry_point", name)
    listed = str(sorted({"optional", "skip", *method.of_rules}))
    with pytest.raises(ValueError, match=f"any of {re.escape(listed)}"):
        method(small_model(), rules=[{"layers": "first", "no_setting": 1}])


def test_a_recipe_that_is_no_object() -> None:
    with pytest.raises(TypeError, match="Expected a recipe's name, path or mapping. Received: int"):
        Recipe.load(3)  # type: ignore[arg-type]


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Expected a rule that matches.*'dense_9'"):
        compress(small_model(), edited(["stages", 1, "filters"], "dense_9"), steps_per_epoch=1)


def test_out_of_range_values_are_refused_by_the_method() -> None:
    recipe = edited([*SCHEDULE, "config", "final_sparsity"], 1.0)
    with pytest.raises(ValueError, match=r"Expected `final_sparsity` in \[0, 1\). Received: final_sparsity=1.0"):
        compress(small_model(), recipe, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ([*STAGE, "learning_rate"], float("inf"), "a finite number at `stages[1].learning_rate`"),
        ([*STAGE, "learning_rate"], 1e9, "a number <= 1000.0 at `stages[1].learning_rate`"),
        ([*STAGE, "epochs"], 1.0, "a value of type integer at `stages[1].epochs`"),
        ([*STAGE, "epochs"], True, "a value of type integer at `stages[1].epochs`"),
        ([*STAGE, "epochs"], 10**9, "a number <= 1000000 at `stages[1].epochs`"),
        ([*CONFIG, "number_of_clusters"], 16.0, "a value of type int at `stages[1].config.number_of_clusters`"),
        (
            [*SCHEDULE, "config", "power"],
            float("nan"),
            "a finite number at `stages[0].config.pruning_schedule.config.power`",
        ),
    ],
)
def test_numbers_are_finite_in_range_and_integers_where_they_have_to_be(
    path: list[str | int], value: Any, expected: str
) -> None:
    with pytest.raises(ValueError, match="^Expected ") as caught:
        Recipe.load(edited(path, value))
    assert expected in str(caught.value)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "Infinity", "NaN"])
def test_infinite_numbers_in_a_file(tmp_path: Path, number: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(edited([*STAGE, "learning_rate"], 777)).replace("777", number))
    with pytest.raises(ValueError, match="Expected a (finite number at `stages|recipe in JSON)"):
        Recipe.load(path)


def test_a_training_that_ends_in_nan_is_an_error_and_a_users_constant_is_none() -> None:
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="last")]
    )
    recipe = {"version": 1, "name": "r", "stages": [{"name": "few", "method": "cluster_weights"}]}

    def fit(trained: keras.Model, stage: Any) -> None:
        trained.layers[1].layer.kernel.assign(np.full((3, 2), np.nan))

    with pytest.raises(ValueError, match=r"Received: NaN or infinity after stage 'few', at \['last'\]: lower its"):
        compress(model, recipe, fit=fit)
    masked = keras.layers.Layer(name="mask")
    masked.add_weight(name="mask", shape=(2,), initializer=keras.initializers.Constant(-np.inf), trainable=False)
    masked.built = True
    with finite_training(keras.Sequential([keras.Input((2,)), masked]), "any"):
        pass
