"""Latency of large networks factorized to half their multiply-accumulates, beside the whole ones in the same run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

import keras_compress as kc


@dataclass(frozen=True)
class Network:
    """A network of `keras.applications`, and how many times faster it has to be at half its MACs."""

    name: str
    goal: float
    size: int = 224


NETWORKS = (Network("VGG16", 1.8), Network("ResNet50", 1.5))
RUNS, WARMUP = 50, 3


def speed_rows(network: Network, quick: bool) -> list[dict[str, Any]]:
    """A row for float32 and one for int8: MACs, parameters, bytes and latency before and after.

    Weights are random, which decides how ranks are shared out, not how long a rank takes. The Dense layers are left:
    they have 1 % of the multiply-accumulates and take minutes to decompose.
    """
    size = 64 if quick else network.size
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, network.name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10 if quick else 1000)
    made = kc.factorize(model, target={"macs": 0.5}, filters="class:Conv2D")
    record = kc.factorization_of(made)
    data = np.random.default_rng(0).normal(0, 1, (2, size, size, 3)).astype(np.float32)
    shared = {
        "network": network.name,
        "size": size,
        "goal": network.goal,
        "layers": [] if record is None else [asdict(layer) for layer in record.layers],
        "macs": [kc.Macs().of(each) for each in (model, made)],
        "params": [each.count_params() for each in (model, made)],
    }
    rows = []
    for mode, options in (("float32", {"mode": "float32"}), ("int8", {"representative_dataset": data})):
        files = {name: kc.convert(each, **options) for name, each in (("whole", model), ("low rank", made))}
        found = kc.measure_all(files, runs=RUNS, warmup=WARMUP, time_limit_s=1800.0)
        latencies = [found[name].latency for name in files]
        rows.append({
            **shared,
            "mode": mode,
            "speedup": latencies[0].median_ms / latencies[1].median_ms,
            "latency": [asdict(each) for each in latencies],
            "bytes": [found[name].raw_bytes for name in files],
        })  # fmt: skip
    return rows
