"""Is a model without some channels the model with these channels set to zero? Every family of `keras.applications`.

The cut model then trains a step, is saved, loaded, and converted to int8.

    python benchmarks/structured_exactness.py
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, below, once, print_goals, write_results
from zoo_members import Member
from zoo_models import build, data

import keras_compress as kc
from keras_compress.runtime.target import target
from keras_compress.structured import surgery
from keras_compress.structured.channel_graph import OUTPUT, ChannelGraph, Removed
from keras_compress.structured.dependency import channel_graph

Array = np.ndarray[Any, Any]
NETWORKS = (
    *("VGG16", "ResNet50", "ResNet50V2", "DenseNet121", "InceptionV3", "InceptionResNetV2", "Xception", "MobileNet"),
    *("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "NASNetMobile", "ConvNeXtTiny"),
)
QUICK = ("MobileNetV2",)
RATIOS = (0.3, 0.5)
LARGE = "ResNet152"
# Depthwise 7x7 convolutions, which take minutes for each of many shapes.
SLOW_IN_FLOAT64 = ("ConvNeXtTiny",)
SIZE, CLASSES = 96, 10
# Samples that statistics are measured on, and that models are compared on.
MEASURED_SAMPLES, SAMPLES, LEAST_VARIANCE = 32, 4, 0.1
MOST_ERROR, MOST_ERROR_FLOAT64, MOST_SECONDS, LEAST_SEEN = 1e-4, 1e-10, 15.0, 1e-2

_NETWORKS = flags.DEFINE_list("networks", [], "Networks to run now; by default all. The table is of all finished ones.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, statistics, data and of the channels that go.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_structured_exactness", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "One network; results stay in --work.")


def network(name: str, seed: int, size: int = SIZE) -> keras.Model:
    """A network with seeded weights and statistics, in which every vector matters: no factor is 0 or 1, no offset 0."""
    model = build(Member("", "", name, {"classes": CLASSES, "classifier_activation": None}, size), seed)
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        for attribute in () if isinstance(layer, keras.layers.BatchNormalization) else ("gamma", "bias", "beta"):
            variable = getattr(layer, attribute, None)
            if isinstance(variable, keras.Variable):
                # The factors of ConvNeXt's residual branches begin at 1e-6: nothing in a branch would show.
                factor = attribute == "gamma"
                shape = variable.shape
                variable.assign(random.uniform(0.5, 1.5, shape) if factor else random.normal(0.0, 0.1, shape))
    head = [layer for layer in model.layers if hasattr(layer, "kernel")][-1].kernel
    head.assign(random.normal(0.0, np.sqrt(2.0 / np.prod(head.shape[:-1])), head.shape))
    return model


def pruned_network(name: str, ratio: float, seed: int) -> tuple[ChannelGraph, Removed, Array]:
    """The channels of a network, those that go, and data.

    Random weights would forget their input where channels go: each layer sums over fewer. So normalizations get the
    statistics of what is left on the data, and kernels without a normalization the scale of what they are left with.
    """
    model = network(name, seed)
    graph = channel_graph(model)
    removed = chosen(graph, ratio, seed)
    x = data(model, MEASURED_SAMPLES, seed)
    masked = surgery.mask(graph, removed)
    norms = [
        [layer for layer in each._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
        for each in (model, masked)
    ]
    for layer in norms[1]:
        layer.momentum = 0.0
    masked(x, training=True)
    for layer, measured in zip(*norms, strict=True):
        _take_statistics(graph, removed, layer, measured)
    if not norms[0]:
        for variable in (v for v in model.trainable_variables if v.name == "kernel"):
            variable.assign(variable / np.sqrt(1.0 - ratio))
    return graph, removed, x[:SAMPLES]


def _take_statistics(graph: ChannelGraph, removed: Removed, layer: keras.Layer, measured: keras.Layer) -> None:
    """Mean and variance of the channels that stay; those that go keep theirs."""
    mean, variance = np.asarray(measured.moving_mean), np.asarray(measured.moving_variance)
    # Few positions may happen to be alike: divided by next to nothing, they would show rounding only.
    variance = np.maximum(variance, LEAST_VARIANCE * variance.mean())
    for variable, values in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        ids = graph.axes_of(variable).get(0)
        gone = np.zeros(len(values), bool) if ids is None else removed[graph.units[ids]]
        variable.assign(np.where(gone, variable, values))


def chosen(graph: ChannelGraph, ratio: float, seed: int) -> Removed:
    """A share of the channels of each group, drawn at random: exactness must not depend on which."""
    random = np.random.default_rng(seed)
    removed = graph.none_removed()
    for group in graph.prunable:
        count = min(round(ratio * len(group)), len(group) - 1)
        removed[random.choice(group.units, count, replace=False)] = True
    return removed


def compared(name: str, ratio: float, seed: int) -> dict[str, Any]:
    """One network at one ratio: cut beside masked, and how much there is to see in the outputs."""
    error_in_double = None if name in SLOW_IN_FLOAT64 else in_double(name, ratio, seed)
    graph, removed, x = pruned_network(name, ratio, seed)
    model, cut = graph.model, surgery.cut(graph, removed)
    outputs = np.asarray(cut(x, training=False))
    return {
        "groups": len(graph.prunable),
        "frozen": {group.name: group.reason for group in graph.frozen if group.reason != OUTPUT},
        "error_float64": error_in_double,
        "error": surgery.largest_difference(surgery.mask(graph, removed), cut, x),
        "change": surgery.largest_difference(model, cut, x),
        "variation": float(np.abs(outputs - outputs.mean(axis=0)).max() / np.abs(outputs).max()),
        "macs_before": graph.macs(),
        "macs_after": graph.macs(removed),
        "params_before": graph.params(),
        "params_after": graph.params(removed),
        "params_counted": [model.count_params(), cut.count_params()],
    }


def in_double(name: str, ratio: float, seed: int) -> float:
    """The error in float64: what is left of one in float32 that deep random networks blow up from its last digits."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        graph, removed, x = pruned_network(name, ratio, seed)
        return surgery.largest_difference(surgery.mask(graph, removed), surgery.cut(graph, removed), x)
    finally:
        keras.config.set_dtype_policy(policy)


