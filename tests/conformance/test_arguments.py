"""What a constructor was given comes back: from the configuration, through JSON, and out of a `.keras` file.

Every argument of every class that Keras can load has a sample off its default. A new class or argument without one
fails here, and the message says where to add it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.core.schedule import Schedule
from keras_compress.core.transform import WeightTransform
from keras_compress.quantizers.activation import ActivationQuantizer

SCHEDULE = kc.ConstantSparsity(0.25, begin_step=3, end_step=9, frequency=2)
# What `samples()` of a class leaves out: no part of a model of its own, or too slow or too special to train with.
OFF_DEFAULT: dict[str, dict[str, Any]] = {
    "ActiveShift": {"kernel_size": 5, "whole_pixels": True},
    "ContinuousSparsificationPruner": {
        "end_step": 7,
        "strength": 0.25,
        "rate": 3.0,
        "initial_s": 0.5,
        "final_temperature": 50.0,
    },
    "KernelPatternPruner": {"schedule": SCHEDULE, "number_of_patterns": 4, "regrow": True},
    "L0Pruner": {"strength": 0.25, "rate": 3.0, "initial_drop_rate": 0.5, "seed": 7},
    "LaterSchedule": {"schedule": keras.optimizers.schedules.CosineDecay(0.5, 100), "first_step": 7},
    "PdpPruner": {"schedule": SCHEDULE, "temperature": 0.5},
    "RegularizedPruner": {
        "schedule": SCHEDULE,
        "strength": 0.25,
        "rate": 3.0,
        "temperature": 0.5,
        "initial_probability": 0.25,
        "seed": 7,
    },
    "RigLPruner": {"schedule": SCHEDULE, "drop_fraction": 0.5, "first_mask": "magnitude", "seed": 7},
    "SetPruner": {"schedule": SCHEDULE, "drop_fraction": 0.5, "first_mask": "magnitude", "seed": 7},
    "StrPruner": {"weight_decay": 0.25, "rate": 3.0, "initial_s": -2.5},
    "ThresholdPruner": {"schedule": SCHEDULE, "quality": 0.5, "regrow": True},
    "VariationalDropoutPruner": {"strength": 0.25, "warm_up_steps": 5, "initial_log_sigma2": -3.0, "seed": 7},
    "AttentionTransfer": {"power": 1.5},
    "CRD": {"embedding_size": 16, "temperature": 0.5, "samples": 40},
    "AnnealedClusterer": {"soft": 0.5, "hard": 50.0, "cluster_centroids_init": "linear", "seed": 7},
    "CentroidClusterer": {"number_of_clusters": 5, "cluster_centroids_init": "linear", "seed": 7},
    "ChannelMask": {
        "pruning_schedule": SCHEDULE,
        "units": [0, -1, 1, 2, 3, 4, 5, 6],
        "pools": [{"start": 0, "width": 7, "max_ratio": 0.5}],
        "role": "in",
        "scored": False,
        "group": "one",
        "scope": "global",
        "round_to": 2,
        "regrow": True,
    },
    "ChannelGate": {"axis": 1},
    "FilterSelector": {"places": [0, -1, 1, 2, 3, 4, 5, 6], "axis": 1, "strength": 0.25},
    "CorrelationCongruence": {"gamma": 0.2, "order": 3},
    "DecoupledKD": {"temperature": 2.0, "target_weight": 0.5, "others_weight": 2.0},
    "DifferentiableQuantizer": {"bits": 2, "bucket_size": None, "per_channel": False},
    "GraSP": {"temperature": 2.0},
    "IntegratedGradients": {"steps": 3},
    "OBD": {"samples": 4, "gradient": True, "seed": 5, "hessian": True},
    "OBS": {"gradients": 8, "batch_size": 2, "fisher_block": 10, "damping": 0.25, "max_bytes": 1_000_000},
    "RandomSaliency": {"seed": 5},
    "SparseGPT": {"columns": 4, "damping": 0.125, "max_bytes": 1_000_000},
    "SynFlow": {"rounds": 3},
    "TaylorSaliency": {"batch_size": 2},
    "FixedGrid": {"scale": 0.5, "zero_point": 0, "bits": 16},
    "FusedLSTM": {
        "units": 2,
        "runtime": "tflm",
        "kernel_scale": [0.5, 0.25, 0.125, 1.0],
        "recurrent_scale": [0.25, 0.5, 1.0, 0.125],
        "input_grid": [0.5, 3],
        "output_grid": [0.0078125, -5],
        "cell_exponent": -12,
    },
    "LightweightConv1D": {"kernel_size": 5, "heads": 2, "causal": True},
    "Shift": {"kernel_size": 5},
    "LeGR": {
        "macs": 0.25,
        "population": 3,
        "generations": 5,
        "samples": 2,
        "mutation": 0.5,
        "sigma": 2.0,
        "max_ratio": 0.75,
        "seed": 11,
    },
    "LearnedRange": {"bits": 4},
    "LstmCells": {"units": 2},
    "MagnitudePruner": {"schedule": SCHEDULE, "group": "one", "block_size": (1, 2), "block_pooling_type": "MAX"},
    "MovingAverageRange": {"bits": 4, "decay": 0.5},
    "NMPruner": {"sparsity_m_by_n": (1, 3), "schedule": SCHEDULE, "regrow": True},
    "Operand": {"operation": "subtract", "shape": (3, 2)},
    "PCA": {"energy": 0.5},
    "PerSample": {"shape": [3, 2]},
    "Pact": {"bits": 3, "alpha": 2.0, "regularization": 0.125},
    "PointwiseFunction": {"function": "threshold", "arguments": {"threshold": 0.5, "default_value": 0.25}},
    "PolynomialDecay": {"initial_sparsity": 0.1, "final_sparsity": 0.6, "begin_step": 2, "end_step": 8, "power": 2},
    "RSign": {"channels": 6},
    "Random": {"seed": 3},
    "Present": {"inverted": True},
    "PresentToken": {"inverted": True},
    "RoundAverage": {"stands_for": "pool"},
    "Rows": {"rows": 5, "size": 3},
    "SInGE": {"steps": 2, "mu": 0.25},
    "SteTern": {"threshold": 0.25},
    "Taylor": {"batch_size": 2},
    "TwiceRoundedGrid": {
        "scale": 0.5,
        "zero_point": 2,
        "bits": 16,
        "channels": 3,
        "lowest": 1,
        "rounding": "half_away",
    },
    "WeightClip": {"clip_value": 0.5},
    "SoftTargets": {"temperature": 2.0},
    "XnorScale": {"kernel_size": 3, "momentum": 0.5},
}
# Held by their models: see `test_wrappers_and_points`, `test_remade` in core/test_subclassed.py for users' layers.
CONTAINERS = ("Compressed", "QuantizeActivation", "NamedOutputs", "UserWritten", "WrappedSums")
# Points in time in other units; the schedule holds steps.
UNITS_OF_TIME = ("steps_per_epoch", "total_steps")
OF_KERAS = {"name": "another_name", "trainable": False}


def import_everything() -> None:
    for module in pkgutil.walk_packages(kc.__path__, "keras_compress."):
        if not module.name.startswith(("keras_compress.cli", "keras_compress.runtime", "keras_compress.demo.demo")):
            importlib.import_module(module.name)


def loadable() -> dict[str, type]:
    """Every class of the package that Keras's loader knows, by its name."""
    import_everything()
    found = keras.saving.get_custom_objects().values()
    return {cls.__name__: cls for cls in found if cls.__module__.startswith("keras_compress.")}


