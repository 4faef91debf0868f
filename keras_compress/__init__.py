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

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from keras_compress.core.providers import provide

_AS_MODULE = (["-m", "keras_compress"], ["-m", "keras_compress.cli"])


def _is_the_command() -> bool:
    """Whether `keras-compress` is starting: it shows its help at once, and loads Keras later and quietly."""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return program.startswith("keras-compress") or sys.orig_argv[1:3] in (
        ["-m", "keras_compress"],
        ["-m", "keras_compress.cli"],
    )


if TYPE_CHECKING or not _is_the_command():
    # The methods are imported here, so that Keras's loader and recipes know them.
    from keras_compress.clustering.centroids import CentroidClusterer, cluster_weights
    from keras_compress.core.schedule import ConstantSparsity, CosineDecay, PolynomialDecay, Schedule
    from keras_compress.core.transform import WeightTransform
    from keras_compress.core.wrapper import Compressed
    from keras_compress.graph.model import strip
    from keras_compress.post_training.quantize import quantize_post_training
    from keras_compress.pruning.column_combining import ColumnCombining, combine_columns
    from keras_compress.pruning.magnitude import MagnitudePruner, prune_low_magnitude
    from keras_compress.pruning.n_m import NMPruner
    from keras_compress.quantizers.activation import (
        ActivationQuantizer,
        FixedGrid,
        LearnedRange,
        MovingAverageRange,
        QuantizeActivation,
    )
    from keras_compress.quantizers.layers import (
        BinaryConv2D,
        BinaryDense,
        QuantConv2D,
        QuantDense,
        QuantDepthwiseConv2D,
        TernaryConv2D,
        TernaryDense,
    )
    from keras_compress.quantizers.model import quantize_model
    from keras_compress.quantizers.uniform import UniformQuantizer
    from keras_compress.quantizers.weight_quantizer import WeightQuantizer
    from keras_compress.structured.dependency import channel_graph
    from keras_compress.structured.depthwise_separation import separate_convolutions
    from keras_compress.structured.hashing import hash_weights
    from keras_compress.structured.merging import merge_channels
    from keras_compress.structured.prune import cut_channels, prune_channels
    from keras_compress.structured.sensitivity import Sensitivity
    from keras_compress.structured.slimming import add_slimming
    from keras_compress.structured.soft_masks import cut_masked, mask_channels

if TYPE_CHECKING:
    from keras_compress.convert.artifact import Artifact
    from keras_compress.convert.compressed import compress_tflite, expand
    from keras_compress.convert.convert import convert
    from keras_compress.convert.file_bytes import FileBytes
    from keras_compress.convert.freeze import freeze
    from keras_compress.pipelines.deep_compression import DeepCompression, deep_compression
    from keras_compress.pipelines.sensitivity import sensitivity, weight_sensitivity
    from keras_compress.pipelines.weight_sensitivity import WeightSensitivity
    from keras_compress.recipes.recipe import Recipe, compress
    from keras_compress.report.summary import summary
    from keras_compress.report.tensorboard import TensorBoardSummaries
    from keras_compress.runtime.c_export import export_c
    from keras_compress.runtime.estimate import Estimate, estimate
    from keras_compress.runtime.latency import Latency
    from keras_compress.runtime.measure import Measurement, measure, measure_all
    from keras_compress.runtime.operators import VerificationError
    from keras_compress.runtime.verify import Verification, verify
    from keras_compress.tflite.inspection import inspect_tflite

