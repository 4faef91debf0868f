"""What `benchmarks/layers.py` tries with each row, and what it finds."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import common  # noqa: F401  (puts the code beside the benchmarks first)
import keras
import numpy as np
from layer_rows import Row

import keras_compress as kc
from keras_compress.convert.float_flatbuffer import ConversionError
from keras_compress.graph.model import compressed_layers

SAMPLES = 64
KERNELS = {"litert": ("xnnpack", "reference"), "tflm": ("tflm",)}
UNFORESEEN = "not foreseen"
Cell = dict[str, Any]


def data_of(row: Row, model: keras.Model) -> Any:
    """Seeded inputs: normal numbers, or numbers of rows."""
    rng = np.random.default_rng(1)
    shape = (SAMPLES, *row.shape)
    made = [
        rng.normal(size=shape).astype(np.float32)
        if row.dtype == "float32"
        else rng.integers(0, 10, size=shape).astype(row.dtype)
        for _ in model.inputs
    ]
    return made if len(made) > 1 else made[0]


def attempt(work: Callable[[], Cell]) -> Cell:
    """What a trial gives, or the reason why it cannot be."""
    try:
        return work()
    except (ValueError, ConversionError, kc.VerificationError) as error:
        return {"status": "refused", "reason": stable(str(error))}
    except Exception as error:  # not one of ours: shown in the table, and a reason to fail
        traceback.print_exc()
        return {"status": "refused", "reason": stable(f"{UNFORESEEN}: {type(error).__name__}: {error}")}


def stable(message: str) -> str:
    """A message without what changes from run to run."""
    message = re.sub(r"keras_tensor(_\d+)?\w*", "tensor", message.strip())
    return re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+", "0x", message))[:500]


def trained(model: keras.Model, row: Row, x: Any) -> keras.Model:
    """A compressed form of the row's model after one step of gradient descent towards zero.

    Raises:
        ValueError: The loss is not finite.
    """
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    loss = float(model.train_on_batch(x, np.zeros_like(row.model()(x))))
    if not np.isfinite(loss):
        raise ValueError(f"Expected a finite loss. Received: {loss}")
    return model


def weights_of(model: keras.Model) -> list[np.ndarray[Any, Any]]:
    """The transformed weights as the layers see them."""
    return [
        keras.ops.convert_to_numpy(wrapper.weight(name))
        for _, wrapper in compressed_layers(model)
        for name in wrapper.transforms
    ]


def prune(row: Row) -> Cell:
    model = row.model()
    schedule = kc.ConstantSparsity(0.5, begin_step=0)
    made = weights_of(trained(kc.prune_low_magnitude(model, schedule), row, data_of(row, model)))
    zeros = sum(int((w == 0).sum()) for w in made) / max(sum(w.size for w in made), 1)
    return checked(bool(made) and zeros >= 0.4, f"{zeros:.0%} zeros in {len(made)} weights after pruning to 50 %")


def cluster(row: Row) -> Cell:
    model = row.model()
    made = weights_of(trained(kc.cluster_weights(model, 4), row, data_of(row, model)))
    most = max((len(np.unique(w)) for w in made), default=0)
    return checked(0 < most <= 4, f"{most} distinct values after clustering into 4")


def checked(holds: bool, found: str) -> Cell:
    return {"status": "ok"} if holds else {"status": "refused", "reason": found}


def quantized(kept: list[keras.Model], row: Row, x: Any) -> keras.Model:
    """The model with 4-bit weights and 8-bit activations after a training step, made once."""
    if not kept:
        kept.append(trained(kc.quantize_model(row.model(), weights="int4", activations="int8"), row, x))
    return kept[0]


def compared(artifact: kc.Artifact, x: Any, kernels: Sequence[str]) -> tuple[list[Any], dict[str, str]]:
    """Rows of `verify`, and kernel -> why it cannot run the file."""
    try:
        return list(kc.verify(artifact, None, x, kernels=kernels, op_samples=SAMPLES, strict=False).rows), {}
    except (ValueError, kc.VerificationError) as error:
        if len(kernels) == 1:
            return [], {kernels[0]: stable(str(error))}
    rows, refused = [], {}
    for kernel in kernels:
        found, problem = compared(artifact, x, [kernel])
        rows += found
        refused.update(problem)
    return rows, refused


def deployed(
    model: keras.Model, x: Any, target: str, mode: str, kernels: Sequence[str], optional: Sequence[str] = ()
) -> Cell:
    """A conversion, and its operators beside the frozen model's on some kernels, and `optional` ones that can."""
    artifact = kc.convert(model, target, mode=mode, representative_dataset=x)
    left = [{"op": op.op, "reason": stable(op.reason)} for op in artifact.float_ops]
    found, refused = compared(artifact, x, kernels)
    for kernel in optional:
        found += compared(artifact, x, [kernel])[0]
    beyond = [
        {"point": r.name, "kernel": r.kernel, "lsb": r.unexplained_lsb, "share": round(r.fraction_unexplained, 4)}
        for r in found
        if not r.ok
    ]
    status = "refused" if refused else "float" if left else "beyond" if beyond else "ok"
    cell: Cell = {"status": status, "lsb": max((r.max_lsb for r in found), default=None)}
    extra = {"float_ops": left, "beyond": beyond, "kernels": refused}
    cell.update((key, value) for key, value in extra.items() if value)
    if refused:
        cell["reason"] = "; ".join(f"{kernel}: {reason}" for kernel, reason in refused.items())
    return cell


def result_of(row: Row) -> dict[str, Any]:
    """All columns of one row."""
    cells: dict[str, Cell] = {}
    for name, trial in (("prune", prune), ("cluster", cluster)):
        cells[name] = attempt(lambda trial=trial: trial(row)) if row.own else {"status": "none"}
    model = row.model()
    x = data_of(row, model)
    kept: list[keras.Model] = []
    cells["qat"] = attempt(lambda: checked(bool(quantized(kept, row, x)), ""))
    frozen: list[keras.Model] = []
    for target, kernels in KERNELS.items():
        cells[target] = attempt(lambda t=target, k=kernels: deployed(once_frozen(frozen, model, x), x, t, "int8", k))
    all_kernels = KERNELS["litert"], KERNELS["tflm"]
    cells["int4"] = attempt(lambda: deployed(quantized(kept, row, x), x, "litert", "int8", *all_kernels))
    cells["16x8"] = attempt(lambda: deployed(model, x, "litert", "16x8", *all_kernels))
    return {"name": row.name, "group": row.group, "cells": cells}


def once_frozen(kept: list[keras.Model], model: keras.Model, x: Any) -> keras.Model:
    """The frozen model, made once for both targets."""
    if not kept:
        kept.append(kc.freeze(model, x))
    return kept[0]


def on_both(rows: Iterable[dict[str, Any]]) -> int:
    """Rows that are integers throughout and within the bounds on all three kernels."""
    return sum(all(row["cells"][target]["status"] == "ok" for target in KERNELS) for row in rows)