CLASSES = {name: cls for name, cls in sorted(loadable().items()) if name not in CONTAINERS and name != "Remade"}


def defaults(cls: type) -> dict[str, Any]:
    """Arguments of the constructor, those of parent classes that `**kwargs` passes on included, with their defaults."""
    found: dict[str, Any] = {}
    for parent in cls.__mro__:
        if not parent.__module__.startswith("keras_compress.") or "__init__" not in vars(parent):
            continue
        parameters = list(inspect.signature(parent.__init__).parameters.values())[1:]
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found = {p.name: p.default for p in parameters if p.kind not in variable} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def given(cls: type) -> list[dict[str, Any]]:
    """Constructor arguments to try a class with; layers have another name and are not trainable, too."""
    tried = [*(cls.samples() if hasattr(cls, "samples") else [{}]), OFF_DEFAULT.get(cls.__name__, {})]
    needed = {name for name, default in defaults(cls).items() if default is inspect.Parameter.empty}
    tried = [arguments for arguments in tried if needed <= set(arguments)]
    if issubclass(cls, layers.Layer):
        # The last one again: what is not trainable is built in another way.
        tried += [{**arguments, **OF_KERAS} for arguments in tried[-1:]]
    return tried


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(value)))


def same(held: Any, value: Any) -> bool:
    """Whether what a configuration holds is what was given, which may be written in a shorter way."""
    held, value = plain(held), plain(value)
    if isinstance(held, dict) and "class_name" in held:
        # The name of a registered object, or the object.
        if isinstance(value, str):
            return bool(held["class_name"].lower() == value)
        return bool((held["class_name"], held["config"]) == (value["class_name"], value["config"]))
    return bool(held == value or (isinstance(held, list) and held == [value] * len(held)))


