"""What to write here for the names of tensorflow-model-optimization that have no twin."""

from __future__ import annotations

_NO_CALLBACK = "leave it out: masks and steps are updated by `fit` itself, without a callback"
_NO_SCOPE = "leave it out: `keras.models.load_model` finds the classes of this package by itself"
_STRIP = (
    "`kc.strip(model)` where a plain model is wanted; to go on, leave it out: `kc.cluster_weights`, "
    "`kc.quantize_model` and `kc.convert` take the model as it is"
)
_RULES = (
    '`kc.quantize_model(model, filters=[...])` for these layers alone, or `rules=[{"layers": "name", "skip": True}]`'
)
_QUANTIZER = "a weight or activation quantizer: `kc.quantize_model(model, weights=..., activations=...)`"
_INSTEAD = {
    "strip_pruning": _STRIP,
    "strip_clustering": _STRIP,
    "quantize_annotate_layer": _RULES,
    "quantize_annotate_model": "leave it out: `kc.quantize_model(model)` does both steps",
    "quantize_apply": "`kc.quantize_model(model)`; zeros and clusters stay without a scheme",
    "UpdatePruningStep": _NO_CALLBACK,
    "PruningSummaries": "`kc.TensorBoardSummaries(log_dir)`",
    "prune_scope": _NO_SCOPE,
    "cluster_scope": _NO_SCOPE,
    "quantize_scope": _NO_SCOPE,
    "CentroidInitialization": "`cluster_centroids_init` as a word: 'kmeans++', 'density_based', 'linear', 'random', or "
    "'optimal', the default",
    "GradientAggregation": "leave it out: gradients of a cluster are summed, as in Deep Compression",
    "PruningPolicy": '`rules=[{"layers": selector, "skip": True}]` of `kc.prune_low_magnitude`',
    "PrunableLayer": "nothing to inherit: the layer has a method `get_compressible_weights()` that returns "
    "{attribute: output-channel axes}",
    "QuantizeConfig": f"`rules=`, and {_QUANTIZER}",
    "Default8BitQuantizeScheme": "leave it out: `kc.quantize_model(model)` is 8 bits",
    "PruneLowMagnitude": "`kc.prune_low_magnitude(model)`, or `kc.MagnitudePruner` in a `kc.Compressed`",
    "ClusterWeights": "`kc.cluster_weights(model)`, or `kc.CentroidClusterer` in a `kc.Compressed`",
    "QuantizeWrapper": "`kc.quantize_model(model)`, or a weight quantizer in a `kc.Compressed`",
    "LastValueQuantizer": "`kc.UniformQuantizer(bits)` for weights, `kc.MovingAverageRange(bits)` for activations",
    "MovingAverageQuantizer": "`kc.MovingAverageRange(bits, decay=0.999)`",
    "FixedQuantizer": "`kc.FixedGrid(scale, zero_point)`",
    "sparsity": "its functions are names of `keras_compress` itself: `kc.prune_low_magnitude`",
    "clustering": "its functions are names of `keras_compress` itself: `kc.cluster_weights`",
    "quantization": "its functions are names of `keras_compress` itself: `kc.quantize_model`",
    "experimental": "leave it out: `kc.quantize_model` keeps zeros and clusters without a scheme",
}
_INSTEAD |= {
    "get_prunable_weights": _INSTEAD["PrunableLayer"],
    "get_clusterable_weights": _INSTEAD["PrunableLayer"],
    "ClusterableLayer": _INSTEAD["PrunableLayer"],
    "PruneForLatencyOnXNNPack": _INSTEAD["PruningPolicy"],
    "QuantizeWrapperV2": _INSTEAD["QuantizeWrapper"],
    "AllValuesQuantizer": _INSTEAD["LastValueQuantizer"],
}
_SCHEMES = ("PreserveQuantizeScheme", "QuantizeScheme", "QuantizeRegistry")


def written_here(name: str) -> str | None:
    """What to write for one of tfmot's names; `None` for any other name.

    >>> written_here("PruningSummaries"), written_here("LSQ")
    ('`kc.TensorBoardSummaries(log_dir)`', None)
    """
    return _INSTEAD["experimental"] if name.endswith(_SCHEMES) else _INSTEAD.get(name)
