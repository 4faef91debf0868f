"""What is tried with random graphs besides conversion: the whole chain of compression, and channel surgery."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
from tests_graph_oracle import OP_SAMPLES, SAMPLES, Finding, examine, predicted, sorted_out, sqnr_db
from tests_graphs import Array, Description, build, data, names_of

import keras_compress as kc
from keras_compress.graph.model import compressed_layers
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

CLUSTERS, SPARSITY = 6, 0.5
# A step of training moves weights a little: that is enough for masks, centroids and ranges.
LEARNING_RATE = 1e-4
# Least SQNR of the device against the model that was trained, and largest relative difference of masked and cut.
LEAST_CHAIN_DB, MOST_CUT_DIFFERENCE = 15.0, 1e-4


def trained(model: keras.Model, x: Mapping[str, Array], steps: int = 1) -> keras.Model:
    """The model after a few steps towards zero."""
    model.compile(keras.optimizers.SGD(LEARNING_RATE, clipnorm=1.0), "mse", run_eagerly=True)
    inputs = [x[tensor.name] for tensor in model.inputs]
    targets = [np.zeros_like(a) for a in predicted(model, x)]
    for _ in range(steps):
        model.train_on_batch(*(ends[0] if len(ends) == 1 else ends for ends in (inputs, targets)))
    return model


def chain(description: Description) -> Finding:
    """Prune, cluster, quantize with a step of training each; save, load, convert, verify."""
    return _guarded(description, _chained)


def surgery(description: Description) -> Finding:
    """Mask channels, train a step, cut: the same outputs."""
    return _guarded(description, _cut)


def _guarded(description: Description, trial: Callable[[Description], Finding]) -> Finding:
    keras.backend.clear_session()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return trial(description)
        except Exception as error:
            return sorted_out(error, description)


def _chained(description: Description) -> Finding:
    model, x = build(description), data(description, SAMPLES)
    expected = predicted(model, x)
    if not all(np.isfinite(a).all() for a in expected):
        return Finding("empty", "empty: outputs that are not finite")
    if _has_kernels(model):
        model = trained(kc.prune_low_magnitude(model, kc.ConstantSparsity(SPARSITY, begin_step=0)), x)
        model = trained(kc.cluster_weights(model, CLUSTERS), x)
    model = trained(kc.quantize_model(model), x, 2)
    if not all(np.isfinite(a).all() for a in predicted(model, x)):
        return Finding("empty", "empty: steps of training end in outputs that are not finite")
    loaded = _reloaded(model)
    inputs = [x[tensor.name] for tensor in loaded.inputs]
    before, after = predicted(model, x), predicted(loaded, x)
    if any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
        return _wrong(description, "loaded", "the loaded model's outputs differ from the saved one's")
    most, zeros = _levels(loaded)
    if most > CLUSTERS or zeros < 0.3:
        return _wrong(description, "levels", f"{most} values after clustering, {zeros:.0%} zeros after pruning")
    artifact = kc.convert(loaded, representative_dataset=inputs if len(inputs) > 1 else inputs[0])
    kc.verify(artifact, loaded, inputs, op_samples=OP_SAMPLES)
    got = deployed.run(target("litert"), artifact.content, inputs, "graph")
    rows = [
        {"device": round(sqnr_db(a, b), 2), "float": round(sqnr_db(c, b), 2)}
        for a, b, c in zip(after, got, expected, strict=True)
        if np.ptp(a, axis=0).max() > 1e-4 * np.abs(a).max()
    ]
    if any(row["device"] < LEAST_CHAIN_DB for row in rows):
        return Finding("loss", f"loss: chain {' '.join(names_of(description))}", str(rows), rows)
    return Finding("ok", db=rows)


def _has_kernels(model: keras.Model) -> bool:
    return any("kernel" in weight.name or weight.name == "embeddings" for weight in model.weights)


def _wrong(description: Description, what: str, detail: str) -> Finding:
    return Finding("loss", f"loss: {what} {' '.join(names_of(description))}", detail)


def _reloaded(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        return keras.models.load_model(Path(folder) / "model.keras")


def _levels(model: keras.Model) -> tuple[int, float]:
    """Most distinct values of a clustered weight, and the least share of zeros of a pruned one of 8 values or more."""
    most, least = 0, 1.0
    for _, wrapper in compressed_layers(model):
        for slot, transforms in wrapper.transforms.items():
            kinds = [type(transform).__name__ for transform in transforms]
            values = np.asarray(wrapper.weight(slot))
            if "CentroidClusterer" in kinds:
                most = max(most, len(np.unique(values)))
            if "MagnitudePruner" in kinds and values.size >= 8:
                least = min(least, float((values == 0).mean()))
    return most, least


def _cut(description: Description) -> Finding:
    model, x = build(description), data(description, SAMPLES)
    if not all(np.isfinite(a).all() for a in predicted(model, x)):
        return Finding("empty", "empty: outputs that are not finite")
    if not _has_kernels(model):
        return Finding("empty", "empty: no channels")
    masked = trained(kc.mask_channels(model, kc.ConstantSparsity(SPARSITY, begin_step=0), round_to=1), x, 2)
    wanted, got = predicted(masked, x), predicted(kc.cut_masked(masked), x)
    if not all(np.isfinite(a).all() for a in wanted):
        return Finding("empty", "empty: a step of training ends in outputs that are not finite")
    for a, b in zip(wanted, got, strict=True):
        difference = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6))
        if a.shape != b.shape or not difference <= MOST_CUT_DIFFERENCE:
            return _wrong(description, "surgery", f"masked and cut differ by {difference:.2g} of the largest output")
    return Finding("ok")


TRIALS: dict[str, Callable[..., Finding]] = {"convert": examine, "chain": chain, "surgery": surgery}