def check(made: Any, arguments: dict[str, Any], where: str) -> None:
    """That the configuration of an object holds the values its constructor was given."""
    config = made.get_config()
    for name in set(arguments) - set(UNITS_OF_TIME):
        assert name in config, f"{where}: {type(made).__name__} has no {name!r} in its configuration"
        assert same(config[name], arguments[name]), (
            f"{where}: {type(made).__name__}({name}={arguments[name]!r}) has {name}={config[name]!r}"
        )


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_has_a_sample_off_its_default(name: str) -> None:
    tried = given(CLASSES[name])
    of_keras = OF_KERAS if issubclass(CLASSES[name], layers.Layer) else {}
    for argument, default in defaults(CLASSES[name]).items():
        if argument in (*UNITS_OF_TIME, *of_keras):
            continue
        assert any(argument in each and each[argument] != default for each in tried), (
            f"No sample of {name}({argument}=...) off its default {default!r}: add one to `{name}.samples()`, or to "
            "OFF_DEFAULT in this file, and its value is checked after saving and loading."
        )


@pytest.mark.parametrize("name", CLASSES)
def test_configuration_holds_what_was_given(name: str) -> None:
    cls = CLASSES[name]
    assert given(cls), f"{name} has no sample: add one to OFF_DEFAULT in this file"
    for arguments in given(cls):
        made = cls(**arguments)
        check(made, arguments, "get_config")
        check(cls.from_config(made.get_config()), arguments, "from_config")
        again = keras.saving.deserialize_keras_object(plain(made))
        assert type(again) is cls
        check(again, arguments, "through JSON")


def wrapped(name: str, cls: type, arguments: dict[str, Any]) -> layers.Layer:
    """A layer of a model that holds an object of the class."""
    if issubclass(cls, WeightTransform):
        return kc.Compressed(layers.Dense(8, name=name), {"kernel": [cls(**arguments)]})
    if issubclass(cls, ActivationQuantizer):
        return kc.QuantizeActivation(cls(**arguments), name=name)
    if issubclass(cls, Schedule):
        return kc.Compressed(layers.Dense(8, name=name), {"kernel": [kc.MagnitudePruner(cls(**arguments))]})
    if cls in registry.entries("channel_criterion").values():
        mask = kc.structured.channel_mask.ChannelMask(SCHEDULE, criterion=cls(**arguments))
        return kc.Compressed(layers.Dense(8, name=name), {"kernel": [mask]})
    if issubclass(cls, keras.constraints.Constraint):
        return layers.Dense(8, kernel_constraint=cls(**arguments), name=name)
    if cls in registry.entries("gradient_quantizer").values():
        return kc.Compressed(layers.Dense(8, name=name), {}, gradients=cls(**arguments))
    return cls(**{**arguments, "name": name})