def used(name: str, ratio: float, seed: int, work: Path) -> dict[str, Any]:
    """What one is to do with the cut network: save and load it, train it, convert it."""
    graph, removed, x = pruned_network(name, ratio, seed)
    cut = surgery.cut(graph, removed)
    return _saved(cut, x, work / f"{name}.keras") | _trained(cut, x) | _converted(cut, graph.model, x)


def _saved(cut: keras.Model, x: Array, path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    cut.save(path)
    difference = surgery.largest_difference(cut, keras.models.load_model(path), x)
    path.unlink()
    return {"loaded_difference": difference}


def _trained(cut: keras.Model, x: Array) -> dict[str, Any]:
    """A step of training on a copy: the loss, and whether every kernel moved."""
    copy = keras.models.clone_model(cut)
    copy.set_weights(cut.get_weights())
    kernels = [v for v in copy.trainable_variables if "kernel" in v.name]
    before = [np.array(v.numpy()) for v in kernels]
    copy.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = copy.train_on_batch(x, np.arange(len(x)) % CLASSES)
    moved = sum(bool(np.any(v.numpy() != old)) for v, old in zip(kernels, before, strict=True))
    return {"loss": float(loss), "kernels_moved": moved, "kernels": len(kernels)}


def _converted(cut: keras.Model, model: keras.Model, x: Array) -> dict[str, Any]:
    """The cut model on integers, or in the mode that the unpruned one converts to where it is refused as well."""
    try:
        artifact, note = kc.convert(cut, representative_dataset=x), ""
    except Exception as error:
        note = f"int8: {str(error)[:300]}"
        try:
            kc.convert(model, representative_dataset=x)
        except Exception:
            artifact, note = kc.convert(cut, mode="float32"), f"the unpruned network is refused as well; {note}"
        else:
            return {"mode": None, "note": note}
    (deployed,) = target("litert").run(artifact.content, [x])
    expected = np.asarray(cut(x, training=False))
    return {
        "mode": artifact.mode,
        "note": note,
        "bytes": len(artifact.content),
        "shape_kept": deployed.shape == expected.shape,
        "correlation": float(np.corrcoef(deployed.ravel(), expected.ravel())[0, 1]),
    }


def large_row(seed: int) -> dict[str, Any]:
    """Time to find the channels of a large network, and to cut it."""
    model = network(LARGE, seed, 224)
    begin = time.perf_counter()
    graph = channel_graph(model)
    found = time.perf_counter()
    cut = surgery.cut(graph, chosen(graph, 0.5, seed))
    end = time.perf_counter()
    return {
        "network": LARGE,
        "size": 224,
        "graph_s": round(found - begin, 2),
        "cut_s": round(end - found, 2),
        "params_before": model.count_params(),
        "params_after": cut.count_params(),
    }


def goals_of(rows: list[dict[str, Any]], large: dict[str, Any]) -> list[Goal]:
    failed = [f"{r['network']} {r['ratio']}" for r in rows if not _in_order(r)]
    goals = [
        at_most("largest error of a cut model against the masked one", max(r["error"] for r in rows), MOST_ERROR),
        at_most("the same error in float64", max(r["error_float64"] or 0.0 for r in rows), MOST_ERROR_FLOAT64),
        at_least("smallest change that the pruning itself made", min(r["change"] for r in rows), LEAST_SEEN),
        at_least("least that outputs vary with the input", min(r["variation"] for r in rows), LEAST_SEEN),
        Goal(f"cut models that do not train, load, convert or count right {failed}", len(failed), "= 0", not failed),
        below(f"{LARGE}: seconds to find and cut its channels", large["graph_s"] + large["cut_s"], MOST_SECONDS),
    ]
    missing = set(NETWORKS) - {r["network"] for r in rows}
    return [*goals, Goal(f"networks that were not tried {sorted(missing)}", len(missing), "= 0", not missing)]


def _in_order(row: dict[str, Any]) -> bool:
    counted = row["params_counted"] == [row["params_before"], row["params_after"]]
    trains = np.isfinite(row["loss"]) and row["kernels_moved"] == row["kernels"]
    return bool(counted and trains and row["loaded_difference"] == 0.0 and row["mode"] and row["shape_kept"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Expected flags only. Received: {argv[1:]}")
    work, seed = Path(_WORK.value), _SEED.value
    wanted = QUICK if _QUICK.value else NETWORKS
    rows = []
    for name, ratio in itertools.product(wanted, RATIOS):
        parts = [work / f"{name}_{ratio}_{seed}_{part}.json" for part in ("compared", "used")]
        if _NETWORKS.value and name not in _NETWORKS.value and not all(path.is_file() for path in parts):
            continue
        row = {"network": name, "ratio": ratio, "size": SIZE}
        row |= once(parts[0], lambda n=name, r=ratio: compared(n, r, seed))
        row |= once(parts[1], lambda n=name, r=ratio: used(n, r, seed, work))
        rows.append(row)
        print(row, flush=True)
        keras.backend.clear_session()
    large = once(work / f"{LARGE}_{seed}.json", lambda: large_row(seed))
    goals = goals_of(rows, large)
    write_results(
        "structured_exactness",
        [*rows, large],
        goals,
        seeds=[seed],
        settings={"ratios": RATIOS, "size": SIZE, "samples": SAMPLES, "roles": ["out", "through"]},
        **({"directory": work} if _QUICK.value else {}),
    )
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
