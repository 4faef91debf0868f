"""Make trained Keras 3 models small and fast on phones and microcontrollers, and prove it on their runtimes.

```python
import keras_compress as kc

model = kc.prune_low_magnitude(model, kc.PolynomialDecay(0.3, 0.9, begin_step=0, end_step=4000))
model = kc.cluster_weights(model, number_of_clusters=16)
model = kc.quantize_model(model, weights="int8", activations="int8")
model.compile(...)
model.fit(...)
artifact = kc.convert(model, target="litert")
artifact.save("model.tflite")
kc.verify(artifact, model, x)
kc.measure(artifact, x, y)
```
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from keras_compress.core.providers import provide

__version__ = "0.1.0"


def _listed() -> dict[str, str]:
    """Name -> its module, as `__init__.pyi` has them, which type checkers read: names are listed there alone."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.name: str(line.module) for line in stub.body if isinstance(line, ast.ImportFrom) for alias in line.names
    }


# A name is imported when it is first used: the package itself comes quickly.
_NAMES = _listed()
__all__ = sorted(_NAMES)  # noqa: PLE0605 - read from the stub

# What layers below look up in the registry without knowing where it is.
for _kind, _modules in {
    "bit_choice": ("pipelines.mixed_precision",),
    "cost": (
        "convert.file_bytes",
        "report.bit_costs",
        "runtime.arena",
        "runtime.energy_cost",
        "runtime.latency",
        "structured.cost",
        "pruning.nonzeros",
    ),
    "entry_point": ("factorization.compact", "factorization.factorize", "post_training.quantize"),
    "file_runner": ("runtime.deployed",),
    "estimator": ("runtime.cortex_m", "runtime.energy", "runtime.ethos_u"),
    "probe": ("runtime.arena_probe",),
    "report": ("report.rounds_plot", "report.sensitivity_plot"),
    "teaching": ("distillation.distill",),
    "target": ("runtime.litert", "runtime.litert_web", "runtime.tflm"),
}.items():
    provide(_kind, *(f"{__name__}.{module}" for module in _modules))

# Registered classes are found here without being listed: those of others, and Keras's loader and recipes know ours.
_METHODS = ("pruning", "clustering", "quantizers", "distillation", "structured", "blocks", "gradients")
_KINDS = (
    *("schedule", "weight_transform", "activation_quantizer", "gradient_quantizer", "constraint", "layer"),
    *("channel_criterion", "cost", "distillation", "gradient_codec", "weight_criterion"),
)
# Old name -> where it is; old names work for one release.
_MOVED = {"datasets": "demo.datasets", "models": "demo.models"}


def _is_the_command() -> bool:
    """Whether `keras-compress` is starting: it shows its help at once, and loads Keras later and quietly."""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return program.startswith("keras-compress") or sys.orig_argv[1:3] in (
        ["-m", "keras_compress"],
        ["-m", "keras_compress.cli"],
    )


def _import_methods() -> None:
    for package in _METHODS:
        importlib.import_module(f"{__name__}.{package}")


def _registered() -> dict[str, Any]:
    _import_methods()
    registry = importlib.import_module(f"{__name__}.core.registry")
    return {name: found for kind in _KINDS for name, found in registry.entries(kind).items()}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warnings.warn(f"keras_compress.{name} is keras_compress.{_MOVED[name]} now.", DeprecationWarning, stacklevel=2)
        return importlib.import_module(f"{__name__}.{_MOVED[name]}")
    if name in _NAMES:
        found = getattr(importlib.import_module(_NAMES[name]), name)
    elif name[:1].isupper() and name in (registered := _registered()):
        found = registered[name]
    else:
        # Somebody who comes from tfmot may look for one of its names.
        told = importlib.import_module(f"{__name__}.migrate.names").written_here(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}" + (f": write {told}" if told else ""))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_registered()})


# `kc.convert` and `kc.report` are (nearly empty) packages, which can be called as the functions of these names.
for _package in ("convert", "report"):
    importlib.import_module(f"{__name__}.{_package}")
if not _is_the_command():
    _import_methods()