def held(layer: layers.Layer, cls: type) -> Any:
    """The object of the class that such a layer holds."""
    if isinstance(layer, cls):
        return layer
    if isinstance(layer, kc.QuantizeActivation):
        return layer.quantizer
    if isinstance(layer, layers.Dense):
        return layer.kernel_constraint
    if layer.gradients is not None:
        return layer.gradients
    (transform,) = layer.transform_list
    found = [transform, getattr(transform, "schedule", None), getattr(transform, "criterion", None)]
    return next(each for each in found if type(each) is cls)


# Layers of a graph that is never saved by itself, and one with two inputs. Losses of distillation and criteria of
# weights are in no model.
NOT_ALONE = {
    "ActiveShift",  # of images, as Shift, and LightweightConv1D of sequences: tests/blocks
    "BatchedMatmul",
    "Either",
    "Gate",
    "KernelPatternPruner",  # of 3x3 kernels: test_kernel_pattern.py
    "LaterSchedule",  # of an optimizer
    "LightweightConv1D",
    "Operand",
    "PerSample",
    "PointwiseFunction",
    "Rows",
    "Shift",
    "XnorPlusPlusScale",
    "XnorScale",
    "TwiceRoundedGrid",
}


def test_a_keras_file_holds_what_was_given(tmp_path, recwarn) -> None:
    x = keras.Input((6,))
    tried = {
        f"{name}_{i}": (cls, arguments)
        for name, cls in CLASSES.items()
        if name not in NOT_ALONE and not issubclass(cls, (kc.DistillationLoss, kc.Saliency))
        for i, arguments in enumerate(given(cls)[-2:])
    }
    outputs = [wrapped(name, cls, arguments)(x) for name, (cls, arguments) in tried.items()]
    keras.Model(x, outputs).save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for name, (cls, arguments) in tried.items():
        layer = again.get_layer(name)
        made = held(layer, cls)
        # A layer of the model has the name that it was given there.
        expected = {**arguments, "name": name} if made is layer and "name" in arguments else arguments
        check(made, expected, "in a .keras file")
    recwarn.clear()


@pytest.mark.parametrize("name", registry.entries("schedule"))
def test_points_in_epochs_and_fractions_become_steps(name: str) -> None:
    cls = registry.lookup("schedule", name)
    (arguments, *_) = cls.samples()
    in_epochs = cls(**{**arguments, "begin_step": 1, "end_step": 2.5, "steps_per_epoch": 10})
    in_fractions = cls(**{**arguments, "begin_step": 0.25, "end_step": 1.0, "total_steps": 40})
    for made, begin, end in ((in_epochs, 10, 25), (in_fractions, 10, 39)):
        again = keras.saving.deserialize_keras_object(plain(made))
        assert [(each.begin_step, each.end_step) for each in (made, again)] == [(begin, end)] * 2