# Converting, running and reporting load what they need when they are first used: importing the package stays quick.
_LAZY = {
    "ActivationQuantizer": "quantizers.activation",
    "Artifact": "convert.artifact",
    "BinaryConv2D": "quantizers.layers",
    "BinaryDense": "quantizers.layers",
    "CentroidClusterer": "clustering.centroids",
    "ColumnCombining": "pruning.column_combining",
    "Compressed": "core.wrapper",
    "ConstantSparsity": "core.schedule",
    "CosineDecay": "core.schedule",
    "Criterion": "structured.criteria.criterion",
    "DeepCompression": "pipelines.deep_compression",
    "Estimate": "runtime.estimate",
    "FileBytes": "convert.file_bytes",
    "FixedGrid": "quantizers.activation",
    "IntegerGrid": "quantizers.weight_quantizer",
    "Latency": "runtime.latency",
    "LearnedRange": "quantizers.activation",
    "MagnitudePruner": "pruning.magnitude",
    "Measurement": "runtime.measure",
    "MovingAverageRange": "quantizers.activation",
    "NMPruner": "pruning.n_m",
    "PolynomialDecay": "core.schedule",
    "Pruner": "pruning.pruner",
    "QuantConv2D": "quantizers.layers",
    "QuantDense": "quantizers.layers",
    "QuantDepthwiseConv2D": "quantizers.layers",
    "QuantizeActivation": "quantizers.activation",
    "Recipe": "recipes.recipe",
    "Schedule": "core.schedule",
    "Sensitivity": "structured.sensitivity",
    "TensorBoardSummaries": "report.tensorboard",
    "TernaryConv2D": "quantizers.layers",
    "TernaryDense": "quantizers.layers",
    "UniformQuantizer": "quantizers.uniform",
    "Verification": "runtime.verify",
    "VerificationError": "runtime.operators",
    "WeightCriterion": "structured.criteria.criterion",
    "WeightQuantizer": "quantizers.weight_quantizer",
    "WeightSensitivity": "pipelines.weight_sensitivity",
    "WeightTransform": "core.transform",
    "add_slimming": "structured.slimming",
    "channel_graph": "structured.dependency",
    "cluster_weights": "clustering.centroids",
    "combine_columns": "pruning.column_combining",
    "compress": "recipes.recipe",
    "compress_tflite": "convert.compressed",
    "cut_channels": "structured.prune",
    "cut_masked": "structured.soft_masks",
    "deep_compression": "pipelines.deep_compression",
    "estimate": "runtime.estimate",
    "expand": "convert.compressed",
    "export_c": "runtime.c_export",
    "freeze": "convert.freeze",
    "hash_weights": "structured.hashing",
    "inspect_tflite": "tflite.inspection",
    "mask_channels": "structured.soft_masks",
    "measure": "runtime.measure",
    "measure_all": "runtime.measure",
    "merge_channels": "structured.merging",
    "prune": "pruning.prune",
    "prune_channels": "structured.prune",
    "prune_low_magnitude": "pruning.magnitude",
    "quantize_model": "quantizers.model",
    "quantize_post_training": "post_training.quantize",
    "register": "core.registry",
    "sensitivity": "pipelines.sensitivity",
    "separate_convolutions": "structured.depthwise_separation",
    "strip": "graph.model",
    "summary": "report.summary",
    "verify": "runtime.verify",
    "weight_sensitivity": "pipelines.sensitivity",
}

# What layers below look up in the registry without knowing where it is.
for _kind, _modules in {
    "cost": ("convert.file_bytes", "runtime.latency"),
    "estimator": ("runtime.cortex_m", "runtime.ethos_u"),
    "probe": ("runtime.arena_probe",),
    "report": ("report.sensitivity_plot",),
    "target": ("runtime.litert", "runtime.tflm"),
}.items():
    provide(_kind, *(f"{__name__}.{module}" for module in _modules))

# `kc.convert` is the (nearly empty) package, which can be called as the function of that name.
importlib.import_module(f"{__name__}.convert")

__version__ = "0.1.0"
__all__ = [
    "ActivationQuantizer",
    "Artifact",
    "BinaryConv2D",
    "BinaryDense",
    "CentroidClusterer",
    "ColumnCombining",
    "Compressed",
    "ConstantSparsity",
    "CosineDecay",
    "Criterion",
    "DeepCompression",
    "Estimate",
    "FileBytes",
    "FixedGrid",
    "IntegerGrid",
    "Latency",
    "LearnedRange",
    "MagnitudePruner",
    "Measurement",
    "MovingAverageRange",
    "NMPruner",
    "PolynomialDecay",
    "Pruner",
    "QuantConv2D",
    "QuantDense",
    "QuantDepthwiseConv2D",
    "QuantizeActivation",
    "Recipe",
    "Schedule",
    "Sensitivity",
    "TensorBoardSummaries",
    "TernaryConv2D",
    "TernaryDense",
    "UniformQuantizer",
    "Verification",
    "VerificationError",
    "WeightCriterion",
    "WeightQuantizer",
    "WeightSensitivity",
    "WeightTransform",
    "add_slimming",
    "channel_graph",
    "cluster_weights",
    "combine_columns",
    "compress",
    "compress_tflite",
    "convert",
    "cut_channels",
    "cut_masked",
    "deep_compression",
    "estimate",
    "expand",
    "export_c",
    "freeze",
    "hash_weights",
    "inspect_tflite",
    "mask_channels",
    "measure",
    "measure_all",
    "merge_channels",
    "prune",
    "prune_channels",
    "prune_low_magnitude",
    "quantize_model",
    "quantize_post_training",
    "register",
    "sensitivity",
    "separate_convolutions",
    "strip",
    "summary",
    "verify",
    "weight_sensitivity",
]


# Registered classes are found here without being listed: a new method is one file.
_METHODS = ("pruning", "clustering", "quantizers", "structured")
_KINDS = (
    *("schedule", "weight_transform", "activation_quantizer", "gradient_quantizer", "constraint", "layer"),
    *("channel_criterion", "cost"),
)


# Old name -> where it is; old names work for one release.
_MOVED = {"datasets": "demo.datasets", "models": "demo.models"}


def _registered() -> dict[str, Any]:
    for package in _METHODS:
        importlib.import_module(f"{__name__}.{package}")
    registry = importlib.import_module(f"{__name__}.core.registry")
    return {name: found for kind in _KINDS for name, found in registry.entries(kind).items()}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warnings.warn(f"keras_compress.{name} is keras_compress.{_MOVED[name]} now.", DeprecationWarning, stacklevel=2)
        return importlib.import_module(f"{__name__}.{_MOVED[name]}")
    if name in _LAZY:
        found = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    elif name[:1].isupper() and name in (registered := _registered()):
        found = registered[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_registered()})