class Scaled(layers.Layer):
    """A layer that no table knows."""

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(name="factor", shape=(shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


def wrapper() -> kc.Compressed:
    return kc.Compressed(
        Scaled(name="inner"),
        {"factor": [kc.UniformQuantizer(bits=3)]},
        slots={"factor": [0]},
        input_point=kc.QuantizeActivation(kc.MovingAverageRange(bits=4, decay=0.5), stands_for="x", name="point"),
        gradients=kc.DoReFaGradient(bits=2, seed=5, name="gradients"),
        name="outer",
    )


def settings(made: kc.Compressed) -> dict[str, Any]:
    """What a wrapper has of what it was given, in plain values."""
    (transform,) = made.transforms["factor"]
    return {
        "layer": (type(made.layer).__name__, made.layer.name),
        "transforms": (type(transform).__name__, transform.bits),
        "slots": made.slot_axes,
        "input_point": (made.input_point.name, made.input_point.stands_for, made.input_point.quantizer.decay),
        "gradients": (made.gradients.name, made.gradients.bits, made.gradients.seed),
        "name": made.name,
    }


def test_wrappers_and_points(tmp_path) -> None:
    """`settings` has every argument of the wrapper: a new one must be added there, and to `wrapper`."""
    expected = {
        "layer": ("Scaled", "inner"),
        "transforms": ("UniformQuantizer", 3),
        "slots": {"factor": [0]},
        "input_point": ("point", "x", 0.5),
        "gradients": ("gradients", 2, 5),
        "name": "outer",
    }
    assert set(expected) == set(defaults(kc.Compressed))
    assert set(defaults(kc.QuantizeActivation)) == {"quantizer", "stands_for"}
    made = wrapper()
    x = np.ones((2, 4), np.float32)
    model = keras.Sequential([keras.Input((4,)), made])
    model(x, training=True)
    model.save(tmp_path / "m.keras")
    with keras.saving.custom_object_scope({"Scaled": Scaled}):
        loaded = keras.models.load_model(tmp_path / "m.keras").layers[0]
        of_config = kc.Compressed.from_config(made.get_config())
    again = made.remade(made.transforms)
    for each in (made, loaded, of_config, again):
        assert settings(each) == expected
    assert [a.channel_axes for a in loaded.transform_list] == [(0,)]
    assert made.remade({}, input_point=None).input_point is None


# For each entry point that makes transforms: arguments, and what the transform of the layer must have of them.
PASSED_ON: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "cluster_weights": [
        (values, values)
        for values in (
            {
                "number_of_clusters": 5,
                "cluster_centroids_init": "linear",
                "preserve_sparsity": True,
                "cluster_per_channel": True,
                "fixed_assignments": True,
                "seed": 7,
            },
        )
    ],
    "cluster_by_entropy": [
        (values, values) for values in ({"bits": 1.5, "number_of_clusters": 8, "preserve_sparsity": True},)
    ],
    "cluster_softly": [
        (
            {
                "number_of_clusters": 5,
                "steps": 7,
                "soft": 0.5,
                "hard": 50.0,
                "cluster_centroids_init": "linear",
                "preserve_sparsity": True,
                "seed": 7,
            },
            {"number_of_clusters": 5, "steps": 7, "soft": 0.5, "hard": 50.0, "preserve_sparsity": True, "seed": 7},
        )
    ],
    "prune_low_magnitude": [
        (
            {"pruning_schedule": SCHEDULE, "block_size": (1, 2), "block_pooling_type": "MAX", "regrow": True},
            {"schedule": SCHEDULE, "block_size": (1, 2), "block_pooling_type": "MAX", "regrow": True, "group": None},
        ),
        ({"scope": "global"}, {}),  # a group: see pruning/test_magnitude.py
        (
            {"pruning_schedule": SCHEDULE, "sparsity_m_by_n": (1, 3), "regrow": True},
            {"schedule": SCHEDULE, "sparsity_m_by_n": (1, 3), "regrow": True},
        ),
    ],
    "combine_columns": [
        (
            {"pruning_schedule": SCHEDULE, "alpha": 3, "gamma": 0.25, "regrow": True},
            {"schedule": SCHEDULE, "alpha": 3, "gamma": 0.25, "regrow": True},
        )
    ],
}
# Of every entry point, and tested for each in `test_entry_points.py`.
WHICH_LAYERS = {"model", "filters", "rules", "strict"}


@pytest.mark.parametrize("name", PASSED_ON)
def test_entry_points_pass_their_arguments_on(name: str, bench) -> None:
    function = registry.lookup("entry_point", name)
    tried = set()
    for arguments, expected in PASSED_ON[name]:
        made = function(bench.plain(), filters="d", **arguments)
        check(bench.wrapper(made).transform_list[0], expected, name)
        tried |= set(arguments)
    assert set(inspect.signature(function).parameters) - WHICH_LAYERS == tried, "an argument that PASSED_ON has not"
